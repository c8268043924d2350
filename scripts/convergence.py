"""Which arm of a pair converges faster, in epochs (claim C2). Needs no torch.

Epochs, so that a faster kernel flatters neither arm. Two answers, both paired by seed:

- The first epoch whose score is at least what the base run of the same seed has at its end. The
  base reaches that by its last epoch, whatever happens; the other arm need not, and then counts as
  later than every epoch. So this one leans towards the base. Against the worse of the two final
  scores both arms reach the mark, and to exchange them changes the sign alone: the even race.
- The mean height of a curve, the area under it by the trapezoid rule over the epochs it spans, in
  the metric's unit. It needs no mark, and no epoch is the first by luck.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from effect import Effect
from scipy import integrate, stats

from lrd.runs.store import Run

NEVER = math.inf
Pairs = Sequence[tuple[Run, Run]]
Curve = Sequence[tuple[int, float]]  # (epoch, value), in order of epochs


@dataclass(frozen=True)
class Race:
    """The first epoch at which each run of a pair reached a mark; NEVER where it did not.

    The difference between never and an epoch is unknown, but not who was first: the sign test
    stands that, and means and t intervals (``effect``) are None then.
    """

    seeds: tuple[int, ...]
    base: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.seeds)

    @property
    def reached(self) -> tuple[int, int]:
        """How many runs of each arm reached the mark at all."""
        return sum(map(math.isfinite, self.base)), sum(map(math.isfinite, self.other))

    @property
    def medians(self) -> tuple[float, float] | None:
        """The median epoch of each arm; NEVER where half of the runs did not reach the mark."""
        return (median(self.base), median(self.other)) if self.n else None

    @property
    def signs(self) -> dict[int, int]:
        """By seed: -1 where the other arm was first, 1 where the base was, 0 for the same epoch."""
        pairs = zip(self.seeds, self.base, self.other, strict=True)
        return {seed: (other > base) - (other < base) for seed, base, other in pairs}

    @property
    def counts(self) -> tuple[int, int, int]:
        """Pairs in which the other arm was sooner, as soon, later."""
        signs = list(self.signs.values())
        return signs.count(-1), signs.count(0), signs.count(1)

    @property
    def p_sign(self) -> float | None:
        """Two-sided p of the exact sign test; pairs of the same epoch do not count."""
        sooner, _, later = self.counts
        if not sooner + later:
            return 1.0 if self.n else None
        return float(stats.binomtest(sooner, sooner + later).pvalue)

    @property
    def effect(self) -> Effect:
        """Epochs more that the other arm needs (below 0: it is faster)."""
        return Effect(tuple(o - b for b, o in zip(self.base, self.other, strict=True)))

    @property
    def median_interval(self) -> tuple[float, float] | None:
        """The distribution-free 95 % interval of the median difference, which stands NEVER.

        None below six pairs, which determine none, and where neither run of a pair got there.
        """
        differences = self.effect.differences
        if self.n < 6 or any(map(math.isnan, differences)):
            return None
        found = stats.quantile_test(differences, p=0.5).confidence_interval(0.95)
        return float(found.low), float(found.high)


def curve(run: Run, key: str) -> Curve:
    """A metric by epoch, at the epochs that have it."""
    lines = [line for line in run.metrics if isinstance(line.get(key), int | float)]
    return [(line["epoch"], float(line[key])) for line in lines]


def first_reached(points: Curve, mark: float, maximize: bool) -> float:
    """The first epoch whose value is at least ``mark`` (at most, if not ``maximize``), or NEVER.

    NaN reaches nothing and is reached by nothing.
    """
    for epoch, value in points:
        if value >= mark if maximize else value <= mark:
            return epoch
    return NEVER


def height(points: Curve) -> float:
    """The mean height of a curve: the area under it over its span; NaN without a point."""
    if not points:
        return math.nan
    epochs, values = zip(*points, strict=True)
    if len(points) == 1:
        return values[0]
    return float(integrate.trapezoid(values, epochs)) / (epochs[-1] - epochs[0])


def race(pairs: Pairs, key: str, maximize: bool, even: bool = False) -> Race:
    """To the base run's final score, or, if ``even``, to the worse of the pair's two."""
    firsts: list[tuple[float, float]] = []
    for base, other in pairs:
        mark = base.final
        if even and (math.isnan(other.final) or (other.final < mark) == maximize):
            mark = other.final
        first, second = (first_reached(curve(run, key), mark, maximize) for run in (base, other))
        firsts.append((first, second))
    seeds = tuple(base.seed for base, _ in pairs)
    return Race(seeds, tuple(b for b, _ in firsts), tuple(o for _, o in firsts))


def heights(pairs: Pairs, key: str) -> list[float]:
    """By how much the other arm's curve of ``key`` lies higher than the base's, pair by pair."""
    return [height(curve(other, key)) - height(curve(base, key)) for base, other in pairs]
