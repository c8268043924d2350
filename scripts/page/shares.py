"""The values behind the toy example's shares, which stand against a learning rate."""

from collections.abc import Mapping
from typing import Any

from cells import Filled
from curves import Figure
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from outcomes import Count, outcome
from tabular import Cell
from toy import RATES, SHARES

from page.frames import frame


def share_values(sheet: Sheet, figure: Figure, filled: Mapping[Cell, Filled]) -> dict[str, Any]:
    """What a script needs to name a share under its pointer; ``sheet`` has been drawn."""
    ended = {cell: outcome(there) for cell, there in filled.items()}
    axes = [axis for axis in sheet.axes if axis.axison]
    panels = []
    for axis, (label, share) in zip(axes, SHARES, strict=True):
        curves = []
        for group in figure.groups:
            found = [ended[curve.cell] for curve in group.curves]
            counts = [share(o) if o else None for o in found]
            curves.append(_curve(group.label, counts))
        panels.append(_panel(sheet, axis, label, [c for c in curves if c["x"]]))
    return {"x": "learning rate", "axes": panels}


def _panel(sheet: Sheet, axis: Axes, label: str, curves: list[dict[str, Any]]) -> dict[str, Any]:
    name = " ".join(label.removesuffix("(%)").split())
    return frame(sheet, axis) | {
        "label": name,
        "group": "",
        "unit": "%",
        "digits": 1,
        "curves": curves,
    }


def _curve(label: str, counts: list[Count | None]) -> dict[str, Any]:
    """Every point has its own number of starts."""
    there = [(rate, count) for rate, count in zip(RATES, counts, strict=True) if count]
    return {
        "label": label,
        "n": [f"{count.n:,} starts" for _, count in there],
        "x": [rate for rate, _ in there],
        "mean": [count.percent for _, count in there],
        "interval": [list(count.interval) for _, count in there],
    }
