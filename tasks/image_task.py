"""The base of tasks whose images are read from disk one by one."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from lrd.task import Batch, Setup, Task, epoch_order, shard
from tasks.data.dataloader import SampleKey, SeededDataLoader
from tasks.data.labeled_images import Entry, LabeledImages

NUM_PREVIEWS = 6  # evaluation images for sample predictions

D = TypeVar("D", bound=LabeledImages)


class ImageTask(Task, Generic[D]):
    """Load images by worker processes.

    A subclass defines how to read a sample (:meth:`read`), how samples make a batch
    (:meth:`collate`) and what the model takes (:meth:`to_device`). ``read`` and ``collate`` run in
    worker processes, on the CPU. ``drop_last``: leave out a last batch that is too small.
    """

    drop_last: ClassVar[bool] = False

    def __init__(self, setup: Setup, data: D) -> None:
        self.setup, self.data = setup, data

    @abstractmethod
    def read(self, entry: Entry, train: bool, number: int) -> Any:
        """Read one sample. torch's default generator is seeded for this sample."""

    @abstractmethod
    def collate(self, samples: list[Any]) -> Batch:
        """Make a batch of samples from :meth:`read`."""

    @abstractmethod
    def to_device(self, batch: Batch, train: bool) -> Batch:
        """Return a batch on the device in the form that the model takes."""

    @cached_property
    def entries(self) -> dict[str, list[Entry]]:
        train, evaluation = self.data.splits()
        if len(train) < self.setup.batch_size:
            raise ValueError(
                f"train.batch_size must be at most the {len(train)} training images of "
                f"{self.data.name}, got {self.setup.batch_size}"
            )
        return {"train": train, "eval": evaluation}

    def manifest(self) -> str | None:
        return self.data.manifest()

    @cached_property
    def _loader(self) -> SeededDataLoader:
        return SeededDataLoader(self._read, self._collate, self.setup)

    def _read(self, sample: SampleKey) -> Any:
        entry = self.entries[sample.part][sample.number]
        return self.read(entry, sample.part == "train", sample.number)

    def _collate(self, samples: list[Any]) -> tuple[Any, Any, Tensor]:
        """Return a batch as a tuple, because the loader can pin the tensors of a tuple."""
        batch = self.collate(samples)
        return batch.inputs, batch.targets, batch.index

    def close(self) -> None:
        if "_loader" in vars(self):
            self._loader.close()

    @property
    def steps_per_epoch(self) -> int:
        count, size = len(self.entries["train"]), self.setup.batch_size
        return count // size if self.drop_last else -(-count // size)

    def describe(self) -> str:
        return self.data.describe(*(len(entries) for entries in self.entries.values()))

    def train_batches(
        self, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        order = epoch_order(len(self.entries["train"]), self.setup.seed, epoch)
        parts = order.split(self.setup.batch_size)[start : self.steps_per_epoch]
        shards = [shard(part, rank, world) for part in parts]
        requested = [[SampleKey("train", epoch, n) for n in own.tolist()] for own, _ in shards]
        for batch, (_, replicated) in zip(self._loader.batches(requested), shards, strict=True):
            yield replace(self.to_device(Batch(*batch), train=True), replicated=replicated)

    def eval_batches(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        numbers = torch.arange(len(self.entries["eval"]))[rank::world]
        parts = numbers.split(self.setup.eval_batch_size)
        requested = [[SampleKey("eval", 0, n) for n in part.tolist()] for part in parts]
        for batch in self._loader.batches(requested):
            yield self.to_device(Batch(*batch), train=False)

    def to(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the device, without synchronizing it."""
        return tensor.to(self.setup.device, non_blocking=True)

    def preview_samples(self) -> list[Entry]:
        """Return the fixed evaluation images for sample predictions."""
        entries = self.entries["eval"]
        count = min(NUM_PREVIEWS, len(entries))
        chosen = torch.linspace(0, len(entries) - 1, count).long().tolist()
        return [entries[number] for number in dict.fromkeys(chosen)]
