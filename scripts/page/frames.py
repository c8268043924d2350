"""Where a panel lies in its figure's SVG, and how values lie in the panel."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet

from page.inline import POINTS


def frame(sheet: Sheet, axis: Axes) -> dict[str, Any]:
    """``box``: left, top, right and bottom, in points, once the sheet has been drawn."""
    width, height = sheet.get_size_inches() * POINTS
    (x0, y0), (x1, y1) = axis.get_position().get_points()
    box = [x0 * width, (1 - y1) * height, x1 * width, (1 - y0) * height]
    return {
        "box": [round(float(side), 2) for side in box],
        "xlim": [float(x) for x in axis.get_xlim()],
        "ylim": [float(y) for y in axis.get_ylim()],
        "xlog": axis.get_xscale() == "log",
        "ylog": axis.get_yscale() == "log",
    }
