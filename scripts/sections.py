"""The parts of scripts/compare.py's report, as lines of text."""

import math
from collections.abc import Mapping, Sequence

from comparison import Comparison, holm_permutation, holm_t, pooled
from convergence import NEVER, Race
from effect import Effect
from permutation import holm
from pooled import Pooled, pool
from power import LIMIT
from study import Arms

Table = Mapping[str, Comparison]
DASH = "-"


def number(value: float | None, form: str = "z.3f") -> str:
    return DASH if value is None or math.isnan(value) else f"{value:{form}}"


def between(interval: tuple[float, float] | None, form: str = "+z.3f") -> str:
    return DASH if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def chance(p: float | None) -> str:
    """A p-value; of a small one that it is."""
    return DASH if p is None else "<0.0001" if p < 1e-4 else f"{p:.4f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in rows
    ]


def scores(table: Table, arms: Arms) -> list[str]:
    """The final scores: each cell, and all of them."""
    found = list(table.values())
    names = dict.fromkeys(f"{c.score.name} {c.score.unit}".strip() for c in found if c.n)
    heads = ["", "n", *arms, "difference", "95 % interval", "sd", "p (t)", "Holm"]
    rows = [[*heads, "p (flips)", "least", "Holm"]]
    by_t, by_flips = holm_t(found), holm_permutation(found)
    for (name, c), t, flips in zip(table.items(), by_t, by_flips, strict=True):
        means = c.means or (None, None)
        rows += [[name, str(c.n), *map(number, means), *effect(c.effect), chance(t)]]
        rows[-1] += [chance(c.effect.p_permutation), number(c.effect.p_least, ".2g"), chance(flips)]
    lines = [f"Score at the final epoch ({', '.join(names)})", *aligned(rows)]
    everything = pooled(found)
    if everything is None:
        return [*lines, "not pooled: the cells have several scores"]
    return [*lines, *told(everything)]


def effect(found: Effect) -> list[str]:
    """Mean, interval, standard deviation, p of the t test."""
    p = "no spread" if found.sd == 0 else chance(found.p_t)
    return [number(found.mean, "+z.3f"), between(found.interval), number(found.sd), p]


def told(found: Pooled) -> list[str]:
    """The pooled estimate in a sentence; none for one cell."""
    if found.cells < 2 or not found.by_cell.n:
        return []
    mean, interval, _, p = effect(found.effect)
    of = f"{found.by_cell.n} of {found.cells}" if found.by_cell.n < found.cells else found.cells
    flips, least = chance(found.effect.p_permutation), number(found.effect.p_least, ".2g")
    return [
        f"mean of {of} cells, n = {found.effect.n} seeds: {mean}, 95 % interval {interval}, "
        f"p (t) {p}, p (flips) {flips} of at least {least}",
        f"  for cells like these as well: {between(found.interval_beyond)}",
    ]


def convergence(table: Table) -> list[str]:
    """Epochs to a mark, and the heights of curves."""
    lines = ["Epochs until the score is first what the base run of the same seed has at its end"]
    lines += races({name: c.race() for name, c in table.items()})
    lines += ["", "The same to the worse of the pair's two final scores, which both reach"]
    lines += races({name: c.race(even=True) for name, c in table.items()})
    losses = {name: c.areas("train_loss") for name, c in table.items()}
    lines += ["", *heights("train_loss", losses, pooled(list(table.values())) is not None)]
    for key in dict.fromkeys(c.score.name for c in table.values() if c.n):
        cells = {name: c.areas(key) for name, c in table.items() if c.score.name == key}
        lines += ["", *heights(key, cells)]
    return lines


def races(table: Mapping[str, Race]) -> list[str]:
    heads = ["", "n", "reached", "median epochs", "sooner", "same", "later"]
    rows = [[*heads, "difference", "95 % interval", "p (sign)", "least"]]
    for name, race in table.items():
        reached = " / ".join(map(str, race.reached))
        medians = " / ".join(map(epochs, race.medians)) if race.medians else DASH
        mean, interval = number(race.effect.mean, "+z.1f"), between(race.effect.interval, "+z.1f")
        if race.effect.mean is None and race.median_interval:
            mean, interval = "median", " to ".join(map(epochs, race.median_interval))
        rows += [[name, str(race.n), reached, medians, *map(str, race.counts), mean, interval]]
        rows[-1] += [chance(race.p_sign), number(race.effect.p_least, ".2g")]
    net = pool([race.signs for race in table.values()])
    if net.cells < 2 or not net.by_cell.n:
        return aligned(rows)
    share, interval = number(net.effect.mean, "+z.2f"), net.effect.interval
    kept = interval and (max(interval[0], -1.0), min(interval[1], 1.0))
    what = "cells later less cells sooner, as a share of all"
    return [*aligned(rows), f"{what}: {share}, 95 % interval {between(kept, '+z.2f')}"]


def heights(key: str, cells: Mapping[str, Mapping[int, float]], pools: bool = True) -> list[str]:
    """Differences of mean heights by cell and seed; ``pools``: whether a mean over cells is one of
    like things."""
    found = {name: Effect(tuple(area.values())) for name, area in cells.items()}
    rows = [["", "n", "difference", "95 % interval", "sd", "p (t)", "Holm"]]
    adjusted = holm([each.p_t for each in found.values()])
    for (name, each), p in zip(found.items(), adjusted, strict=True):
        rows += [[name, str(each.n), *effect(each), chance(p)]]
    title = f"Mean of {key} over the epochs (the area under its curve, per epoch)"
    return [title, *aligned(rows), *(told(pool(list(cells.values()))) if pools else [])]


def epochs(value: float) -> str:
    return "never" if value == NEVER else f"{value:g}"


def planned(table: Table, gap: float | None) -> list[str]:
    """How many seeds the spread of the pairs asks for."""
    rows = [["", "n", "gap", "sd", "95 % interval of sd", "power of n", "seeds", "at its ends"]]
    for name, found in table.items():
        if plan := found.plan(gap):
            sd, bounds = number(plan.spread), between(plan.bounds, ".3f")
            rows += [[name, str(plan.n), number(plan.gap, "+.2f"), sd, bounds]]
            ends = " to ".join(map(seeds, plan.pairs_range))
            rows[-1] += [number(plan.power, ".2f"), seeds(plan.pairs), ends]
    what = "the paper's gap" if gap is None else f"a difference of {gap:g}"
    lines = [f"Seeds that would show {what} 4 times out of 5 (two-sided, 5 %)"]
    if len(rows) == 1:
        return [*lines, "unknown: it takes a gap (--gap) and two pairs that differ"]
    return [*lines, *aligned(rows)]


def seeds(pairs: int | None) -> str:
    return f">{LIMIT}" if pairs is None else str(pairs)
