"""Comparisons: pairs by seed, epochs to a target, levels of curves, and the arms of experiments."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from lrd.analysis.comparison import (
    NOT_REACHED,
    Comparison,
    TimeToTarget,
    compare,
    first_reached,
    level_table,
    mean_level,
    missing_commands,
    pair_arms,
    pool_comparisons,
    score_table,
    study_pairs,
    why_not_pooled,
)
from lrd.analysis.comparison_text import describe_differences
from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import ScoreKind
from lrd.analysis.resolve import requested_seeds, swept_settings
from lrd.analysis.statistics import half_width, holm, pairs_needed, pool
from lrd.analysis.studies.find import find_study, published_value
from tests.helpers.finished_runs import begin, finish_with, results_of
from tests.unit.analysis.test_statistics import MAIZE

BASE = {0: 95.2, 1: 95.4, 2: 95.1, 3: 95.3}
OTHER = {0: 95.5, 1: 95.5, 2: 95.6, 3: 95.3}


def cell(scores: Mapping[int, float], published: float | None = None, failed: tuple[int, ...] = ()):
    return results_of({seed: [value] for seed, value in scores.items()}, published, failed)


def test_a_cell_has_mean_deviation_and_interval_over_its_seeds():
    found = cell(BASE)
    values = list(BASE.values())
    assert (found.n, found.mean) == (4, pytest.approx(statistics.fmean(values)))
    assert found.sd == pytest.approx(statistics.stdev(values))
    assert found.half_width == pytest.approx(3.182446305284263 * statistics.stdev(values) / 2)
    assert found.half_width == pytest.approx(half_width(values))
    one, none = cell({0: 95.0}), cell({})
    assert (one.mean, one.sd, one.half_width) == (95.0, None, None)
    assert (none.n, none.mean, none.sd, none.half_width) == (0, None, None, None)


def test_runs_are_paired_by_seed_whatever_their_order():
    found = compare(cell(BASE), cell(dict(reversed(OTHER.items())) | {7: 20.0}))
    assert found.seeds == (0, 1, 2, 3) and found.n == 4
    expected = [0.3, 0.1, 0.5, 0.0]
    assert found.effect.values == pytest.approx(expected)
    assert found.means == pytest.approx((95.25, 95.475))
    half = 3.182446305284263 * statistics.stdev(expected) / 2  # t quantile 0.975, 3 degrees
    assert found.effect.interval == pytest.approx((0.225 - half, 0.225 + half))
    assert found.effect.smallest_p == 0.125 and found.score == ScoreKind("test_accuracy", True, "%")


def test_only_the_seeds_asked_for_are_paired_in_their_order():
    found = compare(cell(BASE), cell(OTHER), seeds=(3, 9, 1))
    assert found.seeds == (3, 1) == tuple(found.differences)


def test_no_pair_and_one_pair():
    none = compare(cell(BASE), cell({9: 1.0}))
    assert (none.n, none.means, none.effect.mean, none.effect.interval) == (0, None, None, None)
    assert none.score == ScoreKind() and none.time_to_target().n == 0
    assert none.level_differences("train_loss") == {}
    one = compare(cell(BASE), cell({1: 95.0}))
    assert one.effect.mean == pytest.approx(-0.4) and one.effect.interval is None
    assert one.plan(0.3) is None


def test_a_score_that_is_nan_is_not_left_out():
    found = compare(cell(BASE), cell(OTHER | {2: math.nan}))
    assert found.n == 4 and math.isnan(found.differences[2])
    assert found.effect.mean is None and found.effect.interval is None
    row = score_table({"a": found}).loc["a"]
    assert row[["difference", "p_t_holm", "p_permutation_holm"]].isna().all()


def test_failed_runs_are_named():
    assert compare(cell(BASE, failed=(4,)), cell(OTHER, failed=(5, 4))).failed == (4, 5)
    assert compare(cell(BASE), cell(OTHER)).failed == ()


def test_the_papers_gap_is_what_is_planned_for():
    found = compare(cell(BASE, published=97.82), cell(OTHER, published=98.21))
    assert found.published == 0.39
    plan, other = found.plan(), found.plan(0.2)
    assert plan is not None and other is not None and found.effect.sd is not None
    assert (plan.gap, plan.n) == (0.39, 4) and other.gap == 0.2
    assert plan.pairs == pairs_needed(0.39, found.effect.sd)
    assert compare(cell(BASE, published=97.82), cell(OTHER)).published is None
    assert compare(cell(BASE), cell(OTHER)).plan() is None


def test_over_a_table_cells_are_pooled_within_seeds_and_p_values_adjusted():
    table = [
        compare(cell(BASE), cell({s: v + d * (1 + s % 2) for s, v in BASE.items()}))
        for d in (0.1, -0.2, 0.4)
    ]
    everything = pool_comparisons(table)
    assert everything is not None
    assert everything.effect == pool([c.differences for c in table]).effect
    assert everything.effect.mean == pytest.approx(0.15)
    found = score_table(dict(zip("abc", table, strict=True)))
    assert list(found.index) == ["a", "b", "c"]
    assert found.p_t_holm.tolist() == holm([c.effect.p_t for c in table])
    assert found.p_permutation_holm.tolist() == holm([c.effect.p_permutation for c in table])
    assert not found.p_t_holm.isna().any()


def test_scores_of_several_kinds_are_not_pooled():
    loss = {"name": "test_loss", "maximize": False, "unit": ""}
    losses = results_of({seed: [1.0] for seed in BASE}, score=loss)
    one = compare(cell(BASE), cell(OTHER))
    assert pool_comparisons([one, compare(losses, losses)]) is None
    empty = compare(cell({}), cell({}))  # has no score yet
    assert pool_comparisons([one, empty]) is not None


def test_lengths_of_training_of_one_task_are_not_pooled():
    def trained(task: str, **lengths: int) -> Comparison:
        known = {f"train.{name}": value for name, value in lengths.items()} | {"dataset.name": task}
        base, other = (replace(cell(scores), identity=known) for scores in (BASE, OTHER))
        return compare(base, other)

    short, long = trained("a", epochs=3), trained("a", epochs=30)
    assert pool_comparisons([short, long]) is None
    assert why_not_pooled([short, long]).endswith("train for several lengths")
    assert pool_comparisons([short, trained("b", epochs=30)]) is not None
    assert pool_comparisons([short, trained("a", epochs=3, max_steps=5)]) is None
    mean = statistics.fmean(OTHER[seed] - BASE[seed] for seed in BASE)
    text = describe_differences("B", [("short", short), ("long", long)])
    shown = f"no difference shown in 2 of 2; short {mean:+.2f} percentage points ("
    assert text.startswith(f"B: {shown}")
    assert "), long " in text and text.count(f"{mean:+.2f}") == 2


def test_a_sentence_counts_what_intervals_show_and_names_the_few():
    good = both(*[([90], [92 + 0.1 * k]) for k in range(3)])
    bad = both(*[([92 + 0.1 * k], [90]) for k in range(3)])
    open_ = both(([90], [91]), ([90], [89]), ([90], [91]))
    three = [("x", good), ("y", bad), ("z", open_)]
    text = describe_differences("B against A", three)
    head = (
        "B against A: better in 1 of 3 (x), worse in 1 of 3 (y), no difference shown in 1 of 3 (z)"
    )
    assert text.startswith(f"{head}; mean difference +0.11 percentage points (")
    fewer = both(*[([90], [92 + 0.1 * k]) for k in range(3)], maximize=False)
    assert describe_differences("B against A", [("x", fewer)]).startswith(
        "B against A: worse; mean"
    )
    none = describe_differences("B against A", [("z", open_), ("w", open_)])
    assert none.startswith("B against A: no difference shown in 2 of 2; mean difference +0.33 ")


def test_convergence_is_of_the_same_pairs():
    found = compare(results_of({0: [90, 95], 1: [80, 96]}), results_of({0: [96, 97], 1: [90, 95]}))
    time, even = found.time_to_target(), found.time_to_target(even=True)
    assert (time.base, time.other) == ((2, 2), (1, math.inf))
    assert (even.base, even.other) == ((2, 2), (1, 2))
    assert found.level_differences("test_accuracy") == {0: 4.0, 1: 4.5}
    assert level_table("test_accuracy", {"a": found}).difference["a"] == 4.25


Scores = Sequence[float | None]


def both(*pairs: tuple[Scores, Scores], maximize: bool = True) -> Comparison:
    """Pairs of runs by their scores; the first of each is the base's."""
    score = {"name": "test_accuracy", "maximize": maximize, "unit": "%"}
    arms = (dict(enumerate(arm)) for arm in zip(*pairs, strict=True))
    base, other = (results_of(arm, score=score) for arm in arms)
    return compare(base, other)


def curve(*points: tuple[int, float]) -> pd.Series:
    return pd.Series(dict(points), dtype=float)


def test_a_race_is_to_the_base_runs_final_score_of_the_same_seed():
    pairs = both(
        ([50, 80, 90, 89], [60, 89, 70, 95]),  # the base passes 89 in epoch 3, the other in 2
        ([50, 60, 70, 75], [40, 74.9, 74.99, 75]),  # both in epoch 4
        ([50, 60, 60, 60], [59, 58, 57, 56]),  # the other never
    )
    found = pairs.time_to_target()
    assert (found.seeds, found.base, found.other) == ((0, 1, 2), (3, 4, 2), (2, 4, NOT_REACHED))
    assert found.reached == (3, 2) and found.medians == (3, 4)
    assert found.counts == (1, 1, 1) and found.signs == {0: -1, 1: 0, 2: 1}


def test_where_lower_is_better_the_mark_is_reached_from_above():
    pairs = both(
        ([3.0, 2.0, 1.0], [2.5, 0.9, 1.5]), ([3.0, 1.0, 2.0], [2.0, 2.0, 3.0]), maximize=False
    )
    found = pairs.time_to_target()
    assert (found.base, found.other) == ((3, 2), (2, 1))


def test_the_even_race_is_to_the_worse_of_the_two_and_turns_round_with_the_arms():
    pairs = (
        ([50, 80, 90], [60, 70, 70]),
        ([10, 20, 30], [20, 30, 40]),
        ([70, 60, 65], [50, 64, 66]),
    )
    turned = [(other, base) for base, other in pairs]
    for maximize in (True, False):
        found = both(*pairs, maximize=maximize).time_to_target(even=True)
        back = both(*turned, maximize=maximize).time_to_target(even=True)
        assert (found.base, found.other) == (back.other, back.base)
        assert found.reached == (3, 3)
    found = both(*pairs).time_to_target(even=True)
    assert (found.base, found.other) == ((2, 3, 1), (2, 2, 3))


def test_between_arms_that_do_not_differ_only_the_even_race_is_even():
    """Every pair of curves of three epochs over three levels, both ways round."""
    levels = list(product((1, 2, 3), repeat=3))
    pairs = both(*((base, other) for base in levels for other in levels))
    sooner, _, later = pairs.time_to_target(even=True).counts
    assert sooner == later > 0
    sooner, _, later = pairs.time_to_target().counts
    assert sooner < later  # the base reaches its own final score, whatever happens


def test_epochs_without_a_score_and_a_nan_reach_nothing():
    results = results_of({0: [None, 70, None, math.nan, 90]})
    points = results.curves("test_accuracy")[0]
    assert points.index.tolist() == [2, 4, 5]
    assert first_reached(points, 80, True) == 5 and first_reached(points, 91, True) == NOT_REACHED
    assert first_reached(points, math.nan, True) == first_reached(curve(), 1, True) == NOT_REACHED
    assert results.curves("nothing")[0].empty


@pytest.mark.parametrize("even", [True, False])
def test_a_final_score_that_is_nan_leaves_the_race_open(even: bool):
    found = both(([50, math.nan], [60, 70])).time_to_target(even)
    assert found.base == found.other == (NOT_REACHED,) and found.counts == (0, 1, 0)
    assert found.effect.mean is None
    found = both(([50, 60], [60, math.nan])).time_to_target(even)
    assert found.other == ((NOT_REACHED,) if even else (1,))


def maize() -> TimeToTarget:
    """Darwin's fifteen pairs as epochs; the base's are all 100."""
    return TimeToTarget(tuple(range(15)), (100.0,) * 15, tuple(100.0 + m for m in MAIZE))


def test_the_sign_test_of_darwins_maize():
    """13 of 15 plants: twice (1 + 15 + 105) of 2^15 = 0.0074."""
    assert maize().counts == (2, 0, 13)
    assert maize().p_sign == pytest.approx(2 * 121 / 2**15)


def test_the_median_has_the_interval_of_the_ranks_in_the_tables():
    """Altman et al., Statistics with Confidence, table of ranks for the median's 95 % interval: the
    4th and the 12th of 15, the 2nd and the 9th of 10, the 1st and the 6th of 6, none of 5."""
    ordered = sorted(MAIZE)
    assert maize().median_interval == (ordered[3], ordered[11])
    for n, ranks in ((10, (2, 9)), (6, (1, 6))):
        found = TimeToTarget(tuple(range(n)), (50.0,) * n, tuple(51.0 + i for i in range(n)))
        assert found.median_interval == ranks
    assert TimeToTarget(tuple(range(5)), (5.0,) * 5, (6.0,) * 5).median_interval is None


def test_a_run_that_never_reaches_the_mark_counts_as_later_and_has_no_mean():
    found = TimeToTarget(
        tuple(range(7)), (10.0,) * 7, (8.0, 12.0, NOT_REACHED, 9.0, NOT_REACHED, 14.0, 13.0)
    )
    assert found.counts == (2, 0, 5) and found.reached == (7, 5)
    assert found.p_sign == pytest.approx(stats.binomtest(2, 7).pvalue)
    assert found.medians == (10, 13)
    assert (found.effect.mean, found.effect.interval) == (None, None)
    assert found.median_interval == (-2, NOT_REACHED)  # the first and the last of seven
    most = TimeToTarget((0, 1, 2), (4.0, 5.0, 6.0), (NOT_REACHED, NOT_REACHED, 6.0))
    assert most.medians == (5, NOT_REACHED) and most.p_sign == 0.5


def test_epochs_that_all_reached_have_a_mean_with_its_interval():
    found = TimeToTarget((0, 1, 2), (10.0, 12.0, 11.0), (8.0, 9.0, 7.0))
    half = 4.302652729911275 * statistics.stdev([-2, -3, -4]) / math.sqrt(3)
    assert found.effect.mean == -3
    assert found.effect.interval == pytest.approx((-3 - half, -3 + half))


def test_races_of_no_pair_and_of_ties_alone():
    none = TimeToTarget((), (), ())
    assert (none.n, none.reached, none.medians, none.p_sign) == (0, (0, 0), None, None)
    assert none.median_interval is None and none.signs == {}
    ties = TimeToTarget((0, 1), (3.0, 4.0), (3.0, 4.0))
    assert ties.counts == (0, 2, 0) and ties.p_sign == 1


def test_the_height_is_the_area_over_the_span():
    assert mean_level(curve((1, 4.0))) == 4 and math.isnan(mean_level(curve()))
    assert mean_level(curve((1, 0.0), (2, 1.0), (3, 2.0))) == 1  # a line's is that of its middle
    assert mean_level(curve((1, 0.0), (2, 1.0), (4, 1.0))) == pytest.approx(2.5 / 3)  # a gap
    decay = curve(*((e, math.exp(-e / 400)) for e in range(1, 1202)))
    assert mean_level(decay) == pytest.approx(
        400 * (math.exp(-1 / 400) - math.exp(-1201 / 400)) / 1200, rel=1e-5
    )


def test_heights_are_paired():
    pairs = both(([1, 2, 3], [2, 3, 4]), ([1, 1, 1], [0, 0, 3]))
    assert pairs.level_differences("test_accuracy") == {0: 1, 1: -0.25}
    assert all(map(math.isnan, pairs.level_differences("nothing").values()))


P = ("lrd.p=1", "lrd.p=0.5")
NAMED = ("+arm=base", "+arm=dg")
OPTIMIZERS = ["sgdm", "rmsprop", "adam", "amsgrad", "radam"]


@pytest.mark.parametrize(
    "experiment, arms, overrides, cells",
    [
        ("quickstart", P, [], {"optim": OPTIMIZERS}),
        ("quickstart", P, ["optim=adam"], {}),  # one value is no sweep
        ("quickstart", P, ["optim=adam,sgdm"], {"optim": ["adam", "sgdm"]}),
        ("quickstart", P, ["lrd.p=0.7", "seed=0,1"], {"optim": OPTIMIZERS}),
        ("quickstart", P, ["train.epochs=2,3"], {"optim": OPTIMIZERS, "train.epochs": ["2", "3"]}),
        ("table3", NAMED, [], {"optim": ["adam", "sgdm"]}),
        ("fast_digits", P, [], {"train": ["paper", "fast"]}),
        (
            "fast_digits",
            ("train=paper lrd.p=1", "train=fast lrd.p=0.5"),
            ["optim=sgdm,adam"],
            {"optim": ["sgdm", "adam"]},
        ),
    ],
)
def test_the_cells_are_what_is_swept_beside_the_arms(
    experiment: str, arms: tuple[str, str], overrides: list[str], cells: dict[str, list[str]]
):
    assert swept_settings(experiment, arms, overrides) == cells


def test_seeds_are_the_command_lines_then_the_experiments_then_ten():
    assert requested_seeds("quickstart", []) == (0, 1, 2)
    assert requested_seeds("quickstart", ["seed=4"]) == (4,)
    assert requested_seeds("quickstart", ["seed=range(5,8)", "optim=adam"]) == (5, 6, 7)
    assert requested_seeds("smoke", []) == tuple(range(10))


def test_every_cell_has_both_arms_with_their_runs(tmp_path: Path):
    for optim, p, seed in (("adam", 1, 0), ("adam", 0.5, 0), ("sgdm", 1, 2)):
        finish_with(tmp_path, 90.0 + seed, "task=digits", f"optim={optim}", f"lrd.p={p}", seed=seed)
    begin(tmp_path, 1, "task=digits", "optim=sgdm", "lrd.p=0.5").update(status="failed")
    found = pair_arms("quickstart", P, RunFrames(tmp_path), ["optim=sgdm,adam"])
    assert [s.name for s in found] == ["optim=sgdm", "optim=adam"]
    sgdm, adam = ([f.n for f in s.results] for s in found)
    assert (sgdm, adam) == ([1, 0], [1, 1])
    assert list(found[0].results[1].failed.index) == [1]  # no run of its cell, and not lost
    assert [s.compare().n for s in found] == [0, 1]
    assert found[1].results[0].identity["optim._target_"] == "torch.optim.Adam"
    assert missing_commands(found) == [
        "python run.py -m +experiment=quickstart optim=sgdm lrd.p=1 seed=0,1",
        "python run.py -m +experiment=quickstart optim=sgdm lrd.p=0.5 seed=0,1,2",
        "python run.py -m +experiment=quickstart optim=adam seed=1,2",
    ]


def test_a_single_configuration_is_named_by_its_experiment(tmp_path: Path):
    (found,) = pair_arms("quickstart", P, RunFrames(tmp_path), ["optim=adam", "seed=3"])
    assert (found.name, found.seeds, found.overrides) == ("quickstart", (3,), ("optim=adam",))
    with pytest.raises(ValueError, match="the arms must be different configurations"):
        pair_arms("quickstart", ("lrd.p=1", "lrd.p=1.0"), RunFrames(tmp_path), ["optim=adam"])


@pytest.mark.parametrize(
    "name, arms",
    [("table1", ("without", "with LRD")), ("figure8", ("Adam", "Adam, LRD p = 0.5"))]
    + [("fast_digits", ("train=paper", "train=fast")), ("smoke", P)],
)
def test_what_a_study_compares(name: str, arms: tuple[str, str], tmp_path: Path):
    (found,) = study_pairs(find_study(name)[0], RunFrames(tmp_path))
    assert {pair.arms for pair in found} == {arms} and {pair.title for pair in found} == {name}
    if name == "table1":
        assert len(found) == 15 and found[0].seeds == (0, 1, 2)
        assert found[7].name == "CIFAR-10, ResNet-34, Adam"


def test_a_study_without_contrasts_compares_nothing(tmp_path: Path):
    with pytest.raises(ValueError, match="lr_tuned compares nothing: give two settings, --arms"):
        study_pairs(find_study("lr_tuned")[0], RunFrames(tmp_path))


def test_a_cell_knows_what_the_paper_prints_for_it(tmp_path: Path):
    """Table 1, MNIST, Adam: 97.88 without and 98.15 with LRD; nothing is printed at p = 0.4."""
    assert published_value("table1_mnist", ("optim=adam", "scale=0.1", "lrd.p=1")) == 97.88
    assert published_value("table1_mnist", ("optim=adam", "lrd.p=0.4")) is None
    assert published_value("fast_digits", ("optim=adam", "lrd.p=1")) is None
    (found,) = pair_arms("table1_mnist", P, RunFrames(tmp_path), ["optim=adam", "scale=0.1"])
    assert [f.cell.published for f in found.results] == [97.88, 98.15]
