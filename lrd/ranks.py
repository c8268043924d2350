"""Several processes that train one run together: ``torchrun --nproc_per_node=N run.py ...``.

Each rank has a copy of the model and takes its share of every batch; DistributedDataParallel
averages the gradients. The masks need no word between them: each rank draws the same ones. What
only one may do (write, print) the first rank does; what all must agree on (stop now, go on from
here) is settled here. Everything is a no-op for a process by itself.
"""

import atexit
import inspect
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lrd.task import Batch, Step

T = TypeVar("T")
SETTLE = 0.5  # seconds that gloo's threads have to let go of tensors at the end
# What says that the first rank's buffers are not everyone's before every step; its name changed.
_NAMES = inspect.signature(DistributedDataParallel).parameters
BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"


@dataclass(frozen=True)
class Ranks:
    """This process is number ``rank`` (from 0) of ``world``."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.world > 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """``model`` for training: its gradients are averaged over the ranks in backward.

        Buffers are left to each rank while it trains; see :meth:`align`.
        """
        if not self.several:
            return model
        settings: dict[str, Any] = {BUFFERS: False}
        return DistributedDataParallel(model, **settings)

    def synchronise(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Batch norm over the whole batch instead of a rank's share, on GPUs; torch has none on
        CPUs."""
        if not self.several or device.type != "cuda":
            return model
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def align(self, model: nn.Module) -> None:
        """Every rank's buffers as the first one's (batch norm's averages)."""
        if self.several:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)

    def weigh(self, step: Step, batch: Batch) -> Step:
        """``step`` of this rank's share as its part of the whole batch's: summed over the ranks,
        losses are means over the whole batch and stats sums over it. Waits for no device."""
        if not self.several:
            return step
        if batch.whole:
            part: Tensor | float = 1 / self.world
            stats = {name: value * part for name, value in step.stats.items()}
            return Step({n: loss * part for n, loss in step.losses.items()}, stats)
        device = next(iter(step.losses.values())).device
        count = len(batch) if step.count is None else step.count
        # ``full``: a number that is copied to a GPU would make the loop wait for it.
        given = isinstance(count, Tensor)
        mine = count.float() if given else torch.full((), float(count), device=device)
        total = mine.clone()
        distributed.all_reduce(total)
        part = mine / total.clamp(min=1)
        return Step({name: loss * part for name, loss in step.losses.items()}, step.stats)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the sum of ``loss`` over the ranks, of which torch takes the mean."""
        (loss * self.world if self.several else loss).backward()

    def counted(self, batch: Batch) -> int:
        """The samples of ``batch`` that this rank counts, so that each counts once."""
        return 0 if batch.whole and self.several and not self.first else len(batch)

    def summed(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the ranks, of scalars that all of them have in the same order."""
        if not self.several or not values:
            return dict(values)
        together = torch.stack(list(values.values()))
        distributed.all_reduce(together)
        return dict(zip(values, together.unbind(), strict=True))

    def largest(self, number: int | None) -> int | None:
        """The largest of the ranks' numbers, of which None is the least. Every rank must ask."""
        if not self.several:
            return number
        told = torch.tensor(-1 if number is None else number)
        distributed.all_reduce(told, distributed.ReduceOp.MAX)
        return None if told < 0 else int(told)

    def in_step(self, items: Iterable[T]) -> Iterator[T | None]:
        """``items``, followed by None for as long as another rank has more."""
        rest = iter(items)
        while True:
            item = next(rest, None)
            if not self.several and item is None:
                return
            if self.several and self.largest(None if item is None else 1) is None:
                return
            yield item

    def once(self, act: Callable[[], T]) -> T:
        """What ``act`` gives on the first rank, where alone it runs; what it raises, all raise."""
        if not self.several:
            return act()
        told: list[Any] = [None, None]
        if self.first:
            try:
                told[0] = act()
            except Exception as error:
                told[1] = error
        distributed.broadcast_object_list(told, 0)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def everywhere(self, act: Callable[[], T]) -> T:
        """What ``act`` gives here, once no rank has raised; else each raises the first error."""
        if not self.several:
            return act()
        result, mistake = None, None
        try:
            result = act()
        except ValueError as error:
            mistake = error
        told: list[Any] = [None] * self.world
        distributed.all_gather_object(told, mistake)
        for error in told:
            if error is not None:
                raise error
        return result  # type: ignore[return-value]

    def lost(self, error: Exception) -> bool:
        """Whether ``error`` says that the ranks cannot reach one another any more."""
        if not self.several or not isinstance(error, RuntimeError):
            return False
        # What gloo finds is a plain RuntimeError, which names the file of gloo's that found it.
        return isinstance(error, distributed.DistError) or "gloo" in str(error)


ALONE = Ranks()


def join(gpus: bool) -> Ranks:
    """Meet the other ranks that the environment names, as torchrun sets it; alone without one.

    ``gpus``: whether each trains on a GPU of its own, the one numbered by its place on the machine.
    Raises ValueError, in one line, where the environment is not whole.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return ALONE
    lacking = [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
    if lacking:
        raise ValueError(
            f"WORLD_SIZE must come with {', '.join(lacking)}, got {world} alone: start several "
            "ranks by torchrun --nproc_per_node=N run.py ..."
        )
    if not distributed.is_initialized():
        if gpus:
            torch.cuda.set_device(place())
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
        atexit.register(leave)
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def leave() -> None:
    """End this process's part in the group.

    gloo's threads let go of a tensor after the call that it was for, and need Python for that: one
    that does so while Python shuts down aborts the process. DistributedDataParallel keeps them
    alive, so they cannot be ended; here they get the time.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(SETTLE)


def place() -> int:
    """This rank's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def here() -> int:
    """How many ranks this machine has."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
