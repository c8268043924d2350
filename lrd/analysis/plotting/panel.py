"""Draw one panel of a figure: curves with their bands, published values, limits and ticks."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from lrd.analysis.plotting.series import CellCurves, DrawnCurve, MeanCurve, published_curve
from lrd.analysis.plotting.style import FINAL_STYLE, GRAY, PUBLISHED_STYLE, TEXT_BOX, curve_style
from lrd.analysis.studies import CurveSpec, FigureSpec, GroupSpec, PanelSpec

INSET = (0.46, 0.07, 0.52, 0.4)  # left, bottom, width and height, as shares of the panel


def draw_panel(
    axis: Axes, panel: PanelSpec, group: GroupSpec, found: CellCurves
) -> list[DrawnCurve]:
    """Draw the curves of a group, and what others published; return their numbers."""
    drawn = []
    for place, curve in enumerate(group.curves):
        metrics = found[curve.cell]
        if line := metrics.get(panel.series):
            _draw_curve(axis, line, curve, place, len(group.curves))
            published = None if panel.difference else curve.published.get(panel.key)
            drawn.append(_to_drawn(curve.label, line, published))
            if last := metrics.get(panel.final):
                style = curve_style(curve) | FINAL_STYLE
                axis.errorbar(last.epochs, last.mean, last.half_width, capsize=2, zorder=4, **style)
                drawn.append(_to_drawn(f"{curve.label}, {panel.final_label}", last))
    if panel.difference:
        axis.axhline(0, color=GRAY, linewidth=0.8, zorder=2)
        return drawn
    if not drawn:
        axis.text(0.5, 0.7, "no runs yet", transform=axis.transAxes, ha="center", color=GRAY)
    for published in group.published:
        line = published_curve(published, panel.key)
        axis.plot(line.epochs, line.mean, zorder=2.5, **PUBLISHED_STYLE)
        drawn.append(_to_drawn(published.label, line))
    return drawn


def _to_drawn(label: str, line: MeanCurve, published: float | None = None) -> DrawnCurve:
    return DrawnCurve(label, line.epochs, line.mean, line.n, line.half_width, published=published)


def _draw_curve(axis: Axes, line: MeanCurve, curve: CurveSpec, place: int, count: int) -> None:
    """Draw a mean and its band, with about six markers that avoid those of the other curves."""
    step = max(1, line.epochs.size // 6)
    markers = (int(place / count * step), step)
    axis.plot(line.epochs, line.mean, markevery=markers, zorder=3, **curve_style(curve))
    if line.half_width is not None:
        low, high = line.mean - line.half_width, line.mean + line.half_width
        alpha = 0.12 if count > 2 else 0.28 if curve.line == "-" else 0.15
        axis.fill_between(line.epochs, low, high, color=curve.color, alpha=alpha, linewidth=0)


def draw_published_values(
    axis: Axes, panel: PanelSpec, group: GroupSpec, found: CellCurves, narrow: bool
) -> None:
    """Draw the published final values: up to two as dotted lines, more in an inset.

    Args:
        narrow: put the labels into the corner that rising curves leave free, not on the lines.
    """
    if panel.difference:
        return
    if needs_inset(panel, group):
        _draw_inset(axis, panel, group, found)
        return
    printed = [(c.published[panel.key], c) for c in group.curves if panel.key in c.published]
    labels = [f"published: {curve.short} {value:.{panel.digits}f}" for value, curve in printed]
    top = max((value for value, _ in printed), default=0.0)
    for (value, _), label in zip(printed, labels, strict=True):
        axis.axhline(value, color=GRAY, linestyle=":", linewidth=0.8, zorder=2)
        if not narrow:
            above = {"va": "bottom" if value == top else "top", "zorder": 1.5, "bbox": TEXT_BOX}
            shift = (2, 1.5 if value == top else -2)
            text = {"textcoords": "offset points", "color": GRAY, "fontsize": 6}
            line = axis.get_yaxis_transform()
            axis.annotate(label, (0, value), shift, xycoords=line, **text, **above)
    if narrow and labels:
        corner = {"transform": axis.transAxes, "ha": "right", "va": "bottom", "bbox": TEXT_BOX}
        axis.text(0.98, 0.04, "\n".join(labels), color=GRAY, fontsize=6, zorder=1.5, **corner)


def _draw_inset(axis: Axes, panel: PanelSpec, group: GroupSpec, found: CellCurves) -> None:
    """Draw every curve's last value with its interval, and to its right the published one."""
    inset = axis.inset_axes(INSET, zorder=5)
    for place, curve in enumerate(group.curves):
        style: dict[str, Any] = curve_style(curve) | {"linestyle": ""}
        if line := found[curve.cell].get(panel.key):
            half = None if line.half_width is None else line.half_width[-1:]
            inset.errorbar([place - 0.15], line.mean[-1:], half, capsize=1.5, **style)
        if panel.key in curve.published:
            style |= {"marker": "<", "markersize": 4}
            inset.plot([place + 0.25], [curve.published[panel.key]], **style)
    inset.set_xlim(-0.6, len(group.curves) - 0.4)
    inset.margins(y=0.12)
    inset.set_xticks([])
    inset.tick_params(labelsize=5.5, length=2, pad=1.5)
    inset.set_title("last epoch", fontsize=5.5, pad=2, color=GRAY)


def needs_inset(panel: PanelSpec, group: GroupSpec) -> bool:
    """Return whether more than two final values of a panel are published."""
    return not panel.difference and sum(panel.key in c.published for c in group.curves) > 2


def set_limits(
    axes: Sequence[Axes], panel: PanelSpec, figure: FigureSpec, found: CellCurves
) -> None:
    """Give all panels of a metric the same limits.

    A linear axis may cut the first twentieth of the epochs, where the curves differ less than they
    rise. A logarithmic one may cut bands, which can reach below zero.
    """
    ours = [line for curve in figure.curves() for line in found[curve.cell].values()]
    published = [published for group in figure.groups for published in group.published]
    theirs = [] if panel.difference else [published_curve(p, panel.key) for p in published]
    last = max((int(line.epochs[-1]) for line in ours or theirs if line), default=10)
    for axis in axes:
        axis.set_xlim(1 - 0.03 * last, 1.03 * last)
        axis.set_xticks(_epoch_ticks(last))
    keys = (panel.series, panel.final)
    lines = [found[curve.cell].get(key) for curve in figure.curves() for key in keys]
    lines = [line for line in [*lines, *theirs] if line]
    printed = () if panel.difference else figure.curves()
    values = [c.published[panel.key] for c in printed if panel.key in c.published] + [
        0.0
    ] * panel.difference
    values += [0.0, 100.0] if panel.unit == "%" and not lines else []
    for line in lines:
        kept = (line.epochs > (0 if panel.log else last / 20)) & (line.epochs <= last)
        half = 0.0 if line.half_width is None or panel.log else line.half_width
        values += [*(line.mean - half)[kept], *(line.mean + half)[kept]]
    usable = [v for v in values if math.isfinite(v) and (v > 0 or not panel.log)]
    if not usable:
        return
    low, high = min(usable), max(usable)
    if panel.log:
        axes[0].set_ylim(low / 1.5, high * 1.5)
        return
    if panel.unit == "%":
        low, high = max(low, 0.0), min(high, 100.0)
    margin = 0.06 * (high - low) or 1.0
    axes[0].set_ylim(low - margin, high + margin)


def _epoch_ticks(last: int) -> list[int]:
    """Return at most seven round epochs, the first of them 1."""
    steps = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    step = next(step for step in steps if last / step <= 6)
    return [1, *range(step if step > 1 else 2, last + 1, step)]
