"""Aggregates over several tasks with few runs each, with stratified bootstrap intervals.

As recommended by Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical
Precipice (NeurIPS 2021, arXiv 2108.13264), whose formulas these are. Scores are a sequence of
tasks, each an array with a number per run; tasks may have different numbers of runs. Scores of
different tasks must be on one scale, such as accuracies or scores normalized by a baseline's.

    interval = bootstrap_interval(interquartile_mean, [scores])
    summary = summarize_tasks(base, other, maximize=[True, False])  # accuracies, and losses
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrd.analysis.statistics import Interval

Scores = Sequence[ArrayLike]  # a task each


class Aggregate(NamedTuple):
    """A number over tasks with its interval, None where a task has a single run."""

    value: float
    interval: Interval | None


class TaskSummary(NamedTuple):
    """Two arms over several tasks: interquartile means of normalized scores, their difference, and
    the probability that ``other`` improves on ``base``."""

    base: Aggregate
    other: Aggregate
    difference: Aggregate
    probability: Aggregate


def summarize_tasks(base: Scores, other: Scores, maximize: Sequence[bool]) -> TaskSummary:
    """Return how two arms compare over tasks whose scores have scales of their own.

    Args:
        base: the scores of each task.
        other: those of the other arm.
        maximize: for each task whether larger scores are better.

    Raises:
        ValueError: a task has no run, a NaN, or a base whose mean is 0.
    """
    tasks = list(zip(_tasks(base), _tasks(other), maximize, strict=True))
    arms = [[normalize_scores(arm, x, up) for arm in (x, y)] for x, y, up in tasks]
    base, other = [x for x, _ in arms], [y for _, y in arms]
    is_single = any(len(task) < 2 for task in (*base, *other))

    def aggregate(statistic: Callable[..., float], *scores: Scores) -> Aggregate:
        interval = None if is_single else bootstrap_interval(statistic, scores)
        return Aggregate(statistic(*scores), interval)

    return TaskSummary(
        aggregate(interquartile_mean, base),
        aggregate(interquartile_mean, other),
        aggregate(lambda x, y: interquartile_mean(x) - interquartile_mean(y), other, base),
        aggregate(probability_of_improvement, other, base),
    )


def normalize_scores(
    scores: ArrayLike, base: ArrayLike, maximize: bool = True
) -> NDArray[np.float64]:
    """Return the scores of a task in percent of the base's mean, which is 100; larger is better: a
    loss that is a tenth lower than the base's is 110.

    Raises:
        ValueError: the base's mean is 0.
    """
    mean = float(np.mean(np.asarray(base, dtype=float)))
    if mean == 0:
        raise ValueError("scores cannot be normalized by a base whose mean is 0")
    gain = (np.asarray(scores, dtype=float) - mean) / abs(mean)
    return 100 + 100 * (gain if maximize else -gain)


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

    drawn: Any = [
        [task[rng.integers(len(task), size=(resamples, len(task)))] for task in arm]
        for arm in tasks
    ]
    values = [statistic(*([task[i] for task in arm] for arm in drawn)) for i in range(resamples)]
    ends = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(ends[0]), float(ends[1])


def _tasks(scores: Scores) -> list[NDArray[np.float64]]:
    """Return the tasks as arrays. Raises ValueError for a task without a run or with NaN."""
    tasks = [np.asarray(task, dtype=float).reshape(-1) for task in scores]
    if not tasks or any(task.size == 0 or np.isnan(task).any() for task in tasks):
        raise ValueError("scores must have a number for each run of at least one run a task")
    return tasks
