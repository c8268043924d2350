"""ResNets for small images: torchvision's blocks behind a 3 x 3 stem without max-pooling."""

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from tasks.models.initialise import reset


class SmallResNet(ResNet):
    """torchvision's ResNet with the CIFAR stem, for images of any number of channels."""

    def __init__(self, layers: list[int], shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(BasicBlock, layers, num_classes=classes)
        self.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()  # type: ignore[assignment]
        reset(self)


class ResNet18(SmallResNet):
    """11,173,962 parameters for CIFAR-10."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__([2, 2, 2, 2], shape, classes)


class ResNet34(SmallResNet):
    """The paper's CIFAR-10 network: 21,282,122 parameters."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__([3, 4, 6, 3], shape, classes)
