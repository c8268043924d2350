"""Style of the figures: legible at the width of a page, in gray and for color-blind readers."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.style

from lrd.analysis.studies import CurveSpec

STYLE_FILE = Path(__file__).with_name("figures.mplstyle")
GRAY = "#555555"
PAGE_WIDTH, LEGEND_LINE = 7.2, 0.15  # inches: the text of a page, a line of a legend
# Metadata of each file format: no date, so that the same runs give the same bytes.
FIGURE_FORMATS: dict[str, dict[str, Any]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}

NOTE_STYLE: dict[str, Any] = {"fontsize": 6.5, "color": GRAY}
FINAL_STYLE: dict[str, Any] = {"linestyle": "", "marker": "D", "markersize": 4.5}
PUBLISHED_STYLE: dict[str, Any] = {"color": "#000000", "linestyle": "-.", "linewidth": 0.7}
TEXT_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}


def figure_style(**changes: Any) -> AbstractContextManager[None]:
    """Apply the style of ``figures.mplstyle`` and nothing of the user's; ``changes``: rcParams."""
    options = {name.replace("_", "."): value for name, value in changes.items()}
    return matplotlib.style.context([STYLE_FILE, options], after_reset=True)


def curve_style(curve: CurveSpec) -> dict[str, Any]:
    """Return matplotlib's properties of a curve; a solid line has filled markers."""
    return {
        "color": curve.color,
        "linestyle": curve.line,
        "marker": curve.marker,
        "markerfacecolor": curve.color if curve.line == "-" else "white",
    }
