"""A table of the paper as rows and cells of the page: ours above what is printed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cells import Filled
from table import LINES
from tabular import BASE, LRD, Cell, Table

from page.contrasts import Contrasts, contrasts
from page.studies import arm

ACROSS = 12  # columns at most for lines side by side
ARMS = {BASE: "without", LRD: "with LRD"}


@dataclass(frozen=True)
class Line:
    name: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """A row of the table, with a line for each of table.py's that has something to show."""

    labels: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Grid:
    """``columns`` with their number of arms; ``arms`` name them, where a column has several.

    ``across``: the lines of a row stand side by side, in columns of their own, ``lines``.
    """

    across: bool
    lines: tuple[str, ...]
    heads: tuple[str, ...]
    columns: tuple[tuple[str, int], ...]
    arms: tuple[str, ...]
    rows: tuple[Rows, ...]
    contrasts: Contrasts | None


def grid(table: Table, filled: Mapping[Cell, Filled]) -> Grid:
    groups = table.rows[0][1]
    several = any(len(group) > 1 for group in groups)
    arms = tuple(_arm(cell, group) for group in groups for cell in group) if several else ()
    columns = tuple(zip(table.columns, map(len, groups), strict=True))
    printed = any(cell.paper is not None for cell in filled)
    lines = tuple(name for name in LINES if printed or name != "paper")
    across = not several and len(lines) * len(columns) <= ACROSS
    rows = tuple(_rows(table, filled, lines, across))
    return Grid(across, lines, table.heads, columns, arms, rows, contrasts(table, filled))


def _rows(
    table: Table, filled: Mapping[Cell, Filled], names: Sequence[str], whole: bool
) -> Iterator[Rows]:
    """``whole``: with the lines that have nothing to show as well."""
    for labels, groups in table.rows:
        there = [filled[cell] for group in groups for cell in group]
        lines = [Line(name, tuple(map(LINES[name], there))) for name in names]
        kept = tuple(line for line in lines if whole or any(line.texts) or line.name == "ours")
        yield Rows(labels, kept)


def _arm(cell: Cell, group: tuple[Cell, ...]) -> str:
    name = arm(cell, group)
    return ARMS.get(name, name)
