"""DenseNet-121 for small images: a 3 x 3 stem without pooling, then torchvision's blocks."""

from collections.abc import Iterator
from typing import ClassVar

from torch import nn
from torchvision.models.densenet import DenseNet

from tasks.models.hidden_units import Unit
from tasks.models.weights import reset_parameters


class DenseNet121(DenseNet):
    """The paper's CIFAR-100 network, growth 32: 7,048,548 parameters with 100 classes."""

    recipe: ClassVar[int] = 1

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(32, (6, 12, 24, 16), 64, num_classes=classes)
        self.features.conv0 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        for name in ("norm0", "relu0", "pool0"):
            setattr(self.features, name, nn.Identity())
        reset_parameters(self)

    def units(self) -> Iterator[Unit]:
        """Yield every convolution but the first (Huang et al., 2017, section 4.2).

        torchvision's ``drop_rate`` applies only after the second convolution of a dense layer.
        """
        layers = [m for m in self.features.modules() if isinstance(m, nn.Conv2d)]
        return ((layer, "output") for layer in layers[1:])
