"""The fully connected network of the paper's MNIST experiment."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar

from torch import nn

from tasks.models.hidden_units import Unit


class FCNet(nn.Sequential):
    """Linear layers with ReLU, 784-1000-1000-10 on MNIST (section 4.1), for gray images of any
    size."""

    recipe: ClassVar[int] = 1

    def __init__(
        self, shape: tuple[int, int, int], classes: int, hidden: Sequence[int] = (1000, 1000)
    ) -> None:
        channels, height, width = shape
        if channels != 1:
            raise ValueError(
                f"model=fcnet must be given gray images (digits, mnist), got {channels} channels: "
                "choose model=resnet18, resnet34 or densenet121"
            )
        if any(size < 1 for size in hidden):
            raise ValueError(f"model.hidden must be sizes of at least 1, got {list(hidden)}")
        sizes = [height * width, *hidden]
        layers = (m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU()))
        super().__init__(nn.Flatten(), *layers, nn.Linear(sizes[-1], classes))

    def units(self) -> Iterator[Unit]:
        """Yield the ReLU after every hidden layer."""
        return ((layer, "output") for layer in self if isinstance(layer, nn.ReLU))
