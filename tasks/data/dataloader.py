"""A data loader whose samples depend on (seed, epoch, number), not on the worker processes."""

import atexit
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from lrd.rng import fold_key
from lrd.task import Setup


class SampleKey(NamedTuple):
    """Identify one sample: the part of the data, the epoch (from 0) and the number in the part."""

    part: str
    epoch: int
    number: int


@contextmanager
def seeded_rng(*words: int | str) -> Iterator[None]:
    """Seed torch's default generator from ``words`` alone and use one thread; restore both on exit.

    Augmentations sample from the default generator. The rounding of torch's kernels may depend on
    the number of threads, and worker processes have one thread.
    """
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.default_generator.manual_seed(fold_key(*words))
    if threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_rng_state(state)
        if threads > 1:
            torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True)
class _ReadError:
    """A user's error in one line. An exception from a worker would carry the worker's traceback."""

    line: str


class _SampleDataset(Dataset[Any]):
    def __init__(self, read: Callable[[SampleKey], Any], seed: int) -> None:
        self.read, self.seed = read, seed

    def __getitem__(self, sample: SampleKey) -> Any:
        try:
            with seeded_rng("sample", self.seed, sample.epoch, sample.number):
                return self.read(sample)
        except ValueError as error:
            return _ReadError(str(error))


class SeededDataLoader:
    """Load batches whose samples depend on (seed, epoch, number) alone.

    ``setup.workers`` processes prefetch the samples and live until :meth:`close`. Without workers
    the calling process reads the samples of a batch on request. Batches for a GPU are pinned.

    Args:
        read: Reads and augments one sample.
        collate: Makes a batch of a list of samples.
        setup: Gives the seed, the number of workers and the device.
    """

    def __init__(
        self, read: Callable[[SampleKey], Any], collate: Callable[[list[Any]], Any], setup: Setup
    ) -> None:
        self._sampler = _BatchSampler()
        self._loader = DataLoader(
            _SampleDataset(read, setup.seed),
            batch_sampler=self._sampler,  # type: ignore[arg-type]
            num_workers=setup.workers,
            collate_fn=partial(_collate, collate),
            pin_memory=setup.device.type == "cuda",
            persistent_workers=setup.workers > 0,
            worker_init_fn=_ignore_signals,
            generator=torch.Generator(),  # otherwise every epoch samples from the global generator
        )
        if setup.workers:
            _open_loaders.add(self)

    def batches(self, requested: Iterable[Sequence[SampleKey]]) -> Iterator[Any]:
        """Yield one batch for each list of samples. A new call ends the previous iteration.

        Raises:
            ValueError: ``read`` raised one; the message is that of ``read``.
        """
        self._sampler.requested = requested
        for batch in self._loader:
            if isinstance(batch, _ReadError):
                raise ValueError(batch.line)
            yield batch

    def close(self) -> None:
        """End the worker processes, if there are any."""
        _open_loaders.discard(self)
        if (iterator := getattr(self._loader, "_iterator", None)) is not None:
            iterator._shutdown_workers()


# Loaders stay here until they are closed. Garbage collection would delete an iterator's queues
# before the iterator, which then could not end its workers.
_open_loaders: set[SeededDataLoader] = set()


@atexit.register
def close_all() -> None:
    """Close every open loader.

    Runs at exit before multiprocessing terminates its children by a signal that they ignore and
    waits for them.
    """
    for loader in list(_open_loaders):
        loader.close()


class _BatchSampler:
    """The lists of samples of the loader's next iteration."""

    requested: Iterable[Sequence[SampleKey]] = ()

    def __iter__(self) -> Iterator[Sequence[SampleKey]]:
        return iter(self.requested)


def _collate(collate: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    failed = next((sample for sample in samples if isinstance(sample, _ReadError)), None)
    return failed or collate(samples)


def _ignore_signals(worker: int) -> None:
    """Ignore signals to the process group: the run needs its workers until it has stopped at a
    safe point, and ends them itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
