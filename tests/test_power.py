"""Power of the paired t test against published examples and simulation."""

import math
from typing import Any

import numpy as np
import pytest
from power import Plan, fewest, pairs_needed, power
from scipy import stats


def test_cohens_matched_pairs_have_the_power_that_gpower_prints():
    """G*Power's manual, "Difference between two dependent means": Cohen (1969, p. 48), 50 pairs,
    a difference of 0.4 standard deviations, correlated by 0.55: dz = 0.421637, power 0.832114."""
    dz = 0.4 / math.sqrt(1 + 1 - 2 * 0.55)
    assert round(dz, 6) == 0.421637
    assert round(power(50, 0.4, 0.4 / dz), 6) == 0.832114


def test_as_many_pairs_as_r_says():
    """Dalgaard, Introductory Statistics with R, 8.3: power.t.test(delta=10, sd=10*sqrt(2),
    power=0.85, type="paired") has n = 19.96892."""
    spread = 10 * math.sqrt(2)
    assert pairs_needed(10, spread, 0.85) == 20
    assert power(19, 10, spread) < 0.85 <= power(20, 10, spread)


@pytest.mark.parametrize("n, gap, spread", [(2, 2.0, 0.3), (3, 0.3, 0.15), (10, -0.2, 0.3)])
def test_power_is_how_often_the_t_test_rejects(n: int, gap: float, spread: float):
    rows = np.random.default_rng(n).normal(gap, spread, (20_000, n))
    found: Any = stats.ttest_1samp(rows, 0, axis=1)
    rate = np.mean(found.pvalue < 0.05)
    expected = power(n, gap, spread)
    assert abs(rate - expected) < 4 * math.sqrt(expected * (1 - expected) / 20_000)


def test_power_is_the_level_without_a_gap_and_grows_with_pairs_and_gap():
    assert power(7, 0, 1) == pytest.approx(0.05)
    assert power(7, 0, 1, level=0.01) == pytest.approx(0.01)
    for gap in (0.0, 0.01, 0.3, 3.0, 1e4, 1e12):
        over_n = [power(n, gap, 1.0) for n in range(2, 200)]
        assert all(math.isfinite(p) for p in over_n)
        assert all(a <= b + 1e-9 for a, b in zip(over_n, over_n[1:], strict=False))


def test_the_fewest_pairs_are_the_first_that_reach_the_aim():
    """Against a search one by one."""
    for gap in (0.2, 0.5, 1.0, 2.0, 50.0):
        one_by_one = next(n for n in range(2, 1001) if power(n, gap, 1.0) >= 0.8)
        assert pairs_needed(gap, 1.0) == one_by_one
    assert pairs_needed(0.05, 1.0) is None and pairs_needed(0, 1.0) is None
    assert fewest(lambda n: n / 1000, 1.0) == 1000 and fewest(lambda n: n / 1001, 1.0) is None
    assert fewest(lambda n: 1.0, 0.8) == 2


def test_a_plan_says_how_badly_three_seeds_know_their_spread():
    made = Plan(0.39, 3, 0.2, (0.104, 1.257))
    assert made.power == power(3, 0.39, 0.2) and made.pairs == pairs_needed(0.39, 0.2)
    assert made.pairs_range == (pairs_needed(0.39, 0.104), pairs_needed(0.39, 1.257))
    few, many = made.pairs_range
    assert few is not None and many is not None and made.pairs is not None
    assert few < made.pairs < many
