"""How far a run is, and what its epoch has summed so far."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lrd.log import Numbers
from lrd.ranks import Ranks
from lrd.task import Batch, Step


@dataclass
class Progress:
    """How far a run is: whole epochs, steps of the next one and of all, and the epoch's sums.

    ``seconds`` of training and, of those, ``waited`` for batches.
    """

    epoch: int = 0
    step: int = 0
    total: int = 0
    samples: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)

    def add(self, step: Step, loss: Tensor, samples: int) -> None:
        """Count one step; float64 sums, kept on the device."""
        for sums, news in ((self.losses, {**step.losses, "loss": loss}), (self.stats, step.stats)):
            for name, value in news.items():
                if name not in sums:
                    sums[name] = torch.zeros((), dtype=torch.float64, device=value.device)
                sums[name] += value.detach()
        self.step += 1
        self.total += 1
        self.samples += samples

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """``batches``, the time that each takes to come counted."""
        rest = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(rest, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def read(self) -> Numbers:
        """The epoch's numbers: losses per batch, their sum over batches, scores per sample."""
        losses = {name: float(total) for name, total in self.losses.items()}
        return {
            "train_loss_sum": losses["loss"],
            **{f"train_{name}": total / self.step for name, total in losses.items()},
            **{f"train_{name}": float(s) / self.samples for name, s in self.stats.items()},
        }

    def over(self, ranks: Ranks) -> "Progress":
        """With the sums of all ``ranks``; every one of them must ask."""
        counted = {"": torch.tensor(self.samples)}
        return replace(
            self,
            samples=int(ranks.summed(counted)[""]),
            losses=ranks.summed(self.losses),
            stats=ranks.summed(self.stats),
        )

    def forget(self) -> None:
        """Begin the sums anew: another rank has them."""
        self.samples = 0
        for total in (*self.losses.values(), *self.stats.values()):
            total.zero_()

    def next_epoch(self) -> None:
        self.__init__(epoch=self.epoch + 1, total=self.total)
