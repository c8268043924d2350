"""Coloured shapes in the layout of PASCAL VOC: a small data set that code makes, for want of VOC.

torchvision's ``VOCSegmentation`` and ``VOCDetection`` read it as they read the real one, so a
machine without VOC runs the very code that loads VOC.
"""

import hashlib
import math
import os
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import PCG64, Generator
from PIL import Image

from lrd.rng import fold_key
from tasks.voc import VOID, palette

CLASSES = ("circle", "square", "triangle")
TRAIN, VAL = 64, 16
BORDER = 2  # pixels of void around an object
VISIBLE = 0.4  # the part of its pixels that every object shows at least
FAINT = 300  # an object that shows fewer pixels is difficult
CONTRAST = 120  # between a shape's colour and what it covers, summed over r, g, b
TRIES = 40  # candidates for the one to four shapes of an image
EDGE = 20  # pixels from a shape's centre to the image's edge at least
REACH = 44  # pixels from a shape's centre to its farthest at most: half the diagonal of 60


@dataclass(frozen=True, slots=True)
class Thing:
    """An object as VOC annotates it: ``box`` is (xmin, ymin, xmax, ymax) of the pixels that the
    mask gives it, its void border excluded, counted from 1 with both ends inside the box."""

    name: str
    box: tuple[int, int, int, int]
    truncated: bool
    difficult: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """``pixels`` (h, w, 3) uint8 and ``mask`` (h, w) uint8: 0 background, 1 ... 3, 255 void."""

    pixels: np.ndarray
    mask: np.ndarray
    things: list[Thing]


@dataclass(frozen=True, slots=True)
class _Shape:
    """``inside`` and ``ring`` (h, w) bool: its pixels and the void around them, where they lie in
    the image; ``whole`` counts its pixels with those beyond the image's edge."""

    kind: int
    inside: np.ndarray
    ring: np.ndarray
    whole: int


def picture(number: int) -> Picture:
    """Image ``number``, a function of the number alone.

    Sides of 96 to 160 pixels, one to four shapes 20 to 60 pixels across and turned by any angle.
    The arithmetic is of integers and of what IEEE 754 rounds exactly, so every machine draws the
    same pixels.
    """
    random = Generator(PCG64(fold_key("shapes", number)))
    height, width = (int(side) for side in random.integers(96, 161, size=2))
    pixels = _background(random, height, width)
    owner = np.zeros((height, width), np.uint8)  # 0, VOID, or the number of a shape, from 1 on
    shapes: list[_Shape] = []
    wanted = int(random.integers(1, 5))
    for _ in range(TRIES):
        if len(shapes) == wanted:
            break
        shape, colour = _shape(random, height, width), random.integers(256, size=3)
        after = owner.copy()
        after[shape.ring] = VOID
        after[shape.inside] = len(shapes) + 1
        seen = np.bincount(after.ravel(), minlength=256)[1:]
        hides = any(seen[i] < VISIBLE * s.whole for i, s in enumerate([*shapes, shape]))
        if hides or np.abs(pixels[shape.inside].mean(0) - colour).sum() < CONTRAST:
            continue
        owner = after
        pixels[shape.inside] = colour
        shapes.append(shape)
    assert shapes
    noise = random.integers(-20, 21, size=pixels.shape)
    label = np.zeros(256, np.uint8)
    label[VOID], label[1 : len(shapes) + 1] = VOID, [shape.kind + 1 for shape in shapes]
    things = [_thing(shape, owner == i) for i, shape in enumerate(shapes, start=1)]
    return Picture((pixels + noise).clip(0, 255).astype(np.uint8), label[owner], things)


def _background(random: Generator, height: int, width: int) -> np.ndarray:
    """(h, w, 3) int64: a random colour in each corner and a gradient between them."""
    (a, b), (c, d) = random.integers(256, size=(2, 2, 3))
    y, x = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    top, bottom = a * (width - x) + b * x, c * (width - x) + d * x
    return (top * (height - y) + bottom * y) // (height * width)


def _shape(random: Generator, height: int, width: int) -> _Shape:
    """A candidate of random class, size, angle and place."""
    kind, half = int(random.integers(len(CLASSES))), int(random.integers(10, 31))
    y, x = np.ogrid[-REACH : height + REACH, -REACH : width + REACH]
    y = y - random.integers(EDGE, height - EDGE + 1) + 0.5
    x = x - random.integers(EDGE, width - EDGE + 1) + 0.5
    # The axis (a, b) has an odd b, so a length; no sine, which libraries round differently.
    a, b = int(random.integers(-9, 10)), 2 * int(random.integers(-5, 5)) + 1
    length = math.sqrt(a * a + b * b)
    u, v = (x * b + y * a) / length, (y * b - x * a) / length
    if CLASSES[kind] == "circle":
        beyond = np.sqrt(u * u + v * v) - half
    elif CLASSES[kind] == "square":
        beyond = np.maximum(abs(u), abs(v)) - half
    else:  # as wide at its base as it is high
        beyond = np.maximum(v - half, (2 * abs(u) - v - half) / math.sqrt(5))
    inside = beyond <= 0
    ring = (beyond <= BORDER) & ~inside
    image = slice(REACH, -REACH), slice(REACH, -REACH)
    return _Shape(kind, inside[image], ring[image], int(inside.sum()))


def _thing(shape: _Shape, visible: np.ndarray) -> Thing:
    y, x = (np.flatnonzero(visible.any(axis)) + 1 for axis in (1, 0))
    return Thing(
        CLASSES[shape.kind],
        box=(int(x[0]), int(y[0]), int(x[-1]), int(y[-1])),
        truncated=int(shape.inside.sum()) < shape.whole,
        difficult=int(visible.sum()) < FAINT,
    )


def _annotation(year: str, name: str, made: Picture) -> str:
    root = ET.Element("annotation")

    def add(parent: ET.Element, **fields: object) -> None:
        for tag, value in fields.items():
            ET.SubElement(parent, tag).text = str(value)

    add(root, folder=year, filename=f"{name}.jpg")
    height, width, depth = made.pixels.shape
    add(ET.SubElement(root, "size"), width=width, height=height, depth=depth)
    add(root, segmented=1)
    for thing in made.things:
        item = ET.SubElement(root, "object")
        add(item, name=thing.name, pose="Unspecified")
        add(item, truncated=int(thing.truncated), difficult=int(thing.difficult))
        corners = zip(("xmin", "ymin", "xmax", "ymax"), thing.box, strict=True)
        add(ET.SubElement(item, "bndbox"), **dict(corners))
    ET.indent(root, "\t")
    return ET.tostring(root, "unicode") + "\n"


def make(root: Path, train: int = TRAIN, val: int = VAL) -> None:
    """Write the set below ``root``: images 1 ... ``train`` to train on, the next ``val`` not.

    ``VOCdevkit/VOC2012`` has the sets train, val and trainval; ``VOCdevkit/VOC2007``, the same
    images, has trainval (2012's train) and test (2012's val). 10 ms an image.
    """
    names = [f"shapes_{number:06d}" for number in range(1, train + val + 1)]
    first, rest = names[:train], names[train:]
    years = {
        "VOC2012": {"train": first, "val": rest, "trainval": names},
        "VOC2007": {"trainval": first, "test": rest},
    }
    bases = {year: root / "VOCdevkit" / year for year in years}
    for year, base in bases.items():
        for kind in ("JPEGImages", "SegmentationClass", "Annotations"):
            (base / kind).mkdir(parents=True, exist_ok=True)
        for use in ("ImageSets/Segmentation", "ImageSets/Main"):
            (base / use).mkdir(parents=True, exist_ok=True)
            for part, members in years[year].items():
                (base / use / f"{part}.txt").write_text("".join(f"{n}\n" for n in members))
    for number, name in enumerate(names, start=1):
        made = picture(number)
        mask = Image.fromarray(made.mask)
        mask.putpalette(palette())
        for year, base in bases.items():
            Image.fromarray(made.pixels).save(base / "JPEGImages" / f"{name}.jpg", quality=90)
            mask.save(base / "SegmentationClass" / f"{name}.png")
            (base / "Annotations" / f"{name}.xml").write_text(_annotation(year, name, made))


def folder() -> Path:
    """The root of the set, as torchvision's ``root``; the first use makes it, within seconds.

    It lies in the user's cache under a hash of this file and the counts, so a changed generator
    never reads what an older one made. It is renamed into place whole: processes may start at
    once, and a killed one leaves at most a temporary folder. Raises ValueError in one line.
    """
    source = Path(__file__).read_bytes() + f"{TRAIN} {VAL}".encode()
    name = f"shapes-{hashlib.sha256(source).hexdigest()[:12]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        cache = cache.expanduser() / "learning-rate-dropout"
        place = cache / name
        if not place.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=cache) as own:
                make(Path(own) / "root")
                try:
                    os.rename(Path(own) / "root", place)
                except OSError:  # another process was first
                    if not place.is_dir():
                        raise
        return place
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            "XDG_CACHE_HOME must be a folder that can be written, for the shapes data, got "
            f"{cache} ({reason}): set that environment variable to another folder"
        ) from error
