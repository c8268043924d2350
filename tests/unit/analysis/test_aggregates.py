"""Aggregates over tasks: worked examples, scipy, and the coverage of the intervals."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lrd.analysis.aggregates import (
    bootstrap_interval,
    interquartile_mean,
    normalize_scores,
    performance_profile,
    probability_of_improvement,
    steps_to_target,
    summarize_tasks,
)


def test_the_interquartile_mean_by_hand():
    """Of 1 to 8 and an outlier each way, the middle six of ten: 2 and 2 are cut."""
    assert interquartile_mean([[1, 2, 3, 4, 100], [5, 6, 7, 8, -90]]) == 4.5
    assert interquartile_mean([[1, 2, 3]]) == 2  # too few to cut a quarter
    assert interquartile_mean([[0, 1], [5], [100]]) == 3  # 1 and 5 of 0, 1, 5, 100


@pytest.mark.parametrize("shape", [(3, 5), (7, 3), (4, 10)])
def test_the_interquartile_mean_is_scipys_trimmed_mean(shape: tuple[int, int]):
    scores = np.random.default_rng(0).normal(size=shape)
    assert interquartile_mean(list(scores)) == pytest.approx(
        stats.trim_mean(scores.ravel(), proportiontocut=0.25)
    )


def test_probability_of_improvement_by_hand():
    """On the first task 3 of 4 pairs are won and one is tied; on the second none of 2."""
    assert probability_of_improvement([[2, 3], [0]], [[1, 2], [5, 6]]) == (3.5 / 4 + 0) / 2
    assert probability_of_improvement([[1, 2]], [[1, 2]]) == 0.5


def test_probability_of_improvement_is_mann_whitney():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 6, (3, 5)), rng.integers(0, 6, (3, 4))  # with ties
    parts = [stats.mannwhitneyu(a, b).statistic / 20 for a, b in zip(x, y, strict=True)]
    assert probability_of_improvement(list(x), list(y)) == pytest.approx(np.mean(parts))
    with pytest.raises(ValueError, match="shorter"):
        probability_of_improvement(list(x), list(y[:2]))


def test_performance_profile_by_hand():
    found = performance_profile([[1, 2, 3, 4], [2, 2]], [0, 1, 2, 4])
    assert found == pytest.approx([1, (0.75 + 1) / 2, (0.5 + 0) / 2, 0])


def test_steps_to_a_target():
    curves = [[50, 90, 80, 95], [10, 20, 30, 40], [np.nan, np.nan, 91, 10]]
    assert list(steps_to_target([100, 200, 300, 400], curves, 90)) == [200, math.inf, 300]
    falling = steps_to_target([1, 2, 3], [[3.0, 2.0, 1.0]], 2.0, maximize=False)
    assert list(falling) == [2]


def test_the_interval_resamples_within_tasks():
    """Tasks that differ by 100 and runs that do not: runs are drawn, tasks are not."""
    apart = [[1.0, 1.0, 1.0], [101.0, 101.0, 101.0]]
    assert bootstrap_interval(lambda x: float(np.mean(x)), [apart]) == (51, 51)
    low, high = bootstrap_interval(probability_of_improvement, [apart, apart])
    assert (low, high) == (0.5, 0.5)


def test_the_interval_is_scipys_bootstrap_for_one_task():
    scores = np.random.default_rng(2).normal(size=20)
    found = bootstrap_interval(interquartile_mean, [[scores]], resamples=4000)
    trimmed: Any = lambda x, axis: stats.trim_mean(x, 0.25, axis)  # noqa: E731
    reference = stats.bootstrap((scores,), trimmed, method="percentile", n_resamples=4000, rng=3)
    assert found == pytest.approx(reference.confidence_interval, abs=0.05)


def test_intervals_cover_the_truth():
    """10 runs of 5 tasks whose means differ: the 95 % interval of their mean holds it in 95 %."""
    rng, truth, hits = np.random.default_rng(4), np.arange(5) / 10, 0
    for trial in range(150):
        scores = list(truth[:, None] + rng.normal(0, 1, (5, 10)))
        low, high = bootstrap_interval(
            lambda x: float(np.mean(x)), [scores], resamples=300, seed=trial
        )
        hits += low <= truth.mean() <= high
    assert 0.88 <= hits / 150 <= 0.99


@pytest.mark.parametrize("scores", [[], [[]], [[1.0, math.nan]]])
def test_what_cannot_be_aggregated_is_refused(scores: Any):
    with pytest.raises(ValueError, match="scores must have a number for each run"):
        interquartile_mean(scores)


def test_scores_are_normalized_by_the_bases_mean_in_their_direction():
    assert list(normalize_scores([45, 50, 60], [40, 60])) == [90, 100, 120]
    assert list(normalize_scores([1.8, 2.2], [2, 2], maximize=False)) == pytest.approx([110, 90])
    assert list(normalize_scores([-3, -1], [-2])) == [50, 150]  # larger is better, below 0 too
    with pytest.raises(ValueError, match="base whose mean is 0"):
        normalize_scores([1], [-1, 1])


def test_a_summary_of_an_accuracy_and_a_loss_by_hand():
    """Normalized: the base 90, 110 and 100, 100; the other 120, 140 and 90, 130."""
    base, other = [[45, 55], [2, 2]], [[60, 70], [2.2, 1.4]]
    found = summarize_tasks(base, other, [True, False])
    assert found.base.value == pytest.approx(100)  # 100 and 100 of 90, 100, 100, 110
    assert found.other.value == pytest.approx(125)  # 120 and 130 of 90, 120, 130, 140
    assert found.difference.value == pytest.approx(25)
    assert found.probability.value == (1 + 0.5) / 2  # all pairs, and two of four
    low, high = found.difference.interval or (0, 0)
    assert 0 <= low < 25 < high <= 45 and found.base.interval == pytest.approx((95, 105))


def test_single_runs_have_no_interval():
    found = summarize_tasks([[1], [2, 3]], [[2, 3], [4, 5]], [True, True])
    assert [each.interval for each in found] == [None] * 4
    assert found.probability.value == 1
