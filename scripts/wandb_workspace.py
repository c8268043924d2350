"""Save a workspace on Weights & Biases that is laid out as the paper's figures.

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

from lrd.analysis.command_line import build_parser, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__)
    parser.add_argument("--print", action="store_true", help="print the layout, save nothing")
    args = parser.parse_intermixed_args(arguments)

    def body() -> int:
        from lrd.analysis import dashboards

        settings, rest = dashboards.split_settings(args.overrides)
        names = [word for word in rest if "=" not in word]
        overrides = [word for word in rest if "=" in word]
        known = dashboards.learning_curves()
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"figure must be one of {', '.join(known)}, got {unknown[0]}")
        figures = {name: known[name] for name in names or known}
        lines = dashboards.dashboard_lines(figures.values(), overrides)
        settings.entity = settings.entity or os.environ.get("WANDB_ENTITY")
        workspace = dashboards.build_workspace(figures, lines, settings, overrides)
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

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
