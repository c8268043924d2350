"""The toy example's figures: Figure 4, and the same shares against Adam's learning rate."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib.style
import numpy as np
from cells import Filled
from contours import draw_function, draw_paths, handles
from curves import Curve, Figure, Group, pair
from drawing import STYLE, WIDTH
from layout import Cell
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from outcomes import Count, Outcome, compared, outcome
from panels import BLANK, GREY, look
from sweep import commands
from tabular import titled

Fill = Mapping[Cell, Filled]
RATES = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)
SHARES: tuple[tuple[str, Callable[[Outcome], Count | None]], ...] = (
    ("In the good basin (%)", lambda ended: ended.count("good_basin")),
    ("In the bad basin (%)", lambda ended: ended.count("bad_basin")),
    ("Of those that reached the bad\nminimum, in the good basin (%)", Outcome.escapes),
)
BARS = (
    "bars: 95 % Wilson interval over the starts of all seeds; "
    "one mark to the left of LRD's is Adam at half of its rate"
)


def arms(experiment: str) -> tuple[Curve, Curve]:
    return pair(experiment, "adam", ("Adam, without LRD", "Adam, LRD p = 0.5"), {})


def under(curve: Curve, setting: str) -> Curve:
    """The same arm under one more setting."""
    cell = replace(curve.cell, overrides=(*curve.cell.overrides, setting))
    return replace(curve, cell=cell)


def draw_landscape(figure: Figure, filled: Fill, overrides: Sequence[str] = ()) -> Sheet:
    """Figure 4: an arm a panel, with every seed's paths; below it what the drawn starts came to."""
    every_step, shares = (group.curves for group in figure.groups)
    with matplotlib.style.context(STYLE | {"axes.grid": False}, after_reset=True):
        sheet, axes = _frame(2, 4.9, 0.22)
        _legend(sheet, handles(), 4)
        shade = [draw_function(axis) for axis in axes][0]
        ended = [outcome(filled[curve.cell]) for curve in shares]
        for axis, often, share, came_to in zip(axes, every_step, shares, ended, strict=True):
            draw_paths(axis, filled[often.cell], filled[share.cell])
            rate = filled[share.cell].identity["optim.lr"]
            axis.set_title(f"{share.label}, rate {rate:g}", fontsize=7.5, fontweight="bold")
            axis.set_xlabel("\n".join(["x", *(came_to.lines() if came_to else ())]), fontsize=6.5)
            empty = (curve.cell for curve in (often, share) if not filled[curve.cell].n)
            if lines := commands(empty, overrides):
                _say(axis, "\n".join(["missing runs are made by", *lines]))
        axes[0].set_ylabel("y")
        bar = sheet.colorbar(shade, ax=axes, shrink=0.7, pad=0.01, label="f(x, y)")
        bar.set_ticks([10.0**power for power in range(-1, 5)])
        bar.minorticks_off()
        seeds = "bold and faint: the paths of the first seed and of the others; brackets: 95 %"
        _title(sheet, figure, overrides, "\n".join([*compared(*ended), seeds]))
    return sheet


def draw_rates(figure: Figure, filled: Fill, overrides: Sequence[str] = ()) -> Sheet:
    """What became of the drawn starts against the learning rate, with and without LRD."""
    with matplotlib.style.context(STYLE, after_reset=True):
        sheet, axes = _frame(3, 2.7, 0.06)
        ended = {cell: outcome(there) for cell, there in filled.items()}
        for axis, (label, share) in zip(axes, SHARES, strict=True):
            for group in figure.groups:
                there = [ended[curve.cell] for curve in group.curves]
                _draw_share(axis, group.curves, [share(o) if o else None for o in there])
            axis.set(xlabel="Adam's learning rate", ylabel=label, xscale="log")
            axis.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
            axis.minorticks_off()
            if not any(ended.values()):
                _say(axis, "no runs yet")
        _legend(sheet, axes[0].get_legend_handles_labels()[0], 2)
        _title(sheet, figure, overrides, BARS)
    return sheet


def _frame(panels: int, height: float, head: float) -> tuple[Sheet, list[Axes]]:
    """A sheet whose first axes are for the legend alone, and the panels below, side by side."""
    sheet = Sheet(figsize=(WIDTH, height), layout="constrained")
    grid = sheet.add_gridspec(2, panels, height_ratios=(head, height - head))
    sheet.add_subplot(grid[0, :]).set_axis_off()
    return sheet, [sheet.add_subplot(grid[1, i]) for i in range(panels)]


def _legend(sheet: Sheet, entries: Sequence[Any], columns: int) -> None:
    sheet.axes[0].legend(handles=entries, loc="upper center", ncols=columns)


def _draw_share(axis: Axes, curves: Sequence[Curve], found: Sequence[Count | None]) -> None:
    there = [(rate, c) for rate, c in zip(RATES, found, strict=True) if c is not None]
    lacks = [f"{rate:g}" for rate, c in zip(RATES, found, strict=True) if c is None]
    label = curves[0].label + (f" (missing: {', '.join(lacks)})" if lacks else "")
    middle = [c.percent for _, c in there]
    away = [(c.percent - c.interval[0], c.interval[1] - c.percent) for _, c in there]
    axis.errorbar(
        [rate for rate, _ in there],
        middle,
        np.abs(away).T if away else None,
        capsize=2,
        label=label,
        **look(curves[0]),
    )


def _say(axis: Axes, text: str) -> None:
    middle = {"transform": axis.transAxes, "ha": "center", "va": "center", "zorder": 6}
    axis.text(0.5, 0.5, text, color=GREY, bbox=BLANK, **middle)


def _title(sheet: Sheet, figure: Figure, overrides: Sequence[str], note: str) -> None:
    sheet.suptitle(textwrap.fill(titled(figure.title, overrides), 100))
    sheet.supxlabel(note, fontsize=6.5, color=GREY)


# Figure 4's groups are how often an epoch is logged, those of the other one its arms.
FIGURES: dict[str, tuple[Figure, Callable[[Figure, Fill, Sequence[str]], Sheet]]] = {
    "figure4": (
        Figure(
            "Figure 4. Paths of Adam on the toy example, without and with learning rate dropout",
            (),
            tuple(
                Group(
                    f"{steps} steps an epoch",
                    tuple(under(arm, f"task.steps={steps}") for arm in arms("figure4")),
                )
                for steps in (1, 20)
            ),
        ),
        draw_landscape,
    ),
    "figure4_lr": (
        Figure(
            "The toy example against Adam's learning rate, without and with learning rate dropout",
            (),
            tuple(
                Group(arm.label, tuple(under(arm, f"optim.lr={rate}") for rate in RATES))
                for arm in arms("figure4_lr")
            ),
        ),
        draw_rates,
    ),
}
