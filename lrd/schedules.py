"""Schedules over the steps of a run: of the learning rate, and of the keep probability."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass


class Schedule(ABC):
    """Base of learning rate schedules."""

    @abstractmethod
    def __call__(self, step: int, total: int) -> float:
        """Return the factor on every group's initial learning rate for ``step`` (from 0) of
        ``total``."""


class Constant(Schedule):
    """No decay (paper: MNIST)."""

    def __call__(self, step: int, total: int) -> float:
        return 1.0


class Warmup(Schedule):
    """Rise linearly to the full learning rate in the first ``warmup`` of the run, then stay.

    Of w = round(warmup * total) steps the first has 1/w of the learning rate and the last all.
    """

    def __init__(self, warmup: float = 0.05) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(
                f"schedule.warmup must be a fraction of the run in [0, 1), got {warmup}: "
                "5 epochs of 100 are 0.05"
            )
        self.fraction = warmup

    def __call__(self, step: int, total: int) -> float:
        return min(1.0, (step + 1) / max(1, self.steps(total)))

    def steps(self, total: int) -> int:
        """Return how many steps of ``total`` it takes."""
        return round(self.fraction * total)


class Steps(Schedule):
    """Multiply by ``gamma`` at each milestone, a fraction of the run (CIFAR: 1/2 and 3/4), and in
    the beginning by a linear :class:`Warmup`."""

    def __init__(
        self, milestones: Sequence[float] = (0.5, 0.75), gamma: float = 0.1, warmup: float = 0.0
    ) -> None:
        if any(not 0 < m < 1 for m in milestones):
            raise ValueError(
                f"schedule.milestones must be fractions of the run in (0, 1), "
                f"got {list(milestones)}: epoch 100 of 200 is 0.5"
            )
        self.milestones, self.gamma = sorted(milestones), gamma
        self.warmup = Warmup(warmup)

    def __call__(self, step: int, total: int) -> float:
        passed = sum(step >= round(m * total) for m in self.milestones)
        return self.gamma**passed * self.warmup(step, total)


class Poly(Schedule):
    """``(1 - step / total) ** power`` (PSPNet: 0.9), times a linear :class:`Warmup`."""

    def __init__(self, power: float = 0.9, warmup: float = 0.0) -> None:
        if power <= 0:
            raise ValueError(f"schedule.power must be above 0, got {power}")
        self.power, self.warmup = power, Warmup(warmup)

    def __call__(self, step: int, total: int) -> float:
        return max(0.0, 1 - step / total) ** self.power * self.warmup(step, total)


class Cosine(Schedule):
    """Fall from the full learning rate to ``floor`` of it by half a period of the cosine, after a
    linear :class:`Warmup` (Loshchilov and Hutter, 2017, without restarts)."""

    def __init__(self, warmup: float = 0.0, floor: float = 0.0) -> None:
        self.warmup = Warmup(warmup)
        if not 0 <= floor <= 1:
            raise ValueError(f"schedule.floor must be in [0, 1], got {floor}")
        self.floor = floor

    def __call__(self, step: int, total: int) -> float:
        first = self.warmup.steps(total)
        if step < first:
            return self.warmup(step, total)
        x = (step - first) / max(1, total - first)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * x)) / 2


# The progress of p from its first value to its last, by the fraction x of the run.
RAMPS: dict[str, Callable[[float], float]] = {
    "constant": lambda x: 0.0,
    "linear": lambda x: x,
    "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
}


@dataclass(frozen=True)
class PSchedule:
    """The keep probability over a run: ``p_t = p + (p_end - p) ramp(t / T)``, constant in the
    paper.

    T is the run's number of steps: step 0 has ``p``, and ``p_end`` is reached after the last step.
    A function of t alone, so a resume needs no state. A parameter group with its own p keeps it.
    """

    p: float
    p_end: float = 1.0
    schedule: str = "constant"

    @property
    def smallest(self) -> float:
        """The smallest p of a run."""
        return self.p if self.schedule == "constant" else min(self.p, self.p_end)

    def __call__(self, step: int, total: int) -> float:
        """Return p of ``step`` (from 0) of a run of ``total`` steps."""
        return self.p + (self.p_end - self.p) * RAMPS[self.schedule](step / total)
