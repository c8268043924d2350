"""How many pairs it takes to see a difference: the power of the paired t test. Needs no torch."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from scipy import stats

LIMIT = 1000  # pairs, above which it is only said that there would have to be more


def power(n: int, gap: float, spread: float, level: float = 0.05) -> float:
    """The chance that n >= 2 pairs show a true mean difference of ``gap``, two-sided at ``level``.

    ``spread``: standard deviation of the differences, above 0. The square of t is noncentral F,
    which has both tails in one. At a noncentrality of 0 and from 1e15 scipy errs.
    """
    critical, shift = stats.f.isf(level, 1, n - 1), n * (gap / spread) ** 2
    return float(stats.ncf.sf(critical, 1, n - 1, min(max(shift, 1e-12), 1e6)))


def pairs_needed(gap: float, spread: float, aim: float = 0.8) -> int | None:
    """The fewest pairs that see ``gap`` with at least the power ``aim``; None above 1000."""
    return fewest(lambda n: power(n, gap, spread), aim)


def fewest(power_of: Callable[[int], float], aim: float) -> int | None:
    """The fewest pairs, from 2, whose power reaches ``aim``; None above 1000. It grows with n."""
    n = 2 + bisect_left(range(2, LIMIT + 1), aim, key=power_of)
    return n if n <= LIMIT else None


@dataclass(frozen=True)
class Plan:
    """What ``n`` pairs and their observed ``spread`` say about seeing a true difference of ``gap``.

    ``bounds``: the 95 % interval of the spread. At n = 3 its upper end is 12 times its lower one:
    a number of seeds planned from three is hardly known, and ``pairs_range`` says how badly.
    """

    gap: float
    n: int
    spread: float
    bounds: tuple[float, float]

    @property
    def power(self) -> float:
        """The chance that these n pairs had of showing the gap."""
        return power(self.n, self.gap, self.spread)

    @property
    def pairs(self) -> int | None:
        """The fewest pairs that show it 4 times out of 5; None above 1000."""
        return pairs_needed(self.gap, self.spread)

    @property
    def pairs_range(self) -> tuple[int | None, int | None]:
        """The same at both ends of the spread's interval."""
        low, high = self.bounds
        return pairs_needed(self.gap, low), pairs_needed(self.gap, high)
