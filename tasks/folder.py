"""Images in folders, one per class, as torchvision's ImageFolder reads them."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2 import functional as v2

from lrd.task import Problem, Setup
from tasks.data.labeled_images import read_image
from tasks.images import Images

TEST_FOLDERS = ("test", "val")


class ImageFolder(Images):
    """Images of any sizes in one folder per class, resized and kept in memory as bytes.

    ``path`` has ``train/<class>/`` and ``test/<class>/`` (or ``val``), or ``<class>/`` alone, of
    which ``holdout`` images are then held out. An image's shorter side is resized to ``size`` and
    its center is cut out: 3 * size**2 bytes of memory for each image.

    Args:
        setup: Gives the seed and the device.
        name: The data set's name in messages.
        path: The folder.
        size: Height and width in pixels.
        crop: Padding of a random crop in pixels, with a random flip; 0: no augmentation.
        mean, std: Of the channels in [0, 1], for the normalization.
        holdout, subset: As for :class:`tasks.images.Images`.

    Raises:
        ValueError: The folder has not this layout.
    """

    def __init__(
        self,
        setup: Setup,
        name: str,
        path: str,
        size: int = 64,
        crop: int = 0,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        holdout: int = 0,
        subset: int | None = None,
    ) -> None:
        super().__init__(setup, name, holdout, subset)
        for setting, value, least in (("size", size, 1), ("crop", crop, 0)):
            if type(value) is not int or value < least:
                raise ValueError(
                    f"dataset.{setting} must be a whole number of at least {least}, got {value}"
                )
        for setting, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, 3) or (setting == "std" and min(values) <= 0):
                raise ValueError(
                    f"dataset.{setting} must be 1 or 3 numbers, of std above 0, got {values}"
                )
        self.path = Path(path).expanduser()
        self.shape = (3, size, size)  # type: ignore[misc]
        self.crop, self.mean, self.std = crop, tuple(mean), tuple(std)  # type: ignore[misc]
        if not self.path.is_dir():
            raise ValueError(f"dataset.path must be a folder of images, got {self.path}")
        if not holdout and self._test_folder is None:
            raise ValueError(
                f"dataset.path must hold train/ and test/ (or val/), or dataset.holdout be above "
                f"0, got {self.path}"
            )
        self.names = self._files(train=True).classes
        self.classes = len(self.names)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        files = self._files(train)
        images = torch.stack([self._read_image(path) for path, _ in files.samples])
        return images, torch.tensor(files.targets)

    def check(self, counts: Counter[str]) -> Iterator[Problem]:
        for part in ("training",) if self.holdout else ("training", "evaluation"):
            try:
                files = self._files(part == "training")
            except ValueError as error:
                yield Problem(str(error))
                continue
            for path, label in files.samples:
                counts[f"{part} images"] += 1
                counts[f"{part} images of {self.names[label]}"] += 1
                try:
                    self._read_image(path)
                except ValueError as error:
                    yield Problem(str(error))

    def manifest(self) -> str:
        """Return a hash of the names and sizes of all files."""
        digest = hashlib.sha256()
        for train in (True,) if self.holdout else (True, False):
            for path, label in self._files(train).samples:
                name = Path(path).relative_to(self.path)
                digest.update(f"{name}\0{label}\0{Path(path).stat().st_size}\n".encode())
        return "sha256:" + digest.hexdigest()[:16]

    @cached_property
    def _test_folder(self) -> Path | None:
        found = (self.path / name for name in TEST_FOLDERS if (self.path / name).is_dir())
        return next(found, None) if (self.path / "train").is_dir() else None

    def _files(self, train: bool) -> datasets.ImageFolder:
        own = self.path / "train" if (self.path / "train").is_dir() else self.path
        folder = own if train or self._test_folder is None else self._test_folder
        try:
            found = datasets.ImageFolder(str(folder))
        except OSError as error:
            why = " ".join(str(error).split())
            raise ValueError(
                f"dataset.path must hold a folder of images per class: {why}"
            ) from error
        if not train and found.classes != list(self.names):
            raise ValueError(f"{folder} must have the classes {self.names}, got {found.classes}")
        return found

    def _read_image(self, path: str) -> Tensor:
        size = list(self.shape[1:])
        pixels = read_image(Path(path))
        return v2.center_crop(v2.resize_image(pixels, size[:1], antialias=True), size)
