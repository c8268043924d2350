"""What any number of paired differences say, none included. Needs no torch."""

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from paired import Paired
from permutation import least, sign_flip
from power import Plan


@dataclass(frozen=True)
class Effect:
    """Independent paired differences, one a seed: an arm's number less its base's.

    What the differences do not determine is None: everything without a pair; interval, deviation
    and the t test's p with one; everything but n where a difference is not finite (a score that is
    NaN, an epoch that was never reached), since to leave such a pair out would flatter the arm that
    it speaks against. ``interval`` and ``p_t`` are None too where all differences are the same, as
    three seeds of few test samples may have it: they then hold no measure of their own error.
    """

    differences: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.differences)

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, self.differences))

    @cached_property
    def paired(self) -> Paired | None:
        return Paired(self.differences) if self.n > 1 and self.finite else None

    @property
    def mean(self) -> float | None:
        return fmean(self.differences) if self.n and self.finite else None

    @property
    def sd(self) -> float | None:
        """Standard deviation of the differences (n - 1 in the denominator)."""
        return self.paired.spread if self.paired else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % t interval of the mean difference, which is the primary answer."""
        return self.paired.interval(0.95) if self.paired and self.sd else None

    @property
    def p_t(self) -> float | None:
        """Two-sided p of the paired t test; below 0.05 exactly where 0 is outside ``interval``."""
        return self.paired.p_t if self.paired else None

    @cached_property
    def p_permutation(self) -> float | None:
        """Two-sided p over all flips of the signs, which needs no normal distribution."""
        return sign_flip(self.differences) if self.n and self.finite else None

    @property
    def p_least(self) -> float | None:
        """The smallest value that ``p_permutation`` can have for so many pairs."""
        return least(self.n) if self.n else None

    def plan(self, gap: float) -> Plan | None:
        """How many pairs of this spread see a true difference of ``gap``; None without spread."""
        if self.paired is None or not self.paired.spread or not gap:
            return None
        return Plan(gap, self.n, self.paired.spread, self.paired.spread_interval(0.95))
