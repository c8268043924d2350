"""Judge each claim of the paper from the runs, by the rules of configs/study/paper.yaml.

    python scripts/verdicts.py
    python scripts/verdicts.py scale=0.1          from runs of a tenth of the paper's epochs

Trains nothing. Each claim is confirmed, not confirmed, contradicted, or has not enough data.
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
        from lrd.analysis.frames import RunFrames
        from lrd.analysis.matching import with_run_dir
        from lrd.analysis.studies import read_study
        from lrd.analysis.verdicts import judge_claims

        study = read_study(args.claims) if args.claims else None
        verdicts = judge_claims(RunFrames(args.runs), args.overrides, study)
        if args.overrides:
            print(f"[{' '.join(args.overrides)}]\n")
        for verdict in verdicts:
            claim = verdict.claim
            print(f"{claim.name:4}{verdict.status.upper()}: {claim.says} ({claim.where})")
            print(textwrap.indent(textwrap.fill(verdict.explanation, 95), "    "))
        if missing := dict.fromkeys(name for verdict in verdicts for name in verdict.missing):
            given = " ".join(with_run_dir(args.runs, args.overrides))
            lines = [f"python run.py -m +experiment={name} {given}".rstrip() for name in missing]
            print("\nTo run the missing seeds:", *lines, sep="\n  ", file=sys.stderr)

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
