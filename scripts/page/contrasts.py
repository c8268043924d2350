"""One cell of a table less another, paired by seed: with LRD less without, in most of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cells import Filled
from comparison import Comparison, compare, holm_permutation, holm_t, pooled
from power import Plan
from sections import seeds
from tabular import Cell, Table

from page.answers import Estimate
from page.intervals import Ruler, ruler

DIGITS = 2


@dataclass(frozen=True)
class Contrast:
    """A comparison, its p values corrected over the table, and the seeds that it would take."""

    estimate: Estimate
    paper: float | None
    p: float | None
    p_holm: float | None
    p_flip: float | None
    p_flip_holm: float | None
    p_least: float | None
    seeds: str


@dataclass(frozen=True)
class Contrasts:
    """Those that have a pair, of ``asked``; ``joint``: all of them pooled, where their scores are
    of one kind."""

    rows: tuple[Contrast, ...]
    asked: int
    joint: Estimate | None
    ruler: Ruler

    @property
    def printed(self) -> bool:
        """Whether the paper prints any of these differences."""
        return any(row.paper is not None for row in self.rows)


def contrasts(table: Table, filled: Mapping[Cell, Filled]) -> Contrasts | None:
    """None where no pair of cells has runs of the same seed."""
    asked = [(label, compare(filled[a], filled[b])) for label, a, b in pairs(table)]
    named = [(label, comparison) for label, comparison in asked if comparison.n]
    found = [comparison for _, comparison in named]
    if not found:
        return None
    adjusted = zip(named, holm_t(found), holm_permutation(found), strict=True)
    rows = tuple(_contrast(label, c, t, flip) for (label, c), t, flip in adjusted)
    joint = None if table.contrasts else _joint(found)
    ends = [e for r in rows if (r.estimate.n or 0) > 2 for e in (r.estimate.low, r.estimate.high)]
    return Contrasts(rows, len(asked), joint, ruler([r.estimate.mean for r in rows], ends))


def pairs(table: Table) -> list[tuple[str, Cell, Cell]]:
    """The table's contrasts of every row; where it names none, the two arms of every group."""
    found = []
    for labels, groups in table.rows:
        row = [cell for group in groups for cell in group]
        there = [(name, row[base], row[other]) for name, base, other in table.contrasts]
        for column, group in zip(table.columns, groups, strict=True):
            if not table.contrasts and len(group) == 2:
                there.append((column, *group))
        found += [(", ".join([*labels, name]), base, other) for name, base, other in there]
    return found


def _contrast(label: str, of: Comparison, t: float | None, flip: float | None) -> Contrast:
    effect = of.effect
    low, high = effect.interval or (None, None)
    return Contrast(
        Estimate(label, of.n, effect.mean, low, high, DIGITS),
        of.paper,
        effect.p_t,
        t,
        effect.p_permutation,
        flip,
        effect.p_least,
        _seeds(of.plan()),
    )


def _seeds(plan: Plan | None) -> str:
    """How many show the paper's gap 4 times out of 5, and how well that is known."""
    if plan is None:
        return ""
    least, most = map(seeds, plan.pairs_range)
    return f"{seeds(plan.pairs)} ({least} to {most})"


def _joint(found: Sequence[Comparison]) -> Estimate | None:
    there = pooled(found)
    if there is None or there.effect.mean is None or there.by_cell.n < 2:
        return None
    low, high = there.effect.interval or (None, None)
    label = f"all {there.by_cell.n} together"
    return Estimate(label, there.effect.n, there.effect.mean, low, high, DIGITS, pooled=True)
