"""Print how much of an experiment is done, how long the rest takes, and the seeds that the claims
which read it need. Trains nothing.

    python scripts/plan.py table2
    python scripts/plan.py table1_mnist scale=0.15 seed=0,1

Hours are for one run at a time, from the epochs that runs have logged: the median of the
configuration's own, else (~) of runs of the same data, task, model and optimizer. A run that failed
is not counted.
"""

import sys
from collections.abc import Sequence

from lrd.analysis.command_line import build_parser, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    args = build_parser(__doc__, "experiment").parse_intermixed_args(arguments)

    def body() -> None:
        from lrd.analysis import planning
        from lrd.analysis.frames import RunFrames
        from lrd.analysis.matching import title_with_overrides

        plan = planning.plan_experiment(args.experiment, RunFrames(args.runs), args.overrides)
        print(planning.plan_report(title_with_overrides(args.experiment, args.overrides), plan))
        if claims := planning.claims_report(args.experiment, plan):
            print(f"\n{claims}")
        if commands := planning.timing_commands(plan):
            print("\nTo time an epoch of the others:", *commands, sep="\n  ", file=sys.stderr)

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
