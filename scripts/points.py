"""The points of a figure's curves, from metrics.jsonl and from what others published."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cells import Filled, fill, half_width
from curves import Figure, Panel, Published
from numpy.typing import NDArray
from tabular import Cell, require_apart

from lrd.runs.store import Run

Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Points:
    """The mean of ``n`` runs at each of ``epochs``, and half of its 95 % t interval; None below
    two runs."""

    epochs: NDArray[np.int64]
    mean: NDArray[np.float64]
    half: NDArray[np.float64] | None
    n: int

    def __bool__(self) -> bool:
        return self.epochs.size > 0


Series = Mapping[Cell, Mapping[str, Points]]  # by metric; a cell without runs has none


def points(runs: Sequence[Metrics], key: str) -> Points:
    """A metric at the epochs at which every run has it."""
    found = [
        {m["epoch"]: m[key] for m in run if isinstance(m.get(key), int | float)} for run in runs
    ]
    epochs = sorted(set.intersection(*map(set, found)))
    values = np.array([[by_epoch[e] for e in epochs] for by_epoch in found], dtype=np.float64)
    half, n = None, len(runs)
    if n > 1:
        half = half_width(values)
    return Points(np.array(epochs, dtype=np.int64), values.mean(axis=0), half, n)


def series(figure: Figure, filled: Mapping[Cell, Filled]) -> Series:
    """The points of every curve. Raises ValueError, in one line, for what cannot be read."""
    return {cell: _of_cell(figure.panels, f) if f.n else {} for cell, f in filled.items()}


def _of_cell(panels: Sequence[Panel], filled: Filled) -> dict[str, Points]:
    runs = [_metrics(run) for run in filled.runs]
    found = {key: points(runs, key) for p in panels for key in (p.key, p.final) if key}
    for panel in panels:
        if not found[panel.key]:
            folder = filled.runs[0].folder.parent
            raise ValueError(f"{folder}: no epoch has {panel.key} in all {filled.n} finished runs")
    return found


def _metrics(run: Run) -> Metrics:
    lines = run.metrics
    for number, line in enumerate(lines, 1):
        if not isinstance(line, dict) or not isinstance(line.get("epoch"), int):
            raise ValueError(f"{run.folder / 'metrics.jsonl'} is damaged in line {number}")
    return lines


def fill_curves(figure: Figure, root: str, overrides: Sequence[str]) -> dict[Cell, Filled]:
    """The runs of every curve. Raises ValueError where ``overrides`` make two curves the same."""
    filled = fill([curve.cell for curve in figure.curves()], root, overrides)
    require_apart("curves", (f.identity for f in filled.values()), overrides)
    return filled


@cache
def read_published(published: Published) -> Metrics:
    """The lines of a file in scripts/paper, with a mean loss as a run has it."""
    text = (Path(__file__).parent / "paper" / published.file).read_text()
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    lines = [{name: float(value) for name, value in row.items()} for row in rows]
    return [line | {"train_loss": line["train_loss_sum"] / published.batches} for line in lines]
