"""Learning rate schedules: a factor on every group's initial rate, per step of the run."""

from abc import ABC, abstractmethod
from collections.abc import Sequence


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
