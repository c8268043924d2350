"""Data sets of the benchmarks: random images, torchvision's data sets, photos with masks."""

import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets, transforms
from torchvision.transforms import functional as F

from lrd.task import Setup
from tasks import images
from tasks.data.augment import MEAN, MEAN_PIXEL, STD
from tasks.data.voc import VOID


class ImageSet(NamedTuple):
    """A data set of small images: this repository's class, torchvision's, counts, directory."""

    ours: type[images.Images]
    torchvision: type[Any]
    counts: tuple[int, int]
    folder: str


IMAGE_SETS = {
    "mnist": ImageSet(images.MNIST, datasets.MNIST, (60_000, 10_000), "MNIST"),
    "cifar10": ImageSet(images.CIFAR10, datasets.CIFAR10, (50_000, 10_000), "cifar-10-batches-py"),
    "cifar100": ImageSet(images.CIFAR100, datasets.CIFAR100, (50_000, 10_000), "cifar-100-python"),
}
VOC_FOLDERS = {
    "voc_seg": "VOCdevkit/VOC2012/SegmentationClass",
    "voc_det": "VOCdevkit/VOC2007/Annotations",
}
_FILL = (MEAN_PIXEL[0], MEAN_PIXEL[1], MEAN_PIXEL[2])
_BILINEAR, _NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
ImagePair = tuple[Image.Image, Image.Image]


def is_on_disk(name: str, root: str) -> bool:
    """Return whether ``root`` has images of a task on VOC or of one of :data:`IMAGE_SETS`."""
    folder = VOC_FOLDERS.get(name) or IMAGE_SETS[name].folder
    return (Path(root).expanduser() / folder).is_dir()


def random_images(shape: tuple[int, int, int], classes: int, count: int) -> tuple[Tensor, Tensor]:
    """Return random images, uint8 (count, c, h, w), and labels, int64 (count,)."""
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    return pixels, torch.randint(classes, (count,), generator=generator)


class RandomImages(images.Images):
    """Random images of the shape of ``like``, a name in :data:`IMAGE_SETS`, for ``dataset=``."""

    def __init__(
        self, setup: Setup, name: str, like: str, train: int, test: int, holdout: int = 0
    ) -> None:
        super().__init__(setup, name, holdout)
        for attribute in ("shape", "classes", "white", "mean", "std", "crop"):
            setattr(self, attribute, getattr(IMAGE_SETS[like].ours, attribute))
        self.counts = {True: train, False: test}

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        return random_images(self.shape, self.classes, self.counts[train])


def torchvision_dataset(name: str, root: str, count: int | None) -> Any:
    """Return torchvision's training set with the usual transforms.

    ``count`` random images replace the real ones unless it is None.
    """
    kind, cls = IMAGE_SETS[name].ours, IMAGE_SETS[name].torchvision
    steps: list[Any] = [transforms.ToTensor()]
    if kind.crop:
        crop = [transforms.RandomCrop(32, padding=kind.crop), transforms.RandomHorizontalFlip()]
        steps = [*crop, *steps, transforms.Normalize(kind.mean, kind.std)]
    transform = transforms.Compose(steps)
    if count is None:
        return cls(str(Path(root).expanduser()), train=True, transform=transform)
    made = object.__new__(cls)  # without __init__, which reads the files
    made.transform, made.target_transform = transform, None
    pixels, labels = random_images(kind.shape, kind.classes, count)
    if name == "mnist":
        made.data, made.targets = pixels[:, 0], labels
    else:
        made.data = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        made.targets = labels.tolist()
    return made


class Photos(Dataset[tuple[Tensor, Tensor]]):
    """VOC2012's training images with masks as typical PyTorch code loads them: by PIL, one by one.

    An item is an augmented and normalized image, float32 (3, crop, crop), and its labels, int64
    (crop, crop). Images whose files are missing under ``root`` are left out.
    """

    def __init__(self, root: Path, crop: int) -> None:
        found = datasets.VOCSegmentation(str(root), "2012", "train")
        pairs = zip(found.images, found.masks, strict=True)
        self.files = [pair for pair in pairs if all(Path(file).is_file() for file in pair)]
        self.crop = crop

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = (Image.open(file) for file in self.files[index])
        image, mask = random_crop(*random_augmentation(image.convert("RGB"), mask), self.crop)
        inputs = F.normalize(F.to_tensor(image), list(MEAN), list(STD))
        return inputs, torch.from_numpy(np.array(mask)).long()


def random_augmentation(image: Image.Image, mask: Image.Image) -> ImagePair:
    """Scale, rotate, blur and flip, as ``segmentation_transform`` does before its crop."""
    factor = random.uniform(0.5, 2.0)
    size = round(image.width * factor), round(image.height * factor)
    image, mask = image.resize(size, _BILINEAR), mask.resize(size, _NEAREST)
    if random.random() < 0.5:
        angle = random.uniform(-10, 10)
        image = image.rotate(angle, _BILINEAR, fillcolor=_FILL)
        mask = mask.rotate(angle, _NEAREST, fillcolor=VOID)
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(random.random()))
    if random.random() < 0.5:
        image, mask = ImageOps.mirror(image), ImageOps.mirror(mask)
    return image, mask


def random_crop(image: Image.Image, mask: Image.Image, crop: int) -> ImagePair:
    """Cut out a random square of side ``crop``; smaller images are padded on all sides first."""
    wide, high = (max(crop - side, 0) for side in image.size)
    if wide or high:
        border = (wide // 2, high // 2, wide - wide // 2, high - high // 2)
        image = ImageOps.expand(image, border, fill=_FILL)
        mask = ImageOps.expand(mask, border, fill=VOID)
    left, top = (random.randint(0, side - crop) for side in image.size)
    box = (left, top, left + crop, top + crop)
    return image.crop(box), mask.crop(box)
