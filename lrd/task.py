"""The whole contract between the training loop and a task."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from lrd.masks import key

if TYPE_CHECKING:
    from torchmetrics import Metric


@dataclass(slots=True)
class Batch:
    """What one step sees: ``index`` (n,) int64 says which samples of the training set these are.

    ``whole``: among several ranks, every one has this same batch instead of a share of its own.
    """

    inputs: Any
    targets: Any
    index: Tensor
    whole: bool = False

    def __len__(self) -> int:
        return len(self.index)


@dataclass(slots=True)
class Step:
    """One forward pass: ``losses`` are means over the batch and their sum is minimised; ``stats``
    are sums over the batch's samples, which the log shows per sample. Scalars on the device.

    ``count``: over how many of something the losses are means, where not over the samples; by it
    the shares of several ranks are weighed.
    """

    losses: dict[str, Tensor]
    stats: dict[str, Tensor]
    count: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """The score that counts: its name in the log, its direction, its unit ("%" or "")."""

    name: str
    maximize: bool = True
    unit: str = ""

    def better(self, a: float, b: float) -> bool:
        return a > b if self.maximize else a < b


@dataclass(frozen=True, slots=True)
class Setup:
    """What every data set and task is told of the run. ``seed`` rules order and augmentation."""

    seed: int = 0
    device: torch.device = torch.device("cpu")
    batch_size: int = 128
    eval_batch_size: int = 1000
    root: str = "data"
    download: bool = False
    workers: int = 0
    eval_mode: str | None = None
    eval_final_mode: str | None = None
    eval_scales: tuple[float, ...] = (1.0,)


class Dataset:
    """Base of what ``dataset=`` may name, constructed as ``Dataset(setup, name=..., **settings)``.

    Constructing one reads nothing; what kind of data it holds is between it and its task.
    """


class Task(ABC):
    """Data, model, loss and scores of one kind of problem.

    A task is constructed as ``Task(setup, dataset=..., model=..., **settings)``, where ``dataset``
    is its data set, not yet read, and ``model`` a callable that builds the network from whatever
    keywords the task passes. Nothing is read from disk before ``steps_per_epoch`` or a batch is
    asked for.

    Order and augmentation of the training data depend on (seed, epoch, sample) alone, and are the
    same on any device, with any number of workers and ranks; an epoch can be entered in its middle.

    ``eval_modes`` are the ways to evaluate that ``eval.mode`` and ``eval.final_mode`` may name.
    ``labels``: of a task whose targets are one label a sample, int64 (n,), how many there are.
    """

    score: Score
    labels: int | None = None
    eval_modes: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int: ...

    @abstractmethod
    def model(self) -> nn.Module:
        """A new network. Called once, with torch's generator seeded for the initialisation."""

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Groups for the optimizer, with a ``p`` or a ``lr_factor`` on the optimizer's rate of
        their own where they need one."""
        return [{"params": list(model.parameters())}]

    def describe(self) -> str:
        """One line on the data for the terminal and the record, if there is something to say."""
        return ""

    @abstractmethod
    def train_batches(
        self, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Batches ``start`` and on of ``epoch`` (both from 0), of each the :func:`share` of this
        rank: as many batches for every rank, and none of them empty."""

    @abstractmethod
    def step(self, model: nn.Module, batch: Batch) -> Step: ...

    @abstractmethod
    def metrics(self) -> dict[str, "Metric"]:
        """New torchmetrics objects by the names their values have in the log. One that computes
        a dictionary of scalars has its own names there instead."""

    @abstractmethod
    def eval_batches(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """All samples of the evaluation once, each for one of the ranks."""

    @abstractmethod
    def eval_step(self, model: nn.Module, batch: Batch, metrics: dict[str, "Metric"]) -> None:
        """Update ``metrics`` with one batch; the model is in eval mode and gradients are off."""

    def final_metrics(self) -> dict[str, "Metric"]:
        """As :meth:`metrics`, for one more and slower evaluation after the last epoch, if any."""
        return {}

    def final_step(self, model: nn.Module, batch: Batch, metrics: dict[str, "Metric"]) -> None:
        """As :meth:`eval_step`, for ``final_metrics``; by default the same."""
        self.eval_step(model, batch, metrics)

    def close(self) -> None:  # noqa: B027  most tasks start nothing
        """The run is over: end what was started for it."""

    def pictures(self, model: nn.Module) -> dict[str, Tensor]:
        """What the model makes of a fixed handful of evaluation samples, by name: uint8 (3, h, w)
        on the CPU; the model is in eval mode and gradients are off."""
        return {}


ModelFactory = Callable[..., nn.Module]


def share(samples: Tensor, rank: int, world: int) -> tuple[Tensor, bool]:
    """Of a batch's ``samples`` (n,) those of one rank; where there are fewer than ranks, all of
    them, and that the batch is whole."""
    whole = len(samples) < world
    return (samples if whole else samples[rank::world]), whole


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """int64 of shape (count,): the order of an epoch's samples, the same on every device."""
    generator = torch.Generator().manual_seed(key("order", seed, epoch))
    return torch.randperm(count, generator=generator)
