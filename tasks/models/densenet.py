"""DenseNet-121 for small images: torchvision's blocks behind a 3 x 3 stem without pooling."""

from torch import nn
from torchvision.models.densenet import DenseNet

from tasks.models.initialise import reset


class DenseNet121(DenseNet):
    """The paper's CIFAR-100 network, growth 32: 7,048,548 parameters with 100 classes."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(32, (6, 12, 24, 16), 64, num_classes=classes)
        self.features.conv0 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        for name in ("norm0", "relu0", "pool0"):
            setattr(self.features, name, nn.Identity())
        reset(self)
