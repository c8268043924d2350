"""A figure of the page: its SVG, the values that a pointer shows, and the last points as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from lrd.analysis.plotting.series import Drawing, DrawnCurve, PanelNumbers
from lrd.analysis.report.svg import axes_frame, to_svg

SIGNIFICANT_DIGITS = 6  # of the values that the page holds


@dataclass(frozen=True)
class Plot:
    """A drawn figure.

    Attributes:
        values: those that the script of the page shows under a pointer.
        panels: those whose last points the page has as text, for pages without a script and for
            screen readers.
    """

    svg: Markup
    caption: str
    values: dict[str, Any] | None
    panels: Sequence[PanelNumbers]


def build_plot(drawing: Drawing, name: str) -> Plot:
    """Return a drawing for the page, without title and note, which the page shows itself.

    Args:
        name: an identifier that is unique in the page.
    """
    sheet = drawing.sheet
    note = sheet.get_supxlabel()
    sheet.suptitle("")
    sheet.supxlabel("")
    svg = Markup(to_svg(sheet, name))
    panels = [panel.numbers for panel in drawing.panels]
    axes = [
        axes_frame(sheet, drawn.axis)
        | {
            "label": panel.label,
            "group": panel.group,
            "unit": panel.unit,
            "digits": panel.digits,
            "curves": [_to_json(curve) for curve in panel.curves],
        }
        for drawn, panel in zip(drawing.panels, panels, strict=True)
    ]
    values = {"x": drawing.x, "axes": axes} if axes else None
    return Plot(svg, note, values, panels if drawing.x == "epoch" else ())


def _to_json(curve: DrawnCurve) -> dict[str, Any]:
    values = {"label": curve.label, "n": curve.n, "x": _positions(curve.x)}
    values["mean"] = _shorten(curve.mean)
    if curve.half_width is not None:
        values["half"] = _shorten(curve.half_width)
    if curve.intervals is not None:
        values["interval"] = [_shorten(interval) for interval in curve.intervals]
    return values


def _positions(x: Any) -> list[Any]:
    """Return every position; ``[[first, last]]`` for epochs without a gap."""
    positions = np.asarray(x)
    if positions.dtype.kind == "i" and positions[-1] - positions[0] + 1 == positions.size:
        return [[int(positions[0]), int(positions[-1])]]
    return positions.tolist()


def _shorten(values: Any) -> list[float | None]:
    """Round to the digits that the page holds; None for what is not finite."""
    return [float(f"{v:.{SIGNIFICANT_DIGITS}g}") if np.isfinite(v) else None for v in values]
