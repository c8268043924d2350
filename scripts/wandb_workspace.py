"""Save a workspace on Weights & Biases that is laid out as the figures of a study.

    python scripts/wandb_workspace.py wandb.entity=me        a section for each of Figures 5 to 13
    python scripts/wandb_workspace.py figure6 figure10       only those, and their runs
    python scripts/wandb_workspace.py --print                print the layout, save nothing
    python scripts/wandb_workspace.py scale=0.15             the runs of other settings

It shows the runs of these figures' configurations, found by fingerprint, with seeds averaged. A
workspace has one set of runs: name one figure to see only its runs. Every call saves a new one.
"""

import os
import sys
from collections.abc import Sequence

from lrd.analysis.command_line import StudyRequest, run_command, study_parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = study_parser(__doc__)
    parser.add_argument("--print", action="store_true", help="print the layout, save nothing")
    args = parser.parse_intermixed_args(arguments)

    def body() -> int:
        from lrd.analysis import dashboards
        from lrd.analysis.resolve import split_wandb_settings

        request = StudyRequest(args, default="lrd_paper")
        settings, request.overrides = split_wandb_settings(request.overrides)
        found = request.studies()
        figures = dashboards.learning_curves(study for study, _ in found)
        if not figures:
            raise ValueError(f"{' '.join(request.names)} has no learning curves")
        overrides = found[0][1]
        lines = dashboards.dashboard_lines(figures.values(), overrides)
        settings.entity = settings.entity or os.environ.get("WANDB_ENTITY")
        title = " ".join(request.names)
        workspace = dashboards.build_workspace(title, figures, lines, settings, overrides)
        if args.print:
            print(dashboards.describe_workspace(workspace, lines))
            return 0
        try:
            print(dashboards.save_workspace(workspace))
        except Exception as error:
            why = dashboards.one_line(error)
            print(f"error: the workspace was not saved: {why}", file=sys.stderr)
            return 1
        return 0

    return run_command(body, args)


if __name__ == "__main__":
    sys.exit(main())
