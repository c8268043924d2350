"""Sign flips and Holm's correction against published examples, scipy and a slow twin."""

import itertools
import math
from typing import Any

import numpy as np
import permutation
import pytest
from permutation import holm, least, sign_flip
from scipy import stats

from tests.test_paired import MAIZE


def slow(units: list[int]) -> float:
    """All flips one by one, in whole numbers, where a tie is a tie."""
    sums = [
        sum(s * u for s, u in zip(signs, units, strict=True))
        for signs in itertools.product((1, -1), repeat=len(units))
    ]
    return sum(abs(s) >= abs(sum(units)) for s in sums) / len(sums)


def test_darwins_maize_has_fishers_5_26_percent():
    """The Design of Experiments, section 21: of 32,768 flips, 863 reach the sum of 314, and as many
    its negative: 5.26 %, where t has 4.97 %."""
    assert sum(MAIZE) == 314
    assert sign_flip(MAIZE) == 2 * 863 / 2**15
    assert sign_flip([m / 8 for m in MAIZE]) == 2 * 863 / 2**15


@pytest.mark.parametrize("n", [2, 3, 7, 12])
def test_every_flip_counts_as_in_scipy(n: int):
    x = np.random.default_rng(n).normal(0.3, 1, n)
    found: Any = stats.permutation_test(
        (x,), np.sum, permutation_type="samples", vectorized=True, n_resamples=10**6
    )
    assert sign_flip(x) == pytest.approx(found.pvalue)


def test_ties_of_accuracies_are_ties_whatever_their_last_digits():
    """Differences of rounded percentages; whole hundredths have no rounding to be wrong about."""
    random, spoiled = np.random.default_rng(0), 0
    for _ in range(200):
        base, other = random.integers(9700, 9760, (2, 6))
        differences = [o / 100 - b / 100 for b, o in zip(base, other, strict=True)]
        expected = slow([int(o - b) for b, o in zip(base, other, strict=True)])
        assert sign_flip(differences) == expected
        flips = itertools.product((1, -1), repeat=6)
        sums = [abs(np.dot(f, differences)) for f in flips]
        spoiled += np.mean(np.array(sums) >= abs(sum(differences))) != expected
    assert spoiled > 5  # comparing the sums as they are would have been wrong so often


def test_the_least_p_is_where_all_differences_have_one_sign():
    for n in range(1, 12):
        assert least(n) == sign_flip([0.1 * (i + 1) for i in range(n)]) == min(1, 2 / 2**n)
    assert least(3) == 0.25 and least(5) == 0.0625
    assert sign_flip([0.0, 0.0]) == 1 and sign_flip([0.3, -0.3]) == 1


def test_many_pairs_are_drawn_from_one_seed_and_agree_with_all_flips(monkeypatch):
    x = np.random.default_rng(5).normal(0.5, 1, 16)
    exact = sign_flip(x)
    monkeypatch.setattr(permutation, "EXACT", 15)
    monkeypatch.setattr(permutation, "RESAMPLES", 19_999)
    drawn = sign_flip(x)
    assert drawn == sign_flip(x) != exact
    assert abs(drawn - exact) < 5 * math.sqrt(exact * (1 - exact) / permutation.RESAMPLES)
    assert sign_flip(np.full(16, 0.5)) >= least(16) == 2 / 20_000


def test_under_no_difference_p_is_at_most_5_percent_as_often_as_it_says():
    rows = np.random.default_rng(2).normal(0, 1, (2000, 7)) ** 3  # far from normal
    small = np.mean([sign_flip(row) <= 0.05 for row in rows])
    assert small <= 6 / 128 + 4 * math.sqrt(0.05 * 0.95 / 2000)
    assert small >= 6 / 128 - 4 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(
    "raw, adjusted",
    [
        (  # R's multtest, mt.rawp2adjp, whose printed values statsmodels keeps in its tests
            [0.838541367553, 0.642193923795, 0.680845947633, 0.967833824309, 0.71626938238]
            + [0.177096952723, 5.23656777208e-05, 0.0202732688798, 0.00028140506198]
            + [0.0149877310796],
            [1, 1, 1, 1, 1, 1, 5.23656777208e-04, 0.14191288215860]
            + [2.5326455578200e-03, 0.11990184863680],
        ),
        (  # the same source: each step's value, and none below the one before
            [0.002, 0.004, 0.006, 0.008, 0.01, 0.012],
            [0.012, 0.02, 0.024, 0.024, 0.024, 0.024],
        ),
        (
            [0.001, 0.002, 0.003, 0.004, 0.005, 0.05, 0.06, 0.07, 0.08, 0.09],
            [0.01, 0.018, 0.024, 0.028, 0.03, 0.25, 0.25, 0.25, 0.25, 0.25],
        ),
    ],
)
def test_holms_correction_is_that_of_r(raw: list[float], adjusted: list[float]):
    assert holm(raw) == pytest.approx(adjusted, rel=1e-12)
    mixed = np.random.default_rng(0).permutation(len(raw))
    found = holm([raw[i] for i in mixed])
    assert found == pytest.approx([adjusted[i] for i in mixed], rel=1e-12)


def test_a_test_without_p_is_not_of_the_family():
    assert holm([0.01, None, 0.04, math.nan]) == [0.02, None, 0.04, None]
    assert holm([]) == [] and holm([None]) == [None] and holm([0.3]) == [0.3]
