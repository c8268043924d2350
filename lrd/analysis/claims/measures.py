"""Measures of claims: numbers of runs, by seed, and their differences between two sides.

Every measure is a function of one run (or of the runs of one seed), the same for both sides. So
sides with the same distribution differ by 0 on average, whichever is called the base.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd

from lrd.analysis.claims.specs import Measure, Pair
from lrd.analysis.matching import CellResults
from lrd.analysis.resolve import CellSpec
from lrd.config.compose import CONFIGS


@dataclass(frozen=True)
class Measured:
    """Differences of a pair by seed, the second side's minus the first's, and failed seeds."""

    by_seed: Mapping[int, float]
    base_failed: frozenset[int] = field(default_factory=frozenset)
    other_failed: frozenset[int] = field(default_factory=frozenset)


def measure_pair(measure: Measure, pair: Pair, results: Mapping[CellSpec, CellResults]) -> Measured:
    """Return the differences of a pair. A seed that a cell lacks, or whose runs do not have the
    metric, is left out."""
    sides, failed = [], []
    for side in (pair.base, pair.other):
        cells = [results[cell] for cell in side]
        values = [run_values(measure, cell.experiment, results[cell]) for cell in side]
        shared = set.intersection(*(set(found) for found in values))
        best = max if all(results[cell].score.maximize for cell in side) else min
        reduce: Callable[[list[float]], float] = {"range": np.ptp, "best": best}.get(
            measure.name, fmean
        )
        sides.append({s: float(reduce([v[s] for v in values])) for s in sorted(shared)})
        failed.append(frozenset(int(seed) for cell in cells for seed in cell.failed.index))
    base, other = sides
    both = [seed for seed in base if seed in other and seed not in failed[0] | failed[1]]
    return Measured({seed: other[seed] - base[seed] for seed in both}, *failed)


def run_values(measure: Measure, experiment: str, results: CellResults) -> dict[int, float]:
    """Return the measure of each run of a cell, by seed."""
    if measure.keys == ("score",):
        scores = results.scores
        return dict(zip(map(int, scores.index), map(float, scores), strict=True))
    curves = [results.curves(key) for key in measure.keys]
    found = {}
    for seed in map(int, results.runs.index):
        own = [curve[seed] for curve in curves]
        if any(curve.empty for curve in own):
            continue
        last = [float(curve.iloc[-1]) for curve in own]
        if measure.name == "time":
            found[seed] = log_time_to_marks(own[0], measure.marks[experiment], measure.until)
        elif measure.name == "gap":
            found[seed] = last[0] - last[1]
        elif measure.name == "rate":
            if last[1]:
                found[seed] = 100 * last[0] / last[1]
        else:
            found[seed] = last[0]
    return found


def log_time_to_marks(curve: pd.Series, marks: Sequence[float], until: float = 1.0) -> float:
    """Return 100 times the mean log of the epochs after which a falling curve is at each mark.

    So the difference of two runs is about the percentage of epochs by which one is later, free of
    where the curves end, as long as the marks lie above that. A mark that is not reached within
    the share ``until`` of the run has the time of that horizon, for either side (a restricted mean,
    as in survival analysis): against a run that did reach it, it is later, by no more than was
    seen, and two that did not are equal. Between two epochs the curve is interpolated. NaN is at
    no mark.
    """
    epochs, values = curve.index.to_numpy(dtype=float), curve.to_numpy(dtype=float)
    horizon = until * epochs[-1]
    logs = []
    for mark in marks:
        time = horizon
        if (there := np.flatnonzero(values <= mark)).size:
            i = there[0]
            time = epochs[i]
            if i and math.isfinite(values[i - 1]):
                share = (values[i - 1] - mark) / (values[i - 1] - values[i])
                time = epochs[i - 1] + share * (epochs[i] - epochs[i - 1])
        logs.append(math.log(min(time, horizon)))
    return 100 * fmean(logs)


def measure_cost(measure: Measure) -> dict[str, list[float]]:
    """Return by table, in %, how much longer than its baseline each repetition of a line took.

    The records are of ``scripts/bench.py``: a repetition times all lines in turn in one process,
    so that its ratio compares like with like. Runs' own epochs do not: two runs of a seed made at
    different hours have only the seed in common.
    """
    pattern, title, label = measure.keys
    found = {}
    for path in sorted(CONFIGS.parent.glob(pattern)):
        record = json.loads(path.read_text())
        for table in record["tables"]:
            for line in table["lines"]:
                if title in table["title"] and line["label"] == label and line["ratios"]:
                    percent = [100 * (ratio - 1) for ratio in line["ratios"]]
                    found[f"{Path(path).stem}: {table['title']}"] = percent
    return found
