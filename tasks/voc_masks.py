"""Images and pixel labels: VOC2012 with SBD, and the embedded shapes."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import SBDataset, VOCSegmentation
from torchvision.datasets.utils import download_and_extract_archive
from torchvision.transforms.v2 import functional as v2

from lrd.task import Setup
from tasks import shapes
from tasks.voc import VOC, VOID, Archive, Entry, archive, entries_of, read_image

SBD = Archive(SBDataset.filename, SBDataset.md5)


class VOCMasks(VOC):
    """VOC2012 segmentation: 10,582 training images with SBD's, else VOC's own 1,464; 1,449 for
    validation.

    SBD's are those of its train and val that are in neither of VOC2012's; for VOC2012's own
    training images VOC's masks are taken. ``crop`` is the side of a training image. A
    ``resolution`` below 1 shrinks every image and its labels first, those of evaluation too, for
    small machines: scores are then of the smaller labels.
    """

    evaluated = "validation"
    counts: ClassVar[dict[str, int]] = {"train": 1464, "val": 1449, "sbd": 10582}

    def __init__(
        self,
        setup: Setup,
        name: str,
        sbd: bool = True,
        crop: int = 473,
        resolution: float = 1.0,
        partial: bool = False,
        holdout: int = 0,
    ) -> None:
        super().__init__(setup, name, partial, holdout)
        if not 0 < resolution <= 1:
            raise ValueError(f"dataset.resolution must be in (0, 1], got {resolution}")
        if type(crop) is not int or crop < 8:
            raise ValueError(f"dataset.crop must be a whole number of at least 8, got {crop}")
        self.sbd, self.crop, self.resolution = sbd, crop, resolution

    def splits(self) -> tuple[list[Entry], list[Entry]]:
        """Training and evaluation entries, each sorted by name."""
        own, validation = self._voc("train"), self._voc("val")
        train = self.present(own, self.counts["train"], archive("2012"))
        if self.sbd:
            inside = {entry.name for entry in (*own, *validation)}
            more = [entry for entry in self._sbd() if entry.name not in inside]
            joined = sorted([*own, *more], key=lambda entry: entry.name)
            train = self.present(joined, self.counts["sbd"], SBD)
        if self.holdout:
            return self.held_out(train)
        return train, self.present(validation, self.counts["val"], archive("2012"))

    def whole(self) -> tuple[int, int]:
        return self.counts["sbd" if self.sbd else "train"], self.counts["val"]

    def describe(self, train: int, evaluation: int) -> str:
        smaller = f"; at {self.resolution:g} of their size" if self.resolution < 1 else ""
        return super().describe(train, evaluation) + smaller

    def read(self, entry: Entry) -> tuple[Tensor, Tensor]:
        """Bytes: the image (3, h, w) and its labels (h, w), 255 where they count nowhere."""
        try:
            image = read_image(entry.image)
            mask = _mask(entry.target)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{entry.image} or {entry.target} cannot be read: {error}") from error
        if mask.shape != image.shape[1:]:
            raise ValueError(
                f"{entry.target} must have the size of its image, {tuple(image.shape[1:])}, got "
                f"{tuple(mask.shape)}"
            )
        beyond = (mask > len(self.classes)) & (mask != VOID)
        if bool(beyond.any()):
            raise ValueError(
                f"{entry.target} must hold labels of 0 to {len(self.classes)}, or {VOID}, got "
                f"{int(mask[beyond][0])}"
            )
        if self.resolution == 1:
            return image, mask
        size = [max(1, round(side * self.resolution)) for side in mask.shape]
        return (
            v2.resize_image(image, size, antialias=True),
            v2.resize_mask(mask[None], size)[0],
        )

    def _voc(self, image_set: str) -> list[Entry]:
        folder = self.root / "VOCdevkit" / "VOC2012"
        file = folder / "ImageSets" / "Segmentation" / f"{image_set}.txt"
        whole = file.is_file() and (folder / "SegmentationClass").is_dir()
        fetch = self.setup.download and not whole
        try:
            data = VOCSegmentation(str(self.root), "2012", image_set, download=fetch)
        except (OSError, RuntimeError) as error:
            raise self.missing(f"{file} is missing{self.failed(error)}", archive("2012")) from error
        return sorted(entries_of(data.images, data.masks), key=lambda entry: entry.name)

    def _sbd(self) -> list[Entry]:
        """SBD's train and val, as its archive unpacks or as torchvision arranges it; none of them
        if they are not there and ``partial``."""
        unpacked = self.root / "benchmark_RELEASE" / "dataset"
        places = [unpacked, self.root / "sbd"]
        folder = next((p for p in places if (p / "train.txt").is_file()), unpacked)
        try:
            if self.setup.download and not (folder / "train.txt").is_file():
                download_and_extract_archive(
                    SBDataset.url, str(self.root), filename=SBD.filename, md5=SBD.md5
                )
            halves = (SBDataset(str(folder), half, "segmentation") for half in ("train", "val"))
            return [entry for data in halves for entry in entries_of(data.images, data.masks)]
        except (OSError, RuntimeError) as error:
            if self.partial:
                return []
            what = f"{folder / 'train.txt'} is missing{self.failed(error)}"
            own = f"; dataset.sbd=false trains on VOC's own {self.counts['train']:,} images"
            raise ValueError(f"{self.missing(what, SBD)}{own}") from error


class ShapesMasks(VOCMasks):
    """Coloured shapes made by code in VOC's layout: 64 training and 16 validation images."""

    classes = shapes.CLASSES
    counts = {"train": 64, "val": 16}

    def __init__(self, setup: Setup, name: str, crop: int = 97, holdout: int = 0) -> None:
        super().__init__(setup, name, sbd=False, crop=crop, holdout=holdout)

    @property
    def root(self) -> Path:
        return shapes.folder()


def _mask(path: Path) -> Tensor:
    """Labels (h, w): a palette PNG of VOC's, or one of SBD's MATLAB files."""
    if path.suffix != ".mat":
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image, dtype=np.uint8))
    from scipy.io import loadmat

    labels = loadmat(path)["GTcls"][0]["Segmentation"][0]
    return torch.from_numpy(np.ascontiguousarray(labels, dtype=np.uint8))
