"""Random images of a data set's shape and size, for toy sizes and where the set is not at hand."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import datasets, transforms

from lrd.task import Setup
from tasks import images

KINDS: dict[str, type[images.Images]] = {
    "mnist": images.MNIST,
    "cifar10": images.CIFAR10,
    "cifar100": images.CIFAR100,
}
COUNTS = {"mnist": (60_000, 10_000), "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000)}
FOLDERS = {
    "mnist": "MNIST",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "voc_seg": "VOCdevkit/VOC2012/SegmentationClass",
}


def at_hand(name: str, root: str) -> bool:
    return (Path(root).expanduser() / FOLDERS[name]).is_dir()


def random_images(shape: tuple[int, int, int], classes: int, count: int) -> tuple[Tensor, Tensor]:
    """uint8 (count, c, h, w) and int64 (count,)."""
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    return pixels, torch.randint(classes, (count,), generator=generator)


class RandomImages(images.Images):
    """Ours: what ``dataset=`` names instead of the real set. ``like`` is one of :data:`KINDS`."""

    def __init__(
        self, setup: Setup, name: str, like: str, train: int, test: int, holdout: int = 0
    ) -> None:
        super().__init__(setup, name, holdout)
        kind = KINDS[like]
        for fact in ("shape", "classes", "white", "mean", "std", "crop"):
            setattr(self, fact, getattr(kind, fact))
        self.counts = {True: train, False: test}

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        return random_images(self.shape, self.classes, self.counts[train])


class _RandomMNIST(datasets.MNIST):
    """torchvision's own way from an array to a sample, over random arrays."""

    def __init__(self, count: int, transform: Any) -> None:
        self.transform, self.target_transform = transform, None
        pixels, self.targets = random_images((1, 28, 28), 10, count)
        self.data = pixels[:, 0]


class _RandomCIFAR(datasets.CIFAR10):
    def __init__(self, count: int, transform: Any, classes: int) -> None:
        self.transform, self.target_transform = transform, None
        pixels, labels = random_images((3, 32, 32), classes, count)
        self.data, self.targets = pixels.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()


def ordinary(name: str, root: str, count: int | None) -> Any:
    """The training set as torchvision gives it, with the transforms that people compose for it;
    ``count`` random images instead where it is not None."""
    kind, steps = KINDS[name], []
    if kind.crop:
        steps = [transforms.RandomCrop(32, padding=kind.crop), transforms.RandomHorizontalFlip()]
    steps.append(transforms.ToTensor())
    if kind.crop:
        steps.append(transforms.Normalize(kind.mean, kind.std))
    transform = transforms.Compose(steps)
    if count is not None:
        if name == "mnist":
            return _RandomMNIST(count, transform)
        return _RandomCIFAR(count, transform, kind.classes)
    source = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
    return source[name](str(Path(root).expanduser()), train=True, transform=transform)
