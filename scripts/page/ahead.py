"""What a page will ask Hydra for, composed by several processes at once before it is asked."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress

import composed
import sweep
import toy
from claims import read_claims
from curves import FIGURES
from layout import TABLES
from tabular import Cell


def compose_ahead(lengths: Sequence[Sequence[str]], workers: Executor) -> None:
    """The cells of every table, figure and claim, under each of ``lengths``' overrides."""
    cells = list(dict.fromkeys(_cells()))
    asked = ([f"+experiment={c.experiment}", *c.overrides, *o] for o in lengths for c in cells)
    composed.learn(asked, workers)
    sweep.learn((cell.experiment for cell in cells), workers)


def _cells() -> Iterator[Cell]:
    for table in TABLES.values():
        yield from table.cells()
    for figure in (*FIGURES.values(), *(figure for figure, _ in toy.FIGURES.values())):
        yield from (curve.cell for curve in figure.curves())
    with suppress(ValueError):  # the verdicts tell what is wrong with the claims
        for claim in read_claims()[1]:
            yield from (cell for rule in claim.rules for pair in rule.pairs for cell in pair)
