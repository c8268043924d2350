"""The rate of each arm with the best score on held-out samples, and its test: what lr_tuned asks.

The test set has no part in the choice: it is read by the runs that `final` names, and by no other.
"""

from collections.abc import Mapping, Sequence

from cells import Filled
from controls import ARMS, FACTORS
from sweep import setting
from tabular import Cell, Table

Fill = Mapping[Cell, Filled]
HOLDOUT = "dataset.holdout"


def chosen(cells: Sequence[Cell], filled: Fill) -> Filled | None:
    """The best of a row of the grid by its mean score; of equal ones the lowest rate.

    Of cells with a run that failed there is no choosing, and none before every cell has a run.
    Means are over the seeds that all cells to choose from have.
    """
    row = [filled[cell] for cell in cells]
    if not all(f.n or f.failed for f in row):
        return None
    sound = [f for f in row if f.n and not f.failed]
    seeds = set.intersection(*({run.seed for run in f.runs} for f in sound)) if sound else set()
    if not seeds:
        return None
    sign = 1 if sound[0].runs[0].record.get("score", {}).get("maximize", True) else -1
    rates = sorted(sound, key=lambda f: f.identity["optim.lr"])
    return max(rates, key=lambda f: sign * sum(run.final for run in f.runs if run.seed in seeds))


def final(grid: Table, filled: Fill) -> Table:
    """A row for every optimizer for which both arms have a chosen rate."""
    rows = []
    by_optimizer: dict[str, list[Filled]] = {}
    for (optimizer, _), groups in grid.rows:
        if best := chosen([cell for group in groups for cell in group], filled):
            by_optimizer.setdefault(optimizer, []).append(best)
    for optimizer, best in by_optimizer.items():
        if len(best) == len(ARMS):
            tests = (Cell(f.cell.experiment, (*f.cell.overrides, f"{HOLDOUT}=0")) for f in best)
            rows.append(((optimizer, *map(_rate, best)), (tuple(tests),)))
    return Table(
        "Test at the rates chosen by the held-out samples: final score (%), " + " / ".join(ARMS),
        ("Optimizer", *(f"Rate {arm}" for arm in ARMS)),
        ("Test",),
        tuple(rows),
        (("LRD - base", 0, 1),),
    )


def _rate(best: Filled) -> str:
    edges = [f"lr_factor={factor}" for factor in (FACTORS[0], FACTORS[-1])]
    note = " (edge of the grid)" if any(edge in best.cell.overrides for edge in edges) else ""
    return f"{best.identity['optim.lr']:g}{note}"


def tested(overrides: Sequence[str]) -> list[str]:
    """The settings of a test: those of the grid, without its held-out samples."""
    return [override for override in overrides if setting(override) != HOLDOUT]
