"""Statistics of paired differences: intervals, tests, sample sizes and pooled estimates.

A number that the data do not determine is None. scipy and statsmodels compute what they know; they
are imported where they are used, so that a command starts fast. What a page asks of scipy is in
scipy.special, which loads in a quarter of the time of scipy.stats.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import inf, sqrt
from statistics import fmean, stdev
from typing import Any

import numpy as np

Interval = tuple[float, float]
EXACT = 20  # up to so many pairs all 2^n sign flips are counted
RESAMPLES = 99_999
ROUNDING = 1e-9  # relative: the last digits that the subtraction of two scores may leave
PAIRS_LIMIT = 1000  # above which no number of pairs is given
FEW = 8  # pairs, below which a permutation test or a plan by their own spread says nothing


def half_width(samples: Any, level: float = 0.95) -> Any:
    """Return half of the t interval of the mean over the first axis, which has two or more."""
    n = len(samples)
    return _t_quantile((1 + level) / 2, n - 1) * np.std(samples, axis=0, ddof=1) / sqrt(n)


@cache
def _t_quantile(share: float, degrees: float) -> float:
    from scipy import special

    return float(special.stdtrit(degrees, share))


@dataclass(frozen=True)
class PairedDifferences:
    """Independent paired differences, one a seed: an arm's number minus its base's.

    Everything but n is None where a difference is not finite (a score that is NaN, an epoch that
    was never reached): to leave such a pair out would flatter the arm that it speaks against.
    ``interval`` and ``p_t`` are None too where all differences are the same, as three seeds of few
    test samples may have it: they then hold no measure of their own error.
    """

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @cached_property
    def is_finite(self) -> bool:
        return all(map(math.isfinite, self.values))

    @property
    def mean(self) -> float | None:
        return fmean(self.values) if self.n and self.is_finite else None

    @cached_property
    def sd(self) -> float | None:
        """Standard deviation (n - 1 in the denominator); 0 where only the last digits differ."""
        if self.n < 2 or not self.is_finite:
            return None
        found = stdev(self.values)
        return found if found > ROUNDING * max(map(abs, self.values)) else 0.0

    def t_interval(self, level: float) -> Interval | None:
        """Return the t interval of the mean; a point where every difference is the same."""
        if self.mean is None or self.sd is None:
            return None
        half = float(half_width(self.values, level)) if self.sd else 0.0
        return self.mean - half, self.mean + half

    @property
    def interval(self) -> Interval | None:
        """The 95 % t interval of the mean difference, which is the primary answer."""
        return self.t_interval(0.95) if self.sd else None

    @property
    def p_t(self) -> float | None:
        """Two-sided p of the paired t test; below 0.05 exactly where 0 is outside ``interval``."""
        from scipy import special

        if not self.sd or self.mean is None:
            return None
        t = self.mean / (self.sd / sqrt(self.n))
        return float(2 * special.stdtr(self.n - 1, -abs(t)))

    @cached_property
    def p_permutation(self) -> float | None:
        """Two-sided p of the sign-flip permutation test, which needs no normal distribution."""
        return sign_flip(self.values) if self.n and self.is_finite else None

    @property
    def smallest_p(self) -> float | None:
        """The smallest p that ``p_permutation`` can attain with so many pairs."""
        return smallest_attainable_p(self.n) if self.n else None

    def equivalence_p(self, margin: float) -> float | None:
        """Return the larger p of the t tests against mean <= -margin and mean >= margin
        (Schuirmann, 1987).

        Below 0.05 exactly where the 90 % interval lies inside +-margin. None where all differences
        are the same: without spread they show nothing.
        """
        from statsmodels.stats.weightstats import DescrStatsW

        if not self.sd:
            return None
        return float(DescrStatsW(self.values).ttost_mean(-margin, margin)[0])

    def pairs_for_equivalence(self, margin: float, aim: float = 0.8) -> int | None:
        """Return how many pairs of this sd show equivalence with the power ``aim`` where the true
        means are equal; None above PAIRS_LIMIT or without a standard deviation.

        Each test misses with the noncentral t's probability, and both succeed unless one misses.
        """
        from scipy import stats

        def power_of(n: int) -> float:
            shift = margin * sqrt(n) / self.sd if self.sd else inf
            return 2 * float(stats.nct.sf(stats.t.ppf(0.95, n - 1), n - 1, shift)) - 1

        return fewest_pairs(power_of, aim) if self.sd else None

    def sd_interval(self, level: float) -> Interval | None:
        """Return the interval of the standard deviation: (n - 1) of its square over the true one is
        chi-squared."""
        from scipy import stats

        if self.sd is None:
            return None
        squares, degrees = (self.n - 1) * self.sd**2, self.n - 1
        low, high = (float(stats.chi2.ppf((1 + s * level) / 2, degrees)) for s in (1, -1))
        return sqrt(squares / low), sqrt(squares / high)

    def plan(self, gap: float) -> "SampleSize | None":
        """Return how many pairs of this sd show a true difference of ``gap``; None without sd."""
        bounds = self.sd_interval(0.95)
        return SampleSize(gap, self.n, self.sd, bounds) if self.sd and gap and bounds else None


@dataclass(frozen=True)
class SampleSize:
    """How many pairs of the standard deviation of ``n`` pairs show a true difference ``gap``.

    ``bounds``: the 95 % interval of the standard deviation. At n = 3 its upper end is 12 times its
    lower one: a number of seeds planned from three says nothing, as ``pairs_range`` shows.
    """

    gap: float
    n: int
    sd: float
    bounds: Interval

    @property
    def pairs(self) -> int | None:
        """The fewest pairs that show it 4 times out of 5; None above PAIRS_LIMIT."""
        return pairs_needed(self.gap, self.sd)

    @property
    def pairs_range(self) -> tuple[int | None, int | None]:
        """The same at both ends of the standard deviation's interval."""
        low, high = self.bounds
        return pairs_needed(self.gap, low), pairs_needed(self.gap, high)


def power(n: int, gap: float, sd: float, level: float = 0.05) -> float:
    """Return the chance that n >= 2 pairs show a true mean difference of ``gap``, two-sided at
    ``level``, where the differences have the standard deviation ``sd``."""
    from scipy import stats

    # The square of t is noncentral F, which has both tails in one. statsmodels' TTestPower adds the
    # tails of scipy's noncentral t, which is NaN far out, as at n = 5 and a noncentrality of 30.
    critical, shift = stats.f.isf(level, 1, n - 1), n * (gap / sd) ** 2
    return float(stats.ncf.sf(critical, 1, n - 1, min(max(shift, 1e-12), 1e6)))


def pairs_needed(gap: float, sd: float, aim: float = 0.8) -> int | None:
    """Return the fewest pairs that show ``gap`` with at least the power ``aim``."""
    return fewest_pairs(lambda n: power(n, gap, sd), aim)


def fewest_pairs(power_of: Callable[[int], float], aim: float) -> int | None:
    """Return the fewest pairs, from 2, whose power reaches ``aim``; None above PAIRS_LIMIT."""
    n = 2 + bisect_left(range(2, PAIRS_LIMIT + 1), aim, key=power_of)
    return n if n <= PAIRS_LIMIT else None


def sign_flip(differences: Sequence[float]) -> float:
    """Return the two-sided p that the differences are as likely as their negatives.

    The share of the 2^n ways to flip their signs that bring the sum at least as far from 0 as it is
    (Fisher, The Design of Experiments, 1935, section 21). It assumes independent pairs and nothing
    of their distribution. Sums that agree up to floating-point error are ties, which count:
    accuracies are multiples of one sample's share, so that ties are frequent, and scipy's test
    counts equal floats alone. Above 20 pairs 99,999 flips are sampled, from a fixed seed.

    Returns:
        p; 1 where no pair differs.
    """
    x = np.asarray(differences, dtype=np.float64)
    if x.size > EXACT:
        from scipy import stats

        options = {"permutation_type": "samples", "vectorized": True, "batch": 1000, "rng": 0}
        found: Any = stats.permutation_test((x,), np.sum, n_resamples=RESAMPLES, **options)
        return float(found.pvalue)
    sums = np.zeros(1)
    for difference in x:
        sums = np.concatenate([sums + difference, sums - difference])
    reached = np.abs(sums) >= abs(x.sum()) - ROUNDING * np.abs(x).sum()
    return float(np.mean(reached))


def smallest_attainable_p(n: int) -> float:
    """Return the smallest p of a sign-flip test: 2 / 2^n, which is 0.25 for n = 3."""
    return min(1.0, 2.0 ** (1 - n)) if n <= EXACT else 2 / (RESAMPLES + 1)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p for each test of a family (Scand. J. Stat. 6, 1979).

    To call those below 5 % an effect errs, in the whole family, at most 5 times out of 100, however
    the tests depend on one another. A test without a p stays without, and is not of the family.
    """
    # Not by statsmodels' multipletests, which runs the garbage collector at every call.
    known = [i for i, p in enumerate(p_values) if p is not None and not math.isnan(p)]
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(known, key=lambda i: p_values[i] or 0.0)):
        largest = max(largest, min(1.0, (len(known) - rank) * (p_values[i] or 0.0)))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class Pooled:
    """The mean difference over the configurations of a table.

    Every configuration takes the same seeds, and a seed fixes the initial weights, the order of the
    data, its augmentation and LRD's masks. So the differences of one seed may go together, and five
    configurations of three seeds are no fifteen independent pairs: a t interval over all of them
    would be too short. The seeds are independent. So the configurations are averaged within each
    seed first, and the t interval is over seeds (a summary per block, as in Matthews et al., BMJ
    300, 1990, 230; its t is the square root of a repeated-measures analysis of variance's F for the
    arm). It assumes nothing about how configurations depend on one another, and weighs them
    equally: the inverse variances of a meta-analysis would be estimates from three pairs each.

    ``effect``: one difference a seed, the mean over the configurations; its interval is the
    primary one. ``by_cell``: of the same pairs, one a configuration. ``seeds``: those that every
    configuration has. ``cells``: of how many; those without a pair are left out of the rest.
    """

    effect: PairedDifferences
    by_cell: PairedDifferences
    seeds: tuple[int, ...]
    cells: int

    @property
    def mixed_effects_interval(self) -> Interval | None:
        """The 95 % interval for further seeds and further configurations like these.

        It takes the configurations for a sample too. Its variance is that over seeds and that over
        configurations together (the min F' of Clark, Journal of Verbal Learning and Verbal Behavior
        12, 1973, 335, for two crossed samples), with Satterthwaite's degrees of freedom. What both
        hold of the interaction counts twice, so that the interval is rather too long than too
        short; it is never shorter than the one over seeds alone. None below two seeds or
        configurations, or without a standard deviation.
        """
        interval, parts = self.effect.t_interval(0.95), []
        for each in (self.effect, self.by_cell):
            if each.sd is None:
                return None
            parts.append((each.sd**2 / each.n, each.n - 1))
        total = sum(part for part, _ in parts)
        if not total or interval is None:
            return None
        degrees = total**2 / sum(part**2 / free for part, free in parts)
        half = _t_quantile(0.975, degrees) * sqrt(total)
        mean, (low, high) = fmean(self.effect.values), interval
        return min(mean - half, low), max(mean + half, high)


def pool(table: Sequence[Mapping[int, float]]) -> Pooled:
    """Pool the differences of a table, whose configurations each have theirs by seed."""
    members = [cell for cell in table if cell]
    seeds = sorted(set.intersection(*map(set, members))) if members else []
    by_seed = tuple(_mean(cell[seed] for cell in members) for seed in seeds)
    by_cell = tuple(_mean(cell[seed] for seed in seeds) for cell in members if seeds)
    return Pooled(PairedDifferences(by_seed), PairedDifferences(by_cell), tuple(seeds), len(table))


def _mean(values: Iterable[float]) -> float:
    """Return the mean, which is not finite where a value is not; fmean would raise."""
    kept = list(values)
    return sum(kept) / len(kept)
