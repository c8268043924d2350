"""Draw a figure of a study from runs: learning curves, or what a drawing function draws."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lrd.analysis.matching import CellResults, title_with_overrides
from lrd.analysis.plotting.panel import draw_panel, draw_published_values, needs_inset, set_limits
from lrd.analysis.plotting.series import (
    CellCurves,
    Drawing,
    DrawnPanel,
    PanelNumbers,
    cell_curves,
    difference_curves,
    with_panels,
)
from lrd.analysis.plotting.style import (
    FIGURE_FORMATS,
    FINAL_STYLE,
    LEGEND_LINE,
    NOTE_STYLE,
    PAGE_WIDTH,
    PUBLISHED_STYLE,
    curve_style,
    figure_style,
)
from lrd.analysis.studies import CellSpec, FigureSpec, GroupSpec, PanelSpec
from lrd.runs.store import atomic_write


def encode(sheet: Figure, form: str) -> bytes:
    """Return a figure as the bytes of a file in one of ``FIGURE_FORMATS``."""
    file = io.BytesIO()
    with figure_style():
        sheet.savefig(file, format=form, metadata=FIGURE_FORMATS[form])
    return file.getvalue()


def write_file(path: Path, data: bytes) -> None:
    """Write a file completely, or raise ValueError in one line."""
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a directory")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, data)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}: {error.filename}") from error


def draw_figure(
    figure: FigureSpec, results: Mapping[CellSpec, CellResults], overrides: Sequence[str] = ()
) -> Drawing:
    """Draw a figure of a study.

    Args:
        figure: what to draw. If it names a drawing function, that one draws it.
        results: the runs of every configuration of the figure.
        overrides: settings that differ from the experiment's; they appear in the title.

    Raises:
        ValueError: in one line, if metrics cannot be read.
    """
    if figure.draw:
        module, _, name = figure.draw.rpartition(".")
        return getattr(import_module(module), name)(figure, results, overrides)
    figure = with_panels(figure, results)
    found = cell_curves(figure.panels, results)
    pairs = difference_curves(figure, results)
    found = {cell: {**curves, **pairs.get(cell, {})} for cell, curves in found.items()}
    return draw_curves(figure, found, overrides)


def draw_curves(figure: FigureSpec, found: CellCurves, overrides: Sequence[str] = ()) -> Drawing:
    """Draw learning curves; the legend names curves without a finished run."""
    panels = []
    with figure_style():
        sheet = Figure(layout="constrained")
        legends = [_legend_entries(figure, group, found) for group in figure.groups]
        rows = _make_axes(sheet, figure, legends)
        for group, row in zip(figure.groups, rows, strict=True):
            for panel, axis in zip(figure.panels, row, strict=True):
                curves = draw_panel(axis, panel, group, found)
                draw_published_values(axis, panel, group, found, figure.across == "groups")
                curves = [curve for curve in curves if len(curve.x)]
                digits = panel.digits if panel.unit == "%" else None
                shown = PanelNumbers(panel.label, curves, group.label, panel.unit, digits)
                panels.append(DrawnPanel(axis, shown))
        for panel, axes in zip(figure.panels, zip(*rows, strict=True), strict=True):
            if figure.own_limits:
                for axis, group in zip(axes, figure.groups, strict=True):
                    set_limits([axis], panel, replace(figure, groups=(group,)), found)
            else:
                set_limits(axes, panel, figure, found)
        add_title(sheet, figure.title, overrides, _note(figure))
    return Drawing(sheet, panels)


def add_title(sheet: Figure, title: str, overrides: Sequence[str], note: str) -> None:
    """Put a title, with the settings of the runs, above a figure and a note below it."""
    sheet.suptitle(textwrap.fill(title_with_overrides(title, overrides), 100))
    sheet.supxlabel(note, **NOTE_STYLE)


def _make_axes(
    sheet: Figure, figure: FigureSpec, legends: Sequence[list[Line2D]]
) -> list[list[Axes]]:
    """Return the axes of every group's panels, and draw the group's legend above them."""
    groups, panels = len(figure.groups), len(figure.panels)
    in_columns = figure.across == "groups"
    most = max(map(len, legends))
    columns = 1 if in_columns else 2 if most == 4 else min(most, 4)
    titled = any(group.label for group in figure.groups)
    head = LEGEND_LINE * (0.4 + titled + -(-most // columns))
    heights = [head, *[1.4] * panels] if in_columns else [head, 2.2] * groups
    sheet.set_size_inches(PAGE_WIDTH, sum(heights) + 0.7)
    grid = sheet.add_gridspec(len(heights), groups if in_columns else panels, height_ratios=heights)
    rows: list[list[Axes]] = []
    for g, group in enumerate(figure.groups):
        place = sheet.add_subplot(grid[0, g] if in_columns else grid[2 * g, :])
        place.set_axis_off()
        legend = place.legend(
            handles=legends[g],
            title=group.label or None,
            loc="upper left",
            alignment="left",
            ncols=columns,
            title_fontproperties={"weight": "bold", "size": 7.5},
        )
        legend.set_in_layout(False)  # a long line may reach over the next column
        row = []
        for p, panel in enumerate(figure.panels):
            cell = grid[1 + p, g] if in_columns else grid[2 * g + 1, p]
            shared = rows[0][p] if rows and not figure.own_limits else None
            axis = sheet.add_subplot(cell, sharey=shared)
            is_left, is_bottom = not (in_columns and g), not in_columns or p == panels - 1
            _label_axis(axis, panel, is_left, is_bottom)
            row.append(axis)
        rows.append(row)
    return rows


def _label_axis(axis: Axes, panel: PanelSpec, is_left: bool, is_bottom: bool) -> None:
    if is_left:
        axis.set_ylabel(f"{panel.label} ({panel.unit})" if panel.unit else panel.label)
    if is_bottom:
        axis.set_xlabel("Epoch")
    if panel.log:
        axis.set_yscale("log")
    axis.tick_params(labelleft=is_left, labelbottom=is_bottom)


def _legend_entries(figure: FigureSpec, group: GroupSpec, found: CellCurves) -> list[Line2D]:
    """Return the curves with their n, then final evaluations, then published curves."""
    lines, finals = [], []
    for curve in group.curves:
        metrics = found[curve.cell]
        n = metrics[figure.panels[0].key].n if metrics else 0
        label = f"{curve.label} (n = {n})" if n else f"no finished run: {curve.label}"
        lines.append(Line2D([], [], label=label, **curve_style(curve)))
        if name := next((p.final_label for p in figure.panels if metrics.get(p.final)), None):
            label = f"{curve.label}, {name} (n = {n})"
            finals.append(Line2D([], [], label=label, **curve_style(curve) | FINAL_STYLE))
    published = (Line2D([], [], label=p.label, **PUBLISHED_STYLE) for p in group.published)
    return [*lines, *finals, *published]


def _note(figure: FigureSpec) -> str:
    text = "lines: mean of n seeds; bands and bars: 95 % interval of that mean"
    if not any(curve.published for curve in figure.curves()):
        return text
    inset = any(needs_inset(panel, group) for panel in figure.panels for group in figure.groups)
    return f"{text}; {'triangles' if inset else 'dotted'}: published final values"
