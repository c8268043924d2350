"""Images with labels, one file each: find the files, check them, read the images."""

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from lrd.rng import fold_key
from lrd.task import Dataset, Problem, Setup

# What Pillow raises for a file that is no image, cut, or too large.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True, slots=True)
class Entry:
    """An image file and the file of its labels."""

    name: str
    image: Path
    target: Path

    @property
    def exists(self) -> bool:
        return self.image.is_file() and self.target.is_file()


class LabeledImages(Dataset):
    """Base of the data sets of images with masks or boxes.

    ``classes`` are the names of the classes without the background; label 1 is the first.
    ``eval_split`` names the evaluation images in messages.

    Args:
        setup: Gives the seed and the root folder.
        name: The data set's name in messages.
        holdout: How many training images to hold out for evaluation.
    """

    classes: Sequence[str]
    eval_split: str

    def __init__(self, setup: Setup, name: str, holdout: int = 0) -> None:
        if holdout < 0:
            raise ValueError(f"dataset.holdout must be at least 0, got {holdout}")
        self.setup, self.name, self.holdout = setup, name, holdout
        self.found: Counter[str] = Counter()  # what :meth:`verify` counted, for :meth:`notes`

    @abstractmethod
    def lists(self) -> tuple[list[Entry], list[Entry]]:
        """Return the training and the evaluation entries.

        Raises:
            ValueError: There are none, or a list is missing or wrong.
        """

    @abstractmethod
    def verify(self, entry: Entry) -> None:
        """Check the files of an entry without decoding the image.

        Raises:
            ValueError: A file is not readable or holds what training rejects.
        """

    @abstractmethod
    def read(self, entry: Entry) -> tuple[Tensor, Any]:
        """Return an image (3, h, w), uint8, and its labels.

        Raises:
            ValueError: A file is not readable or holds wrong labels.
        """

    @abstractmethod
    def check_entry(self, entry: Entry, part: str, counts: Counter[str]) -> Iterator[Problem]:
        """Read an entry of a ``part`` (training or evaluation) for :meth:`check`, and count the
        images with each class.

        Raises:
            ValueError: As :meth:`read`.
        """

    def check(self, counts: Counter[str]) -> Iterator[Problem]:
        try:
            train, evaluation = self.lists()
        except ValueError as error:
            yield Problem(str(error))
            return
        for part, entries in (("training", train), ("evaluation", evaluation)):
            counts[f"{part} images"] = len(entries)
            counts.update({f"{part} images with {name}": 0 for name in self.classes})
            for entry in entries:
                try:
                    yield from self.check_entry(entry, part, counts)
                except ValueError as error:
                    yield Problem(str(error))
        for image in sorted({e.image for e in train} & {e.image for e in evaluation}):
            yield Problem(f"{image} is a training and an evaluation image", "it is used as both")
        for name in self.classes:
            if not counts[f"training images with {name}"]:
                yield Problem(f"{self.name} has no training image with {name}", "it is not learned")

    def count_classes(self, labels: Tensor, part: str, counts: Counter[str]) -> None:
        """Count an image of a ``part`` that has these labels, 1 the first class."""
        for label in labels.unique().tolist():
            if 1 <= label <= len(self.classes):
                counts[f"{part} images with {self.classes[label - 1]}"] += 1

    def splits(self) -> tuple[list[Entry], list[Entry]]:
        """Return the training and the evaluation entries, verified: a mistake that headers and
        annotations show raises here, before training. Takes seconds for VOC."""
        return self._verified

    @cached_property
    def _verified(self) -> tuple[list[Entry], list[Entry]]:
        parts = self.lists()
        for entries in parts:
            for entry in entries:
                self.verify(entry)
        return parts

    def describe(self, train: int, evaluation: int) -> str:
        """Return one line on how many images are used, and what was found in them."""
        kind = "held-out" if self.holdout else self.eval_split
        counts = f"{train:,} training images and {evaluation:,} {kind} images"
        return f"{self.name}: {counts}{self.notes()}"

    def notes(self) -> str:
        """Return what the line on the data says beside the counts."""
        return ""

    def manifest(self) -> str | None:
        """Return the number of images and a hash of the names and sizes of all files."""
        used = {entry.name: entry for entries in self.splits() for entry in entries}
        digest = hashlib.sha256()
        for name, entry in sorted(used.items()):
            sizes = entry.image.stat().st_size, entry.target.stat().st_size
            digest.update(f"{name} {sizes}\n".encode())
        return f"{len(used)} images, sha256:{digest.hexdigest()[:16]}"

    def split_holdout(self, entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
        """Return the remaining and the held-out training entries; the seed selects them."""
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


def read_names(path: Path) -> list[str]:
    """Return the names that a list of images holds, one a line; empty lines do not count.

    Raises:
        OSError: There is no such file.
        ValueError: A line holds more than a name, or a name stands twice.
    """
    names = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    names = [name.strip() for name in names if name.strip()]
    for name, times in Counter(names).items():
        if len(name.split()) > 1:
            raise ValueError(
                f"{path} must hold one name per line, got {name!r}: a list of one class, with 1 "
                "and -1, is no list of images"
            )
        if times > 1:
            raise ValueError(f"{path} must name each image once, got {name} {times} times")
    return names


def read_image(path: Path) -> Tensor:
    """Read an image as uint8 (3, h, w) in RGB, upright, as its EXIF orientation says.

    By Pillow, because torchvision is to drop its decoders. Of 16 bits the upper 8 are read.

    Raises:
        ValueError: The file is no image, or its pixels have no known white.
    """
    try:
        # From a path Pillow maps a TIFF into memory, and wrongly where it is turned.
        with path.open("rb") as file, Image.open(file) as image:
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I;16"):
                gray = torch.from_numpy((np.asarray(image) >> 8).astype(np.uint8))
                return gray.repeat(3, 1, 1)
            if image.mode in ("I", "F"):
                raise ValueError(
                    f"pixels of mode {image.mode} have no known white: save it with 8 or 16 bits"
                )
            return pil_to_tensor(image.convert("RGB"))
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image, upright, from its header.

    Raises:
        ValueError: The file is no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Pillow states the size of an upright TIFF, and decodes a PNG to look for EXIF data
            # behind the pixels.
            is_stated = image.format == "TIFF" or (
                image.format == "PNG" and "exif" not in image.info
            )
            exif = {} if is_stated else image.getexif()
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    is_turned = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (width, height) if is_turned else (height, width)


def unreadable(path: Path, error: BaseException) -> ValueError:
    """Return the one-line error of a file that cannot be read."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return ValueError(f"{path} cannot be read: {reason or type(error).__name__}")
