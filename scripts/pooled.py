"""One estimate over the cells of a table, for claims about all of them. Needs no torch.

Every cell takes the same seeds, and a seed fixes where all optimizers start, the order of the data,
its augmentation and LRD's masks. So the differences of one seed in several cells may go together,
and five cells of three seeds are no fifteen independent pairs: a t interval over all of them would
be too short. The seeds are independent draws. So the cells are averaged within each seed first, and
the t interval is over seeds (a summary per block, as in Matthews et al., BMJ 300, 1990, 230; its t
is the square root of a repeated-measures analysis of variance's F for the arm). It assumes nothing
about how cells depend on one another, and weighs them equally: the inverse variances of a
meta-analysis would be estimates from three pairs each. What it is about are these very cells.

A claim about other optimizers and data sets takes the cells for a sample too. Its variance is that
over seeds and that over cells together (the min F' of Clark, Journal of Verbal Learning and Verbal
Behavior 12, 1973, 335, for two crossed samples), with Satterthwaite's degrees of freedom. What both
hold of the interaction counts twice, so that this interval is rather too long than too short; and
it is never shorter than the one over seeds alone, as more degrees of freedom could make it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from effect import Effect
from scipy import stats


@dataclass(frozen=True)
class Pooled:
    """The mean difference over a table's cells, in the unit of the differences.

    ``effect``: one difference a seed, the mean over the cells; its interval is the primary one.
    ``by_cell``: of the same pairs, one a cell. ``seeds``: those that every cell has. ``cells``: of
    how many cells; those without a pair are left out of the rest.
    """

    effect: Effect
    by_cell: Effect
    seeds: tuple[int, ...]
    cells: int

    @property
    def interval_beyond(self) -> tuple[float, float] | None:
        """The 95 % interval for cells like these and further seeds; None below two of either, or
        without spread."""
        if self.effect.paired is None or self.by_cell.paired is None:
            return None
        parts = [(p.spread**2 / p.n, p.n - 1) for p in (self.effect.paired, self.by_cell.paired)]
        total = sum(part for part, _ in parts)
        if not total:
            return None
        degrees = total**2 / sum(part**2 / free for part, free in parts)
        half = float(stats.t.ppf(0.975, degrees)) * sqrt(total)
        mean, (low, high) = self.effect.paired.mean, self.effect.paired.interval(0.95)
        return min(mean - half, low), max(mean + half, high)


def pool(table: Sequence[Mapping[int, float]]) -> Pooled:
    """Pool the differences of a table, whose cells each have theirs by seed."""
    there = [cell for cell in table if cell]
    seeds = sorted(set.intersection(*map(set, there))) if there else []
    by_seed = tuple(_mean(cell[seed] for cell in there) for seed in seeds)
    by_cell = tuple(_mean(cell[seed] for seed in seeds) for cell in there if seeds)
    return Pooled(Effect(by_seed), Effect(by_cell), tuple(seeds), len(table))


def _mean(values: Iterable[float]) -> float:
    """Not finite where a value is not; fmean would raise."""
    kept = list(values)
    return sum(kept) / len(kept)
