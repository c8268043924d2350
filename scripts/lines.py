"""The lines of figures on a dashboard, which groups runs by columns of their configuration."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cells import wanted
from composed import recompose
from curves import Figure, Group
from matplotlib.colors import to_hex, to_rgb
from tabular import Cell, require_apart

from lrd.config.compose import to_config
from lrd.config.fingerprint import fingerprint, flatten
from lrd.runs.labels import run_labels

FIRST = ("dataset", "model", "optimizer", "arm", "p")
Path = tuple[str, ...]


@dataclass(frozen=True)
class Lines:
    """``fingerprints`` of the cells; the ``columns`` that tell them apart, as few as do, and by a
    line's values of these its colour."""

    fingerprints: list[str]
    columns: list[str]
    colors: dict[Path, str]


def lines(figures: Iterable[Figure], overrides: Sequence[str]) -> Lines:
    """Those of all curves of these figures. Raises ValueError, in one line, also where
    ``overrides`` make two curves of a figure the same."""
    figures = list(figures)
    for figure in figures:
        identities = (wanted(curve.cell, tuple(overrides)) for curve in figure.curves())
        require_apart("curves", identities, overrides)
    groups = [group for figure in figures for group in figure.groups]
    cells = dict.fromkeys(curve.cell for group in groups for curve in group.curves)
    marks = {cell: fingerprint(wanted(cell, tuple(overrides))) for cell in cells}
    known = {mark: _columns(cell, mark, overrides) for cell, mark in marks.items()}
    chosen = _telling(list(known.values()))
    colors: dict[Path, set[str]] = {}
    for cell, color in (pair for group in groups for pair in _colors(group)):
        values = [known[marks[cell]].get(name) for name in chosen]
        if None not in values:
            colors.setdefault(tuple(map(_text, values)), set()).add(color)
    # A line that two figures draw in two colours is left to the dashboard.
    return Lines(sorted(known), chosen, {p: c for p, (c, *others) in colors.items() if not others})


def _columns(cell: Cell, mark: str, overrides: Sequence[str]) -> dict[str, Any]:
    """A run's configuration as a dashboard has it: its own columns, then every setting."""
    asked = [f"+experiment={cell.experiment}", *cell.overrides, *overrides]
    config = asdict(to_config(recompose(asked)))
    record = {"config": config, "choices": {}, "seed": 0, "fingerprint": mark}
    own = {name: value for name, value in run_labels(record).items() if name in FIRST}
    settings = {name: config[name] for name in ("lrd", "optim", "regularizer")}
    return own | {f"settings.{name}": v for name, v in flatten(settings).items()}


def _telling(known: Sequence[dict[str, Any]]) -> list[str]:
    """The first columns after each of which more lines are told apart than before."""
    chosen: list[str] = []
    apart = 1
    for name in dict.fromkeys([*FIRST, *(n for one in known for n in one)]):
        now = len({tuple(_text(one.get(n)) for n in [*chosen, name]) for one in known})
        if now > apart:
            chosen, apart = [*chosen, name], now
    return chosen


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _colors(group: Group) -> list[tuple[Cell, str]]:
    """Every curve's. Of those that share a hue, the ones not solid are half as strong: a dashboard
    knows of no dashes."""
    hues = Counter(curve.color for curve in group.curves)
    return [
        (c.cell, c.color if c.line == "-" or hues[c.color] == 1 else _paler(c.color))
        for c in group.curves
    ]


def _paler(color: str) -> str:
    red, green, blue = ((part + 1) / 2 for part in to_rgb(color))
    return to_hex((red, green, blue))
