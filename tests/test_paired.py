"""The t interval of paired differences against published examples and closed forms.

Equivalence, the other thing that scripts/paired.py knows, is in test_equivalence.py.
"""

import math
from typing import Any

import numpy as np
import pytest
from effect import Effect
from paired import Paired
from scipy import stats

# Student (1908): hours of sleep gained by ten patients with two drugs; R's data set "sleep".
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
SLEEP = tuple(a - b for a, b in zip(FIRST, SECOND, strict=True))
# Darwin (1876): maize, cross- less self-fertilised, in eighths of an inch.
MAIZE = (49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48)


def test_students_sleep_data_give_what_r_prints():
    """t = -4.0621, df = 9, p-value = 0.002833, -2.4598858 to -0.7001142, mean -1.58."""
    found = Paired(SLEEP)
    low, high = found.interval(0.95)
    assert (found.n, round(found.mean, 2)) == (10, -1.58)
    assert (round(low, 7), round(high, 7)) == (-2.4598858, -0.7001142)
    assert round(found.mean / found.spread * math.sqrt(10), 4) == -4.0621
    assert found.p_t is not None and round(found.p_t, 6) == 0.002833


def test_darwins_maize_gives_fishers_t():
    """The Design of Experiments, section 17: t = 2.148 with 14 degrees of freedom."""
    found = Paired(MAIZE)
    assert round(found.mean / found.spread * math.sqrt(15), 3) == 2.148
    assert found.p_t == pytest.approx(0.0497, abs=5e-5)


def test_p_is_below_5_percent_exactly_where_the_interval_leaves_0_out():
    rows = np.random.default_rng(0).normal(0.5, 0.6, (300, 5)).tolist()
    outside = []
    for found in (Paired(tuple(row)) for row in rows):
        low, high = found.interval(0.95)
        expected: Any = stats.ttest_1samp(found.differences, 0)
        assert found.p_t is not None and found.p_t == pytest.approx(expected.pvalue)
        assert (found.p_t < 0.05) == (not low < 0 < high)
        outside.append(found.p_t < 0.05)
    assert 20 < sum(outside) < 280


def test_the_interval_of_the_spread_is_that_of_an_exponential_at_three_pairs():
    """Twice the square of the spread over that of the truth is then exponential, of mean 2."""
    found = Paired((1.0, 2.0, 6.0))
    low, high = found.spread_interval(0.95)
    assert found.spread == pytest.approx(math.sqrt(7))
    assert low == pytest.approx(math.sqrt(7 / -math.log(0.025)))
    assert high == pytest.approx(math.sqrt(7 / -math.log(0.975)))
    assert high / low == pytest.approx(12.07, abs=0.01)


def test_the_interval_of_the_spread_covers_95_percent():
    rows = np.random.default_rng(1).normal(0, 0.3, (2000, 6)).tolist()
    intervals = [Paired(tuple(row)).spread_interval(0.95) for row in rows]
    covered = np.mean([low <= 0.3 <= high for low, high in intervals])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.05 * 0.95 / 2000)


def test_a_difference_in_the_last_digits_is_no_spread():
    """98.3 - 98.2, 97.4 - 97.3 and 95.6 - 95.5 differ by rounding alone."""
    differences = tuple(a - b for a, b in ((98.3, 98.2), (97.4, 97.3), (95.6, 95.5)))
    assert len(set(differences)) > 1
    found = Paired(differences)
    assert found.spread == 0 and found.p_t is None
    assert found.interval(0.95) == (found.mean, found.mean)


@pytest.mark.parametrize("differences", [(), (1.0,), (1.0, math.nan), (1.0, math.inf)])
def test_less_than_two_pairs_and_what_is_not_finite_are_no_paired(differences: tuple[float, ...]):
    with pytest.raises(AssertionError):
        Paired(differences)


def test_an_effect_has_what_its_pairs_determine():
    found = Effect(SLEEP)
    paired = Paired(SLEEP)
    assert (found.n, found.mean, found.sd) == (10, pytest.approx(-1.58), paired.spread)
    assert found.interval == paired.interval(0.95) and found.p_t == paired.p_t
    assert found.p_least == 2 / 1024 and found.p_permutation is not None
    plan = found.plan(1.0)
    assert plan is not None and plan.bounds == paired.spread_interval(0.95)
    assert (plan.gap, plan.n, plan.spread) == (1.0, 10, paired.spread)


def shown(found: Effect) -> tuple[object, ...]:
    return found.n, found.mean, found.sd, found.interval, found.p_t, found.p_permutation


@pytest.mark.parametrize(
    "differences, expected",
    [
        ((), (0, None, None, None, None, None)),
        ((0.5,), (1, 0.5, None, None, None, 1.0)),
        ((0.0, 0.0, 0.0), (3, 0.0, 0.0, None, None, 1.0)),
        ((0.5, 0.5, 0.5), (3, 0.5, 0.0, None, None, 0.25)),  # three seeds are no certainty
        ((0.5, math.nan, 0.1), (3, None, None, None, None, None)),
        ((0.5, math.inf, 0.1), (3, None, None, None, None, None)),
        ((math.inf, -math.inf), (2, None, None, None, None, None)),
    ],
)
def test_what_pairs_do_not_determine_is_none(
    differences: tuple[float, ...], expected: tuple[object, ...]
):
    found = Effect(differences)
    assert shown(found) == expected and found.plan(0.3) is None
    assert found.p_least == (None if not differences else 2 ** (1 - len(differences)))
