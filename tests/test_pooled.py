"""The pooled estimate against a published analysis of variance, and what its intervals cover."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pooled import Pooled, pool
from scipy import stats

# Rutherford, Introducing ANOVA and ANCOVA (2001): 8 subjects, 2 x 3 conditions, all by all.
FIRST = [
    [7, 3, 6, 6, 5, 8, 6, 7],
    [7, 11, 9, 11, 10, 10, 11, 11],
    [8, 14, 10, 11, 12, 10, 11, 12],
]
SECOND = [
    [16, 7, 11, 9, 10, 11, 8, 8],
    [16, 10, 13, 10, 10, 14, 11, 12],
    [24, 29, 10, 22, 25, 28, 22, 24],
]


def table(cells: NDArray[np.float64]) -> list[dict[int, float]]:
    """(cells, seeds) as the differences of a table."""
    return [dict(enumerate(row)) for row in cells.tolist()]


def test_the_arms_f_of_a_repeated_measures_anova_is_the_square_of_the_pooled_t():
    """F(1, 7) = 40.14159, p = 0.0003905263 by R's ezANOVA, as statsmodels' tests keep it: subjects
    are the seeds, the three conditions the cells, the two others the arms."""
    found = pool(table(np.array(SECOND, float) - np.array(FIRST, float)))
    effect = found.effect
    assert (effect.n, found.cells, found.seeds) == (8, 3, tuple(range(8)))
    assert effect.mean is not None and effect.sd is not None
    assert 8 * (effect.mean / effect.sd) ** 2 == pytest.approx(40.14159, abs=5e-6)
    assert effect.p_t == pytest.approx(0.0003905263, abs=5e-11)


def test_beyond_these_cells_it_is_clarks_min_f():
    """min F' = F1 F2 / (F1 + F2) with (F1 + F2)^2 / (F1^2 / n2 + F2^2 / n1) degrees of freedom for
    error (Clark, 1973); F1 over seeds has n1 degrees, F2 over cells n2."""
    cells = np.array(SECOND, float) - np.array(FIRST, float)
    over: list[Any] = [stats.ttest_1samp(cells.mean(axis), 0) for axis in (0, 1)]
    f1, f2 = (found.statistic**2 for found in over)
    n1, n2 = 7, 2
    low, high = pool(table(cells)).interval_beyond or (math.nan, math.nan)
    f, degrees = f1 * f2 / (f1 + f2), (f1 + f2) ** 2 / (f1**2 / n2 + f2**2 / n1)
    t = cells.mean() / ((high - low) / 2) * stats.t.ppf(0.975, degrees)
    assert (low + high) / 2 == pytest.approx(cells.mean()) and t**2 == pytest.approx(f)


def covers(
    interval: Callable[[Pooled], tuple[float, float] | None],
    truth: float,
    draw: Callable[[np.random.Generator], NDArray[np.float64]],
) -> float:
    """How often of 1,500 the interval holds the true mean."""
    random = np.random.default_rng(7)
    found = [interval(pool(table(draw(random)))) for _ in range(1500)]
    return float(np.mean([i is not None and i[0] <= truth <= i[1] for i in found]))


OFF = 4 * math.sqrt(0.05 * 0.95 / 1500)
FIXED = np.array([0.1, 0.2, 0.3, 0.4, 0.5])  # the effect in each of five cells


def shared(random: np.random.Generator) -> NDArray[np.float64]:
    """What a seed does to all cells is as large as what it does to one."""
    return FIXED[:, None] + random.normal(0, 0.2, (1, 4)) + random.normal(0, 0.2, (5, 4))


def test_the_interval_over_seeds_covers_95_percent_where_cells_go_together():
    assert abs(covers(lambda p: p.effect.interval, 0.3, shared) - 0.95) < OFF

    def naive(random: np.random.Generator) -> bool:
        x = shared(random).ravel()
        return abs(x.mean() - 0.3) <= stats.t.ppf(0.975, 19) * x.std(ddof=1) / math.sqrt(20)

    random = np.random.default_rng(7)
    assert np.mean([naive(random) for _ in range(1500)]) < 0.9  # as if all 20 were independent


def test_the_wider_interval_covers_where_the_cells_are_a_sample_too():
    def sampled(random: np.random.Generator) -> NDArray[np.float64]:
        return shared(random) - FIXED[:, None] + random.normal(0.3, 0.3, (5, 1))

    beyond = covers(lambda p: p.interval_beyond, 0.3, sampled)
    assert 0.95 - OFF < beyond
    assert covers(lambda p: p.effect.interval, 0.3, sampled) < beyond - 0.04  # of these cells alone


def test_what_is_claimed_of_more_cells_is_never_surer():
    random = np.random.default_rng(3)
    for _ in range(200):
        found = pool(table(random.normal(0.1, 0.2, (5, 3))))
        assert found.effect.interval is not None and found.interval_beyond is not None
        assert found.interval_beyond[0] <= found.effect.interval[0]
        assert found.interval_beyond[1] >= found.effect.interval[1]


def test_only_seeds_that_every_cell_has_are_pooled_and_empty_cells_are_left_out():
    found = pool([{0: 1.0, 1: 2.0, 2: 9.0}, {}, {2: 1.0, 0: 3.0, 5: 7.0}])
    assert found.seeds == (0, 2) and found.cells == 3
    assert found.effect.differences == (2.0, 5.0)
    assert found.by_cell.differences == (5.0, 2.0)


@pytest.mark.parametrize(
    "cells, n, mean",
    [
        ([], 0, None),
        ([{}, {}], 0, None),
        ([{0: 1.0}, {1: 1.0}], 0, None),  # no seed in common
        ([{0: 1.0}, {0: 2.0}], 1, 1.5),
        ([{0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}], 2, 1.0),  # no spread
        ([{0: 1.0, 1: math.nan}, {0: 2.0, 1: 2.0}], 2, None),
        ([{0: math.inf, 1: 1.0}, {0: -math.inf, 1: 2.0}], 2, None),
    ],
)
def test_what_is_not_determined_is_none(cells: list[dict[int, float]], n: int, mean: float | None):
    found = pool(cells)
    assert (found.effect.n, found.effect.mean) == (n, mean)
    assert found.effect.interval is None and found.interval_beyond is None


def test_one_cell_is_its_own_mean_and_speaks_for_no_other():
    found = pool([{0: 1.0, 1: 2.0, 4: 4.0}])
    assert found.effect.differences == (1.0, 2.0, 4.0) and found.effect.interval is not None
    assert found.interval_beyond is None
