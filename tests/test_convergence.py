"""Epochs to a mark and heights of curves: closed forms, and runs that never get there."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest
from convergence import NEVER, Race, curve, first_reached, height, heights, race
from scipy import stats

from lrd.runs.store import Run
from tests.test_paired import MAIZE


def made(root: Path, seed: int, scores: Sequence[float | None], key: str = "test_accuracy") -> Run:
    """A finished run whose epochs have these scores; None: an epoch without one."""
    folder = root / key / f"arm{len(list(root.glob('*/*')))}" / f"seed{seed}"
    folder.mkdir(parents=True)
    lines = [
        {"epoch": e, "step": 9} | ({} if s is None else {key: s}) for e, s in enumerate(scores, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    known = [s for s in scores if s is not None]
    return Run(folder, {"seed": seed, "final": {"value": known[-1], "epoch": len(scores)}})


def both(root: Path, *pairs: tuple[Sequence[float | None], Sequence[float | None]]):
    return [(made(root, s, b), made(root, s, o)) for s, (b, o) in enumerate(pairs)]


def test_a_race_is_to_the_base_runs_final_score_of_the_same_seed(tmp_path: Path):
    pairs = both(
        tmp_path,
        ([50, 80, 90, 89], [60, 89, 70, 95]),  # the base passes 89 in epoch 3, the other in 2
        ([50, 60, 70, 75], [40, 74.9, 74.99, 75]),  # both in epoch 4
        ([50, 60, 60, 60], [59, 58, 57, 56]),  # the other never
    )
    found = race(pairs, "test_accuracy", maximize=True)
    assert (found.seeds, found.base, found.other) == ((0, 1, 2), (3, 4, 2), (2, 4, NEVER))
    assert found.reached == (3, 2) and found.medians == (3, 4)
    assert found.counts == (1, 1, 1) and found.signs == {0: -1, 1: 0, 2: 1}


def test_where_lower_is_better_the_mark_is_reached_from_above(tmp_path: Path):
    pairs = both(tmp_path, ([3.0, 2.0, 1.0], [2.5, 0.9, 1.5]), ([3.0, 1.0, 2.0], [2.0, 2.0, 3.0]))
    found = race(pairs, "test_accuracy", maximize=False)
    assert (found.base, found.other) == ((3, 2), (2, 1))


def test_the_even_race_is_to_the_worse_of_the_two_and_turns_round_with_the_arms(tmp_path: Path):
    pairs = both(
        tmp_path,
        ([50, 80, 90], [60, 70, 70]),
        ([10, 20, 30], [20, 30, 40]),
        ([70, 60, 65], [50, 64, 66]),
    )
    turned = [(other, base) for base, other in pairs]
    for maximize in (True, False):
        found = race(pairs, "test_accuracy", maximize, even=True)
        back = race(turned, "test_accuracy", maximize, even=True)
        assert (found.base, found.other) == (back.other, back.base)
        assert found.reached == (3, 3)
    found = race(pairs, "test_accuracy", True, even=True)
    assert (found.base, found.other) == ((2, 3, 1), (2, 2, 3))


def test_between_arms_that_do_not_differ_only_the_even_race_is_even(tmp_path: Path):
    """Every pair of curves of three epochs over four levels, both ways round."""
    levels = [[a, b, c] for a in (1, 2, 3, 4) for b in (1, 2, 3, 4) for c in (1, 2, 3, 4)]
    runs = [made(tmp_path, i, scores) for i, scores in enumerate(levels)]
    product = [(base, other) for base in runs for other in runs]
    pairs = [
        (Run(base.folder, base.record | {"seed": seed}), other)
        for seed, (base, other) in enumerate(product)
    ]
    sooner, _, later = race(pairs, "test_accuracy", True, even=True).counts
    assert sooner == later > 0
    sooner, _, later = race(pairs, "test_accuracy", True).counts
    assert sooner < later  # the base reaches its own final score, whatever happens


def test_epochs_without_a_score_and_a_nan_reach_nothing(tmp_path: Path):
    run = made(tmp_path, 0, [None, 70, None, math.nan, 90])
    points = curve(run, "test_accuracy")
    assert [epoch for epoch, _ in points] == [2, 4, 5]
    assert first_reached(points, 80, True) == 5 and first_reached(points, 91, True) == NEVER
    assert first_reached(points, math.nan, True) == first_reached([], 1, True) == NEVER
    assert curve(run, "nothing") == []


@pytest.mark.parametrize("even", [True, False])
def test_a_final_score_that_is_nan_leaves_the_race_open(tmp_path: Path, even: bool):
    found = race(both(tmp_path, ([50, math.nan], [60, 70])), "test_accuracy", True, even)
    assert found.base == found.other == (NEVER,) and found.counts == (0, 1, 0)
    assert found.effect.mean is None
    found = race(both(tmp_path, ([50, 60], [60, math.nan])), "test_accuracy", True, even)
    assert found.other == ((NEVER,) if even else (1,))


def maize() -> Race:
    """Darwin's fifteen pairs as epochs; the base's are all 100."""
    return Race(tuple(range(15)), (100.0,) * 15, tuple(100.0 + m for m in MAIZE))


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
        found = Race(tuple(range(n)), (50.0,) * n, tuple(51.0 + i for i in range(n)))
        assert found.median_interval == ranks
    assert Race(tuple(range(5)), (5.0,) * 5, (6.0,) * 5).median_interval is None


def test_a_run_that_never_reaches_the_mark_counts_as_later_and_has_no_mean():
    found = Race(tuple(range(7)), (10.0,) * 7, (8.0, 12.0, NEVER, 9.0, NEVER, 14.0, 13.0))
    assert found.counts == (2, 0, 5) and found.reached == (7, 5)
    assert found.p_sign == pytest.approx(stats.binomtest(2, 7).pvalue)
    assert found.medians == (10, 13)
    assert (found.effect.mean, found.effect.interval) == (None, None)
    assert found.median_interval == (-2, NEVER)  # the first and the last of seven
    most = Race((0, 1, 2), (4.0, 5.0, 6.0), (NEVER, NEVER, 6.0))
    assert most.medians == (5, NEVER) and most.p_sign == 0.5


def test_epochs_that_all_reached_have_a_mean_with_its_interval():
    found = Race((0, 1, 2), (10.0, 12.0, 11.0), (8.0, 9.0, 7.0))
    half = 4.302652729911275 * statistics.stdev([-2, -3, -4]) / math.sqrt(3)
    assert found.effect.mean == -3
    assert found.effect.interval == pytest.approx((-3 - half, -3 + half))


def test_races_of_no_pair_and_of_ties_alone():
    none = Race((), (), ())
    assert (none.n, none.reached, none.medians, none.p_sign) == (0, (0, 0), None, None)
    assert none.median_interval is None and none.signs == {}
    ties = Race((0, 1), (3.0, 4.0), (3.0, 4.0))
    assert ties.counts == (0, 2, 0) and ties.p_sign == 1


def test_the_height_is_the_area_over_the_span():
    assert height([(1, 4.0)]) == 4 and math.isnan(height([]))
    assert height([(1, 0.0), (2, 1.0), (3, 2.0)]) == 1  # a line has the height of its middle
    assert height([(1, 0.0), (2, 1.0), (4, 1.0)]) == pytest.approx(2.5 / 3)  # epochs apart
    decay = [(e, math.exp(-e / 400)) for e in range(1, 1202)]
    assert height(decay) == pytest.approx(
        400 * (math.exp(-1 / 400) - math.exp(-1201 / 400)) / 1200, rel=1e-5
    )


def test_heights_are_paired(tmp_path: Path):
    pairs = both(tmp_path, ([1, 2, 3], [2, 3, 4]), ([1, 1, 1], [0, 0, 3]))
    assert heights(pairs, "test_accuracy") == [1, -0.25]
    assert all(map(math.isnan, heights(pairs, "nothing")))
