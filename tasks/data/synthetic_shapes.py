"""Synthetic colored shapes in the layout of PASCAL VOC, for machines without VOC.

torchvision's ``VOCSegmentation`` and ``VOCDetection`` read them like VOC itself, so the code that
loads VOC runs without VOC's files.
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
from tasks.data.voc import VOID, color_map

SHAPE_CLASSES = ("circle", "square", "triangle")
NUM_TRAIN, NUM_VAL = 64, 16
VOID_BORDER = 2  # pixels of void around an object
MIN_VISIBLE = 0.4  # the least visible fraction of an object's pixels
DIFFICULT_BELOW = 300  # an object with fewer visible pixels is difficult
MIN_CONTRAST = 120  # between a shape's color and what it covers, summed over r, g, b
MAX_CANDIDATES = 40  # per image, for its one to four shapes
MIN_EDGE_DISTANCE = 20  # pixels from a shape's center to the image's edge
MAX_RADIUS = 44  # pixels from a shape's center to its farthest pixel: half the diagonal of 60


@dataclass(frozen=True, slots=True)
class Shape:
    """An object as VOC annotates it.

    ``box`` is (xmin, ymin, xmax, ymax) of the object's pixels in the mask, without its void border.
    It counts pixels from 1 and includes both ends.
    """

    name: str
    box: tuple[int, int, int, int]
    truncated: bool
    difficult: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """``pixels`` (h, w, 3) uint8 and ``mask`` (h, w) uint8: 0 background, 1 ... 3, 255 void."""

    pixels: np.ndarray
    mask: np.ndarray
    shapes: list[Shape]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """``inside`` and ``ring`` (h, w) bool: the shape's pixels and the void around them, inside the
    image. ``area`` counts the shape's pixels, including those outside the image."""

    label: int
    inside: np.ndarray
    ring: np.ndarray
    area: int


def draw_scene(number: int) -> Scene:
    """Draw image ``number``, a pure function of the number.

    The sides are 96 to 160 pixels. One to four shapes are 20 to 60 pixels across, at any angle. The
    arithmetic uses integers and operations that IEEE 754 rounds exactly, so the pixels are the same
    on every machine.
    """
    random = Generator(PCG64(fold_key("shapes", number)))
    height, width = (int(side) for side in random.integers(96, 161, size=2))
    pixels = _background(random, height, width)
    owner = np.zeros((height, width), np.uint8)  # 0, VOID, or the number of a shape, from 1
    placed: list[_Candidate] = []
    wanted = int(random.integers(1, 5))
    for _ in range(MAX_CANDIDATES):
        if len(placed) == wanted:
            break
        new, color = _candidate(random, height, width), random.integers(256, size=3)
        after = owner.copy()
        after[new.ring] = VOID
        after[new.inside] = len(placed) + 1
        visible = np.bincount(after.ravel(), minlength=256)[1:]
        hidden = any(visible[i] < MIN_VISIBLE * c.area for i, c in enumerate([*placed, new]))
        if hidden or np.abs(pixels[new.inside].mean(0) - color).sum() < MIN_CONTRAST:
            continue
        owner = after
        pixels[new.inside] = color
        placed.append(new)
    assert placed
    noise = random.integers(-20, 21, size=pixels.shape)
    label = np.zeros(256, np.uint8)
    label[VOID], label[1 : len(placed) + 1] = VOID, [shape.label for shape in placed]
    shapes = [_annotated(shape, owner == i) for i, shape in enumerate(placed, start=1)]
    return Scene((pixels + noise).clip(0, 255).astype(np.uint8), label[owner], shapes)


def _background(random: Generator, height: int, width: int) -> np.ndarray:
    """Return (h, w, 3) int64: a random color in each corner and a gradient between them."""
    (a, b), (c, d) = random.integers(256, size=(2, 2, 3))
    y, x = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    top, bottom = a * (width - x) + b * x, c * (width - x) + d * x
    return (top * (height - y) + bottom * y) // (height * width)


def _candidate(random: Generator, height: int, width: int) -> _Candidate:
    """Sample a shape's class, size, angle and center."""
    kind, half = int(random.integers(len(SHAPE_CLASSES))), int(random.integers(10, 31))
    y, x = np.ogrid[-MAX_RADIUS : height + MAX_RADIUS, -MAX_RADIUS : width + MAX_RADIUS]
    y = y - random.integers(MIN_EDGE_DISTANCE, height - MIN_EDGE_DISTANCE + 1) + 0.5
    x = x - random.integers(MIN_EDGE_DISTANCE, width - MIN_EDGE_DISTANCE + 1) + 0.5
    # The axis (a, b) has an odd b, so it is not 0. No sine: libraries round sines differently.
    a, b = int(random.integers(-9, 10)), 2 * int(random.integers(-5, 5)) + 1
    length = math.sqrt(a * a + b * b)
    u, v = (x * b + y * a) / length, (y * b - x * a) / length
    if SHAPE_CLASSES[kind] == "circle":
        beyond = np.sqrt(u * u + v * v) - half
    elif SHAPE_CLASSES[kind] == "square":
        beyond = np.maximum(abs(u), abs(v)) - half
    else:  # base and height are equal
        beyond = np.maximum(v - half, (2 * abs(u) - v - half) / math.sqrt(5))
    inside = beyond <= 0
    ring = (beyond <= VOID_BORDER) & ~inside
    image = slice(MAX_RADIUS, -MAX_RADIUS), slice(MAX_RADIUS, -MAX_RADIUS)
    return _Candidate(kind + 1, inside[image], ring[image], int(inside.sum()))


def _annotated(shape: _Candidate, visible: np.ndarray) -> Shape:
    y, x = (np.flatnonzero(visible.any(axis)) + 1 for axis in (1, 0))
    return Shape(
        SHAPE_CLASSES[shape.label - 1],
        box=(int(x[0]), int(y[0]), int(x[-1]), int(y[-1])),
        truncated=int(shape.inside.sum()) < shape.area,
        difficult=int(visible.sum()) < DIFFICULT_BELOW,
    )


def _annotation(year: str, name: str, scene: Scene) -> str:
    root = ET.Element("annotation")

    def add(parent: ET.Element, **fields: object) -> None:
        for tag, value in fields.items():
            ET.SubElement(parent, tag).text = str(value)

    add(root, folder=year, filename=f"{name}.jpg")
    height, width, depth = scene.pixels.shape
    add(ET.SubElement(root, "size"), width=width, height=height, depth=depth)
    add(root, segmented=1)
    for shape in scene.shapes:
        item = ET.SubElement(root, "object")
        add(item, name=shape.name, pose="Unspecified")
        add(item, truncated=int(shape.truncated), difficult=int(shape.difficult))
        corners = zip(("xmin", "ymin", "xmax", "ymax"), shape.box, strict=True)
        add(ET.SubElement(item, "bndbox"), **dict(corners))
    ET.indent(root, "\t")
    return ET.tostring(root, "unicode") + "\n"


def generate(root: Path, train: int = NUM_TRAIN, val: int = NUM_VAL) -> None:
    """Write the data set below ``root``. Costs 10 ms per image.

    ``VOCdevkit/VOC2012`` gets the image sets train, val and trainval. ``VOCdevkit/VOC2007``, with
    the same images, gets trainval (2012's train) and test (2012's val).

    Args:
        root: Folder to write to.
        train: How many images, from number 1, are for training.
        val: How many of the following images are for evaluation.
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
        scene = draw_scene(number)
        mask = Image.fromarray(scene.mask)
        mask.putpalette(color_map())
        for year, base in bases.items():
            Image.fromarray(scene.pixels).save(base / "JPEGImages" / f"{name}.jpg", quality=90)
            mask.save(base / "SegmentationClass" / f"{name}.png")
            (base / "Annotations" / f"{name}.xml").write_text(_annotation(year, name, scene))


def shapes_root() -> Path:
    """Return the data set's root folder for torchvision; generate it on first use, in seconds.

    The folder is in the user's cache, under a hash of this file and the counts: a changed generator
    never reads older images. It is renamed into place when complete, so processes may start at the
    same time, and a killed process leaves at most a temporary folder.

    Raises:
        ValueError: The cache is not writable.
    """
    source = Path(__file__).read_bytes() + f"{NUM_TRAIN} {NUM_VAL}".encode()
    name = f"shapes-{hashlib.sha256(source).hexdigest()[:12]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        cache = cache.expanduser() / "learning-rate-dropout"
        place = cache / name
        if not place.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=cache) as own:
                generate(Path(own) / "root")
                try:
                    os.rename(Path(own) / "root", place)
                except OSError:  # another process renamed its folder first
                    if not place.is_dir():
                        raise
        return place
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home folder
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            "XDG_CACHE_HOME must be a writable folder for the shapes data, got "
            f"{cache} ({reason}): set that environment variable to another folder"
        ) from error
