"""Draw the toy example: the paths of Figure 4, and the outcomes against Adam's learning rate."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from lrd.analysis.matching import CellResults, run_commands
from lrd.analysis.plotting.figure import add_title
from lrd.analysis.plotting.series import Drawing, DrawnCurve, DrawnPanel, PanelNumbers
from lrd.analysis.plotting.style import GRAY, PAGE_WIDTH, TEXT_BOX, curve_style, figure_style
from lrd.analysis.studies import CellSpec, CurveSpec, FigureSpec
from lrd.runs.store import Run
from scripts.paper.toy_outcomes import (
    Proportion,
    StartOutcomes,
    count_outcomes,
    describe_difference,
)
from tasks.toy_function import BAD, BEYOND, DOMAIN, GOOD, f, is_near

CellMap = Mapping[CellSpec, CellResults]
Position = tuple[float, float]
NAMED_START = "dataset.named."  # the prefix of these settings
VIEW = ((-4.15, 2.05), (-2.1, 3.1))  # the domain, and some of what lies outside of it
LEVELS = np.geomspace(0.06, 3e4, 14)
PALE_GRAYS = ListedColormap(colormaps["Greys"](np.linspace(0, 0.45, 256)))
MINIMUM: dict[str, Any] = {"color": "#000000", "markerfacecolor": "white", "linestyle": ""}
MINIMUM["markeredgewidth"] = 0.8
MINIMA: dict[Position, dict[str, Any]] = {
    GOOD: MINIMUM | {"label": "optimum", "marker": "*", "markersize": 9},
    BAD: MINIMUM | {"label": "bad local minimum", "marker": "X", "markersize": 6.5},
    BEYOND: MINIMUM | {"label": "minimum outside the domain", "marker": "P", "markersize": 6},
}
START: dict[str, Any] = {"marker": "o", "markersize": 3, "color": "#000000", "linestyle": ""}
# Paths by where they end differ in hue, lightness and line.
PATHS: dict[Position | None, dict[str, Any]] = {
    GOOD: {"label": "path to the optimum", "color": "#0072B2", "linestyle": "-"},
    BAD: {"label": "path to the bad minimum", "color": "#D55E00", "linestyle": (0, (4, 1.2))},
    None: {"label": "path to neither", "color": "#000000", "linestyle": (0, (1, 1))},
}
FIRST_SEED: dict[str, Any] = {"linewidth": 1.2, "zorder": 4}
OTHER_SEEDS: dict[str, Any] = {"linewidth": 0.6, "zorder": 3, "alpha": 0.5}
SHARE_PANELS: tuple[tuple[str, Callable[[StartOutcomes], Proportion | None]], ...] = (
    ("In the good basin (%)", lambda ended: ended.proportion("good_basin")),
    ("In the bad basin (%)", lambda ended: ended.proportion("bad_basin")),
    ("Of those that reached the bad\nminimum, in the good basin (%)", StartOutcomes.escape_rate),
)
BARS = (
    "bars: 95 % Wilson interval over the starts of all seeds; "
    "one mark to the left of LRD's is Adam at half of its learning rate"
)


def draw_landscape(figure: FigureSpec, results: CellMap, overrides: Sequence[str] = ()) -> Drawing:
    """Draw Figure 4: a panel for each arm, with the paths of every seed and the outcomes below.

    The figure has two groups of curves, one for each logging interval: every step, and every epoch
    of the runs whose outcomes are counted.
    """
    every_step, every_epoch = (group.curves for group in figure.groups)
    with figure_style(axes_grid=False):
        sheet, axes = _make_axes(2, 4.9, 0.22)
        styles = [*PATHS.values(), START | {"label": "start"}, *MINIMA.values()]
        _add_legend(sheet, [Line2D([], [], **style) for style in styles], 4)
        shade = [_draw_function(axis) for axis in axes][0]
        outcomes = [count_outcomes(results[curve.cell]) for curve in every_epoch]
        for axis, often, curve, found in zip(axes, every_step, every_epoch, outcomes, strict=True):
            _draw_paths(axis, results[often.cell], results[curve.cell])
            title = f"{curve.label}, learning rate {_learning_rate(results[curve.cell]):g}"
            axis.set_title(title, fontsize=7.5, fontweight="bold")
            axis.set_xlabel("\n".join(["x", *(found.lines() if found else ())]), fontsize=6.5)
            empty = [one.cell for one in (often, curve) if not results[one.cell].n]
            if commands := run_commands(empty, overrides):
                _add_text(axis, "\n".join(["missing runs are made by", *commands]))
        axes[0].set_ylabel("y")
        bar = sheet.colorbar(shade, ax=axes, shrink=0.7, pad=0.01, label="f(x, y)")
        bar.set_ticks([10.0**power for power in range(-1, 5)])
        bar.minorticks_off()
        seeds = "bold and faint: the paths of the first seed and of the others; brackets: 95 %"
        note = "\n".join([*describe_difference(*outcomes), seeds])
        add_title(sheet, figure.title, overrides, note)
    return Drawing(sheet)


def draw_rates(figure: FigureSpec, results: CellMap, overrides: Sequence[str] = ()) -> Drawing:
    """Draw the outcomes of the random starts against the learning rate: a group for each arm."""
    with figure_style():
        sheet, axes = _make_axes(3, 2.7, 0.06)
        outcomes = {cell: count_outcomes(found) for cell, found in results.items()}
        ticks = sorted({_learning_rate(found) for found in results.values()})
        panels = []
        for axis, (label, share) in zip(axes, SHARE_PANELS, strict=True):
            curves = []
            for group in figure.groups:
                cells = {_learning_rate(results[c.cell]): outcomes[c.cell] for c in group.curves}
                shares = {rate: found and share(found) for rate, found in cells.items()}
                curves.append(_draw_share(axis, group.curves[0], shares))
            name = " ".join(label.removesuffix("(%)").split())
            shown = [curve for curve in curves if curve.x]
            panels.append(DrawnPanel(axis, PanelNumbers(name, shown, unit="%", digits=1)))
            axis.set(xlabel="Adam's learning rate", ylabel=label, xscale="log")
            axis.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
            axis.minorticks_off()
            if not any(outcomes.values()):
                _add_text(axis, "no runs yet")
        _add_legend(sheet, axes[0].get_legend_handles_labels()[0], 2)
        add_title(sheet, figure.title, overrides, BARS)
    return Drawing(sheet, panels, "learning rate")


def _learning_rate(results: CellResults) -> float:
    return float(results.identity["optim.lr"])


def _draw_share(
    axis: Axes, curve: CurveSpec, shares: Mapping[float, Proportion | None]
) -> DrawnCurve:
    there = {rate: share for rate, share in shares.items() if share is not None}
    missing = ", ".join(f"{rate:g}" for rate, share in shares.items() if share is None)
    label = curve.label + (f" (missing: {missing})" if missing else "")
    percents = [share.percent for share in there.values()]
    intervals = [share.interval for share in there.values()]
    errors = [(p - low, high - p) for p, (low, high) in zip(percents, intervals, strict=True)]
    bars = np.abs(errors).T if errors else None
    axis.errorbar(list(there), percents, bars, capsize=2, label=label, **curve_style(curve))
    counts = [f"{share.n:,} starts" for share in there.values()]
    return DrawnCurve(curve.label, list(there), percents, counts, intervals=intervals)


def _make_axes(panels: int, height: float, head: float) -> tuple[Figure, list[Axes]]:
    """Return a figure whose first axes hold the legend, and the panels below, side by side."""
    sheet = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    grid = sheet.add_gridspec(2, panels, height_ratios=(head, height - head))
    sheet.add_subplot(grid[0, :]).set_axis_off()
    return sheet, [sheet.add_subplot(grid[1, i]) for i in range(panels)]


def _add_legend(sheet: Figure, entries: Sequence[Any], columns: int) -> None:
    sheet.axes[0].legend(handles=entries, loc="upper center", ncols=columns)


def _add_text(axis: Axes, text: str) -> None:
    middle = {"transform": axis.transAxes, "ha": "center", "va": "center", "zorder": 6}
    axis.text(0.5, 0.5, text, color=GRAY, bbox=TEXT_BOX, **middle)


def _draw_function(axis: Axes) -> ScalarMappable:
    """Draw f in gray with log-spaced contours, the border of the domain and the minima."""
    x, y = np.meshgrid(*(np.linspace(*side, 200) for side in VIEW))
    values = f(x, y)
    # An image, because filled contours take most of a megabyte as paths.
    style: dict[str, Any] = {"cmap": PALE_GRAYS, "aspect": "auto", "interpolation": "bilinear"}
    norm = LogNorm(LEVELS[0], LEVELS[-1])
    shade = axis.imshow(values, norm=norm, origin="lower", extent=(*VIEW[0], *VIEW[1]), **style)
    axis.contour(x, y, values, LEVELS, colors=GRAY, linewidths=0.3, alpha=0.6)
    (x0, x1), (y0, y1) = DOMAIN
    axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=GRAY, ls="-.", lw=0.6))
    for position, style in MINIMA.items():
        axis.plot([position[0]], [position[1]], zorder=5, **style)
    axis.set(xlim=VIEW[0], ylim=VIEW[1])
    return shade


def _draw_paths(axis: Axes, *results: CellResults) -> None:
    """Draw the path of every seed from every named start: the first seed bold, the others faint.

    The configurations differ only in how often they log, so one seed's runs share a path.
    """
    by_seed: dict[int, list[Run]] = defaultdict(list)
    for run in (run for found in results for run in found.records):
        by_seed[run.seed].append(run)
    for number, seed in enumerate(sorted(by_seed)):
        for path in read_paths(by_seed[seed]).values():
            x, y = path.T
            axis.plot(x, y, **PATHS[_end_of(path)] | (OTHER_SEEDS if number else FIRST_SEED))
            axis.plot(x[:1], y[:1], zorder=4.5, **START)


def read_paths(runs: Sequence[Run]) -> dict[str, NDArray[np.float64]]:
    """Return the path from every named start: its position and those that the runs log, (n, 2).

    Raises:
        ValueError: in one line, if an epoch lacks a position.
    """
    found: dict[str, dict[int, Any]] = {}
    for run in runs:
        starts = {k.rpartition(".")[2]: v for k, v in run.identity.items() if NAMED_START in k}
        for name, start in starts.items():
            try:
                positions = {
                    line["step"]: (float(line[f"x_{name}"]), float(line[f"y_{name}"]))
                    for line in run.metrics
                }
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{run.folder}: an epoch has no place of {name}") from error
            found[name] = found.get(name, {0: start}) | positions
    return {name: np.array([at for _, at in sorted(p.items())]) for name, p in found.items()}


def _end_of(path: NDArray[np.float64]) -> Position | None:
    """Return the minimum of the domain at which a path ends, if any."""
    x, y = path[-1]
    return next((minimum for minimum in (GOOD, BAD) if is_near(x, y, minimum)), None)
