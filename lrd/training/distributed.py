"""Several processes that train one run: ``torchrun --nproc_per_node=N run.py ...``.

Each rank has a copy of the model and trains on its shard of every batch; DistributedDataParallel
averages the gradients. The masks need no communication: each rank draws the same ones. Rank zero
writes and prints; decisions that all ranks share (stop, resume) go through this module. For a
single process everything here is a no-op.
"""

import atexit
import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lrd.runs.lock import RunLocked
from lrd.runs.ranks import ProcessRank
from lrd.runs.signals import RankFailed
from lrd.task import Batch, Step

T = TypeVar("T")
SHUTDOWN_SECONDS = 0.5  # in which gloo's threads release tensors at the end
# DistributedDataParallel's switch for broadcasting buffers before every step; its name changed.
_PARAMETERS = inspect.signature(DistributedDataParallel).parameters
BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _PARAMETERS else "broadcast_buffers"


@dataclass(frozen=True)
class DistributedContext:
    """This process is ``rank`` (from 0) of ``world``."""

    rank: int = 0
    world: int = 1

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        return self.world > 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return ``model`` for training: backward averages its gradients over the ranks.

        Each rank keeps its own buffers while it trains; see :meth:`broadcast_buffers`.
        """
        if not self.is_distributed:
            return model
        settings: dict[str, Any] = {BUFFERS: False}
        return DistributedDataParallel(model, **settings)

    def convert_sync_batchnorm(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Make batch norm see the complete batch on GPUs; torch has no SyncBatchNorm for CPUs."""
        if not self.is_distributed or device.type != "cuda":
            return model
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy rank zero's buffers (running statistics of batch norm) to all ranks."""
        if self.is_distributed:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)

    def scale_losses(self, step: Step, batch: Batch) -> Step:
        """Scale the losses of this rank's shard so that their sum over the ranks is the mean over
        the complete batch, and the stats so that their sum is that of the batch. No host sync."""
        if not self.is_distributed:
            return step
        if batch.replicated:
            weight: Tensor | float = 1 / self.world
            stats = {name: value * weight for name, value in step.stats.items()}
            return Step({n: loss * weight for n, loss in step.losses.items()}, stats)
        own = self.count_terms(step, batch)
        total = own.clone()
        distributed.all_reduce(total)
        weight = own / total.clamp(min=1)
        return Step({name: loss * weight for name, loss in step.losses.items()}, step.stats)

    def count_terms(self, step: Step, batch: Batch) -> Tensor:
        """Return how many terms this rank's losses are means of, float32 () on their device."""
        if step.count is not None:
            return step.count.float()
        # ``full`` and not ``tensor``: copying a number to a GPU would synchronize.
        device = next(iter(step.losses.values())).device
        return torch.full((), float(len(batch)), device=device)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the sum of ``loss`` over the ranks (torch takes the mean)."""
        (loss * self.world if self.is_distributed else loss).backward()

    def defer_all_reduce(self, network: nn.Module, defer: bool) -> AbstractContextManager[None]:
        """Return a context whose backward leaves the gradients to that of a later one, which adds
        them up over the ranks."""
        if not (defer and self.is_distributed):
            return nullcontext()
        assert isinstance(network, DistributedDataParallel)
        return network.no_sync()

    def num_counted(self, batch: Batch) -> int:
        """Return how many samples of ``batch`` this rank counts, so that each counts once."""
        is_copy = batch.replicated and self.is_distributed and not self.is_rank_zero
        return 0 if is_copy else len(batch)

    def all_reduce_sum(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the sums over the ranks of scalars that all ranks have in the same order."""
        if not self.is_distributed or not values:
            return dict(values)
        stacked = torch.stack(list(values.values()))
        distributed.all_reduce(stacked)
        return dict(zip(values, stacked.unbind(), strict=True))

    def all_reduce_max(self, number: int | None) -> int | None:
        """Return the largest of the ranks' numbers; None is the smallest. All ranks must call."""
        if not self.is_distributed:
            return number
        largest = torch.tensor(-1 if number is None else number)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return None if largest < 0 else int(largest)

    def lockstep(self, items: Iterable[T]) -> Iterator[T | None]:
        """Yield ``items``, then None for as long as another rank has more."""
        rest = iter(items)
        while True:
            item = next(rest, None)
            if not self.is_distributed and item is None:
                return
            if self.is_distributed and self.all_reduce_max(None if item is None else 1) is None:
                return
            yield item

    def on_rank_zero(self, act: Callable[[], T]) -> T:
        """Run ``act`` on rank zero alone; return its result, or raise its error, on all ranks."""
        if not self.is_distributed:
            return act()
        outcome: list[Any] = [None, None]
        raised = None
        if self.is_rank_zero:
            try:
                outcome[0] = act()
            except Exception as error:
                raised, outcome[1] = error, _describe_failure(error, self.rank)
        distributed.broadcast_object_list(outcome, 0)
        if outcome[1] is not None:
            raise _known(raised or outcome[1])
        return outcome[0]

    def on_all_ranks(self, act: Callable[[], T]) -> T:
        """Run ``act`` on every rank. If any rank raises an error, all raise: a rank its own error,
        the others one that names the first rank that failed."""
        if not self.is_distributed:
            return act()
        result = raised = None
        try:
            result = act()
        except Exception as error:
            raised = error
        failures: list[Any] = [None] * self.world
        failure = None if raised is None else _describe_failure(raised, self.rank)
        distributed.all_gather_object(failures, failure)
        if failed := [failure for failure in failures if failure is not None]:
            raise _known(raised or failed[0])
        return result  # type: ignore[return-value]

    def fails_alone(self, error: Exception) -> bool:
        """Return whether this rank, which is not rank zero, has an ``error`` that no other rank
        knows of. Numbers that are not finite are so on all ranks."""
        known = isinstance(error, FloatingPointError) or any(
            hasattr(each, _KNOWN) for each in (error, error.__cause__)
        )
        return not self.is_rank_zero and not known

    def is_peer_lost(self, error: Exception) -> bool:
        """Return whether ``error`` says that the ranks cannot reach one another any more."""
        if not self.is_distributed or not isinstance(error, RuntimeError):
            return False
        # gloo raises a plain RuntimeError that names the gloo source file.
        return isinstance(error, distributed.DistError) or "gloo" in str(error)


SINGLE_PROCESS = DistributedContext()


_KNOWN = "known_to_all_ranks"  # the attribute of an error that has reached all ranks


def _known(error: Exception) -> Exception:
    setattr(error, _KNOWN, True)
    return error


def _describe_failure(error: Exception, rank: int) -> Exception:
    """Return what the other ranks raise for an error of ``rank``: an error that can be sent, of the
    same kind where the kind decides what a user is told, with the rank in its text."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, f"{error.strerror} (on rank {rank})", error.filename)
    if isinstance(error, ValueError):
        return ValueError(f"{error} (on rank {rank})")
    if isinstance(error, RunLocked):
        return error
    return RankFailed(f"rank {rank} failed: {describe_error(error)}")


def describe_error(error: Exception) -> str:
    """Return the class and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def init_distributed(gpus: bool) -> DistributedContext:
    """Join the process group that the environment (:class:`lrd.runs.ranks.ProcessRank`) describes.

    Args:
        gpus: Whether each rank trains on a GPU of its own, numbered by its local rank.

    Raises:
        ValueError: The environment is incomplete.
    """
    process = ProcessRank.from_environment()
    if process.world == 1:
        return SINGLE_PROCESS
    if not distributed.is_initialized():
        if gpus:
            torch.cuda.set_device(process.local_rank)
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
        atexit.register(shutdown_distributed)
    return DistributedContext(distributed.get_rank(), distributed.get_world_size())


def shutdown_distributed() -> None:
    """Leave the process group.

    gloo's threads release a tensor after the call that used it, and need the interpreter for that;
    one that does so while Python shuts down aborts the process. DistributedDataParallel keeps these
    threads alive, so this function waits for them.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(SHUTDOWN_SECONDS)
