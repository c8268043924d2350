"""Two cells against each other, paired by seed; and a table of such pairs. Needs no torch.

    base, other = filled[cell_without], filled[cell_with]
    found = compare(base, other)
    found.effect.interval                       the primary answer; None where there is none
    found.race().counts, found.area("train_loss").interval
    pooled(table).effect.interval, holm_t(table)      table: a list of comparisons

A number that the runs do not determine is None, so that a page shows a dash.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from cells import Filled, pairs
from convergence import Race, heights, race
from effect import Effect
from permutation import holm
from pooled import Pooled, pool
from power import Plan

from lrd.runs.store import Run


@dataclass(frozen=True)
class Score:
    """The score that counts: its name in the log, its direction, its unit ("%" or "")."""

    name: str = "score"
    maximize: bool = True
    unit: str = ""


@dataclass(frozen=True)
class Comparison:
    """``other`` against ``base``: every number is the other's less the base's, a pair a seed."""

    base: Filled
    other: Filled
    pairs: tuple[tuple[Run, Run], ...]

    @property
    def n(self) -> int:
        return len(self.pairs)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(base.seed for base, _ in self.pairs)

    @property
    def score(self) -> Score:
        """As the runs have it; a score of no name where there is no pair."""
        return Score(**self.pairs[0][0].record.get("score", {})) if self.pairs else Score()

    @property
    def means(self) -> tuple[float, float] | None:
        """Of the paired runs of each arm, the base first."""
        if not self.pairs:
            return None
        base, other = (sum(run.final for run in arm) for arm in zip(*self.pairs, strict=True))
        return base / self.n, other / self.n

    @property
    def differences(self) -> dict[int, float]:
        """Of the final scores, by seed, in the score's unit."""
        return {base.seed: other.final - base.final for base, other in self.pairs}

    @cached_property
    def effect(self) -> Effect:
        """What they say: mean, deviation, interval, p. Above 0 the other arm's score is higher,
        which is better where the score says ``maximize``."""
        return Effect(tuple(self.differences.values()))

    @property
    def paper(self) -> float | None:
        """The same difference as the paper prints it; None where it prints none."""
        base, other = self.base.cell.paper, self.other.cell.paper
        return None if base is None or other is None else round(other - base, 6)

    def plan(self, gap: float | None = None) -> Plan | None:
        """How many seeds would see ``gap``, the paper's if none is given; None where unknown."""
        gap = self.paper if gap is None else gap
        return None if gap is None else self.effect.plan(gap)

    def race(self, even: bool = False) -> Race:
        """Epochs to the base run's final score, or, if ``even``, to the worse of the pair's two."""
        return race(self.pairs, self.score.name, self.score.maximize, even)

    def areas(self, key: str) -> dict[int, float]:
        """Mean height of the curve of a metric over the epochs, the difference by seed."""
        return dict(zip(self.seeds, heights(self.pairs, key), strict=True))

    def area(self, key: str) -> Effect:
        """What :meth:`areas` say: below 0 the other arm's curve lies lower."""
        return Effect(tuple(self.areas(key).values()))

    @property
    def failed(self) -> tuple[int, ...]:
        """The seeds of runs that failed in either arm, so that no pair has them."""
        runs = (*self.base.failed, *self.other.failed)
        return tuple(sorted({run.seed for run in runs}))


def compare(base: Filled, other: Filled, seeds: Iterable[int] | None = None) -> Comparison:
    """Pair the finished runs of two cells by seed; ``seeds``: these alone, else all there are."""
    return Comparison(base, other, pairs(base, other, seeds))


def pooled(table: Sequence[Comparison]) -> Pooled | None:
    """The mean difference over the table's cells; None where their scores are not of one kind."""
    if len({found.score for found in table if found.n}) > 1:
        return None
    return pool([found.differences for found in table])


def holm_t(table: Sequence[Comparison]) -> list[float | None]:
    """Holm's adjusted p of the t tests, over the table."""
    return holm([found.effect.p_t for found in table])


def holm_permutation(table: Sequence[Comparison]) -> list[float | None]:
    """Holm's adjusted p of the permutation tests, over the table."""
    return holm([found.effect.p_permutation for found in table])
