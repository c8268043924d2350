"""The figures of the page: drawn as scripts/figure.py draws them, with the values behind them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cells import Filled
from curves import Figure, Group, Panel
from drawing import draw
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from points import Points, Series, points, read_published, series
from tabular import Cell
from toy import draw_rates

from page.frames import frame
from page.inline import inline
from page.shares import share_values

Json = dict[str, Any]
DIGITS = 6  # significant ones of a value that is sent along


@dataclass(frozen=True)
class Last:
    """A curve's last point, as text is: without a script and for a screen reader."""

    panel: str
    curve: str
    n: int
    epoch: int
    mean: float
    half: float | None
    paper: float | None
    digits: int


@dataclass(frozen=True)
class Plot:
    """``svg`` in points; ``values``: what a script needs to name what it points at there."""

    svg: Markup
    caption: str
    values: Json | None = None
    last: tuple[Last, ...] = ()


Paint = Callable[[Figure, Mapping[Cell, Filled], Sequence[str]], Sheet]


def plot(figure: Figure, paint: Paint | None, filled: Mapping[Cell, Filled], name: str) -> Plot:
    """``paint`` draws a figure that is none of learning curves.

    Raises ValueError, in one line, for metrics that cannot be read.
    """
    if paint is not None:
        sheet = paint(figure, filled, ())
        shown = painted(sheet, name)
        values = share_values(sheet, figure, filled) if paint is draw_rates else None
        return replace(shown, values=values)
    found = series(figure, filled)
    sheet = draw(figure, found)
    shown = painted(sheet, name)
    axes = iter([axis for axis in sheet.axes if axis.axison])
    places = [(group, panel, next(axes)) for group in figure.groups for panel in figure.panels]
    values = {"x": "epoch", "axes": [_axis(sheet, a, g, p, found) for g, p, a in places]}
    last = tuple(last for group, panel, _ in places for last in _last(group, panel, found))
    return replace(shown, values=values, last=last)


def painted(sheet: Sheet, name: str) -> Plot:
    """A sheet without its title and its note, which are the page's to show."""
    note = sheet.get_supxlabel()
    sheet.suptitle("")
    sheet.supxlabel("")
    return Plot(Markup(inline(sheet, name)), note)


def _lines(group: Group, panel: Panel, found: Series) -> Iterator[tuple[str, Points]]:
    """What is drawn in a panel, by its label."""
    for curve in group.curves:
        there = found[curve.cell]
        if there:
            yield curve.label, there[panel.key]
            if final := there.get(panel.final):
                yield f"{curve.label}, {panel.final_label}", final
    for published in group.published:
        yield published.label, points([read_published(published)], panel.key)


def _axis(sheet: Sheet, axis: Axes, group: Group, panel: Panel, found: Series) -> Json:
    """A panel's place in the SVG, and its curves."""
    return frame(sheet, axis) | {
        "label": panel.label,
        "group": group.label,
        "unit": panel.unit,
        "digits": panel.digits if panel.unit == "%" else None,
        "curves": [_curve(label, line) for label, line in _lines(group, panel, found) if line],
    }


def _curve(label: str, line: Points) -> Json:
    half = None if line.half is None else _short(line.half)
    return {
        "label": label,
        "n": line.n,
        "x": _epochs(line),
        "mean": _short(line.mean),
        "half": half,
    }


def _epochs(line: Points) -> list[int] | list[list[int]]:
    """Every epoch; ``[[first, last]]`` where none is left out between."""
    first, last = int(line.epochs[0]), int(line.epochs[-1])
    return [[first, last]] if last - first + 1 == line.epochs.size else line.epochs.tolist()


def _short(values: np.ndarray) -> list[float | None]:
    """Without the digits that nobody reads; None where there is no number."""
    return [float(f"{v:.{DIGITS}g}") if np.isfinite(v) else None for v in values]


def _last(group: Group, panel: Panel, found: Series) -> Iterator[Last]:
    name = ", ".join(part for part in (group.label, panel.label) if part)
    name += f" ({panel.unit})" if panel.unit else ""
    printed = {curve.label: curve.paper.get(panel.key) for curve in group.curves}
    for label, line in _lines(group, panel, found):
        if line:
            half = None if line.half is None else float(line.half[-1])
            epoch, mean = int(line.epochs[-1]), float(line.mean[-1])
            digits = panel.digits if panel.unit == "%" else 4
            yield Last(name, label, line.n, epoch, mean, half, printed.get(label), digits)
