"""A table of a study as rows of the page, and the paired differences of its configurations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrd.analysis.comparison import Comparison, compare, pool_comparisons, score_table
from lrd.analysis.matching import CellResults
from lrd.analysis.render import TextTable
from lrd.analysis.report.forest_plot import AxisScale, Estimate, fit_axis
from lrd.analysis.statistics import FEW
from lrd.analysis.studies import CellSpec, TableSpec
from lrd.analysis.tables import LINES, TablePart, over_tasks_blocks, shown_lines

MAX_ACROSS = 12  # columns, up to which the lines of a row are next to each other
DIGITS = 2


@dataclass(frozen=True)
class Grid:
    """A table's texts.

    Attributes:
        across: whether the lines of a row are next to each other, in columns of their own.
        lines: the names of the lines of a row.
        rows: labels, and the lines that have something to show, each with its name.
        more: what table.py prints below: contrasts over tasks, and steps to targets.
    """

    table: TableSpec
    across: bool
    lines: Sequence[str]
    rows: Sequence[tuple[Sequence[str], Sequence[tuple[str, Sequence[str]]]]]
    contrasts: "Contrasts | None"
    more: Sequence[TextTable]


@dataclass(frozen=True)
class Contrast:
    """A difference with p values corrected over the table."""

    estimate: Estimate
    published: float | None
    p_values: Sequence[float | None]  # t, Holm; with enough pairs also sign flip, Holm


@dataclass(frozen=True)
class Contrasts:
    """The differences that have a pair of runs, out of ``n_pairs``, and their pooled mean."""

    rows: Sequence[Contrast]
    n_pairs: int
    pooled: Estimate | None
    scale: AxisScale


def build_grid(part: TablePart) -> Grid:
    """Return a table with the numbers of its runs above the published ones."""
    table, results, _ = part
    names = shown_lines(table)
    across = not table.arms and len(names) * len(table.columns) <= MAX_ACROSS
    rows = []
    for labels, groups in table.rows:
        found = [results[cell] for group in groups for cell in group]
        lines = [(name, [LINES[name](each) for each in found]) for name in names]
        kept = [(name, texts) for name, texts in lines if across or any(texts) or name == "ours"]
        rows.append((labels, kept))
    contrasts = build_contrasts(table, results)
    more = tuple(over_tasks_blocks(part)) if contrasts else ()
    return Grid(table, across, names, rows, contrasts, more)


def build_contrasts(table: TableSpec, results: Mapping[CellSpec, CellResults]) -> Contrasts | None:
    """Return the differences of a table, paired by seed; None if no pair has runs of one seed."""
    pairs = [(p.label, compare(results[p.base], results[p.other])) for p in table.pairs()]
    named = [(label, found) for label, found in pairs if found.n]
    if not named:
        return None
    scores = score_table(dict(named))
    scores = scores.astype(object).where(scores.notna(), None)
    rows, flips = [], any(found.n >= FEW for _, found in named)
    for (label, found), row in zip(named, scores.itertuples(), strict=True):
        numbers: Any = row
        estimate = Estimate(label, found.n, numbers.difference, numbers.low, numbers.high, DIGITS)
        tests = [numbers.p_t, numbers.p_t_holm]
        if flips:
            tests += [numbers.p_permutation, numbers.p_permutation_holm]
        rows.append(Contrast(estimate, found.published, tests))
    estimates = [row.estimate for row in rows]
    ends = [end for e in estimates if (e.n or 0) > 2 for end in (e.low, e.high)]
    pooled = pooled_estimate([found for _, found in named]) if len(table.contrasts) == 1 else None
    return Contrasts(rows, len(pairs), pooled, fit_axis([e.mean for e in estimates], ends))


def pooled_estimate(found: Sequence[Comparison]) -> Estimate | None:
    """Return the pooled mean of two or more comparisons; None if there is none."""
    pooled = pool_comparisons(found)
    if pooled is None or pooled.effect.mean is None or pooled.by_cell.n < 2:
        return None
    low, high = pooled.effect.interval or (None, None)
    label, effect = f"all {pooled.by_cell.n} together", pooled.effect
    return Estimate(label, effect.n, effect.mean, low, high, DIGITS, is_pooled=True)
