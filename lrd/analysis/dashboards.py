"""Weights & Biases: tables and figures as a run, and a workspace laid out as a study's figures.

wandb is imported only inside functions.
"""

import io
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import require_distinct
from lrd.analysis.plotting.figure import draw_figure, encode
from lrd.analysis.plotting.series import TRAINING_LOSS, collect_figure
from lrd.analysis.report.variants import RunVariant, find_variants
from lrd.analysis.resolve import resolve_cell
from lrd.analysis.studies import CellSpec, FigureSpec, GroupSpec, Study
from lrd.analysis.studies.find import figures_of, find_study, tables_of
from lrd.analysis.tables import cells_frame, table_parts
from lrd.config.fingerprint import flatten
from lrd.config.schema import WandbSettings
from lrd.loggers.wandb import limited_settings
from lrd.runs.labels import run_labels

if TYPE_CHECKING:
    from pandas import DataFrame

LABELS = ("dataset", "model", "optimizer", "arm", "p")  # the first columns of a dashboard
PINNED = ("config:optimizer.value", "config:arm.value", "config:p.value", "config:seed.value")


def log_report(
    names: Sequence[str],
    frames: RunFrames,
    settings: WandbSettings,
    overrides: Sequence[str] = (),
) -> str:
    """Log the tables and figures that have runs, as on the page, into one run of type ``report``.

    Args:
        names: studies, parts of studies, or experiments.
        frames: the runs.
        settings: where to log; ``mode=disabled`` leaves the mode to wandb: WANDB_MODE, or online.
        overrides: settings that differ from the experiments'.

    Returns:
        A line that says what was logged, and where. Raises whatever wandb raises.
    """
    import wandb
    from PIL import Image

    mode: Any = None if settings.mode == "disabled" else settings.mode
    root = Path(frames.root).resolve()
    os.environ.setdefault("WANDB_DATA_DIR", str(root / "wandb"))  # where tables wait for upload
    with wandb.init(
        mode=mode,
        project=settings.project,
        entity=settings.entity,
        group=settings.group or "report",
        job_type="report",
        tags=settings.tags,
        name=" ".join(["report", *overrides]),
        config={"runs": str(root), "overrides": list(overrides)},
        dir=frames.root,
        settings=limited_settings(),
    ) as run:
        tables: list[str] = []
        figures: list[str] = []
        for variant in [RunVariant(), *find_variants(names, frames, overrides).shown]:
            given, suffix = [*overrides, *variant.settings], variant.suffix
            for name, cells in _tables_with_runs(names, frames, given):
                rows = cells.astype(object).where(cells.notna(), None).to_numpy().tolist()
                run.log({f"tables/{name}{suffix}": wandb.Table(list(cells), rows)}, step=0)
                run.summary[f"filled/{name}{suffix}"] = f"{(cells.n > 0).sum()} of {len(cells)}"
                tables.append(name + suffix)
            for name, png in _figures_with_runs(names, frames, given):
                image = wandb.Image(Image.open(io.BytesIO(png)))
                run.log({f"figures/{name}{suffix}": image}, step=0)
                figures.append(name + suffix)
        where = Path(run.dir).parent if run.offline else run.url
        names = [", ".join(names) or "none" for names in (tables, figures)]
        return f"tables {names[0]}; figures {names[1]}; {where}"


def _studies(
    names: Sequence[str], overrides: Sequence[str]
) -> Iterator[tuple[Study, Sequence[str]]]:
    """Yield the studies that may have these settings."""
    for name in names:
        with suppress(ValueError):
            yield find_study(name, overrides)


def _tables_with_runs(
    names: Sequence[str], frames: RunFrames, overrides: Sequence[str]
) -> Iterator[tuple[str, "DataFrame"]]:
    """Yield every table that has a run, a row a configuration."""
    for study, rest in _studies(names, overrides):
        for name, table in tables_of(study).items():
            with suppress(ValueError):  # impossible under these settings; the page says why
                cells = cells_frame(table_parts(table, frames, rest))
                if cells.n.any():
                    yield name, cells


def _figures_with_runs(
    names: Sequence[str], frames: RunFrames, overrides: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    """Yield every figure that has a run, as PNG."""
    for study, rest in _studies(names, overrides):
        for name, figure in study.figures.items():
            with suppress(ValueError):
                results = collect_figure(figure, frames, rest)
                if any(found.n for found in results.values()):
                    yield name, encode(draw_figure(figure, results, rest).sheet, "png")


@dataclass(frozen=True)
class DashboardLines:
    """The lines of figures on a dashboard, which groups runs by columns of their configuration.

    Attributes:
        fingerprints: those of the runs.
        columns: the columns that distinguish the lines, as few as possible.
        colors: a line's color, by its values of these columns.
    """

    fingerprints: list[str]
    columns: list[str]
    colors: dict[tuple[str, ...], str]


def dashboard_lines(figures: Iterable[FigureSpec], overrides: Sequence[str]) -> DashboardLines:
    """Return the lines of all curves of figures.

    Raises:
        ValueError: in one line, also if ``overrides`` make two curves of a figure the same.
    """
    colors: dict[CellSpec, set[str]] = {}
    for figure in figures:
        found = [resolve_cell(curve.cell, overrides) for curve in figure.curves()]
        require_distinct("curves", found, overrides)
        for group in figure.groups:
            for cell, color in _line_colors(group):
                colors.setdefault(cell, set()).add(color)
    known = {cell: _dashboard_columns(cell, overrides) for cell in colors}
    chosen = _distinguishing_columns(list(known.values()))
    by_line: dict[tuple[str, ...], set[str]] = {}
    for cell, cell_colors in colors.items():
        if known[cell].keys() >= set(chosen):
            line = tuple(known[cell][name] for name in chosen)
            by_line.setdefault(line, set()).update(cell_colors)
    # The dashboard chooses the color of a line that has different ones in two figures.
    unique = {line: color for line, (color, *others) in by_line.items() if not others}
    fingerprints = {resolve_cell(cell, overrides).fingerprint for cell in colors}
    return DashboardLines(sorted(fingerprints), chosen, unique)


def _dashboard_columns(cell: CellSpec, overrides: Sequence[str]) -> dict[str, str]:
    """Return a run's configuration as its dashboard has it: labels, then every setting that has a
    value."""
    given = resolve_cell(cell, overrides)
    config = asdict(given.config)
    record = {"config": config, "choices": {}, "seed": 0, "fingerprint": given.fingerprint}
    values = {name: value for name, value in run_labels(record).items() if name in LABELS}
    settings = {name: config[name] for name in ("lrd", "optim", "regularizer")}
    values |= flatten({"settings": settings})
    texts = ((n, f"{v:g}" if isinstance(v, float) else str(v)) for n, v in values.items())
    return {name: text for name, text in texts if text != "None"}


def _distinguishing_columns(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return the first columns, each of which distinguishes more lines than those before it."""
    chosen: list[str] = []
    count = 1
    for name in dict.fromkeys([*LABELS, *(name for row in rows for name in row)]):
        names = [*chosen, name]
        found = len({tuple(map(row.get, names)) for row in rows})
        if found > count:
            chosen, count = names, found
    return chosen


def _line_colors(group: GroupSpec) -> Iterator[tuple[CellSpec, str]]:
    """Yield the color of every curve.

    A dashboard has no dashes, and no panel for each group: of two curves, one that is not solid has
    the other's hue, paler.
    """
    from matplotlib.colors import to_hex, to_rgb

    solid = [curve for curve in group.curves if curve.line == "-"]
    for curve in group.curves:
        if curve in solid or len(group.curves) != 2 or len(solid) != 1:
            yield curve.cell, curve.color
        else:
            red, green, blue = ((part + 1) / 2 for part in to_rgb(solid[0].color))
            yield curve.cell, to_hex((red, green, blue))


def build_workspace(
    title: str,
    figures: Mapping[str, FigureSpec],
    lines: DashboardLines,
    settings: WandbSettings,
    overrides: Sequence[str] = (),
) -> Any:
    """Return the unsaved Workspace of figures: a section each, runs found by fingerprint.

    Seeds are averaged. A workspace has one set of runs, those of all its figures.
    """
    import wandb_workspaces.workspaces as ws

    runs = ws.RunsetSettings(
        filters=ws.Or(
            ws.Metric("Group").isin(lines.fingerprints),
            ws.Config("fingerprint").isin(lines.fingerprints),  # if the user sets wandb.group
        ),
        groupby=[ws.Config(name) for name in lines.columns],
        group_colors={ws.GroupPath(*path): color for path, color in lines.colors.items()},
        pinned_columns=list(PINNED),
    )
    name = " ".join([f"Learning Rate Dropout: {title}", *overrides])
    return ws.Workspace(
        entity=settings.entity or "",
        project=settings.project,
        # The name of a workspace may not have symbols, such as =.
        name="".join(" " if unicodedata.category(c).startswith("S") else c for c in name),
        sections=[_workspace_section(figure) for figure in figures.values()],
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=200),
        runset_settings=runs,
    )


def learning_curves(studies: Iterable[Study]) -> dict[str, FigureSpec]:
    """Return the figures of metrics against epochs, which a dashboard can show, by name."""
    figures = (item for study in studies for item in figures_of(study).items())
    return {name: figure for name, figure in figures if not figure.draw}


def _workspace_section(figure: FigureSpec) -> Any:
    """Return a figure's panels: the mean of a metric over seeds against the epoch."""
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
        for panel in figure.panels or (TRAINING_LOSS,)
        if not panel.difference
    ]
    return ws.Section(
        name=figure.title,
        panels=panels,
        is_open=True,
        layout_settings=ws.SectionLayoutSettings(columns=len(panels), rows=1),
        panel_settings=ws.SectionPanelSettings(x_axis="epoch"),
    )


def describe_workspace(workspace: Any, lines: DashboardLines) -> str:
    """Return a workspace as text."""
    n = len(lines.fingerprints)
    text = [f"{workspace.name} (project {workspace.project})"]
    text.append(f"runs: the {n} configurations {' '.join(lines.fingerprints)}")
    text.append(f"grouped by {', '.join(lines.columns)}")
    for section in workspace.sections:
        plots = (f"{plot.title} [{', '.join(plot.y)}]" for plot in section.panels)
        text += [section.name, *(f"  {plot} against epoch" for plot in plots)]
    return "\n".join(text)


def save_workspace(workspace: Any) -> str:
    """Save a workspace, under the user's default entity if it has none, and return its URL."""
    import wandb

    workspace.entity = workspace.entity or wandb.Api(timeout=20).default_entity or ""
    return workspace.save().url


def one_line(error: Exception) -> str:
    """Return the message of an error in one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
