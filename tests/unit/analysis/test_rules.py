"""Decision rules: against scipy and statsmodels, and how often they err, by simulation.

Error rates are of 2,000 trials with fixed seeds, and of 20,000 behind ``-m exhaustive``. A rate is
allowed three standard errors of its simulation above 5 %.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from lrd.analysis.claims.printed import planned_effects, printed_values
from lrd.analysis.claims.rules import (
    STATUSES,
    Criterion,
    deciding_seeds,
    estimate_cells,
    estimate_mean,
    heterogeneity_p,
    judge_differences,
    judge_exactly,
    simulate_differences,
    status_shares,
)
from lrd.analysis.claims.specs import Rule
from lrd.analysis.studies import all_studies
from lrd.analysis.studies.find import find_study

CLAIMS = [claim for study in all_studies() for claim in study.claims]
RULES = [pytest.param(r, id=f"{c.name}.{i}") for c in CLAIMS for i, r in enumerate(c.rules)]
PAPER = {claim.name for claim in find_study("lrd_paper")[0].claims}  # other studies have less n
PLANNED = [rule for rule in RULES if str(rule.id).partition(".")[0] in PAPER]
SIZES = (3, 5, 10)
TRIALS = [2000, pytest.param(20_000, marks=pytest.mark.exhaustive)]
SMALL = "no effect of a size that counts"
TABLE_1 = [
    *(0.39, 0.34, 0.27, 0.63, 0.24),
    *(0.24, 0.97, 0.72, 0.42, 0.37),
    *(0.33, 3.81, 1.79, 1.32, 1.23),
]


def at_most_5_percent(trials: int) -> float:
    return 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def shares(found: Any) -> dict[str, float]:
    return {status: float((found.status == i).mean()) for i, status in enumerate(STATUSES)}


def word(criterion: Criterion, differences: Any, n: int = 3, failures: Any = None) -> str:
    return STATUSES[int(judge_differences(criterion, differences, n, failures).status)]


def words(criterion: Criterion, differences: Any, n: int = 3) -> list[str]:
    return [STATUSES[i] for i in judge_differences(criterion, differences, n).each]


# Independent references


def test_intervals_are_scipys():
    d = np.random.default_rng(0).normal(0.1, 1, (4, 7))
    d[1, 2:] = np.nan
    found = estimate_cells(d)
    for alpha in (0.05, 0.1, 0.05 / 15):
        low, high = found.bounds(alpha)
        for i, row in enumerate(d):
            one: Any = stats.ttest_1samp(row[~np.isnan(row)], 0)
            interval = one.confidence_interval(1 - alpha)
            assert (low[i], high[i]) == pytest.approx((interval.low, interval.high), rel=1e-9)
    complete: Any = stats.ttest_1samp(d[[0, 2, 3]].mean(0), 0)
    interval = complete.confidence_interval(0.95)
    low, high = estimate_mean(d[[0, 2, 3]]).bounds(0.05)
    assert (float(low), float(high)) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_equivalence_is_statsmodels_tost():
    """Both one-sided t tests reject at 5 % exactly where the rule says that nothing changes."""
    margin, found, reference = 0.3, [], []
    for d in np.random.default_rng(1).normal(0.1, 0.25, (300, 6)):
        found.append(word(Criterion("no_change", margin), d[None], 6) == "supported")
        reference.append(DescrStatsW(d).ttost_mean(-margin, margin)[0] < 0.05)
    assert found == reference and 50 < sum(found) < 250


def test_non_inferiority_is_the_one_sided_t_test():
    for d in np.random.default_rng(2).normal(-0.05, 0.25, (200, 5)):
        one: Any = stats.ttest_1samp(d, -0.2, alternative="greater")
        assert (word(Criterion("no_fall", 0.2), d[None], 5) == "supported") == (one.pvalue < 0.05)


def by_scipy(must: str, s: float, together: str, d: Any) -> str:
    """The rule for what must rise or fall, comparison by comparison, with scipy alone."""
    sign = 1 if must == "rise" else -1

    def interval(x: Any, level: float) -> tuple[float, float]:
        one: Any = stats.ttest_1samp(sign * x, 0)
        found = one.confidence_interval(level)
        return found.low, found.high

    def status(x: Any, against: float, none: float) -> str:
        mean = sign * x.mean()
        if interval(x, 1 - against)[1] < 0 and mean <= -s:
            return "opposite found"
        if interval(x, 0.95)[0] > 0 and mean >= s:
            return "supported"
        low, high = interval(x, 1 - 2 * none)
        return SMALL if -s < low and high < s else "undecided"

    if together == "mean":
        return status(d.mean(0), 0.05, 0.05)
    k = len(d)
    found = [status(x, 0.05 / k, 0.05 / k) for x in d]
    for refuted in ("opposite found", SMALL):
        if refuted in found:
            return refuted
    return "supported" if found == ["supported"] * k else "undecided"


@pytest.mark.parametrize("together", ["mean", "each"])
@pytest.mark.parametrize("must", ["rise", "fall"])
def test_one_call_judges_many_trials_as_scipy_judges_each(must: Any, together: Any):
    rng = np.random.default_rng(3)
    seen = set()
    for k, n in ((1, 3), (2, 3), (3, 8), (2, 12)):
        effect = rng.choice([-0.4, 0, 0.05, 0.4], (60, k))
        d = effect[..., None] + rng.choice([0.05, 0.2], (60, k, 1)) * rng.normal(size=(60, k, n))
        found = judge_differences(Criterion(must, 0.1, together), d, n).status
        expected = [by_scipy(must, 0.1, together, trial) for trial in d]
        assert [STATUSES[i] for i in found] == expected
        seen |= set(expected)
    assert len(seen) == 4


def test_heterogeneity_of_two_comparisons_is_the_paired_t_test():
    d = np.random.default_rng(4).normal(0, 1, (2, 9))
    assert heterogeneity_p(d) == pytest.approx(stats.ttest_rel(*d).pvalue)
    assert heterogeneity_p(d[:1]) is None and heterogeneity_p(np.zeros((2, 3))) is None


def test_heterogeneity_errs_in_5_percent():
    trials = simulate_differences([0.3] * 4, [0.1, 0.2, 0.2, 0.6], 8, 1000, seed=5)
    ps = [heterogeneity_p(d) for d in trials]
    assert 0.02 < np.mean([p is not None and p < 0.05 for p in ps]) < at_most_5_percent(1000)


def test_a_pooled_spread_has_the_degrees_of_freedom_of_independent_comparisons():
    """Their variances averaged: 8 comparisons of 21 seeds have 8 x 20 degrees of freedom if equal
    and independent (a little less as estimated), and those of one if they are the same."""
    d = np.random.default_rng(6).normal(0, 0.2, (8, 21))
    pooled = estimate_cells(d, pooled=True)
    assert 100 < pooled.degrees[0] <= 160 and len(set(pooled.error)) == 1
    assert pooled.error[0] == pytest.approx(math.sqrt(d.var(1, ddof=1).mean() / 21))
    same = estimate_cells(np.repeat(d[:1], 8, 0), pooled=True)
    assert same.degrees == pytest.approx(20)


# Statuses, by hand


UP, DOWN, EVEN, FEW = (0.9, 1.0, 1.1), (-1.1, -1.0, -0.9), (-1.0, 0.0, 1.0), (1.0, 1.1, np.nan)
TINY, ZERO = (0.05, 0.051, 0.049), (0.01, 0.0, -0.01)


@pytest.mark.parametrize(
    ("must", "differences", "status"),
    [
        ("rise", UP, "supported"),
        ("rise", DOWN, "opposite found"),
        ("rise", EVEN, "undecided"),
        ("rise", TINY, SMALL),  # real, but too small: nobody is hurt
        ("rise", ZERO, SMALL),
        ("rise", FEW, "not enough runs"),
        ("fall", DOWN, "supported"),
        ("fall", UP, "opposite found"),
        ("no_rise", DOWN, "supported"),
        ("no_rise", ZERO, "supported"),
        ("no_rise", UP, "opposite found"),
        ("no_rise", EVEN, "undecided"),
        ("no_fall", UP, "supported"),
        ("no_fall", DOWN, "opposite found"),
        ("no_change", TINY, "supported"),
        ("no_change", UP, "opposite found"),
        ("no_change", DOWN, "opposite found"),
        ("no_change", EVEN, "undecided"),
        # -0.07 +- 0.02: below 0 beyond chance, but by less than counts
        ("rise", (-0.06, -0.07, -0.08), SMALL),
    ],
)
def test_the_status_of_one_comparison(must: Any, differences: Sequence[float], status: str):
    for together in ("mean", "each", "ordered"):
        assert word(Criterion(must, 0.1, together), [differences]) == status
    assert words(Criterion(must, 0.1), [differences]) == [status]


@pytest.mark.parametrize(
    ("together", "parts", "status"),
    [
        ("each", [UP, UP], "supported"),
        ("each", [UP, EVEN], "undecided"),
        ("each", [UP, FEW], "not enough runs"),
        ("each", [UP, ZERO], SMALL),
        ("each", [UP, DOWN], "opposite found"),
        ("each", [FEW, DOWN], "opposite found"),  # one is enough against all
        ("mean", [UP, UP], "supported"),
        ("mean", [UP, FEW], "not enough runs"),
        ("mean", [EVEN, EVEN], "undecided"),
        ("mean", [UP, (-0.9, -1.01, -1.1)], SMALL),  # nothing on average
    ],
)
def test_comparisons_together(together: Any, parts: Sequence[Any], status: str):
    assert word(Criterion("rise", 0.1, together), parts) == status


def test_at_least_four_of_five():
    rule = Criterion("rise", 0.1, "each", least=4)
    assert word(rule, [UP] * 5) == word(rule, [UP] * 4 + [DOWN]) == "supported"
    assert word(rule, [UP] * 4 + [EVEN]) == "supported"
    assert word(rule, [UP] * 3 + [EVEN] * 2) == "undecided"
    assert word(rule, [UP] * 3 + [DOWN] * 2) == "opposite found"
    assert word(rule, [UP] * 3 + [ZERO, DOWN]) == SMALL


def test_one_of_many_is_opposite_at_a_stricter_level():
    """-1 with deviation 0.2 at n = 3: t = 8.66, p = 0.013; below 0.05, above 0.05 / 10."""
    low = (-1.2, -1.0, -0.8)
    assert words(Criterion("rise", 0.1), [low]) == ["opposite found"]
    assert words(Criterion("rise", 0.1), [low] + [UP] * 9)[0] == "undecided"


def test_equal_differences_decide_nothing():
    """No spread is no measure of error: one treatment for every rule and direction."""
    for must in ("rise", "fall", "no_rise", "no_fall", "no_change"):
        for value in (-2.0, 0.0, 0.01, 2.0):
            for together in ("mean", "each"):
                rule = Criterion(must, 0.1, together)
                assert word(rule, [[value] * 5, [value] * 5], 5) == "undecided"


def test_failed_runs_count():
    """A failed run is a run: there are enough. With more of them in the second arm nothing is
    supported, and 7 of 10 against none is the opposite (Fisher: p = 0.0015)."""
    d = np.random.default_rng(7).normal(2, 0.1, (1, 10))
    rise = Criterion("rise", 0.1)
    assert word(rise, d, 10) == "supported"
    one = d.copy()
    one[0, 0] = np.nan
    assert word(rise, one, 10) == "not enough runs"
    assert word(rise, one, 10, [[0], [1]]) == "undecided"
    assert word(rise, one, 10, [[1], [0]]) == word(rise, one, 10, [[1], [1]]) == "supported"
    seven = d.copy()
    seven[0, :7] = np.nan
    assert word(rise, seven, 10, [[0], [7]]) == "opposite found"
    assert word(replace(rise, favors_other=False), seven, 10, [[0], [7]]) == "undecided"
    assert word(rise, seven, 10, [[7], [7]]) == "supported"
    every = np.repeat(seven, 15, 0)
    for together in ("mean", "each"):
        rule = Criterion("rise", 0.1, together)
        assert word(rule, every, 10, [[0] * 15, [7] * 15]) == "opposite found"


def test_fisher_is_scipys():
    """The fewest of 10 failures that are the opposite, alone: where p <= 0.025, one-sided."""
    for base in range(4):
        for other in range(10):
            d = np.r_[[np.nan] * max(base, other), np.random.default_rng(8).normal(2, 0.1, 10)]
            table = [[other, 10 - other], [base, 10 - base]]
            p: Any = stats.fisher_exact(table, alternative="greater")
            found = word(Criterion("rise", 0.1), [d[:10]], 10, [[base], [other]])
            assert (found == "opposite found") == (other > base and p.pvalue <= 0.025)


def test_numbers_without_error():
    assert judge_exactly(Criterion("rise", 0.1), TABLE_1) == "supported"
    assert judge_exactly(Criterion("rise", 0.3, "each"), TABLE_1) == SMALL
    assert judge_exactly(Criterion("rise", 0.1, "each"), [0.5, -0.5]) == "opposite found"


def test_seeds_that_would_decide_do():
    d = np.array([[0.5, -0.2, 0.6, 0.1, 0.3]])
    rule = Criterion("rise", 0.1)
    n = deciding_seeds(rule, estimate_mean(d), 5)
    assert n is not None and word(rule, d, 5) == "undecided"
    spread = d[0].std(ddof=1)

    def ideal(size: int) -> Any:
        x = np.arange(size) - (size - 1) / 2
        return [d.mean() + x * spread / x.std(ddof=1)]

    assert word(rule, ideal(n), n) == "supported" and word(rule, ideal(n - 1), n - 1) == "undecided"


# Error rates and power of the claims' rules


def true_effects(rule: Rule) -> list[list[float]]:
    """Truths under which a rule must not support its claim: no effect anywhere; for what must hold
    for each, none in one comparison (with ``least``, in one too many) and a large one elsewhere;
    for what must not move, a move of the margin."""
    c, k = rule.criterion, max(2 if rule.measure.name == "cost" else 1, len(rule.pairs))
    sign = -1 if c.must in ("fall", "no_fall") else 1
    if c.must in ("rise", "fall"):
        nothing, large = 0.0, sign * 10 * c.smallest
    else:
        nothing, large = sign * c.smallest, 0.0
    truths = [[nothing] * k]
    if c.together != "mean" and k > 1:
        without = k - (c.least or k) + 1
        truths.append([nothing] * without + [large] * (k - without))
    return truths


@pytest.mark.parametrize("trials", TRIALS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_no_rule_supports_what_is_not_so(rule: Rule, n: int, trials: int):
    for effects in true_effects(rule):
        found = status_shares(rule.criterion, effects, rule.sd, n, trials, seed=n)
        assert found["supported"] <= at_most_5_percent(trials), effects


@pytest.mark.parametrize("trials", TRIALS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_identical_arms_are_not_found_opposite(rule: Rule, n: int, trials: int):
    k = max(1, len(rule.pairs))
    for spread in (1.0, np.resize([0.25, 1.0, 5.0], k)):
        found = status_shares(rule.criterion, [0.0] * k, rule.sd * spread, n, trials, seed=n)
        assert found["opposite found"] <= at_most_5_percent(trials)
        if rule.criterion.must in ("rise", "fall"):
            assert found["supported"] <= at_most_5_percent(trials)


@pytest.mark.parametrize("trials", TRIALS)
@pytest.mark.parametrize("rule", PLANNED)
def test_the_planned_seeds_support_what_the_paper_prints(rule: Rule, trials: int):
    effects = planned_effects(rule, printed_values(all_studies()))
    found = status_shares(rule.criterion, effects, rule.sd, rule.n, trials)
    assert found["supported"] >= 0.8
    assert rule.n <= 20


@pytest.mark.parametrize("together", ["mean", "each"])
def test_identical_arms_that_fail_alike_are_not_found_opposite(together: Any):
    rng = np.random.default_rng(9)
    for n in SIZES:
        d = simulate_differences([0.0] * 5, 0.2, n, 2000, seed=n)
        failed = rng.random((2, *d.shape)) < 0.2
        d[failed.any(0)] = np.nan
        counts = np.moveaxis(failed.sum(-1), 0, 1)
        rates = shares(judge_differences(Criterion("rise", 0.1, together), d, n, counts))
        assert rates["opposite found"] <= at_most_5_percent(2000)
        assert rates["supported"] <= at_most_5_percent(2000)


def rule_of(claim: str, part: int) -> Criterion:
    return next(c for c in CLAIMS if c.name == claim).rules[part].criterion


def test_true_but_small_is_not_the_opposite():
    """+0.05 everywhere, where 0.1 counts: never the opposite, and with seeds, small."""
    for together in ("mean", "each"):
        found = status_shares(Criterion("rise", 0.1, together), [0.05] * 15, 0.2, 20)
        assert found["opposite found"] <= 0.001
    assert status_shares(Criterion("rise", 0.1), [0.05] * 15, 0.1, 20)[SMALL] > 0.8


def test_a_claim_for_every_cell_is_not_answered_by_the_mean():
    """CIFAR-10's five are 0.3 worse, the ten others 0.6 better: better on average, not in every."""
    effects = [0.6] * 5 + [-0.3] * 5 + [0.6] * 5
    on_average = status_shares(rule_of("C1", 0), effects, 0.25, 12)
    in_every = status_shares(rule_of("C1", 1), effects, 0.25, 12)
    assert on_average["supported"] > 0.8
    assert in_every["supported"] == 0 and in_every["opposite found"] > 0.9
    found = judge_differences(rule_of("C1", 0), simulate_differences(effects, 0.25, 12, 200), 12)
    named = found.each == STATUSES.index("opposite found")
    assert named[:, 5:10].mean() > 0.5 and not named[:, :5].any()
    assert heterogeneity_p(simulate_differences(effects, 0.25, 12, 1)[0]) < 1e-6  # type: ignore[operator]


def test_a_ladder_that_turns_is_not_the_smaller_the_faster():
    """Two steps slower and two faster by more, so that the ends differ as the claim says."""
    effects = [5.0, 5.0, -12.0, -12.0]
    found = status_shares(rule_of("C11", 1), effects, 2.0, 8)
    assert found["supported"] == 0 and found["opposite found"] > 0.8
    assert status_shares(rule_of("C11", 1), [-10.0] * 4, 6.5, 8)["supported"] > 0.8


def test_a_better_end_is_not_the_middle_best():
    """p = 0.9 is 0.3 better than the middle, p = 0.1 much worse (C3)."""
    found = status_shares(rule_of("C3", 1), [3.0, -0.3, 3.0, -0.3], 0.16, 10)
    assert found["supported"] == 0 and found["opposite found"] > 0.8


def test_what_the_paper_prints_by_its_own_rules():
    """C3 by optimizer has 7 of 10 gains of 0.1 or more: its rule is for the means over both."""
    gains = [0.27, 0.88, 0.72, 0.45, 0.30, -0.98, 0.09, 0.24, 0.12, -0.04]
    single = Criterion("rise", 0.1)
    assert [judge_exactly(single, [g]) for g in gains].count("supported") == 7
    assert judge_exactly(Criterion("rise", 0.1, "each", least=8), gains) != "supported"
    assert judge_exactly(rule_of("C3", 0), np.mean([gains[:5], gains[5:]], 0)) == "supported"


def test_looking_after_every_seed_errs_three_times_as_often():
    """Why n is fixed before the runs: no effect, looked at from 3 seeds to 10."""
    d = simulate_differences([0.0], 0.5, 10, 20_000)
    rise = Criterion("rise", 0.1)
    looks = [judge_differences(rise, d[..., :n], n).status == 0 for n in range(3, 11)]
    assert looks[-1].mean() < 0.03 and 0.07 < np.any(looks, axis=0).mean() < 0.1
