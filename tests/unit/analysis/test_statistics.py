"""Statistics against published examples, closed forms, R, scipy and slow twins."""

# pyright: reportOptionalIterable=false, reportOptionalOperand=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# A number is None where the samples do not determine it; these tests know where they do.

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from lrd.analysis import statistics
from lrd.analysis.statistics import (
    PairedDifferences,
    Pooled,
    SampleSize,
    fewest_pairs,
    holm,
    pairs_needed,
    pool,
    power,
    sign_flip,
    smallest_attainable_p,
)

# Student (1908): hours of sleep gained by ten patients with two drugs; R's data set "sleep".
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
SLEEP = tuple(a - b for a, b in zip(FIRST, SECOND, strict=True))
# Darwin (1876): maize, cross- less self-fertilised, in eighths of an inch.
MAIZE = (49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48)


def test_students_sleep_data_give_what_r_prints():
    """t = -4.0621, df = 9, p-value = 0.002833, -2.4598858 to -0.7001142, mean -1.58."""
    found = PairedDifferences(SLEEP)
    low, high = found.t_interval(0.95)
    assert (found.n, round(found.mean, 2)) == (10, -1.58)
    assert (round(low, 7), round(high, 7)) == (-2.4598858, -0.7001142)
    assert round(found.mean / found.sd * math.sqrt(10), 4) == -4.0621
    assert found.p_t is not None and round(found.p_t, 6) == 0.002833


def test_darwins_maize_gives_fishers_t():
    """The Design of Experiments, section 17: t = 2.148 with 14 degrees of freedom."""
    found = PairedDifferences(MAIZE)
    assert round(found.mean / found.sd * math.sqrt(15), 3) == 2.148
    assert found.p_t == pytest.approx(0.0497, abs=5e-5)


def test_p_is_below_5_percent_exactly_where_the_interval_leaves_0_out():
    rows = np.random.default_rng(0).normal(0.5, 0.6, (300, 5)).tolist()
    outside = []
    for found in (PairedDifferences(tuple(row)) for row in rows):
        low, high = found.t_interval(0.95)
        expected: Any = stats.ttest_1samp(found.values, 0)
        assert found.p_t is not None and found.p_t == pytest.approx(expected.pvalue)
        assert (found.p_t < 0.05) == (not low < 0 < high)
        outside.append(found.p_t < 0.05)
    assert 20 < sum(outside) < 280


def test_the_interval_of_the_spread_is_that_of_an_exponential_at_three_pairs():
    """Twice the square of the spread over that of the truth is then exponential, of mean 2."""
    found = PairedDifferences((1.0, 2.0, 6.0))
    low, high = found.sd_interval(0.95)
    assert found.sd == pytest.approx(math.sqrt(7))
    assert low == pytest.approx(math.sqrt(7 / -math.log(0.025)))
    assert high == pytest.approx(math.sqrt(7 / -math.log(0.975)))
    assert high / low == pytest.approx(12.07, abs=0.01)


def test_the_interval_of_the_spread_covers_95_percent():
    rows = np.random.default_rng(1).normal(0, 0.3, (2000, 6)).tolist()
    intervals = [PairedDifferences(tuple(row)).sd_interval(0.95) for row in rows]
    covered = np.mean([low <= 0.3 <= high for low, high in intervals])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.05 * 0.95 / 2000)


def test_a_difference_in_the_last_digits_is_no_spread():
    """98.3 - 98.2, 97.4 - 97.3 and 95.6 - 95.5 differ by rounding alone."""
    differences = tuple(a - b for a, b in ((98.3, 98.2), (97.4, 97.3), (95.6, 95.5)))
    assert len(set(differences)) > 1
    found = PairedDifferences(differences)
    assert found.sd == 0 and found.p_t is None
    assert found.t_interval(0.95) == (found.mean, found.mean)


@pytest.mark.parametrize("differences", [(), (1.0,), (1.0, math.nan), (1.0, math.inf)])
def test_less_than_two_pairs_and_what_is_not_finite_have_no_interval(
    differences: tuple[float, ...],
):
    found = PairedDifferences(differences)
    assert found.sd is found.t_interval(0.95) is found.sd_interval(0.95) is None
    assert found.equivalence_p(0.3) is found.pairs_for_equivalence(0.3) is found.p_t is None


def test_an_effect_has_what_its_pairs_determine():
    found = PairedDifferences(SLEEP)
    paired = PairedDifferences(SLEEP)
    assert (found.n, found.mean, found.sd) == (10, pytest.approx(-1.58), paired.sd)
    assert found.interval == paired.t_interval(0.95) and found.p_t == paired.p_t
    assert found.smallest_p == 2 / 1024 and found.p_permutation is not None
    plan = found.plan(1.0)
    assert plan is not None and plan.bounds == paired.sd_interval(0.95)
    assert (plan.gap, plan.n, plan.sd) == (1.0, 10, paired.sd)


def shown(found: PairedDifferences) -> tuple[object, ...]:
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
    found = PairedDifferences(differences)
    assert shown(found) == expected and found.plan(0.3) is None
    assert found.smallest_p == (None if not differences else 2 ** (1 - len(differences)))


# The data set "clinic" of R's package equivalence: two groups of 15, taken as pairs.
CLINIC_X = {
    "var1": "2.84 2.51 2.41 2.95 3.14 3.79 4.14 3.85 3.02 3.45 5.37 3.81 4.19 3.16 3.84",
    "var2": "4.00 3.26 4.14 3.42 3.25 4.34 4.97 4.31 3.11 3.41 5.02 4.21 4.59 5.30 4.32",
}
CLINIC_Y = {
    "var1": "2.60 2.82 2.18 3.46 4.01 3.04 3.47 4.06 2.91 3.59 4.51 3.16 3.86 3.31 3.02",
    "var2": "3.76 3.66 3.65 3.60 3.48 2.87 3.24 3.92 3.99 4.21 4.21 3.31 3.61 2.97 2.73",
}


@pytest.mark.parametrize(
    "name, mean, error, interval, p",
    [
        ("var1", 0.16466666667, 0.13575140679, (-0.07443366205, 0.40376699538), 0.00316688149),
        ("var2", 0.56266666667, 0.24782764108, (0.12616533051, 0.99916800282), 0.44120340460),
    ],
)
def test_the_statistics_are_those_of_r(
    name: str, mean: float, error: float, interval: tuple[float, float], p: float
):
    """Against ``tost(x - y, eps=0.6)``, whose printed values statsmodels keeps in its tests."""
    x, y = (np.array(part[name].split(), float) for part in (CLINIC_X, CLINIC_Y))
    found = PairedDifferences(tuple(x - y))
    assert found.n == 15 and found.mean == pytest.approx(mean)
    assert found.sd / math.sqrt(15) == pytest.approx(error)
    assert found.t_interval(0.90) == pytest.approx(interval)
    assert found.equivalence_p(0.6) == pytest.approx(p)


def samples(count: int, n: int, mean: float, spread: float, seed: int) -> list[PairedDifferences]:
    rows = np.random.default_rng(seed).normal(mean, spread, (count, n))
    return [PairedDifferences(tuple(row)) for row in rows.tolist()]


@pytest.mark.parametrize("n", [2, 3, 10, 40])
def test_the_statistics_are_scipys(n: int):
    for found in samples(10, n, 0.1, 0.4, seed=n):
        x, zero = np.array(found.values), np.zeros(n)
        both = [stats.ttest_rel(x, zero + 0.3, alternative="less").pvalue]
        both += [stats.ttest_rel(x, zero - 0.3, alternative="greater").pvalue]
        assert found.equivalence_p(0.3) == pytest.approx(max(both))
        for level in (0.90, 0.95):
            expected: Any = stats.ttest_rel(x, zero)
            interval = expected.confidence_interval(level)
            assert found.t_interval(level) == pytest.approx((interval.low, interval.high))


def test_equivalence_is_shown_exactly_where_the_90_percent_interval_is_inside_the_margin():
    shown = 0
    for found in samples(400, 10, 0.1, 0.3, seed=1):
        low, high = found.t_interval(0.90)
        assert (found.equivalence_p(0.3) < 0.05) == (-0.3 < low and high < 0.3)
        shown += found.equivalence_p(0.3) < 0.05
    assert 100 < shown < 300


def test_a_true_difference_of_the_margin_passes_in_5_percent_and_the_interval_covers_95():
    found = samples(2000, 10, 0.3, 0.2, seed=2)
    passed = np.mean([f.equivalence_p(0.3) < 0.05 for f in found])
    covered = np.mean([low <= 0.3 <= high for low, high in (f.t_interval(0.95) for f in found)])
    four = 4 * math.sqrt(0.05 * 0.95 / 2000)
    assert abs(passed - 0.05) < four and abs(covered - 0.95) < four


@pytest.mark.parametrize("spread", [0.2, 0.6])
def test_so_many_pairs_as_needed_have_the_power(spread: float):
    like = PairedDifferences((-spread / math.sqrt(2), spread / math.sqrt(2)))
    n = like.pairs_for_equivalence(0.3)
    assert n is not None
    for pairs, rate in ((n, "enough"), (n - 1, "too few")):
        passed = np.mean([f.equivalence_p(0.3) < 0.05 for f in samples(1500, pairs, 0, spread, 3)])
        off = 4 * math.sqrt(0.16 / 1500)
        assert passed > 0.8 - off if rate == "enough" else passed < 0.8 + off
    assert PairedDifferences((-30.0, 30.0)).pairs_for_equivalence(0.3) is None


@pytest.mark.parametrize("difference", [0.0, 0.2, -0.2, 0.3, 0.5, -0.5])
def test_a_constant_difference_is_a_point_and_shows_nothing(difference: float):
    found = PairedDifferences((difference,) * 4)
    assert found.sd == 0 and found.equivalence_p(0.3) is None and found.interval is None
    assert found.t_interval(0.90) == found.t_interval(0.95) == (difference, difference)


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
        assert (
            smallest_attainable_p(n)
            == sign_flip([0.1 * (i + 1) for i in range(n)])
            == min(1, 2 / 2**n)
        )
    assert smallest_attainable_p(3) == 0.25 and smallest_attainable_p(5) == 0.0625
    assert sign_flip([0.0, 0.0]) == 1 and sign_flip([0.3, -0.3]) == 1


def test_many_pairs_are_drawn_from_one_seed_and_agree_with_all_flips(monkeypatch):
    x = np.random.default_rng(5).normal(0.5, 1, 16)
    exact = sign_flip(x)
    monkeypatch.setattr(statistics, "EXACT", 15)
    monkeypatch.setattr(statistics, "RESAMPLES", 19_999)
    drawn = sign_flip(x)
    assert drawn == sign_flip(x) != exact
    assert abs(drawn - exact) < 5 * math.sqrt(exact * (1 - exact) / statistics.RESAMPLES)
    assert sign_flip(np.full(16, 0.5)) >= smallest_attainable_p(16) == 2 / 20_000


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


# Rutherford, Introducing ANOVA and ANCOVA (2001): 8 subjects, 2 x 3 conditions, all by all.
ANOVA_BASE = [
    [7, 3, 6, 6, 5, 8, 6, 7],
    [7, 11, 9, 11, 10, 10, 11, 11],
    [8, 14, 10, 11, 12, 10, 11, 12],
]
ANOVA_OTHER = [
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
    found = pool(table(np.array(ANOVA_OTHER, float) - np.array(ANOVA_BASE, float)))
    effect = found.effect
    assert (effect.n, found.cells, found.seeds) == (8, 3, tuple(range(8)))
    assert effect.mean is not None and effect.sd is not None
    assert 8 * (effect.mean / effect.sd) ** 2 == pytest.approx(40.14159, abs=5e-6)
    assert effect.p_t == pytest.approx(0.0003905263, abs=5e-11)


def test_beyond_these_cells_it_is_clarks_min_f():
    """min F' = F1 F2 / (F1 + F2) with (F1 + F2)^2 / (F1^2 / n2 + F2^2 / n1) degrees of freedom for
    error (Clark, 1973); F1 over seeds has n1 degrees, F2 over cells n2."""
    cells = np.array(ANOVA_OTHER, float) - np.array(ANOVA_BASE, float)
    over: list[Any] = [stats.ttest_1samp(cells.mean(axis), 0) for axis in (0, 1)]
    f1, f2 = (found.statistic**2 for found in over)
    n1, n2 = 7, 2
    low, high = pool(table(cells)).mixed_effects_interval or (math.nan, math.nan)
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

    beyond = covers(lambda p: p.mixed_effects_interval, 0.3, sampled)
    assert 0.95 - OFF < beyond
    assert covers(lambda p: p.effect.interval, 0.3, sampled) < beyond - 0.04  # of these cells alone


def test_what_is_claimed_of_more_cells_is_never_surer():
    random = np.random.default_rng(3)
    for _ in range(200):
        found = pool(table(random.normal(0.1, 0.2, (5, 3))))
        assert found.effect.interval is not None and found.mixed_effects_interval is not None
        assert found.mixed_effects_interval[0] <= found.effect.interval[0]
        assert found.mixed_effects_interval[1] >= found.effect.interval[1]


def test_only_seeds_that_every_cell_has_are_pooled_and_empty_cells_are_left_out():
    found = pool([{0: 1.0, 1: 2.0, 2: 9.0}, {}, {2: 1.0, 0: 3.0, 5: 7.0}])
    assert found.seeds == (0, 2) and found.cells == 3
    assert found.effect.values == (2.0, 5.0)
    assert found.by_cell.values == (5.0, 2.0)


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
    assert found.effect.interval is None and found.mixed_effects_interval is None


def test_one_cell_is_its_own_mean_and_speaks_for_no_other():
    found = pool([{0: 1.0, 1: 2.0, 4: 4.0}])
    assert found.effect.values == (1.0, 2.0, 4.0) and found.effect.interval is not None
    assert found.mixed_effects_interval is None


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
    assert (
        fewest_pairs(lambda n: n / 1000, 1.0) == 1000
        and fewest_pairs(lambda n: n / 1001, 1.0) is None
    )
    assert fewest_pairs(lambda n: 1.0, 0.8) == 2


def test_a_plan_says_how_badly_three_seeds_know_their_spread():
    made = SampleSize(0.39, 3, 0.2, (0.104, 1.257))
    assert made.pairs == pairs_needed(0.39, 0.2)
    assert made.pairs_range == (pairs_needed(0.39, 0.104), pairs_needed(0.39, 1.257))
    few, many = made.pairs_range
    assert few is not None and many is not None and made.pairs is not None
    assert few < made.pairs < many
