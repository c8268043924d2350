"""The values of a figure's curves: means over runs with their 95 % intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import CellResults, collect_results, require_distinct
from lrd.analysis.statistics import half_width
from lrd.analysis.studies import CellSpec, FigureSpec, PanelSpec, PublishedCurve, read_published


@dataclass(frozen=True, eq=False)
class MeanCurve:
    """The mean of a metric over ``n`` runs, by epoch.

    Attributes:
        epochs: (k,) the epochs at which every run logs the metric.
        mean: (k,) means over the runs.
        half_width: (k,) halves of the 95 % t intervals of the means; None below two runs.
        n: the number of runs.
    """

    epochs: Any
    mean: Any
    half_width: Any
    n: int

    def __bool__(self) -> bool:
        return len(self.epochs) > 0


CellCurves = Mapping[CellSpec, Mapping[str, MeanCurve]]  # by metric; empty without runs


@dataclass(frozen=True)
class DrawnCurve:
    """The numbers behind a curve in a panel, as the page shows them.

    Attributes:
        label: the name in the legend.
        x: (k,) positions on the horizontal axis.
        mean: (k,) values.
        n: the number of runs, or a text for each point.
        half_width: (k,) halves of symmetric 95 % intervals, or None.
        intervals: (k, 2) ends of asymmetric 95 % intervals, or None.
        published: the published final value, or None.
    """

    label: str
    x: Any
    mean: Any
    n: int | Sequence[str]
    half_width: Any = None
    intervals: Any = None
    published: float | None = None


@dataclass(frozen=True)
class PanelNumbers:
    """The numbers that a panel of a figure shows."""

    label: str
    curves: Sequence[DrawnCurve]
    group: str = ""
    unit: str = ""
    digits: int | None = None


@dataclass(frozen=True)
class DrawnPanel:
    """A panel of a figure with its numbers."""

    axis: Axes
    numbers: PanelNumbers


@dataclass(frozen=True)
class Drawing:
    """A matplotlib figure with the numbers that its panels show; ``x``: what they are against."""

    sheet: Figure
    panels: Sequence[DrawnPanel] = ()
    x: str = "epoch"


def average_curves(runs: Sequence[pd.Series]) -> MeanCurve:
    """Average a metric of one or more runs, each a series by epoch, over the epochs they share."""
    table = pd.concat(runs, axis="columns", join="inner").sort_index()
    values = np.ascontiguousarray(table.to_numpy(np.float64).T)  # (n, k)
    half = half_width(values) if len(runs) > 1 else None
    return MeanCurve(table.index.to_numpy(np.int64), values.mean(axis=0), half, len(runs))


def published_curve(published: PublishedCurve, key: str) -> MeanCurve:
    """Return a metric of the run that others published."""
    curve: Any = read_published(published).set_index("epoch")[key]
    return average_curves([curve])


SCORE = "score"  # the key of a panel: of each run the metric that is its score
TRAINING_LOSS = PanelSpec("train_loss", "Training loss")


def with_panels(figure: FigureSpec, results: Mapping[CellSpec, CellResults]) -> FigureSpec:
    """Return a figure with panels; by default those of the training loss and of the score."""
    if figure.panels:
        return figure
    scores = {found.score for found in results.values() if found.n}
    panels = [TRAINING_LOSS] if not scores or _has_loss(results) else []
    if len(scores) == 1:
        (score,) = scores
        panels.append(PanelSpec(SCORE, score.name.replace("_", " ").capitalize(), score.unit))
    elif scores:  # of several tasks
        (unit,) = units if len(units := {score.unit for score in scores}) == 1 else [""]
        panels.append(PanelSpec(SCORE, "Score", unit))
    return replace(figure, panels=tuple(panels), own_limits=len(scores) > 1)


def _has_loss(results: Mapping[CellSpec, CellResults]) -> bool:
    curves = (found.curves(TRAINING_LOSS.key).values() for found in results.values() if found.n)
    return all(not curve.empty for each in curves for curve in each)


def collect_figure(
    figure: FigureSpec, frames: RunFrames, overrides: Sequence[str] = ()
) -> dict[CellSpec, CellResults]:
    """Return the runs of a figure's curves.

    Raises:
        ValueError: in one line, also if ``overrides`` make two curves the same.
    """
    results = collect_results([curve.cell for curve in figure.curves()], frames, overrides)
    require_distinct("curves", results.values(), overrides)
    return results


def cell_curves(panels: Sequence[PanelSpec], results: Mapping[CellSpec, CellResults]) -> CellCurves:
    """Average the metrics of every panel over the runs of every configuration.

    Raises:
        ValueError: in one line, if a metrics.jsonl cannot be read or lacks the metric of a panel.
    """
    return {cell: _of_cell(panels, found) if found.n else {} for cell, found in results.items()}


def difference_curves(
    figure: FigureSpec, results: Mapping[CellSpec, CellResults]
) -> dict[CellSpec, dict[str, MeanCurve]]:
    """Return the panels' differences of every curve from the first one of its group, paired by
    seed; none where no seed has both."""
    found: dict[CellSpec, dict[str, MeanCurve]] = {}
    for panel in (panel for panel in figure.panels if panel.difference):
        for group in figure.groups:
            base, *others = (results[curve.cell] for curve in group.curves)
            first = base.curves(panel.key)
            for other in others if base.n else ():
                second = other.curves(panel.key)
                pairs = [(second[s] - first[s]).dropna() for s in first.keys() & second.keys()]
                if pairs:
                    found.setdefault(other.cell, {})[panel.series] = average_curves(pairs)
    return found


def _of_cell(panels: Sequence[PanelSpec], found: CellResults) -> dict[str, MeanCurve]:
    keys = [key for panel in panels for key in (panel.key, panel.final) if key]
    curves = {
        key: average_curves(list(found.curves(found.score.name if key == SCORE else key).values()))
        for key in keys
    }
    for panel in panels:
        if not curves[panel.key]:
            folder = found.records[0].folder.parent
            raise ValueError(f"{folder}: no epoch has {panel.key} in all {found.n} finished runs")
    return curves
