"""Images with boxes: VOC07 and VOC12, and the synthetic shapes."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.datasets import VOCDetection

from lrd.task import Setup
from tasks.data.synthetic_shapes import SHAPE_CLASSES, shapes_root
from tasks.data.voc import VOC, Entry, make_entries, read_image, voc_archive


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of one image: ``boxes`` (m, 4) float32, x1 y1 x2 y2; ``labels`` (m,) int64 from
    1; ``difficult`` (m,) bool.

    Boxes are in pixels from the image's upper left corner. VOC's xmin ... xmax, which counts from 1
    and includes both ends, becomes xmin - 1 ... xmax.
    """

    boxes: Tensor
    labels: Tensor
    difficult: Tensor


class VOCBoxes(VOC):
    """VOC07 trainval, 5,011 images, or 16,551 with VOC12 trainval; VOC07 test, 4,952 images, for
    evaluation. Training includes difficult objects.

    Args:
        setup: Gives the seed, the root folder and whether to download.
        name: The data set's name in messages.
        voc12: Add VOC12 trainval to the training images.
        partial: Use the available images instead of requiring all.
        holdout: How many training images to hold out for evaluation.
    """

    recipe: ClassVar[int] = 1

    eval_split = "test"
    counts: ClassVar[dict[tuple[str, str], int]] = {
        ("2007", "trainval"): 5011,
        ("2012", "trainval"): 11540,
        ("2007", "test"): 4952,
    }

    def __init__(
        self, setup: Setup, name: str, voc12: bool = True, partial: bool = False, holdout: int = 0
    ) -> None:
        super().__init__(setup, name, partial, holdout)
        self.voc12 = voc12

    def splits(self) -> tuple[list[Entry], list[Entry]]:
        """Return the training and the evaluation entries, sorted by name within a year.

        Reads all annotations, in some seconds, so that a wrong one raises before training.
        """
        train = self._set("2007", "trainval")
        if self.voc12:
            train = train + self._set("2012", "trainval")
        parts = self.split_holdout(train) if self.holdout else (train, self._set("2007", "test"))
        for entry in (*parts[0], *parts[1]):
            self.objects(entry.target)
        return parts

    def expected_counts(self) -> tuple[int, int]:
        years = ("2007", "2012") if self.voc12 else ("2007",)
        train = sum(self.counts[year, "trainval"] for year in years)
        return train, self.counts["2007", "test"]

    def read(self, entry: Entry) -> tuple[Tensor, Objects]:
        """Return an image, uint8 (3, h, w), and its objects.

        Raises:
            ValueError: A file is not readable or has a wrong object.
        """
        try:
            image = read_image(entry.image)
        except (OSError, ValueError) as error:
            raise ValueError(f"{entry.image} cannot be read: {error}") from error
        return image, self.objects(entry.target, image.shape[-2:])

    def objects(self, path: Path, size: Sequence[float] | None = None) -> Objects:
        """Read the annotation of an image of ``size`` (h, w), by default the annotated size."""
        try:
            root = ET.parse(path).getroot()
            sides = [float(root.findtext(f"size/{side}") or "inf") for side in ("height", "width")]
        except (OSError, ValueError, ET.ParseError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        size, found = size or sides, root.findall("object")
        boxes = [self._box(path, item, size) for item in found]
        labels = [self._label(path, item) for item in found]
        difficult = [(item.findtext("difficult") or "0").strip() == "1" for item in found]
        return Objects(
            torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(difficult, dtype=torch.bool),
        )

    def _label(self, path: Path, item: ET.Element) -> int:
        name = (item.findtext("name") or "").strip()
        if name not in self.classes:
            raise ValueError(f"{path} must name one of {', '.join(self.classes)}, got {name!r}")
        return self.classes.index(name) + 1

    def _box(self, path: Path, item: ET.Element, size: Sequence[float]) -> list[float]:
        texts = [item.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
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
        source = voc_archive("2007-test" if image_set == "test" else year)
        file = self.root / "VOCdevkit" / f"VOC{year}" / "ImageSets" / "Main" / f"{image_set}.txt"
        fetch = self.setup.download and not file.is_file()
        try:
            data = VOCDetection(str(self.root), year, image_set, download=fetch)
        except (OSError, RuntimeError) as error:
            raise self.missing_error(f"{file} is missing", source, error=error) from error
        entries = sorted(make_entries(data.images, data.annotations), key=lambda e: e.name)
        return self.available(entries, self.counts[year, image_set], source)


class ShapesBoxes(VOCBoxes):
    """Synthetic shapes in VOC's layout: 64 training and 16 test images."""

    classes = SHAPE_CLASSES
    counts = {("2007", "trainval"): 64, ("2007", "test"): 16}

    def __init__(self, setup: Setup, name: str, holdout: int = 0) -> None:
        super().__init__(setup, name, voc12=False, holdout=holdout)

    def manifest(self) -> None:
        return None  # code draws them

    @property
    def root(self) -> Path:
        return shapes_root()
