"""Judge the claims of a study from the runs, by the rules of its file.

    python scripts/verdicts.py                    the claims of lrd_paper
    python scripts/verdicts.py C9                 one of them
    python scripts/verdicts.py scale=0.1          from runs of a tenth of the paper's epochs

NAME is a study (a file in study/) or one of its claims. Trains nothing. A claim is supported; its
opposite is found; it has no effect of a size that counts; it is undecided; or there are not enough
runs. --format markdown, latex or csv (one line a comparison of a rule).
"""

import sys
from collections.abc import Sequence

from lrd.analysis.command_line import StudyRequest, print_reports, report_parser, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    args = report_parser(__doc__).parse_intermixed_args(arguments)

    def body() -> None:
        from lrd.analysis.claims.listing import verdicts_report
        from lrd.analysis.claims.verdicts import judge_claims, missing_seed_commands

        request = StudyRequest(args, default="lrd_paper")
        frames, verdicts = request.frames(), []
        for study, overrides in request.studies():
            if not study.claims:
                raise ValueError(f"{study.name} has no claims: name a study that has, or a claim")
            verdicts += judge_claims(study, frames, overrides)
        print_reports([verdicts_report(verdicts, request.given)], args.format)
        given = request.run_overrides(request.overrides, seeds=False)
        if lines := missing_seed_commands(verdicts, given):
            print("\nTo run the missing seeds:", *lines, sep="\n  ", file=sys.stderr)

    return run_command(body, args)


if __name__ == "__main__":
    sys.exit(main())
