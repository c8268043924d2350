"""Images with pixel labels: VOC2012 with SBD, and the synthetic shapes."""

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
from tasks.data.synthetic_shapes import SHAPE_CLASSES, shapes_root
from tasks.data.voc import VOC, VOID, Archive, Entry, make_entries, read_image, voc_archive

SBD = Archive(SBDataset.filename, SBDataset.md5)


class VOCMasks(VOC):
    """VOC2012 segmentation: 1,464 training images, or 10,582 with SBD, and 1,449 for validation.

    SBD contributes the images of its train and val sets that are in neither of VOC2012's sets.
    VOC2012's own training images keep VOC's masks.

    Args:
        setup: Gives the seed, the root folder and whether to download.
        name: The data set's name in messages.
        sbd: Add SBD's images to the training images.
        crop: Side of a training image in pixels.
        resolution: Factor in (0, 1] by which to shrink all images and labels, for small machines.
            Scores then refer to the smaller labels.
        partial: Use the available images instead of requiring all.
        holdout: How many training images to hold out for evaluation.
    """

    recipe: ClassVar[int] = 1

    eval_split = "validation"
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
        """Return the training and the evaluation entries, each sorted by name."""
        own, validation = self._voc("train"), self._voc("val")
        train = self.available(own, self.counts["train"], voc_archive("2012"))
        if self.sbd:
            known = {entry.name for entry in (*own, *validation)}
            more = [entry for entry in self._sbd() if entry.name not in known]
            joined = sorted([*own, *more], key=lambda entry: entry.name)
            train = self.available(joined, self.counts["sbd"], SBD)
        if self.holdout:
            return self.split_holdout(train)
        return train, self.available(validation, self.counts["val"], voc_archive("2012"))

    def expected_counts(self) -> tuple[int, int]:
        return self.counts["sbd" if self.sbd else "train"], self.counts["val"]

    def describe(self, train: int, evaluation: int) -> str:
        smaller = f"; at {self.resolution:g} of their size" if self.resolution < 1 else ""
        return super().describe(train, evaluation) + smaller

    def read(self, entry: Entry) -> tuple[Tensor, Tensor]:
        """Return an image (3, h, w) and its labels (h, w), uint8; label 255 is void.

        Raises:
            ValueError: A file is not readable or holds wrong labels.
        """
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
        unknown = (mask > len(self.classes)) & (mask != VOID)
        if bool(unknown.any()):
            raise ValueError(
                f"{entry.target} must hold labels of 0 to {len(self.classes)}, or {VOID}, got "
                f"{int(mask[unknown][0])}"
            )
        image = self.shrink(image)
        return image, v2.resize_mask(mask[None], list(image.shape[-2:]))[0]

    def shrink(self, image: Tensor) -> Tensor:
        """Return an image (3, h, w) at ``resolution`` of its size."""
        if self.resolution == 1:
            return image
        size = [max(1, round(side * self.resolution)) for side in image.shape[-2:]]
        return v2.resize_image(image, size, antialias=True)

    def _voc(self, image_set: str) -> list[Entry]:
        folder = self.root / "VOCdevkit" / "VOC2012"
        file = folder / "ImageSets" / "Segmentation" / f"{image_set}.txt"
        unpacked = file.is_file() and (folder / "SegmentationClass").is_dir()
        fetch = self.setup.download and not unpacked
        try:
            data = VOCSegmentation(str(self.root), "2012", image_set, download=fetch)
        except (OSError, RuntimeError) as error:
            source = voc_archive("2012")
            raise self.missing_error(f"{file} is missing", source, error=error) from error
        return sorted(make_entries(data.images, data.masks), key=lambda entry: entry.name)

    def _sbd(self) -> list[Entry]:
        """Return SBD's train and val entries, in the archive's layout or torchvision's; none if
        they are missing and ``partial`` is set."""
        unpacked = self.root / "benchmark_RELEASE" / "dataset"
        places = [unpacked, self.root / "sbd"]
        folder = next((p for p in places if (p / "train.txt").is_file()), unpacked)
        try:
            if self.setup.download and not (folder / "train.txt").is_file():
                download_and_extract_archive(
                    SBDataset.url, str(self.root), filename=SBD.filename, md5=SBD.md5
                )
            halves = (SBDataset(str(folder), half, "segmentation") for half in ("train", "val"))
            return [entry for data in halves for entry in make_entries(data.images, data.masks)]
        except (OSError, RuntimeError) as error:
            if self.partial:
                return []
            missing = self.missing_error(f"{folder / 'train.txt'} is missing", SBD, error=error)
            alternative = f"; dataset.sbd=false trains on VOC's own {self.counts['train']:,} images"
            raise ValueError(f"{missing}{alternative}") from error


class ShapesMasks(VOCMasks):
    """Synthetic shapes in VOC's layout: 64 training and 16 validation images."""

    classes = SHAPE_CLASSES
    counts = {"train": 64, "val": 16}

    def __init__(self, setup: Setup, name: str, crop: int = 97, holdout: int = 0) -> None:
        super().__init__(setup, name, sbd=False, crop=crop, holdout=holdout)

    def manifest(self) -> None:
        return None  # code draws them

    @property
    def root(self) -> Path:
        return shapes_root()


def _mask(path: Path) -> Tensor:
    """Read labels (h, w) from a palette PNG of VOC or a MATLAB file of SBD."""
    if path.suffix != ".mat":
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image, dtype=np.uint8))
    from scipy.io import loadmat

    labels = loadmat(path)["GTcls"][0]["Segmentation"][0]
    return torch.from_numpy(np.ascontiguousarray(labels, dtype=np.uint8))
