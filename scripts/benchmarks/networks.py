"""The networks whose steps are measured, and steps of training on random inputs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.models.fcnet import FCNet
from tasks.models.resnet import ResNet34

CLASSES = 10


@dataclass(frozen=True)
class Network:
    """A network, the shape of its images and the batch that a training step takes here;
    ``targets`` says whether it is the one that the targets of a step were set for."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    batch: int
    targets: bool = False

    @property
    def title(self) -> str:
        return f"{self.name}, batch {self.batch}"

    def sizes(self) -> list[torch.Size]:
        """Of its parameters; nothing is allocated."""
        with torch.device("meta"):
            return [param.shape for param in self.make().parameters()]

    def forward(self, model: nn.Module, device: torch.device) -> Callable[[], Tensor]:
        """A function from nothing to the loss of one fixed random batch."""
        torch.manual_seed(2)
        inputs = torch.rand(self.batch, *self.shape, device=device)
        targets = torch.randint(CLASSES, (self.batch,), device=device)
        return lambda: F.cross_entropy(model(inputs), targets)


def resnet34(batch: int) -> Network:
    shape = (3, 32, 32)
    return Network("ResNet-34", lambda: ResNet34(shape, CLASSES), shape, batch, targets=True)


def fcnet(batch: int, hidden: tuple[int, ...] = (1000, 1000)) -> Network:
    shape = (1, 28, 28)
    return Network("FCNet", lambda: FCNet(shape, CLASSES, hidden), shape, batch)
