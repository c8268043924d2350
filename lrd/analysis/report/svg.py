"""Convert a matplotlib figure to compact SVG that can share an HTML page with others."""

import io
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lrd.analysis.plotting.style import FIGURE_FORMATS, figure_style

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
POINTS_PER_INCH = 72  # the unit of matplotlib's SVG is the point
LONG_PATH = 20  # points, from which a path is written as relative steps
_NUMBER = re.compile(r"-?\d+\.\d+")
_NO_ROTATION = re.compile(r"rotate\(-?0 [^)]*\)")
_REFERENCE = re.compile(r"(?<=#)[\w.-]+")
_FONT = re.compile(r"font-family:[^;]*;?\s*")
_SUBPATH = re.compile(r"M[^M]*")
_DROPPED = {f"{{{SVG}}}metadata", f"{{{SVG}}}style"}

ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


def to_svg(sheet: Figure, name: str) -> str:
    """Return a figure as an ``svg`` element whose text uses the font of the page.

    Ids that something refers to become ``name`` and a number: matplotlib's are hashes of unrounded
    coordinates, whose last bits differ between processes. Other ids, metadata and matplotlib's
    style sheet, which would apply to the whole page, are dropped. Coordinates are in points, with
    two decimals, or one in long paths.

    Args:
        sheet: the figure. Its layout is fixed as a side effect.
        name: an identifier that is unique in the page.
    """
    file = io.BytesIO()
    with figure_style(svg_fonttype="none", svg_hashsalt=name):
        if engine := sheet.get_layout_engine():
            engine.execute(sheet)
            sheet.set_layout_engine("none")  # otherwise saving lays the figure out again
        FigureCanvasSVG(sheet).print_svg(file, metadata=FIGURE_FORMATS["svg"])  # draws it once
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in _DROPPED:
                parent.remove(child)
    values = (value for element in root.iter() for value in element.attrib.values())
    references = dict.fromkeys(_REFERENCE.findall(" ".join(values)))
    names = {reference: f"{name}-{number}" for number, reference in enumerate(references)}
    for element in root.iter():
        _compact(element, names)
        if element.text and not element.text.strip():
            element.text = None
        element.tail = None
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"class": "drawn", "focusable": "false", "aria-hidden": "true"}
    return ElementTree.tostring(root, encoding="unicode")


def axes_frame(sheet: Figure, axis: Axes) -> dict[str, Any]:
    """Return where an axis lies in the SVG of its figure, and its scales.

    Args:
        sheet: a figure that ``to_svg`` has laid out.
        axis: one of its axes.

    Returns:
        ``box`` (left, top, right and bottom in points), ``xlim``, ``ylim``, ``xlog`` and ``ylog``.
    """
    width, height = sheet.get_size_inches() * POINTS_PER_INCH
    (x0, y0), (x1, y1) = axis.get_position().get_points()
    box = [x0 * width, (1 - y1) * height, x1 * width, (1 - y0) * height]
    return {
        "box": [round(float(side), 2) for side in box],
        "xlim": [float(x) for x in axis.get_xlim()],
        "ylim": [float(y) for y in axis.get_ylim()],
        "xlog": axis.get_xscale() == "log",
        "ylog": axis.get_yscale() == "log",
    }


def _compact(element: ElementTree.Element, names: Mapping[str, str]) -> None:
    for key, value in list(element.attrib.items()):
        if key == "id":
            del element.attrib[key]
            if value in names:
                element.set(key, names[value])
        elif key == f"{{{XLINK}}}href" or value.startswith("url(#"):
            element.set(key, _REFERENCE.sub(lambda found: names[found[0]], value))
        elif key == "style":
            element.set(key, _FONT.sub("", value).strip("; "))
        elif key == "transform" and _NO_ROTATION.fullmatch(value):
            del element.attrib[key]
        elif key == "d" and value.count("L") > LONG_PATH and set("CQAHVST").isdisjoint(value):
            element.set(key, "".join(map(_relative_path, _SUBPATH.findall(value))))
        else:
            element.set(key, _NUMBER.sub(_two_decimals, " ".join(value.split())))


def _two_decimals(number: re.Match[str]) -> str:
    return f"{float(number[0]):z.2f}".rstrip("0").rstrip(".")


def _relative_path(path: str) -> str:
    """Write lines between points as steps; positions are rounded, so that errors do not add up."""
    numbers = [round(10 * float(n)) for n in re.findall(r"-?\d+(?:\.\d+)?", path)]
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    steps = [(x - u, y - v) for (u, v), (x, y) in pairwise(points)]
    moves = "".join(f"{_tenths(x)}{_tenths(y)}" for x, y in steps if x or y)
    start = f"M{_tenths(points[0][0])}{_tenths(points[0][1])}"
    return f"{start}l{moves}" + ("z" if "z" in path else "")


def _tenths(number: int) -> str:
    """Format a tenth of a number with the sign or the space that separates it from the last one."""
    text = f"{abs(number) / 10:g}"
    return ("-" if number < 0 else " ") + (text[1:] if text.startswith("0.") else text)
