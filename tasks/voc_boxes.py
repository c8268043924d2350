"""Images and boxes: VOC07 and VOC12, and the embedded shapes."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.datasets import VOCDetection

from lrd.task import Setup
from tasks import shapes
from tasks.voc import VOC, Entry, archive, entries_of, read_image


@dataclass(frozen=True, slots=True)
class Objects:
    """What an image shows: ``boxes`` (m, 4) float32 x1 y1 x2 y2, in pixels from the image's upper
    left corner, so that VOC's xmin ... xmax, counted from 1 with both ends inside, is
    xmin - 1 ... xmax; ``labels`` (m,) int64 from 1; ``difficult`` (m,) bool."""

    boxes: Tensor
    labels: Tensor
    difficult: Tensor


class VOCBoxes(VOC):
    """VOC07 trainval and, if ``voc12``, VOC12 trainval: 5,011 or 16,551 training images; VOC07
    test, 4,952, for validation and test. Difficult objects are trained on."""

    evaluated = "test"
    counts: ClassVar[dict[tuple[str, str], int]] = {
        ("2007", "trainval"): 5011,
        ("2012", "trainval"): 11540,
        ("2007", "test"): 4952,
    }

    def __init__(
        self,
        setup: Setup,
        name: str,
        voc12: bool = True,
        partial: bool = False,
        holdout: int = 0,
    ) -> None:
        super().__init__(setup, name, partial, holdout)
        self.voc12 = voc12

    def splits(self) -> tuple[list[Entry], list[Entry]]:
        """Training and evaluation entries, each year's sorted by name; all annotations are read
        once, some seconds, so that what is wrong in one ends no training later."""
        train = self._set("2007", "trainval")
        if self.voc12:
            train = train + self._set("2012", "trainval")
        parts = self.held_out(train) if self.holdout else (train, self._set("2007", "test"))
        for entry in (*parts[0], *parts[1]):
            self.objects(entry.target)
        return parts

    def whole(self) -> tuple[int, int]:
        years = ("2007", "2012") if self.voc12 else ("2007",)
        train = sum(self.counts[year, "trainval"] for year in years)
        return train, self.counts["2007", "test"]

    def read(self, entry: Entry) -> tuple[Tensor, Objects]:
        """The image's bytes (3, h, w) and its objects; what is wrong in a file is one line."""
        try:
            image = read_image(entry.image)
        except (OSError, ValueError) as error:
            raise ValueError(f"{entry.image} cannot be read: {error}") from error
        return image, self.objects(entry.target, image.shape[-2:])

    def objects(self, path: Path, size: Sequence[float] | None = None) -> Objects:
        """The annotation of an image of ``size`` (h, w), by default what it says itself."""
        try:
            root = ET.parse(path).getroot()
            sides = [float(root.findtext(f"size/{side}") or "inf") for side in ("height", "width")]
        except (OSError, ValueError, ET.ParseError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        size, found = size or sides, root.findall("object")
        boxes = [self._box(path, thing, size) for thing in found]
        labels = [self._label(path, thing) for thing in found]
        difficult = [(thing.findtext("difficult") or "0").strip() == "1" for thing in found]
        return Objects(
            torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(difficult, dtype=torch.bool),
        )

    def _label(self, path: Path, thing: ET.Element) -> int:
        name = (thing.findtext("name") or "").strip()
        if name not in self.classes:
            raise ValueError(f"{path} must name one of {', '.join(self.classes)}, got {name!r}")
        return self.classes.index(name) + 1

    def _box(self, path: Path, thing: ET.Element, size: Sequence[float]) -> list[float]:
        texts = [thing.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x1, y1, x2, y2 = (float(text or "") for text in texts)
        except ValueError as error:
            raise ValueError(
                f"{path} must have four numbers in each bndbox, got {texts}"
            ) from error
        height, width = size
        if not (1 <= x1 <= x2 <= width and 1 <= y1 <= y2 <= height):
            raise ValueError(
                f"{path} must have boxes inside 1 ... {width:g} x 1 ... {height:g}, not empty, got "
                f"{x1:g} {y1:g} {x2:g} {y2:g}"
            )
        return [x1 - 1, y1 - 1, x2, y2]

    def _set(self, year: str, image_set: str) -> list[Entry]:
        source = archive("2007-test" if image_set == "test" else year)
        file = self.root / "VOCdevkit" / f"VOC{year}" / "ImageSets" / "Main" / f"{image_set}.txt"
        fetch = self.setup.download and not file.is_file()
        try:
            data = VOCDetection(str(self.root), year, image_set, download=fetch)
        except (OSError, RuntimeError) as error:
            raise self.missing(f"{file} is missing{self.failed(error)}", source) from error
        entries = sorted(entries_of(data.images, data.annotations), key=lambda e: e.name)
        return self.present(entries, self.counts[year, image_set], source)


class ShapesBoxes(VOCBoxes):
    """Coloured shapes made by code in VOC's layout: 64 training and 16 test images."""

    classes = shapes.CLASSES
    counts = {("2007", "trainval"): 64, ("2007", "test"): 16}

    def __init__(self, setup: Setup, name: str, holdout: int = 0) -> None:
        super().__init__(setup, name, voc12=False, holdout=holdout)

    @property
    def root(self) -> Path:
        return shapes.folder()
