"""What is drawn in a panel: curves with their bands, the paper's values, the frame."""

import math
from collections.abc import Sequence
from typing import Any

from curves import Curve, Figure, Group, Panel
from matplotlib.axes import Axes
from points import Points, Series, points, read_published

GREY = "#555555"
OTHERS: dict[str, Any] = {"color": "#000000", "linestyle": "-.", "linewidth": 0.7}
BLANK = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
CORNER = (0.46, 0.07, 0.52, 0.4)  # left, bottom, width and height, in parts of a panel's
FINAL: dict[str, Any] = {"linestyle": "", "marker": "D", "markersize": 4.5}


def look(curve: Curve) -> dict[str, Any]:
    inside = curve.color if curve.line == "-" else "white"
    return {
        "color": curve.color,
        "linestyle": curve.line,
        "marker": curve.marker,
        "markerfacecolor": inside,
    }


def draw_panel(axis: Axes, panel: Panel, group: Group, found: Series) -> None:
    for place, curve in enumerate(group.curves):
        if there := found[curve.cell]:
            draw_curve(axis, there[panel.key], curve, place, len(group.curves))
            if last := there.get(panel.final):
                mark = look(curve) | FINAL
                axis.errorbar(last.epochs, last.mean, last.half, capsize=2, zorder=4, **mark)
    for published in group.published:
        line = points([read_published(published)], panel.key)
        axis.plot(line.epochs, line.mean, zorder=2.5, **OTHERS)
    if not any(found[curve.cell] for curve in group.curves):
        axis.text(0.5, 0.7, "no runs yet", transform=axis.transAxes, ha="center", color=GREY)


def draw_curve(axis: Axes, line: Points, curve: Curve, place: int, count: int) -> None:
    """Mean and band; about six markers, apart from those of the other curves of ``count``."""
    step = max(1, line.epochs.size // 6)
    every = (int(place / count * step), step)
    axis.plot(line.epochs, line.mean, markevery=every, zorder=3, **look(curve))
    if line.half is not None:
        low, high = line.mean - line.half, line.mean + line.half
        alpha = 0.12 if count > 2 else 0.28 if curve.line == "-" else 0.15
        axis.fill_between(line.epochs, low, high, color=curve.color, alpha=alpha, linewidth=0)


def draw_printed(axis: Axes, panel: Panel, group: Group, found: Series, narrow: bool) -> None:
    """The paper's final values: two at most as dotted lines, more in a panel of their own.

    A line's label stands at the line, in a ``narrow`` panel in the corner that curves leave free.
    """
    if has_marks(panel, group):
        draw_finals(axis, panel, group, found)
        return
    printed = [(c.paper[panel.key], c) for c in group.curves if panel.key in c.paper]
    beside = axis.get_yaxis_transform()
    labels = [f"paper: {curve.short} {value:.{panel.digits}f}" for value, curve in printed]
    top = max((value for value, _ in printed), default=0.0)
    for (value, _), label in zip(printed, labels, strict=True):
        axis.axhline(value, color=GREY, linestyle=":", linewidth=0.8, zorder=2)
        if not narrow:
            above = {"va": "bottom" if value == top else "top", "zorder": 1.5, "bbox": BLANK}
            shift = (2, 1.5 if value == top else -2)
            text = {"textcoords": "offset points", "color": GREY, "fontsize": 6}
            axis.annotate(label, (0, value), shift, xycoords=beside, **text, **above)
    if narrow and labels:
        corner = {"transform": axis.transAxes, "ha": "right", "va": "bottom", "bbox": BLANK}
        axis.text(0.98, 0.04, "\n".join(labels), color=GREY, fontsize=6, zorder=1.5, **corner)


def draw_finals(axis: Axes, panel: Panel, group: Group, found: Series) -> None:
    """In the corner that rising curves leave free: every curve's last value with its interval, and
    to its right the paper's as a triangle."""
    inset = axis.inset_axes(CORNER, zorder=5)
    for place, curve in enumerate(group.curves):
        if line := found[curve.cell].get(panel.key):
            half = None if line.half is None else line.half[-1:]
            mark: dict[str, Any] = look(curve) | {"linestyle": ""}
            inset.errorbar([place - 0.15], line.mean[-1:], half, capsize=1.5, **mark)
        if panel.key in curve.paper:
            mark = look(curve) | {"linestyle": "", "marker": "<", "markersize": 4}
            inset.plot([place + 0.25], [curve.paper[panel.key]], **mark)
    inset.set_xlim(-0.6, len(group.curves) - 0.4)
    inset.margins(y=0.12)
    inset.set_xticks([])
    inset.tick_params(labelsize=5.5, length=2, pad=1.5)
    inset.set_title("last epoch", fontsize=5.5, pad=2, color=GREY)


def has_marks(panel: Panel, group: Group) -> bool:
    return sum(panel.key in curve.paper for curve in group.curves) > 2


def last_epoch(figure: Figure, found: Series) -> int:
    """Of our runs; of what others published where we have none."""
    ours = [line for curve in figure.curves() for line in found[curve.cell].values()]
    theirs = [points([read_published(p)], "epoch") for g in figure.groups for p in g.published]
    return max((int(line.epochs[-1]) for line in ours or theirs if line), default=10)


def ticks(last: int) -> list[int]:
    """Round epochs, seven at most, the first of them 1."""
    steps = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    step = next(step for step in steps if last / step <= 6)
    return [1, *range(step if step > 1 else 2, last + 1, step)]


def limits(axes: Sequence[Axes], panel: Panel, figure: Figure, found: Series) -> None:
    """One frame for a metric. A linear one may cut the first twentieth of the epochs, so that the
    others can be told apart; a logarithmic one bands, which may reach below zero."""
    last = last_epoch(figure, found)
    for axis in axes:
        axis.set_xlim(1 - 0.03 * last, 1.03 * last)
        axis.set_xticks(ticks(last))
    ours = [found[c.cell].get(key) for c in figure.curves() for key in (panel.key, panel.final)]
    theirs = [points([read_published(p)], panel.key) for g in figure.groups for p in g.published]
    lines = [line for line in [*ours, *theirs] if line]
    values = [c.paper[panel.key] for c in figure.curves() if panel.key in c.paper]
    values += [0.0, 100.0] if panel.unit == "%" and not lines else []
    for line in lines:
        kept = (line.epochs > (0 if panel.log else last / 20)) & (line.epochs <= last)
        half = 0.0 if line.half is None or panel.log else line.half
        values += [*(line.mean - half)[kept], *(line.mean + half)[kept]]
    sound = [v for v in values if math.isfinite(v) and (v > 0 or not panel.log)]
    if not sound:
        return
    low, high = min(sound), max(sound)
    if panel.log:
        axes[0].set_ylim(low / 1.5, high * 1.5)
        return
    if panel.unit == "%":
        low, high = max(low, 0.0), min(high, 100.0)
    pad = 0.06 * (high - low) or 1.0
    axes[0].set_ylim(low - pad, high + pad)
