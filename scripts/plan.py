"""Print how much of a study is done, how long the rest takes, and the seeds that claims need.

    python scripts/plan.py table2
    python scripts/plan.py table1_mnist scale=0.15 seed=0,1

NAME is a study (a file in study/), one of its tables, figures or claims, or an experiment. Times
are for one run at a time, from the epochs that runs have logged: the median of the configuration's
own, else (~) of runs of the same data, task, model and optimizer. A run that failed is not counted.
--format markdown, latex or csv (one line a configuration, with the seeds of each claim).
"""

import sys
from collections.abc import Sequence

from lrd.analysis.command_line import StudyRequest, print_reports, report_parser, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    args = report_parser(__doc__).parse_intermixed_args(arguments)

    def body() -> None:
        from lrd.analysis import planning
        from lrd.analysis.matching import title_with_overrides
        from lrd.analysis.studies.find import find_study

        request = StudyRequest(args)
        frames = request.frames()
        names = [name for each in request.names for name in find_study(each)[0].experiments]
        plans = {
            name: planning.plan_experiment(name, frames, request.given)
            for name in dict.fromkeys(names)
        }
        reports = []
        for name, plan in plans.items():
            title = title_with_overrides(name, request.given)
            reports.append(planning.plan_report(name, title, plan))
        print_reports(reports, args.format)
        everything = [cell for plan in plans.values() for cell in plan]
        if commands := planning.timing_commands(everything):
            print("\nTo time an epoch of the others:", *commands, sep="\n  ", file=sys.stderr)

    return run_command(body, args)


if __name__ == "__main__":
    sys.exit(main())
