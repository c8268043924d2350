"""A table or a figure of the page: what fills it, what is missing, and how it was made."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sweep
from cells import Filled
from curves import Figure
from tabular import Cell, Table

from lrd.config.fingerprint import DEFAULTS
from lrd.runs.store import Run
from page.records import Facts, facts


@dataclass(frozen=True)
class Member:
    """A cell with its name, and the settings in which it differs from the first one."""

    label: str
    filled: Filled
    settings: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Study:
    """``shown`` is what is drawn of it; None where there is nothing to draw, or ``error`` says why
    it cannot be. Commands: ``run`` and ``plan`` of its experiments, ``read`` to print or draw it,
    ``missing`` to fill its empty cells."""

    name: str
    key: str
    title: str
    members: tuple[Member, ...]
    run: tuple[str, ...]
    plan: tuple[str, ...]
    read: str
    missing: tuple[str, ...]
    shown: Any = None
    error: str = ""

    @property
    def runs(self) -> list[Run]:
        return [run for m in self.members for run in m.filled.runs]

    @property
    def facts(self) -> Facts:
        return facts(self.runs)

    @property
    def there(self) -> int:
        """How many of its cells have a run."""
        return sum(m.filled.n > 0 for m in self.members)

    @property
    def coverage(self) -> str:
        return "none" if not self.there else "all" if self.there == len(self.members) else "part"

    @property
    def seeds(self) -> str:
        """The number of seeds of the cells that have any."""
        counts = sorted({m.filled.n for m in self.members if m.filled.n})
        return f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")

    @property
    def first(self) -> dict[str, Any]:
        """The configuration of the first cell: closed settings at their default left out."""
        return self.members[0].filled.identity if self.members else {}


@dataclass(frozen=True)
class Form:
    """A study before its cells are filled; ``script`` is the one that shows it too."""

    script: str
    name: str
    key: str
    title: str
    root: str

    def study(
        self, names: Mapping[Cell, str], filled: Mapping[Cell, Filled], overrides: Sequence[str]
    ) -> Study:
        """Filled under ``overrides``, with the commands that run, show and complete it."""
        first = next(iter(filled.values())).identity
        members = [
            Member(names[c], f, tuple(settings(first, f.identity))) for c, f in filled.items()
        ]
        empty = (cell for cell, f in filled.items() if not f.n)
        where = [] if self.root == "runs" else ["--runs", self.root]
        experiments = dict.fromkeys(cell.experiment for cell in filled)
        given = sweep.into(self.root, overrides)
        return Study(
            self.name,
            self.key,
            self.title,
            tuple(members),
            tuple(sweep.commands(filled, given)),
            tuple(
                shlex.join(["python", "scripts/plan.py", name, *overrides, *where])
                for name in experiments
            ),
            shlex.join(["python", f"scripts/{self.script}.py", self.name, *overrides, *where]),
            tuple(sweep.commands(empty, given)),
        )

    def broken(self, error: Exception) -> Study:
        """One that cannot be asked for under these settings, or whose runs cannot be read."""
        return Study(self.name, self.key, self.title, (), (), (), "", (), error=str(error))


def settings(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What ``other`` has where it differs from ``first``; an absent setting is at its default."""
    keys = sorted(first.keys() | other.keys())
    return [(k, other.get(k, DEFAULTS.get(k))) for k in keys if other.get(k) != first.get(k)]


def table_names(table: Table) -> dict[Cell, str]:
    """Each cell by its row, its column, and what sets it apart from the others of its group."""
    named = {}
    for labels, groups in table.rows:
        for column, group in zip(table.columns, groups, strict=True):
            for cell in group:
                named[cell] = ", ".join([*labels, column, *([arm(cell, group)] * (len(group) > 1))])
    return named


def figure_names(figure: Figure) -> dict[Cell, str]:
    return {
        curve.cell: ", ".join(part for part in (group.label, curve.label) if part)
        for group in figure.groups
        for curve in group.curves
    }


def arm(cell: Cell, group: Sequence[Cell]) -> str:
    """The overrides that the other cells of its group do not share."""
    shared = set.intersection(*(set(c.overrides) for c in group))
    return " ".join(o for o in cell.overrides if o not in shared)
