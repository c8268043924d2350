"""Aggregates over several tasks with few runs each, with stratified bootstrap intervals.

As recommended by Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical
Precipice (NeurIPS 2021, arXiv 2108.13264), whose formulas these are. Scores are a sequence of
tasks, each an array with a number per run; tasks may have different numbers of runs. Scores of
different tasks must be on one scale, such as accuracies or scores normalized by a baseline's.

    interval = bootstrap_interval(interquartile_mean, [scores])
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrd.analysis.statistics import Interval

Scores = Sequence[ArrayLike]  # a task each


def interquartile_mean(scores: Scores) -> float:
    """Return the mean of the middle half of all runs of all tasks: the lowest and the highest
    quarter are left out, rounded down to whole runs.

    Every run counts the same, so that tasks with more runs count more.
    """
    values = np.sort(np.concatenate(_tasks(scores)))
    cut = len(values) // 4
    return float(values[cut : len(values) - cut].mean())


def probability_of_improvement(scores: Scores, base: Scores) -> float:
    """Return the chance that a run is better than a run of the base on a task chosen at random.

    The mean over tasks of Mann and Whitney's U over its largest value; ties count one half. Larger
    scores are better.

    Raises:
        ValueError: the two have different numbers of tasks.
    """
    pairs = list(zip(_tasks(scores), _tasks(base), strict=True))
    wins = [np.sign(x[:, None] - y[None, :]).mean() for x, y in pairs]
    return float((np.mean(wins) + 1) / 2)


def performance_profile(scores: Scores, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Return for each threshold the share of runs whose score is above it, averaged over tasks."""
    levels = np.asarray(thresholds, dtype=float)
    shares = [(task[:, None] > levels[None, :]).mean(0) for task in _tasks(scores)]
    return np.mean(shares, axis=0)


def steps_to_target(
    steps: ArrayLike, curves: ArrayLike, target: float, maximize: bool = True
) -> NDArray[np.float64]:
    """Return for each run the first step at which it has reached a target that was fixed before.

    Args:
        steps: in ascending order, (points,).
        curves: the values of each run, (runs, points). NaN reaches nothing.

    Returns:
        Steps, (runs,); inf for a run that never gets there.
    """
    at, values = np.asarray(steps, dtype=float), np.atleast_2d(np.asarray(curves, dtype=float))
    there = values >= target if maximize else values <= target
    return np.where(there.any(1), at[there.argmax(1)], math.inf)


def bootstrap_interval(
    statistic: Callable[..., float],
    arms: Sequence[Scores],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of a statistic of one or more arms.

    The bootstrap is stratified: runs are drawn with replacement within each task of each arm, and
    the tasks stay. So the interval is for new runs of these tasks, and not for new tasks. With
    fewer than some five runs a task it is too short, as all bootstrap intervals are.
    """
    rng = np.random.default_rng(seed)
    tasks = [_tasks(scores) for scores in arms]

    def resample() -> float:
        drawn: Any = [[rng.choice(task, len(task)) for task in arm] for arm in tasks]
        return statistic(*drawn)

    ends = np.quantile([resample() for _ in range(resamples)], [(1 - level) / 2, (1 + level) / 2])
    return float(ends[0]), float(ends[1])


def _tasks(scores: Scores) -> list[NDArray[np.float64]]:
    """Return the tasks as arrays. Raises ValueError for a task without a run or with NaN."""
    tasks = [np.asarray(task, dtype=float).reshape(-1) for task in scores]
    if not tasks or any(task.size == 0 or np.isnan(task).any() for task in tasks):
        raise ValueError("scores must have a number for each run of at least one run a task")
    return tasks
