"""Samples that are read and augmented one by one: the same ones by any number of processes."""

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


class Sample(NamedTuple):
    """Which sample is wanted: of which part of the data, and for which epoch (from 0)."""

    part: str
    epoch: int
    number: int


@contextmanager
def drawn_from(*words: int | str) -> Iterator[None]:
    """torch's default generator at a state that ``words`` alone decide, and one thread.

    Transforms of torchvision draw from that generator; what their kernels round may depend on the
    number of threads, and workers have one. Both are put back.
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
class _Failed:
    """A user's error in one line: what a worker raises would arrive with its traceback."""

    line: str


class _Samples(Dataset[Any]):
    def __init__(self, read: Callable[[Sample], Any], seed: int) -> None:
        self.read, self.seed = read, seed

    def __getitem__(self, sample: Sample) -> Any:
        try:
            with drawn_from("sample", self.seed, sample.epoch, sample.number):
                return self.read(sample)
        except ValueError as error:
            return _Failed(str(error))


class Loader:
    """Batches of what ``read`` makes of a :class:`Sample`, drawn from (seed, epoch, number) alone.

    ``setup.workers`` processes, which live until :meth:`close`, read ahead; with none the samples
    are read when a batch is asked for. For a GPU the batches are pinned. ``collate`` makes
    a batch of a list of samples.
    """

    def __init__(
        self,
        read: Callable[[Sample], Any],
        collate: Callable[[list[Any]], Any],
        setup: Setup,
    ) -> None:
        self._asked = _Asked()
        self._loader = DataLoader(
            _Samples(read, setup.seed),
            batch_sampler=self._asked,  # type: ignore[arg-type]
            num_workers=setup.workers,
            collate_fn=partial(_collate, collate),
            pin_memory=setup.device.type == "cuda",
            persistent_workers=setup.workers > 0,
            worker_init_fn=_begin,
            generator=torch.Generator(),  # or each epoch would draw from torch's global one
        )
        if setup.workers:
            _open.add(self)

    def batches(self, wanted: Iterable[Sequence[Sample]]) -> Iterator[Any]:
        """A batch for each list of samples; a new call ends the one before."""
        self._asked.wanted = wanted
        for batch in self._loader:
            if isinstance(batch, _Failed):
                raise ValueError(batch.line)
            yield batch

    def close(self) -> None:
        """End the workers, if there are any."""
        _open.discard(self)
        if (iterator := getattr(self._loader, "_iterator", None)) is not None:
            iterator._shutdown_workers()


# Held until they are closed: garbage collection takes an iterator's queues before the iterator,
# which then cannot end its workers.
_open: set[Loader] = set()


@atexit.register
def close_all() -> None:
    """Before multiprocessing ends its children by a signal that they ignore, and waits."""
    for loader in list(_open):
        loader.close()


class _Asked:
    """The batch sampler: what the loader's next epoch consists of."""

    wanted: Iterable[Sequence[Sample]] = ()

    def __iter__(self) -> Iterator[Sequence[Sample]]:
        return iter(self.wanted)


def _collate(collate: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    failed = next((sample for sample in samples if isinstance(sample, _Failed)), None)
    return failed or collate(samples)


def _begin(worker: int) -> None:
    """A signal to the whole process group stops the run at a safe point, for which the run still
    needs its workers; they end with it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
