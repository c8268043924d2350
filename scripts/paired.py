"""Are two settings equivalent: two one-sided t tests (TOST) on paired scores. Needs no torch."""

from dataclasses import dataclass
from math import inf, sqrt
from statistics import fmean, stdev

from scipy import stats


@dataclass(frozen=True)
class Paired:
    """The differences of at least two pairs, taken as normal with an unknown mean and spread."""

    differences: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.differences) > 1

    @property
    def n(self) -> int:
        return len(self.differences)

    @property
    def mean(self) -> float:
        return fmean(self.differences)

    @property
    def spread(self) -> float:
        """Their standard deviation."""
        return stdev(self.differences)

    def interval(self, level: float) -> tuple[float, float]:
        """The t interval of the mean; a point where every difference is the same."""
        half = float(stats.t.ppf((1 + level) / 2, self.n - 1)) * self.spread / sqrt(self.n)
        return self.mean - half, self.mean + half

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
        for n in range(2, 1001):
            shift = margin * sqrt(n) / self.spread
            hit = float(stats.nct.sf(stats.t.ppf(0.95, n - 1), n - 1, shift))
            if 2 * hit - 1 >= power:
                return n
        return None
