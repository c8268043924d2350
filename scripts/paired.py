"""Paired scores: the t interval of their mean difference, and equivalence (TOST). No torch."""

import math
from dataclasses import dataclass
from math import inf, sqrt
from statistics import fmean, stdev

from permutation import ROUNDING
from power import fewest
from scipy import stats


@dataclass(frozen=True)
class Paired:
    """The finite differences of at least two pairs, taken as normal with an unknown mean and
    spread."""

    differences: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.differences) > 1 and all(map(math.isfinite, self.differences))

    @property
    def n(self) -> int:
        return len(self.differences)

    @property
    def mean(self) -> float:
        return fmean(self.differences)

    @property
    def spread(self) -> float:
        """Their standard deviation; 0 where they differ in the last digits alone."""
        found = stdev(self.differences)
        return found if found > ROUNDING * max(map(abs, self.differences)) else 0.0

    def interval(self, level: float) -> tuple[float, float]:
        """The t interval of the mean; a point where every difference is the same."""
        half = float(stats.t.ppf((1 + level) / 2, self.n - 1)) * self.spread / sqrt(self.n)
        return self.mean - half, self.mean + half

    def spread_interval(self, level: float) -> tuple[float, float]:
        """The interval of the spread: (n - 1) of its squares over the true one is chi-squared."""
        squares, degrees = (self.n - 1) * self.spread**2, self.n - 1
        low, high = (float(stats.chi2.ppf((1 + s * level) / 2, degrees)) for s in (1, -1))
        return sqrt(squares / low), sqrt(squares / high)

    @property
    def p_t(self) -> float | None:
        """Two-sided p of the t test that the true mean is 0; None without spread."""
        if not self.spread:
            return None
        return 2 * float(stats.t.sf(abs(self.mean) * sqrt(self.n) / self.spread, self.n - 1))

    def p_value(self, margin: float) -> float:
        """The larger p of the tests against mean <= -margin and mean >= margin (Schuirmann, 1987).

        Below 0.05 exactly where the 90 % interval lies inside +-margin; 0 or 1 without spread.
        """
        inside, error = margin - abs(self.mean), self.spread / sqrt(self.n)
        t = inside / error if error else (inf if inside > 0 else -inf)
        return float(stats.t.sf(t, self.n - 1))

    def pairs_needed(self, margin: float, power: float = 0.8) -> int | None:
        """How many pairs of this spread show equivalence with at least that ``power`` where the
        true means are equal; None above 1000. Each test misses with the noncentral t's probability,
        and both succeed unless one misses."""

        def power_of(n: int) -> float:
            shift = margin * sqrt(n) / self.spread
            hit = float(stats.nct.sf(stats.t.ppf(0.95, n - 1), n - 1, shift))
            return 2 * hit - 1

        return fewest(power_of, power)
