"""ResNets for small images: torchvision's blocks behind a 3 x 3 stem without max-pooling."""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from tasks.models.hidden import Unit, of_resnet
from tasks.models.initialise import reset


class SmallResNet(ResNet):
    """torchvision's ResNet with the CIFAR stem, for images of any number of channels."""

    def __init__(self, layers: list[int], shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(BasicBlock, layers, num_classes=classes)
        self.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()  # type: ignore[assignment]
        reset(self)

    def units(self) -> Iterator[Unit]:
        return of_resnet(self)


class ResNet18(SmallResNet):
    """11,173,962 parameters for CIFAR-10."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__([2, 2, 2, 2], shape, classes)


class ResNet34(SmallResNet):
    """The paper's CIFAR-10 network: 21,282,122 parameters."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__([3, 4, 6, 3], shape, classes)


class ThinResNet(nn.Sequential):
    """The CIFAR network of He et al. (2016), section 4.2: 6 ``blocks`` + 2 layers of weights.

    Three stages of so many ``blocks`` with 16, 32 and 64 channels; the first block of the second
    and of the third halves the resolution, and its shortcut is a projection (their option B, where
    they pad with zeros). For CIFAR-10, 272,474 parameters with 3 blocks (ResNet-20), 78,042 with
    one (ResNet-8).
    """

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
            layers[f"layer{number}"] = nn.Sequential(entering(before, after), *rest)
        head = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        super().__init__(OrderedDict(layers | head | {"fc": nn.Linear(64, classes)}))
        reset(self)

    def units(self) -> Iterator[Unit]:
        return of_resnet(self)


def entering(before: int, after: int) -> BasicBlock:
    """The first block of a stage; where the width grows, it halves the resolution."""
    if before == after:
        return BasicBlock(before, after)
    shortcut = nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))
    return BasicBlock(before, after, stride=2, downsample=shortcut)
