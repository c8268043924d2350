"""Save a workspace on Weights & Biases that is laid out as the paper's figures.

    python scripts/wandb_workspace.py wandb.entity=me        a section for each of Figures 5 to 13
    python scripts/wandb_workspace.py figure6 figure10       those, and their runs alone
    python scripts/wandb_workspace.py --print                what would be saved
    python scripts/wandb_workspace.py scale=0.15             the runs of other settings

It shows the runs whose configuration is a cell's of these figures, by fingerprint, seeds averaged;
a workspace has one set of runs, so name one figure to see no other's. Every call saves a new one.
"""

import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from command import reader
from curves import FIGURES, Figure
from lines import Lines, lines
from wandb_report import settings, split

from lrd.config.schema import Wandb as Settings

PINNED = ("config:optimizer.value", "config:arm.value", "config:p.value", "config:seed.value")


def workspace(
    figures: Mapping[str, Figure], found: Lines, where: Settings, overrides: Sequence[str] = ()
) -> Any:
    """The Workspace of these figures and their lines, not saved."""
    import wandb_workspaces.workspaces as ws

    shown = ws.RunsetSettings(
        filters=ws.Or(
            ws.Metric("Group").isin(found.fingerprints),
            ws.Config("fingerprint").isin(found.fingerprints),  # under a wandb.group of the user's
        ),
        groupby=[ws.Config(name) for name in found.columns],
        group_colors={ws.GroupPath(*path): color for path, color in found.colors.items()},
        pinned_columns=list(PINNED),
    )
    return ws.Workspace(
        entity=where.entity or "",
        project=where.project,
        name=_name(figures, overrides),
        sections=[section(figure) for figure in figures.values()],
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=200),
        runset_settings=shown,
    )


def _name(figures: Mapping[str, Figure], overrides: Sequence[str]) -> str:
    """Without symbols, such as =, which names of workspaces may not have."""
    which = "the paper's figures" if figures == FIGURES else " ".join(figures)
    text = " ".join([f"Learning Rate Dropout: {which}", *overrides])
    return "".join(" " if unicodedata.category(c).startswith("S") else c for c in text)


def section(figure: Figure) -> Any:
    """A figure's panels, each a metric against the epoch: the mean over seeds and its error."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    panels: list[Any] = [
        wr.LinePlot(
            title=panel.label,
            x="epoch",
            y=[key for key in (panel.key, panel.final) if key],
            log_y=panel.log,
            title_x="Epoch",
            title_y=f"{panel.label} ({panel.unit})" if panel.unit else panel.label,
            aggregate=True,
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
            max_runs_to_show=200,
        )
        for panel in figure.panels
    ]
    return ws.Section(
        name=figure.title,
        panels=panels,
        is_open=True,
        layout_settings=ws.SectionLayoutSettings(columns=len(panels), rows=1),
        panel_settings=ws.SectionPanelSettings(x_axis="epoch"),
    )


def described(made: Any, found: Lines) -> str:
    """A workspace in words."""
    text = [f"{made.name} (project {made.project})"]
    text.append(f"runs: the {len(found.fingerprints)} cells {' '.join(found.fingerprints)}")
    text.append(f"grouped by {', '.join(found.columns)}")
    for part in made.sections:
        plots = (f"{plot.title} [{', '.join(plot.y)}]" for plot in part.panels)
        text += [part.name, *(f"  {plot} against epoch" for plot in plots)]
    return "\n".join(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = reader(__doc__)
    parser.add_argument(
        "--print", action="store_true", help="say what would be saved, and save nothing"
    )
    args = parser.parse_intermixed_args(arguments)
    ours, rest = split(args.overrides)
    names = [word for word in rest if "=" not in word]
    overrides = [word for word in rest if "=" in word]
    try:
        where = settings(ours)
        if unknown := [name for name in names if name not in FIGURES]:
            raise ValueError(f"figure must be one of {', '.join(FIGURES)}, got {unknown[0]}")
        if find_spec("wandb_workspaces") is None:
            raise ValueError("needs the package: pip install -e '.[wandb-workspaces]'")
        figures = {name: FIGURES[name] for name in names} or FIGURES
        found = lines(figures.values(), overrides)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    where.entity = where.entity or os.environ.get("WANDB_ENTITY")
    made = workspace(figures, found, where, overrides)
    if args.print:
        print(described(made, found))
        return 0
    return save(made)


def save(made: Any) -> int:
    try:
        import wandb

        made.entity = made.entity or wandb.Api(timeout=20).default_entity or ""
        print(made.save().url)
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        print(f"error: the workspace was not saved: {why}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
