"""The form of a table: rows and columns of cells, and the configuration behind each cell."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrd.config.fingerprint import fingerprint

PAPER = json.loads((Path(__file__).parent / "paper" / "numbers.json").read_text())
OPTIMIZERS = {
    "sgdm": "SGDM",
    "rmsprop": "RMSprop",
    "adam": "Adam",
    "amsgrad": "AMSGrad",
    "radam": "RAdam",
}
BASE, LRD = "lrd.p=1", "lrd.p=0.5"


@dataclass(frozen=True)
class Cell:
    """One configuration: the overrides that compose it, and what the paper prints for it."""

    experiment: str
    overrides: tuple[str, ...]
    paper: float | None = field(default=None, compare=False)


Group = tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """``rows`` hold a label for each of ``heads`` and a group of cells for each of ``columns``.

    ``contrasts``: in every row, the cell with the second number less the one with the first, of
    the row's cells counted through its groups.
    """

    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Group, ...]], ...]
    contrasts: tuple[tuple[str, int, int], ...] = ()

    def cells(self) -> list[Cell]:
        return [cell for _, groups in self.rows for group in groups for cell in group]


def titled(title: str, overrides: Sequence[str]) -> str:
    """A title that says under which other settings its runs were made."""
    return f"{title} [{' '.join(map(_said, overrides))}]" if overrides else title


def _said(override: str) -> str:
    name, _, value = override.partition("=")
    return f"{override} ({100 * float(value):g} % of the epochs)" if name == "scale" else override


def require_apart(what: str, identities: Iterable[Mapping[str, Any]], given: Sequence[str]) -> None:
    """Raises ValueError where the overrides that were ``given`` make two of ``what`` the same."""
    marks = [fingerprint(dict(identity)) for identity in identities]
    if len(set(marks)) < len(marks):
        raise ValueError(
            f"{what} must be different configurations, got {' '.join(given)}: two are the same"
        )
