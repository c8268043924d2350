"""Judge each claim of the paper from the runs, by the rules of its study.

    python scripts/verdicts.py
    python scripts/verdicts.py scale=0.1          from runs of a tenth of the paper's epochs

Trains nothing. A claim is supported; its opposite is found; it has no effect of a size that counts;
it is undecided; or there are not enough runs.
"""

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from lrd.analysis.command_line import build_parser, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__)
    parser.add_argument("--claims", type=Path, help="a study with claims instead of the paper's")
    args = parser.parse_intermixed_args(arguments)

    def body() -> None:
        from lrd.analysis.claims.verdicts import judge_claims, missing_seed_commands
        from lrd.analysis.frames import RunFrames
        from lrd.analysis.matching import with_run_dir
        from lrd.analysis.studies import read_study

        study = read_study(args.claims) if args.claims else None
        verdicts = judge_claims(RunFrames(args.runs), args.overrides, study)
        if args.overrides:
            print(f"[{' '.join(args.overrides)}]\n")
        for verdict in verdicts:
            claim = verdict.claim
            print(f"{claim.name:4}{verdict.status.upper()}: {claim.says} ({claim.where})")
            for part in verdict.parts:
                text = f"{part.status}: {part.explanation}"
                print(textwrap.fill(text, 95, initial_indent="    - ", subsequent_indent="      "))
        given = with_run_dir(args.runs, args.overrides)
        if lines := missing_seed_commands(verdicts, given):
            print("\nTo run the missing seeds:", *lines, sep="\n  ", file=sys.stderr)

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
