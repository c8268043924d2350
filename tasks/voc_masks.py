"""Images with pixel labels: VOC2012 with SBD, the synthetic shapes, and one's own."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import SBDataset, VOCSegmentation
from torchvision.datasets.utils import download_and_extract_archive
from torchvision.transforms.v2 import functional as v2

from lrd.task import Problem, Setup
from tasks.data.labeled_folder import LabeledFolder, check_classes
from tasks.data.labeled_images import (
    UNREADABLE,
    Entry,
    LabeledImages,
    image_size,
    read_image,
    read_names,
    unreadable,
)
from tasks.data.synthetic_shapes import SHAPE_CLASSES, shapes_root
from tasks.data.voc import VOC, VOC_CLASSES, VOID, Archive, color_map, voc_archive

SBD = Archive(SBDataset.filename, SBDataset.md5)


class Masks(LabeledImages):
    """Images with a label for each pixel: 0 is the background, 255 (void) does not count.

    A mask is an image of one number per pixel, with a palette (PNG, mode P) or in 1 to 16 bits of
    gray, or a MATLAB file of SBD. A palette must have VOC's colors if the classes are VOC's.

    Args:
        setup: Gives the seed, the root folder and whether to download.
        name: The data set's name in messages.
        crop: Side of a training image in pixels.
        resolution: Factor in (0, 1] by which to shrink all images and labels, for small machines.
            Scores then refer to the smaller labels.
        holdout: How many training images to hold out for evaluation.
    """

    eval_split = "validation"

    def __init__(self, setup: Setup, name: str, crop: int, resolution: float, holdout: int) -> None:
        super().__init__(setup, name, holdout)
        if not 0 < resolution <= 1:
            raise ValueError(f"dataset.resolution must be in (0, 1], got {resolution}")
        if type(crop) is not int or crop < 8:
            raise ValueError(f"dataset.crop must be a whole number of at least 8, got {crop}")
        self.crop, self.resolution = crop, resolution

    def notes(self) -> str:
        smaller = f"; at {self.resolution:g} of their size" if self.resolution < 1 else ""
        return super().notes() + smaller

    def verify(self, entry: Entry) -> None:
        height, width = image_size(entry.image)
        if entry.target.suffix == ".mat":
            return
        try:
            with Image.open(entry.target) as mask:
                _require_labels(mask)
                is_equal = mask.size == (width, height)
        except UNREADABLE as error:
            raise unreadable(entry.target, error) from error
        if not is_equal:
            self.read(entry)  # the header of an image may not say how it is turned

    def check_entry(self, entry: Entry, part: str, counts: Counter[str]) -> Iterator[Problem]:
        _, mask = self.read(entry)
        self.count_classes(mask, part, counts)
        if entry.target.suffix != ".mat":
            with Image.open(entry.target) as image:
                kind = "with a palette" if image.mode == "P" else "of gray"
            counts[f"{part} masks {kind}"] += 1
        if bool((mask == VOID).all()):
            yield Problem(f"{entry.target} has no label but {VOID}", "none of its pixels counts")

    def read(self, entry: Entry) -> tuple[Tensor, Tensor]:
        """Return an image (3, h, w) and its labels (h, w), uint8; label 255 is void.

        Raises:
            ValueError: A file is not readable or holds wrong labels.
        """
        image, mask = read_image(entry.image), self.read_mask(entry.target)
        if mask.shape != image.shape[1:]:
            raise ValueError(
                f"{entry.target} must have the size of its image, {tuple(image.shape[1:])}, got "
                f"{tuple(mask.shape)}"
            )
        image = self.shrink(image)
        return image, v2.resize_mask(mask[None], list(image.shape[-2:]))[0]

    def read_mask(self, path: Path) -> Tensor:
        """Return the labels (h, w), uint8, of a mask."""
        try:
            labels, colors = _read_labels(path)
        except UNREADABLE as error:
            raise unreadable(path, error) from error
        unknown = (labels > len(self.classes)) & (labels != VOID) | (labels < 0)
        if unknown.any():
            raise ValueError(
                f"{path} must hold labels of 0 to {len(self.classes)}, or {VOID}, got "
                f"{int(labels[unknown][0])}"
            )
        if colors and tuple(self.classes) == VOC_CLASSES:
            _require_colors(path, labels, colors)
        return torch.from_numpy(labels.astype(np.uint8, copy=False))

    def shrink(self, image: Tensor) -> Tensor:
        """Return an image (3, h, w) at ``resolution`` of its size."""
        if self.resolution == 1:
            return image
        size = [max(1, round(side * self.resolution)) for side in image.shape[-2:]]
        return v2.resize_image(image, size, antialias=True)


class VOCMasks(VOC, Masks):
    """VOC2012 segmentation: 1,464 training images, or 10,582 with SBD, and 1,449 for validation.

    SBD contributes the images of its train and val sets that are in neither of VOC2012's sets.
    VOC2012's own training images keep VOC's masks.

    Args:
        setup, name, crop, resolution, holdout: As for :class:`Masks`.
        sbd: Add SBD's images to the training images.
        partial: Use the available images instead of requiring all.
    """

    recipe: ClassVar[int] = 1

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
        super().__init__(setup, name, crop, resolution, holdout)
        self.sbd, self.partial = sbd, partial

    def lists(self) -> tuple[list[Entry], list[Entry]]:
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

    def _voc(self, image_set: str) -> list[Entry]:
        folder = self.root / "VOCdevkit" / "VOC2012"
        file = folder / "ImageSets" / "Segmentation" / f"{image_set}.txt"
        unpacked = file.is_file() and (folder / "SegmentationClass").is_dir()
        try:
            if self.setup.download and not unpacked:
                VOCSegmentation(str(self.root), "2012", image_set, download=True)
            names = read_names(file)
        except (OSError, RuntimeError) as error:
            source = voc_archive("2012")
            raise self.missing_error(f"{file} is missing", source, error=error) from error
        images, masks = folder / "JPEGImages", folder / "SegmentationClass"
        return [Entry(n, images / f"{n}.jpg", masks / f"{n}.png") for n in sorted(names)]

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
            names = [n for half in ("train", "val") for n in read_names(folder / f"{half}.txt")]
        except (OSError, RuntimeError) as error:
            if self.partial:
                return []
            missing = self.missing_error(f"{folder / 'train.txt'} is missing", SBD, error=error)
            alternative = f"; dataset.sbd=false trains on VOC's own {self.counts['train']:,} images"
            raise ValueError(f"{missing}{alternative}") from error
        images, masks = folder / "img", folder / "cls"
        return [Entry(n, images / f"{n}.jpg", masks / f"{n}.mat") for n in names]


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


class MaskFolder(LabeledFolder, Masks):
    """Images and masks of one's own (``dataset=masks``): ``images/NAME.jpg``, or another format,
    and ``masks/NAME.png``, laid out as :class:`tasks.data.labeled_folder.LabeledFolder` says.

    Args:
        setup, name, crop, resolution, holdout: As for :class:`Masks`.
        path: The folder.
        classes: The names of labels 1, 2, ...

    Raises:
        ValueError: ``classes`` are no names.
    """

    recipe: ClassVar[int] = 1

    labels = "masks", ".png"

    def __init__(
        self,
        setup: Setup,
        name: str,
        path: str,
        classes: Sequence[str],
        crop: int = 473,
        resolution: float = 1.0,
        holdout: int = 0,
    ) -> None:
        super().__init__(setup, name, crop, resolution, holdout)
        self.path, self.classes = Path(path).expanduser(), check_classes(classes)


def _require_labels(mask: Image.Image) -> None:
    if mask.mode not in ("1", "L", "P", "I") and not mask.mode.startswith("I;16"):
        raise ValueError(
            f"a mask must have one label per pixel, in a palette or 1 to 16 bits of gray, got an "
            f"image of mode {mask.mode}"
        )


def _read_labels(path: Path) -> tuple[np.ndarray, bytes]:
    """Return the labels (h, w) of a mask and its palette, r, g, b of each label; empty if none."""
    if path.suffix == ".mat":
        from scipy.io import loadmat

        try:
            labels = loadmat(path)["GTcls"][0]["Segmentation"][0]
        except Exception as error:  # a cut or foreign file breaks its decoder anywhere
            raise OSError(f"no labels of SBD ({type(error).__name__})") from error
        return np.ascontiguousarray(labels), b""
    with Image.open(path) as mask:
        _require_labels(mask)
        # Pillow multiplies gray of 2 and 4 bits so that white is 255.
        factor = {"L;2": 85, "L;4": 17}.get(str(mask.tile[0][3]), 1) if mask.tile else 1
        labels = np.array(mask)
        palette = bytes(mask.getpalette() or []) if mask.mode == "P" else b""
    return labels // factor if factor > 1 else labels, palette


def _require_colors(path: Path, labels: np.ndarray, colors: bytes) -> None:
    """Reject a mask whose palette has other colors than VOC's for its labels, as an editor writes
    that numbers the colors again. Gray of a label's own number is no color of another."""
    expected = _voc_colors()
    if colors == expected:
        return
    for label in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist():
        place = slice(3 * label, 3 * label + 3)
        color = tuple(colors[place])
        if color and color not in (tuple(expected[place]), (label,) * 3):
            raise ValueError(
                f"{path} must have VOC's colors in its palette, got {color} for label {label}, "
                f"which is {tuple(expected[place])}: an editor has numbered the colors again"
            )


@cache
def _voc_colors() -> bytes:
    return bytes(color_map())
