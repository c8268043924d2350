"""A matplotlib figure as SVG that stands in a page, among others, and is small."""

import io
import re
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib.style
from drawing import FORMATS, STYLE
from matplotlib.figure import Figure as Sheet

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
POINTS = 72  # to the inch: the unit of matplotlib's SVG
LONG = 20  # points, from which a line is written as steps of a tenth of a point
_NUMBER = re.compile(r"-?\d+\.\d+")
_STILL = re.compile(r"rotate\(-?0 [^)]*\)")
_TARGET = re.compile(r"(?<=#)[\w.-]+")
_FONT = re.compile(r"font-family:[^;]*;?\s*")
_PIECE = re.compile(r"M[^M]*")
_LEFT_OUT = {f"{{{SVG}}}metadata", f"{{{SVG}}}style"}

ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


def inline(sheet: Sheet, name: str) -> str:
    """The sheet as an ``svg`` element whose text is text, in the page's font.

    Every id that something refers to begins with ``name``, the others are dropped; coordinates are
    in points, to a hundredth, those of long lines to a tenth. What matplotlib says of itself is
    left out, and its style, which would be the whole page's.
    """
    file = io.BytesIO()
    look = STYLE | {"svg.fonttype": "none", "svg.hashsalt": name}
    with matplotlib.style.context(look, after_reset=True):
        if engine := sheet.get_layout_engine():
            engine.execute(sheet)
            sheet.set_layout_engine("none")  # else it is laid out by a drawing of its own
        sheet.savefig(file, format="svg", metadata=FORMATS["svg"])
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in _LEFT_OUT:
                parent.remove(child)
    wanted = set(_TARGET.findall(" ".join(v for e in root.iter() for v in e.attrib.values())))
    for element in root.iter():
        _shorten(element, name, wanted)
        if element.text and not element.text.strip():
            element.text = None
        element.tail = None
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"class": "drawn", "focusable": "false", "aria-hidden": "true"}
    return ElementTree.tostring(root, encoding="unicode")


def _shorten(element: ElementTree.Element, name: str, wanted: set[str]) -> None:
    for key, value in list(element.attrib.items()):
        if key == "id":
            if value in wanted:
                element.set(key, f"{name}-{value}")
            else:
                del element.attrib[key]
        elif key == f"{{{XLINK}}}href" or value.startswith("url(#"):
            element.set(key, value.replace("#", f"#{name}-"))
        elif key == "style":
            element.set(key, _FONT.sub("", value).strip("; "))
        elif key == "transform" and _STILL.fullmatch(value):
            del element.attrib[key]
        elif key == "d" and value.count("L") > LONG and set("CQAHVST").isdisjoint(value):
            element.set(key, "".join(map(_steps, _PIECE.findall(value))))
        else:
            element.set(key, _NUMBER.sub(_rounded, " ".join(value.split())))


def _rounded(number: re.Match[str]) -> str:
    text = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _steps(piece: str) -> str:
    """Lines from point to point as steps; what is rounded are the places, so that none drifts."""
    numbers = [round(10 * float(n)) for n in re.findall(r"-?\d+(?:\.\d+)?", piece)]
    places = list(zip(numbers[::2], numbers[1::2], strict=True))
    steps = [(x - u, y - v) for (u, v), (x, y) in pairwise(places)]
    moves = "".join(f"{_tenths(x)}{_tenths(y)}" for x, y in steps if x or y)
    return f"M{_tenths(places[0][0])}{_tenths(places[0][1])}l{moves}" + (
        "z" if "z" in piece else ""
    )


def _tenths(number: int) -> str:
    """With the sign or the space that parts it from what stands before."""
    text = f"{abs(number) / 10:g}"
    return ("-" if number < 0 else " ") + (text[1:] if text.startswith("0.") else text)
