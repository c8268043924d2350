"""How a figure of learning curves is drawn: to be read at a page's width, and in grey."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.style
from curves import Figure, Group, Panel
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from matplotlib.lines import Line2D
from panels import FINAL, GREY, OTHERS, draw_panel, draw_printed, has_marks, limits, look
from points import Series
from tabular import titled

# What each format is told: no date, so that the same runs give the same bytes.
FORMATS: dict[str, dict[str, Any]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
WIDTH, ENTRY = 7.2, 0.15  # inches: a page's text, a line of a legend
STYLE = {
    "font.size": 7,
    "figure.titlesize": 8.5,
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.borderaxespad": 0,
    "legend.borderpad": 0,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.2,
    "lines.markeredgewidth": 0.7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # journals take no Type 3 fonts
    "svg.hashsalt": "figure",
}


def encode(sheet: Sheet, form: str) -> bytes:
    file = io.BytesIO()
    with matplotlib.style.context(STYLE, after_reset=True):
        sheet.savefig(file, format=form, metadata=FORMATS[form])
    return file.getvalue()


def draw(figure: Figure, found: Series, overrides: Sequence[str] = ()) -> Sheet:
    """Every curve of ``found`` in its panel; one without runs is named as missing."""
    with matplotlib.style.context(STYLE, after_reset=True):
        sheet = Sheet(layout="constrained")
        rows = frame(sheet, figure, [handles(figure, group, found) for group in figure.groups])
        for group, row in zip(figure.groups, rows, strict=True):
            for panel, axis in zip(figure.panels, row, strict=True):
                draw_panel(axis, panel, group, found)
                draw_printed(axis, panel, group, found, figure.across == "groups")
        for panel, axes in zip(figure.panels, zip(*rows, strict=True), strict=True):
            limits(axes, panel, figure, found)
        sheet.suptitle(textwrap.fill(titled(figure.title, overrides), 100))
        sheet.supxlabel(note(figure), fontsize=6.5, color=GREY)
    return sheet


def frame(sheet: Sheet, figure: Figure, legends: Sequence[list[Line2D]]) -> list[list[Axes]]:
    """The axes of every group's panels, and the group's legend above them."""
    groups, panels = len(figure.groups), len(figure.panels)
    beside = figure.across == "groups"
    most = max(map(len, legends))
    columns = 1 if beside else 2 if most == 4 else min(most, 4)
    named = any(group.label for group in figure.groups)
    head = ENTRY * (0.4 + named + -(-most // columns))
    heights = [head, *[1.4] * panels] if beside else [head, 2.2] * groups
    sheet.set_size_inches(WIDTH, sum(heights) + 0.7)
    grid = sheet.add_gridspec(len(heights), groups if beside else panels, height_ratios=heights)
    rows: list[list[Axes]] = []
    for g, group in enumerate(figure.groups):
        place = sheet.add_subplot(grid[0, g] if beside else grid[2 * g, :])
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
            cell = grid[1 + p, g] if beside else grid[2 * g + 1, p]
            axis = sheet.add_subplot(cell, sharey=rows[0][p] if rows else None)
            label_axis(axis, panel, left=not (beside and g), low=not beside or p == panels - 1)
            row.append(axis)
        rows.append(row)
    return rows


def label_axis(axis: Axes, panel: Panel, left: bool, low: bool) -> None:
    if left:
        axis.set_ylabel(f"{panel.label} ({panel.unit})" if panel.unit else panel.label)
    if low:
        axis.set_xlabel("Epoch")
    if panel.log:
        axis.set_yscale("log")
    axis.tick_params(labelleft=left, labelbottom=low)


def handles(figure: Figure, group: Group, found: Series) -> list[Line2D]:
    """The legend's entries: curves with their n, then final evaluations, then what others have."""
    lines, finals = [], []
    for curve in group.curves:
        there = found[curve.cell]
        n = there[figure.panels[0].key].n if there else 0
        label = f"{curve.label} (n = {n})" if n else f"missing: {curve.label}"
        lines.append(Line2D([], [], label=label, **look(curve)))
        if name := next((p.final_label for p in figure.panels if there.get(p.final)), None):
            label = f"{curve.label}, {name} (n = {n})"
            finals.append(Line2D([], [], label=label, **look(curve) | FINAL))
    return [*lines, *finals, *(Line2D([], [], label=p.label, **OTHERS) for p in group.published)]


def note(figure: Figure) -> str:
    text = "lines: mean of n seeds; bands and bars: 95 % interval of that mean"
    if not any(curve.paper for curve in figure.curves()):
        return text
    marks = any(has_marks(panel, group) for panel in figure.panels for group in figure.groups)
    return f"{text}; {'triangles' if marks else 'dotted'}: the paper's final values"
