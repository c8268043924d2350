"""What the tasks have in common whose images lie on disk and are read one by one."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from lrd.task import Batch, Setup, Task, epoch_order, shard
from tasks.loading import Loader, Sample
from tasks.voc import VOC, Entry

SHOWN = 6  # evaluation images of which pictures are drawn


D = TypeVar("D", bound=VOC)


class Photographs(Task, Generic[D]):
    """Batches of images by the loader. A subclass says how a sample is read (:meth:`read`), how
    samples make a batch (:meth:`collate`), and whether a last small batch is left out.

    ``read`` and ``collate`` run in worker processes, on the CPU.
    """

    whole_batches: ClassVar[bool] = False

    def __init__(self, setup: Setup, data: D) -> None:
        self.setup, self.data = setup, data

    @abstractmethod
    def read(self, entry: Entry, train: bool, number: int) -> Any:
        """One sample; torch's generator is at a state of its own if something is drawn."""

    @abstractmethod
    def collate(self, samples: list[Any]) -> Batch:
        """A batch of what :meth:`read` gave."""

    @abstractmethod
    def sent(self, batch: Batch, train: bool) -> Batch:
        """A batch on the device, as the model wants it."""

    @cached_property
    def entries(self) -> dict[str, list[Entry]]:
        train, evaluation = self.data.splits()
        if len(train) < self.setup.batch_size:
            raise ValueError(
                f"train.batch_size must be at most the {len(train)} training images of "
                f"{self.data.name}, got {self.setup.batch_size}"
            )
        return {"train": train, "eval": evaluation}

    @cached_property
    def _loader(self) -> Loader:
        return Loader(self._read, self._collate, self.setup)

    def _read(self, sample: Sample) -> Any:
        entry = self.entries[sample.part][sample.number]
        return self.read(entry, sample.part == "train", sample.number)

    def _collate(self, samples: list[Any]) -> tuple[Any, Any, Tensor]:
        """As a tuple, of which the loader knows how to pin the tensors."""
        batch = self.collate(samples)
        return batch.inputs, batch.targets, batch.index

    def close(self) -> None:
        if "_loader" in vars(self):
            self._loader.close()

    @property
    def steps_per_epoch(self) -> int:
        count, size = len(self.entries["train"]), self.setup.batch_size
        return count // size if self.whole_batches else -(-count // size)

    def describe(self) -> str:
        return self.data.describe(*(len(entries) for entries in self.entries.values()))

    def train_batches(
        self, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        order = epoch_order(len(self.entries["train"]), self.setup.seed, epoch)
        parts = order.split(self.setup.batch_size)[start : self.steps_per_epoch]
        shares = [shard(part, rank, world) for part in parts]
        wanted = [[Sample("train", epoch, n) for n in mine.tolist()] for mine, _ in shares]
        for batch, (_, whole) in zip(self._loader.batches(wanted), shares, strict=True):
            yield replace(self.sent(Batch(*batch), train=True), whole=whole)

    def eval_batches(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        numbers = torch.arange(len(self.entries["eval"]))[rank::world]
        parts = numbers.split(self.setup.eval_batch_size)
        wanted = [[Sample("eval", 0, n) for n in part.tolist()] for part in parts]
        for batch in self._loader.batches(wanted):
            yield self.sent(Batch(*batch), train=False)

    def to(self, tensor: Tensor) -> Tensor:
        """On the device, without waiting for it."""
        return tensor.to(self.setup.device, non_blocking=True)

    def shown(self) -> list[Entry]:
        """The fixed handful of evaluation images of which pictures are drawn."""
        entries = self.entries["eval"]
        chosen = torch.linspace(0, len(entries) - 1, min(SHOWN, len(entries))).long().tolist()
        return [entries[number] for number in dict.fromkeys(chosen)]
