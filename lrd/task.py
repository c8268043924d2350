"""The contract between the training loop and a task."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from lrd.rng import fold_key

if TYPE_CHECKING:
    from torchmetrics import Metric


@dataclass(slots=True)
class Batch:
    """What one step sees; ``index``, int64 (n,), are the samples' numbers in the training set.

    ``replicated``: on several ranks, each has this same batch instead of a shard of its own.
    """

    inputs: Any
    targets: Any
    index: Tensor
    replicated: bool = False

    def __len__(self) -> int:
        return len(self.index)

    def split(self, size: int) -> Iterator["Batch"]:
        """Yield micro-batches of ``size`` samples, the last one of what is left. A tensor has one
        row per sample, a list one entry per sample, a tuple or dictionary such parts."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            inputs, targets = _take(self.inputs, rows), _take(self.targets, rows)
            yield Batch(inputs, targets, self.index[rows], self.replicated)


def _take(part: Any, rows: slice) -> Any:
    if isinstance(part, tuple):
        return tuple(_take(item, rows) for item in part)
    if isinstance(part, dict):
        return {name: _take(item, rows) for name, item in part.items()}
    return part if part is None else part[rows]


@dataclass(slots=True)
class Step:
    """The result of a forward pass, as scalars on the device.

    ``losses`` are means over the batch; their sum is minimized. ``stats`` are sums over the batch's
    samples, logged per sample. ``count`` is the number of terms in the mean, if it is not the
    number of samples; it weighs the shards of several ranks.
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
    """A run's settings for its dataset and task; ``seed`` determines order and augmentation."""

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
    eval_base_size: int | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a trained network says of one image.

    ``text``: a line for the terminal; ``values``: the same as plain values, for JSON; ``images``:
    drawings by name, uint8 (3, h, w) on the CPU.
    """

    text: str
    values: dict[str, Any]
    images: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with data (``what`` names the file), and the ``effect`` on training; None: it
    stops."""

    what: str
    effect: str | None = None


class Dataset:
    """Base of the classes that ``dataset=`` may name: ``Dataset(setup, name=..., **settings)``.

    The constructor reads nothing. Which data it holds is between the dataset and its task.
    """

    def manifest(self) -> str | None:
        """Return a text that differs if the data do, such as a hash of their files' names and
        sizes; None if the class and its settings determine the data.

        Raises:
            ValueError: Data are missing.
        """
        return None

    def check(self, counts: Counter[str]) -> Iterator[Problem]:
        """Read all data as training and evaluation do. Yield what is wrong with single files, and
        add what was read to ``counts``. By default nothing: the task's own reading finds it."""
        yield from ()


class Task(ABC):
    """Data, model, loss and scores of one kind of problem.

    A task is constructed as ``Task(setup, dataset=..., model=..., **settings)``: ``dataset`` has
    not been read yet, and ``model`` is a callable that builds the network from the keywords that
    the task passes. Nothing is read from disk before ``steps_per_epoch`` or a batch is requested.

    Order and augmentation of the training data depend on (seed, epoch, sample) alone. They are the
    same on any device, with any number of workers and ranks; an epoch can start in its middle.

    ``recipe`` is part of a run's identity: raise it where a change of code moves the numbers of the
    class, so that no finished run of the older code passes for one of the newer. This repository's
    data sets and models have one too; a class of yours counts by its source.

    ``eval_modes`` are the values of ``eval.mode`` and ``eval.final_mode``. ``labels`` is the number
    of labels of a task whose targets are one label per sample, int64 (n,). ``loss_is_mean``: the
    losses are means over the batch, so that its gradient may be computed in micro-batches.
    """

    score: Score
    recipe: ClassVar[int] = 1
    labels: int | None = None
    loss_is_mean: ClassVar[bool] = True
    eval_modes: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int: ...

    @abstractmethod
    def model(self) -> nn.Module:
        """Return a new network. Called once, with torch's generator seeded for initialization."""

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return groups for the optimizer; a group may have its own ``keep_p``, and an
        ``lr_factor`` on the optimizer's learning rate."""
        return [{"params": list(model.parameters())}]

    def manifest(self) -> str | None:
        """Return the :meth:`Dataset.manifest` of the data. A resume needs the same one, and runs
        with different ones are never compared. Raise ValueError if data are missing."""
        return None

    def describe(self) -> str:
        """Return one line on the data for the terminal and the record, or an empty string."""
        return ""

    @abstractmethod
    def train_batches(
        self, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from ``start`` on (both from 0), of each the :func:`shard`
        of this rank: the same number of batches for every rank, none empty."""

    @abstractmethod
    def step(self, model: nn.Module, batch: Batch) -> Step: ...

    @abstractmethod
    def metrics(self) -> dict[str, "Metric"]:
        """Return new torchmetrics objects by the names of their values in the log. A metric that
        computes a dictionary of scalars is logged under that dictionary's names."""

    @abstractmethod
    def eval_batches(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield all evaluation samples once, each on one of the ranks."""

    @abstractmethod
    def eval_step(self, model: nn.Module, batch: Batch, metrics: dict[str, "Metric"]) -> None:
        """Update ``metrics`` with one batch; the model is in eval mode, gradients are disabled."""

    def final_metrics(self) -> dict[str, "Metric"]:
        """Return metrics of a second, slower evaluation after the last epoch, if there is one."""
        return {}

    def final_step(self, model: nn.Module, batch: Batch, metrics: dict[str, "Metric"]) -> None:
        """Update ``final_metrics`` with one batch; by default as :meth:`eval_step`."""
        self.eval_step(model, batch, metrics)

    def close(self) -> None:  # noqa: B027  most tasks start nothing
        """End what the task has started, such as loading processes."""

    def visualize(self, model: nn.Module) -> dict[str, Tensor]:
        """Return images of predictions for a few fixed evaluation samples, by name: uint8 (3, h, w)
        on the CPU; the model is in eval mode, gradients are disabled."""
        return {}

    def predict(self, model: nn.Module, image: Tensor) -> Prediction:
        """Return what ``model`` says of an image of any size, uint8 (3, h, w) in RGB; the model is
        in eval mode, gradients are disabled. Reads no data.

        Raises:
            ValueError: The task predicts nothing of an image.
        """
        raise ValueError(f"{type(self).__name__} has no method predict(model, image)")


ModelFactory = Callable[..., nn.Module]


def shard(samples: Tensor, rank: int, world: int) -> tuple[Tensor, bool]:
    """Return a rank's shard of a batch's ``samples`` (n,), and whether the batch is replicated:
    with fewer samples than ranks every rank gets all of them."""
    replicated = len(samples) < world
    return (samples if replicated else samples[rank::world]), replicated


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Return int64 (count,): the order of an epoch's samples, the same on every device."""
    generator = torch.Generator().manual_seed(fold_key("order", seed, epoch))
    return torch.randperm(count, generator=generator)
