"""Small folders in the layout of PASCAL VOC and SBD, for tests."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from tasks.data.voc import color_map


def write_lists(folder: Path, **lists: Iterable[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, ids in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{i}\n" for i in ids))


def picture(path: Path, size: tuple[int, int] = (20, 30), gray: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), gray, np.uint8)).save(path)


def mask(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8)).convert("L")
    image.putpalette(color_map())
    image.save(path)


def devkit(
    root: Path, train: Iterable[str], val: Iterable[str], size: tuple[int, int] = (20, 30)
) -> Path:
    """VOC2012 with an image and a mask, a label 1 on 0, for every id."""
    folder = root / "VOCdevkit" / "VOC2012"
    train, val = list(train), list(val)
    write_lists(folder / "ImageSets" / "Segmentation", train=train, val=val)
    labels = np.zeros(size)
    labels[2:9, 3:9] = 1
    for name in (*train, *val):
        picture(folder / "JPEGImages" / f"{name}.jpg", size)
        mask(folder / "SegmentationClass" / f"{name}.png", labels)
    return folder


def sbd(folder: Path, train: Iterable[str], val: Iterable[str], label: int = 7) -> Path:
    """SBD with a mask full of ``label`` for every id."""
    train, val = list(train), list(val)
    write_lists(folder, train=train, val=val)
    (folder / "cls").mkdir()
    for name in (*train, *val):
        picture(folder / "img" / f"{name}.jpg")
        field = np.zeros((1, 1), dtype=[("Segmentation", object)])
        field["Segmentation"][0, 0] = np.full((20, 30), label, np.uint8)
        savemat(folder / "cls" / f"{name}.mat", {"GTcls": field})
    return folder


def annotation(
    path: Path, *things: tuple[str, object, object, object, object], hard: str = ""
) -> None:
    """A VOC annotation of (name, xmin, ymin, xmax, ymax); those named in ``hard`` are difficult."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>{int(name in hard.split())}</difficult><bndbox>"
        f"<xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d in things
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{objects}</annotation>")


def boxes(root: Path, year: str, **lists: str) -> Path:
    """A year of VOC with one cat at 1 1 30 20, all of the image, for every letter of the lists."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    write_lists(folder / "ImageSets" / "Main", **lists)
    for name in "".join(lists.values()):
        picture(folder / "JPEGImages" / f"{name}.jpg")
        annotation(folder / "Annotations" / f"{name}.xml", ("cat", 1, 1, 30, 20))
    return folder
