"""PASCAL VOC as it lies on disk: what is there of it, and what is missing by its name."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.voc import DATASET_YEAR_DICT
from torchvision.transforms.v2.functional import pil_to_tensor

from lrd.rng import fold_key
from lrd.task import Dataset, Setup

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
VOID = 255  # the label of pixels that count nowhere


def palette() -> list[int]:
    """VOC's colours as 256 times r, g, b: the bits of an index are dealt to r, g, b, r, ... in
    turn, the lowest to the highest bit of the colour (the devkit's VOClabelcolormap)."""
    return [
        sum((index >> 3 * turn + channel & 1) << 7 - turn for turn in range(8))
        for index in range(256)
        for channel in range(3)
    ]


@dataclass(frozen=True, slots=True)
class Entry:
    """One image and the file of its labels."""

    name: str
    image: Path
    target: Path

    @property
    def there(self) -> bool:
        return self.image.is_file() and self.target.is_file()


@dataclass(frozen=True, slots=True)
class Archive:
    """What a user would have to unpack."""

    filename: str
    md5: str

    def __str__(self) -> str:
        return f"{self.filename} (md5 {self.md5})"


def archive(year: str) -> Archive:
    """VOC's own, by torchvision's name of a year: "2012", "2007" or "2007-test"."""
    return Archive(DATASET_YEAR_DICT[year]["filename"], DATASET_YEAR_DICT[year]["md5"])


class VOC(Dataset):
    """Base of the VOC data sets. ``partial`` goes on with the images that are there."""

    classes: ClassVar[tuple[str, ...]] = CLASSES
    evaluated: ClassVar[str]  # what the evaluation images are called

    def __init__(self, setup: Setup, name: str, partial: bool = False, holdout: int = 0) -> None:
        if holdout < 0:
            raise ValueError(f"dataset.holdout must be at least 0, got {holdout}")
        self.setup, self.name, self.partial, self.holdout = setup, name, partial, holdout

    @abstractmethod
    def splits(self) -> tuple[list[Entry], list[Entry]]:
        """Training and evaluation entries."""

    @abstractmethod
    def whole(self) -> tuple[int, int]:
        """How many training and evaluation images there are where nothing is missing or held
        out."""

    def describe(self, train: int, evaluation: int) -> str:
        """What of the data there is, in one line."""
        count, tested = self.whole()
        kind = f"{self.holdout:,} held-out" if self.holdout else f"{tested:,} {self.evaluated}"
        partial = "; dataset.partial=true" if self.partial else ""
        return (
            f"{self.name}: {train:,} of {count - self.holdout:,} training images and "
            f"{evaluation:,} of {kind} images{partial}"
        )

    @property
    def root(self) -> Path:
        return Path(self.setup.root).expanduser()

    def present(self, entries: Sequence[Entry], count: int, source: Archive) -> list[Entry]:
        """The entries whose files are there; all ``count`` of them unless ``partial``."""
        found = [entry for entry in entries if entry.there]
        if self.partial and found:
            return found
        if len(found) < len(entries) or not entries:
            gone = next((e for e in entries if not e.there), None)
            file = gone and (gone.target if gone.image.is_file() else gone.image)
            raise self.missing(f"{file or 'every image'} is missing", source, len(found), count)
        if len(entries) != count:
            raise self.missing(f"a list has {len(entries)} images", source, len(found), count)
        return found

    def missing(self, what: str, source: Archive, found: int = 0, count: int = 0) -> ValueError:
        of = f" (found {found} of {count} images)" if count else ""
        partial = ", or go on with what is there by dataset.partial=true" if found else ""
        return ValueError(
            f"{self.name}: {what}{of}: unpack {source} under data.root={self.root}, or let "
            f"data.download=true do so, which takes an archive that lies there{partial}"
        )

    def failed(self, error: Exception) -> str:
        """What went wrong with a download, if there was to be one."""
        return f" ({' '.join(str(error).split())})" if self.setup.download else ""

    def held_out(self, entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
        """Training entries without and with those that ``holdout`` keeps, drawn by the seed."""
        if self.holdout >= len(entries):
            raise ValueError(
                f"dataset.holdout must be below the {len(entries)} training images of "
                f"{self.name}, got {self.holdout}"
            )
        generator = torch.Generator().manual_seed(fold_key("holdout", self.setup.seed))
        order = torch.randperm(len(entries), generator=generator).tolist()
        held = set(order[: self.holdout])
        rest = [entry for i, entry in enumerate(entries) if i not in held]
        return rest, [entry for i, entry in enumerate(entries) if i in held]


def entries_of(images: Sequence[str], targets: Sequence[str]) -> list[Entry]:
    """One of torchvision's VOC data sets, whose lists these are, as entries."""
    pairs = zip(map(Path, images), map(Path, targets), strict=True)
    return [Entry(image.stem, image, target) for image, target in pairs]


def read_image(path: Path) -> Tensor:
    """uint8 (3, h, w), by Pillow: torchvision's own decoders are on their way out."""
    with Image.open(path) as image:
        return pil_to_tensor(image.convert("RGB"))
