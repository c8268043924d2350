"""Images with boxes: VOC07 and VOC12, the synthetic shapes, and one's own."""

import math
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.datasets import VOCDetection

from lrd.task import Problem, Setup
from tasks.data.labeled_folder import LabeledFolder, check_classes
from tasks.data.labeled_images import (
    Entry,
    LabeledImages,
    image_size,
    read_image,
    read_names,
    unreadable,
)
from tasks.data.synthetic_shapes import SHAPE_CLASSES, shapes_root
from tasks.data.voc import VOC, voc_archive

# What is counted of annotations; what the line on the data says of it; and its effect.
CUT, OUTSIDE, OTHER_SIZE = "boxes over the edge", "boxes outside", "sizes that disagree"
NOTES = {
    CUT: ("boxes over the edge of their image", "cut there"),
    OUTSIDE: ("boxes outside their image", "left out"),
    OTHER_SIZE: ("annotations of another size than their image", "the image's counts"),
}


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


class Boxes(LabeledImages):
    """Images with VOC's annotations, an XML file each. Training includes difficult objects.

    The image's size counts, not the annotated one. A box over the image's edge is cut there, and
    left out if nothing remains. Names of elements count without their namespace.
    """

    eval_split = "test"

    def notes(self) -> str:
        found = {key: self.found[key] for key in NOTES if self.found[key]}
        notes = (f"; {n:,} {NOTES[key][0]} ({NOTES[key][1]})" for key, n in found.items())
        return super().notes() + "".join(notes)

    def verify(self, entry: Entry) -> None:
        self.found += self._objects(entry.target, image_size(entry.image))[1]

    def check_entry(self, entry: Entry, part: str, counts: Counter[str]) -> Iterator[Problem]:
        height, width = read_image(entry.image).shape[-2:]
        objects, found = self._objects(entry.target, (height, width))
        self.count_classes(objects.labels, part, counts)
        counts[f"{part} objects"] += len(objects.labels)
        counts[f"{part} images without objects"] += not len(objects.labels)
        for key, number in found.items():
            counts[f"{part} {key}"] += number
            if number:
                where = f"its image {entry.image.name} is {width:g} x {height:g}"
                yield Problem(f"{entry.target}: {number} {key}, {where}", NOTES[key][1])

    def read(self, entry: Entry) -> tuple[Tensor, Objects]:
        """Return an image, uint8 (3, h, w), and its objects.

        Raises:
            ValueError: A file is not readable or has a wrong object.
        """
        image = read_image(entry.image)
        return image, self.objects(entry.target, image.shape[-2:])

    def objects(self, path: Path, size: Sequence[float]) -> Objects:
        """Read the annotation of an image of ``size`` (h, w)."""
        return self._objects(path, size)[0]

    def _objects(self, path: Path, size: Sequence[float]) -> tuple[Objects, Counter[str]]:
        """Return the objects of an annotation, and what was found in it, by the keys of NOTES."""
        try:
            root = ET.parse(path).getroot()
        except (OSError, LookupError, ValueError, ET.ParseError) as error:
            raise unreadable(path, error) from error
        if _tag(root) != "annotation":
            raise ValueError(f"{path} must be an <annotation> of VOC, got <{_tag(root)}>")
        height, width = size
        sides = [_text(root, f"size/{side}") or "0" for side in ("height", "width")]
        found = Counter({OTHER_SIZE: int(_is_other_size(sides, size))})
        kept = []
        for item in root.findall("{*}object"):
            label, difficult = self._label(path, item), _is_difficult(path, item)
            left, top, right, bottom = whole = _box(path, item)
            box = [max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)]
            if box[0] >= box[2] or box[1] >= box[3]:
                found[OUTSIDE] += 1
                continue
            found[CUT] += box != whole
            kept.append((box, label, difficult))
        boxes, labels, hard = zip(*kept, strict=True) if kept else ((), (), ())
        objects = Objects(
            torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(hard, dtype=torch.bool),
        )
        return objects, found

    def _label(self, path: Path, item: ET.Element) -> int:
        name = _text(item, "name")
        if name not in self.classes:
            raise ValueError(f"{path} must name one of {', '.join(self.classes)}, got {name!r}")
        return self.classes.index(name) + 1


class VOCBoxes(VOC, Boxes):
    """VOC07 trainval, 5,011 images, or 16,551 with VOC12 trainval; VOC07 test, 4,952 images, for
    evaluation.

    Args:
        setup: Gives the seed, the root folder and whether to download.
        name: The data set's name in messages.
        voc12: Add VOC12 trainval to the training images.
        partial: Use the available images instead of requiring all.
        holdout: How many training images to hold out for evaluation.
    """

    recipe: ClassVar[int] = 1

    counts: ClassVar[dict[tuple[str, str], int]] = {
        ("2007", "trainval"): 5011,
        ("2012", "trainval"): 11540,
        ("2007", "test"): 4952,
    }

    def __init__(
        self, setup: Setup, name: str, voc12: bool = True, partial: bool = False, holdout: int = 0
    ) -> None:
        super().__init__(setup, name, holdout)
        self.voc12, self.partial = voc12, partial

    def lists(self) -> tuple[list[Entry], list[Entry]]:
        """Return the training and the evaluation entries, sorted by name within a year."""
        train = self._set("2007", "trainval")
        if self.voc12:
            train = train + self._set("2012", "trainval")
        return self.split_holdout(train) if self.holdout else (train, self._set("2007", "test"))

    def expected_counts(self) -> tuple[int, int]:
        years = ("2007", "2012") if self.voc12 else ("2007",)
        train = sum(self.counts[year, "trainval"] for year in years)
        return train, self.counts["2007", "test"]

    def _set(self, year: str, image_set: str) -> list[Entry]:
        source = voc_archive("2007-test" if image_set == "test" else year)
        folder = self.root / "VOCdevkit" / f"VOC{year}"
        file = folder / "ImageSets" / "Main" / f"{image_set}.txt"
        try:
            if self.setup.download and not file.is_file():
                VOCDetection(str(self.root), year, image_set, download=True)
            names = read_names(file)
        except (OSError, RuntimeError) as error:
            raise self.missing_error(f"{file} is missing", source, error=error) from error
        images, labels = folder / "JPEGImages", folder / "Annotations"
        entries = [Entry(n, images / f"{n}.jpg", labels / f"{n}.xml") for n in sorted(names)]
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


class BoxFolder(LabeledFolder, Boxes):
    """Images and boxes of one's own (``dataset=boxes``): ``images/NAME.jpg``, or another format,
    and VOC's XML in ``annotations/NAME.xml``, laid out as
    :class:`tasks.data.labeled_folder.LabeledFolder` says.

    Args:
        setup: Gives the seed.
        name: The data set's name in messages.
        path: The folder.
        classes: The names that the annotations use.
        holdout: How many training images to hold out for evaluation.

    Raises:
        ValueError: ``classes`` are no names.
    """

    recipe: ClassVar[int] = 1

    labels = "annotations", ".xml"

    def __init__(
        self, setup: Setup, name: str, path: str, classes: Sequence[str], holdout: int = 0
    ) -> None:
        super().__init__(setup, name, holdout)
        self.path, self.classes = Path(path).expanduser(), check_classes(classes)


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ET.Element, path: str) -> str:
    """Return the text at ``path`` below an element, in any namespace; empty if there is none."""
    found = "/".join(f"{{*}}{name}" for name in path.split("/"))
    return (element.findtext(found) or "").strip()


def _is_other_size(sides: Sequence[str], size: Sequence[float]) -> bool:
    """Return whether the annotated height and width are stated and are not the image's."""
    try:
        stated = [float(side) for side in sides]
    except ValueError:
        return True
    return stated != [0, 0] and stated != list(size)


def _is_difficult(path: Path, item: ET.Element) -> bool:
    """Return whether ``difficult`` is true or a number other than 0; without it, false."""
    text = _text(item, "difficult").lower()
    if text in ("", "false", "true"):
        return text == "true"
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"{path} must have 0, 1, true or false as difficult, got {text!r}")
    return number != 0


def _box(path: Path, item: ET.Element) -> list[float]:
    """Return x1, y1, x2, y2 of an object, before it is cut."""
    texts = [_text(item, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x1, y1, x2, y2 = edges = [float(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"{path} must have four numbers in each bndbox, got {texts}") from error
    if not all(map(math.isfinite, edges)) or x1 > x2 or y1 > y2:
        raise ValueError(
            f"{path} must have boxes of finite numbers, xmin up to xmax and ymin up to ymax, got "
            f"{x1:g} {y1:g} {x2:g} {y2:g}"
        )
    return [x1 - 1, y1 - 1, x2, y2]
