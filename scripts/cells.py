"""Which runs fill a cell: those whose resolved configuration equals the experiment's."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from composed import identity_of
from layout import Cell
from scipy import stats

from lrd.config.fingerprint import diff_identities, fingerprint
from lrd.runs.store import Run, find_runs


@dataclass(frozen=True)
class Filled:
    """A cell with the final scores of its finished runs, one a seed, and with those that failed.

    Where a run failed because its loss was not finite any more, a mean over the others flatters.
    """

    cell: Cell
    identity: dict[str, Any]
    runs: tuple[Run, ...]
    failed: tuple[Run, ...] = ()

    @property
    def n(self) -> int:
        return len(self.runs)

    @property
    def mean(self) -> float | None:
        return sum(r.final for r in self.runs) / self.n if self.runs else None

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds (n - 1 in the denominator); None below two runs."""
        return float(np.std([r.final for r in self.runs], ddof=1)) if self.n > 1 else None

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % t interval of the mean over seeds; None below two runs."""
        return float(half_width([r.final for r in self.runs])) if self.n > 1 else None


def pairs(
    first: Filled, second: Filled, seeds: Iterable[int] | None = None
) -> tuple[tuple[Run, Run], ...]:
    """The runs of both cells that have the same seed, in its order; ``seeds``: these alone."""
    ours, theirs = ({run.seed: run for run in cell.runs} for cell in (first, second))
    both = ours.keys() & theirs.keys()
    asked = sorted(both) if seeds is None else seeds
    return tuple((ours[seed], theirs[seed]) for seed in asked if seed in both)


def half_width(samples: Any) -> Any:
    """Half of the 95 % t interval of the mean over the first axis, which has two or more."""
    return stats.t.ppf(0.975, len(samples) - 1) * stats.sem(samples)


def tell(filled: Sequence[Filled], commands: Sequence[str], what: str, root: str) -> None:
    """On stderr: the commands by which ``what`` is filled, and what there is if nothing matches."""
    if commands:
        print(f"\n{what}:", *commands, sep="\n  ", file=sys.stderr)
    if not any(f.n for f in filled):
        there = others(filled, root) or ["none that finished"]
        print(f"\nno run under {root} matches; there are:", *there, sep="\n  ", file=sys.stderr)


@cache
def wanted(cell: Cell, overrides: tuple[str, ...]) -> dict[str, Any]:
    """The identity that ``cell`` asks for, under further overrides of the user's."""
    return identity_of([f"+experiment={cell.experiment}", *cell.overrides, *overrides])


def fill(cells: Sequence[Cell], root: str, overrides: Sequence[str]) -> dict[Cell, Filled]:
    """Every cell with its runs under ``root``."""
    found: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in find_runs(root):
        if run.status in ("finished", "failed"):
            found[run.fingerprint, run.status].append(run)
    filled = {}
    for cell in cells:
        asked = wanted(cell, tuple(overrides))
        by_seed = []
        for status in ("finished", "failed"):
            runs = {run.seed: run for run in found[fingerprint(asked), status]}
            by_seed.append(tuple(runs[seed] for seed in sorted(runs)))
        filled[cell] = Filled(cell, asked, *by_seed)
    return filled


def others(filled: Sequence[Filled], root: str) -> list[str]:
    """What there is instead: finished runs that fill no cell, and how each differs from one."""
    asked = [f.identity for f in filled]
    lines: Counter[str] = Counter()
    for run in find_runs(root):
        if run.status == "finished" and run.identity not in asked:
            nearest = min((diff_identities(a, run.identity) for a in asked), key=len)
            lines[", ".join(nearest)] += 1
    return [f"{count} finished with {how}" for how, count in lines.most_common()]
