"""ResNets for small images: a 3 x 3 stem without max-pooling, then torchvision's blocks."""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from tasks.models.hidden_units import Unit, resnet_hidden_units
from tasks.models.weights import reset_parameters


class SmallResNet(ResNet):
    """torchvision's ResNet with the CIFAR stem, for images of any number of channels."""

    recipe: ClassVar[int] = 1

    def __init__(self, layers: list[int], shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(BasicBlock, layers, num_classes=classes)
        self.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()  # type: ignore[assignment]
        reset_parameters(self)

    def units(self) -> Iterator[Unit]:
        return resnet_hidden_units(self)


class ResNet18(SmallResNet):
    """11,173,962 parameters for CIFAR-10."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__([2, 2, 2, 2], shape, classes)


class ResNet34(SmallResNet):
    """The paper's CIFAR-10 network: 21,282,122 parameters."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__([3, 4, 6, 3], shape, classes)


class ThinResNet(nn.Sequential):
    """The CIFAR network of He et al. (2016), section 4.2, with 6 ``blocks`` + 2 weight layers.

    Three stages have 16, 32 and 64 channels and ``blocks`` residual blocks each. The first block of
    the second and third stage halves the resolution; its shortcut is a projection (their option B;
    they pad with zeros). For CIFAR-10 it has 272,474 parameters with 3 blocks (ResNet-20) and
    78,042 with one (ResNet-8).
    """

    recipe: ClassVar[int] = 1

    def __init__(self, shape: tuple[int, int, int], classes: int, blocks: int = 3) -> None:
        if type(blocks) is not int or blocks < 1:
            raise ValueError(f"model.blocks must be a whole number of at least 1, got {blocks}")
        layers: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(shape[0], 16, 3, padding=1, bias=False),
            "bn1": nn.BatchNorm2d(16),
            "relu": nn.ReLU(),
        }
        for number, (before, after) in enumerate(pairwise((16, 16, 32, 64)), 1):
            rest = (BasicBlock(after, after) for _ in range(blocks - 1))
            layers[f"layer{number}"] = nn.Sequential(first_block(before, after), *rest)
        head = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        super().__init__(OrderedDict(layers | head | {"fc": nn.Linear(64, classes)}))
        reset_parameters(self)

    def units(self) -> Iterator[Unit]:
        return resnet_hidden_units(self)


def first_block(before: int, after: int) -> BasicBlock:
    """Return the first block of a stage; it halves the resolution if the width grows."""
    if before == after:
        return BasicBlock(before, after)
    shortcut = nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))
    return BasicBlock(before, after, stride=2, downsample=shortcut)
