"""Schedules, per step of the run: a factor on every group's initial rate; the keep probability."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass


class Schedule(ABC):
    @abstractmethod
    def __call__(self, step: int, total: int) -> float:
        """The factor for ``step`` (from 0) of a run of ``total`` steps."""


class Constant(Schedule):
    """No decay (paper: MNIST)."""

    def __call__(self, step: int, total: int) -> float:
        return 1.0


class Steps(Schedule):
    """Times ``gamma`` at each milestone, a fraction of the run (paper: CIFAR, 1/2 and 3/4)."""

    def __init__(self, milestones: Sequence[float] = (0.5, 0.75), gamma: float = 0.1) -> None:
        if any(not 0 < m < 1 for m in milestones):
            raise ValueError(
                f"schedule.milestones must be fractions of the run in (0, 1), "
                f"got {list(milestones)}: epoch 100 of 200 is 0.5"
            )
        self.milestones, self.gamma = sorted(milestones), gamma

    def __call__(self, step: int, total: int) -> float:
        return self.gamma ** sum(step >= round(m * total) for m in self.milestones)


class Poly(Schedule):
    """``(1 - step / total) ** power`` (PSPNet: 0.9)."""

    def __init__(self, power: float = 0.9) -> None:
        if power <= 0:
            raise ValueError(f"schedule.power must be above 0, got {power}")
        self.power = power

    def __call__(self, step: int, total: int) -> float:
        return max(0.0, 1 - step / total) ** self.power


# How far p has come from its first value to its last, x of the run being done.
RAMPS: dict[str, Callable[[float], float]] = {
    "constant": lambda x: 0.0,
    "linear": lambda x: x,
    "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
}


@dataclass(frozen=True)
class KeepProbability:
    """p over a run: ``p_t = p + (p_end - p) ramp(t / T)``, constant in the paper.

    T is the run's number of steps: the first one (t = 0) has ``p``, and ``p_end`` is reached after
    the last one. A function of t alone, so a resume needs no state. A parameter group with a p of
    its own keeps it.
    """

    p: float
    p_end: float = 1.0
    schedule: str = "constant"

    def __call__(self, step: int, total: int) -> float:
        """p of ``step`` (from 0) of a run of ``total`` steps."""
        return self.p + (self.p_end - self.p) * RAMPS[self.schedule](step / total)
