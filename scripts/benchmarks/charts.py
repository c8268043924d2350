"""Bars of ratios for the tables, lines for the sweeps; readable in grey and by the colour-blind."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.results import Line, Table
from benchmarks.timing import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, from dark to light, each with a hatch or a marker of its own.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#999999"
STYLES = [("#000000", "o", "-"), (BLUE, "s", "--"), (ORANGE, "^", "-."), ("#009E73", "D", ":")]
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
WIDTH, BAR, TITLE = 10.0, 0.27, 0.85  # inches


def kind_of(label: str) -> tuple[str, str]:
    """Colour and hatch: ours, the authors' or what everyone has."""
    if label.startswith(("LRD", "ours", "two processes")):
        return BLUE, ""
    return (ORANGE, "//") if "authors" in label else (GREY, "..")


def draw(tables: Sequence[Table], folder: Path, section: str, caption: str) -> list[str]:
    """The charts that a section's tables give; their names in ``folder``."""
    kinds = {f"{section}.png": bars, f"{section}-sweeps.png": sweeps}
    return [name for name, kind in kinds.items() if kind(tables, folder / name, caption)]


def bars(tables: Sequence[Table], path: Path, caption: str) -> bool:
    """One panel a table, in two columns where they are many; False and no file without ratios."""
    drawn = [t for t in tables if t.x is None and any(line.ratios for line in t.lines)]
    if not drawn:
        return False
    panels = [(t, [ln for ln in t.lines if ln.ratios or ln.label == t.baseline]) for t in drawn]
    columns = 2 if len(panels) > 6 else 1
    rows = -(-len(panels) // columns)
    heights = [BAR * max(len(lines) for _, lines in panels[r::rows]) + TITLE for r in range(rows)]
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH * (0.4 + 0.6 * columns), sum(heights) + 0.6),
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
        layout="constrained",
    )
    places = axes.T.flatten()
    for place, (table, lines) in zip(places, panels, strict=False):
        _bar_panel(place, table, lines)
    for place in places[len(panels) :]:
        place.set_axis_off()
    figure.suptitle(caption, fontsize=9)
    figure.savefig(path, dpi=120, bbox_inches="tight", pad_inches=0.12)
    plt.close(figure)
    return True


def _bar_panel(axis: "Axes", table: Table, lines: list[Line]) -> None:
    spreads = [Spread.of(line.ratios or [1.0]) for line in lines]
    for row, (line, ratio) in enumerate(zip(lines, spreads, strict=True)):
        color, hatch = kind_of(line.label)
        axis.barh(row, ratio.median, color=color, hatch=hatch, edgecolor="white", height=0.75)
        axis.plot([ratio.low, ratio.high], [row, row], color="black", linewidth=1.5)
        text = f" {ratio.median:.3g}"
        if line.target is not None and line.target.on == "ratio":
            text += f"  (target {line.target})"
        place = max(ratio.median, ratio.high)
        axis.text(place, row, text, va="center", fontsize=8, bbox=PAPER)
    axis.axvline(1.0, color="black", linewidth=1, linestyle="--")
    axis.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=8)
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.set_xlim(0, 1.22 * max(spread.high for spread in spreads))
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    what = "time" if table.better == "lower" else "speed"
    axis.set_xlabel(f"{what} / {table.baseline}; {table.better} is better", fontsize=8)
    axis.set_title(table.title, fontsize=9, loc="left")


def sweeps(tables: Sequence[Table], path: Path, caption: str) -> bool:
    """A row a sweep: what it costs, and its memory; False and no file without a sweep."""
    drawn = [table for table in tables if table.x is not None]
    if not drawn:
        return False
    size = (WIDTH, 3.0 * len(drawn) + 0.6)
    figure, axes = plt.subplots(len(drawn), 2, figsize=size, squeeze=False, layout="constrained")
    for table, (cost, memory) in zip(drawn, axes, strict=True):
        medians = [_median(line) for line in table.lines]
        _sweep_panel(cost, table, table.lines[0].unit, medians)
        _sweep_panel(memory, table, table.memory, [ln.memory or 0.0 for ln in table.lines])
        memory.set_ylim(bottom=0)
        memory.set_title(f"memory, {table.memory}", fontsize=9, loc="left")
        if max(medians) > 10 * min(medians):
            cost.set_yscale("log")
            cost.set_ylim(top=6 * max(medians))  # as below
        else:
            cost.set_ylim(0, 1.25 * max(medians))  # room for the legend
        cost.set_title(table.title, fontsize=9, loc="left")
        cost.legend(fontsize=7, loc="upper center", ncols=3)
    figure.suptitle(caption, fontsize=9)
    figure.savefig(path, dpi=120, bbox_inches="tight", pad_inches=0.12)
    plt.close(figure)
    return True


def _median(line: Line) -> float:
    return Spread.of(line.samples).median


def _sweep_panel(axis: "Axes", table: Table, unit: str, values: list[float]) -> None:
    labels = list(dict.fromkeys(line.label for line in table.lines))
    for label, (color, marker, style) in zip(labels, STYLES, strict=False):
        points = [
            (line.x, value)
            for line, value in zip(table.lines, values, strict=True)
            if line.label == label and line.x is not None
        ]
        xs, ys = zip(*points, strict=True)
        axis.plot(xs, ys, color=color, marker=marker, linestyle=style, label=label, markersize=5)
    xs = [line.x for line in table.lines if line.x is not None]
    if max(xs) > 20 * min(xs):
        axis.set_xscale("log")
    axis.set_xlabel(table.x or "", fontsize=8)
    axis.set_ylabel(unit, fontsize=8)
    axis.tick_params(which="both", labelsize=8)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
