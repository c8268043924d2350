"""Measures of claims: by hand, and unbiased for arms that are the same."""

import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from lrd.analysis.claims import measures
from lrd.analysis.claims.measures import log_time_to_marks, measure_cost, measure_pair
from lrd.analysis.claims.rules import STATUSES, Criterion, judge_differences
from lrd.analysis.claims.specs import Measure, Pair
from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import ScoreKind, collect_results
from lrd.analysis.studies import CellSpec
from tests.helpers.finished_runs import finish_with

MARKS = (1.0, 0.7, 0.5, 0.4)
EPOCHS = np.arange(1, 101.0)
CRITERION = Criterion("fall", 3, "mean")


def curve(*values: float) -> pd.Series:
    return pd.Series(values, range(1, len(values) + 1))


def test_times_by_hand():
    """Marks 3 and 1 of 4, 2, 1, 0.5: epochs 1.5 and 3."""
    value = 100 * (math.log(1.5) + math.log(3)) / 2
    assert log_time_to_marks(curve(4, 2, 1, 0.5), (3, 1)) == pytest.approx(value)
    # within half of the run, which is epoch 2, the second mark is not reached
    half = 100 * (math.log(1.5) + math.log(2)) / 2
    assert log_time_to_marks(curve(4, 2, 1, 0.5), (3, 1), until=0.5) == pytest.approx(half)
    assert log_time_to_marks(curve(4, 4, 4, 4), (3,)) == pytest.approx(100 * math.log(4))
    assert log_time_to_marks(curve(2, 1), (3,)) == 0  # there at the first epoch
    assert log_time_to_marks(curve(4, np.nan, 1), (3,)) == pytest.approx(100 * math.log(3))


def test_a_mark_that_is_not_reached_counts_as_later_and_no_more():
    """Who reached it first is known, by how much is not: the horizon, not twice the run."""
    reached, never = curve(4, 3, 2, 1), curve(4, 4, 4, 4)
    assert log_time_to_marks(reached, (2.5,)) < log_time_to_marks(never, (2.5,))
    assert log_time_to_marks(never, (2.5,)) == log_time_to_marks(curve(9, 9, 9, 9), (2.5,))


def losses(time: float, plateau: float, rng: Any, n: int) -> list[pd.Series]:
    """n noisy curves that fall from 2.3 to a plateau with a time constant."""
    clean = plateau + (2.3 - plateau) * np.exp(-EPOCHS / time)
    noisy = clean * np.exp(0.08 * rng.normal(size=(n, 100)) + 0.03 * rng.normal(size=(n, 1)))
    return [pd.Series(row, EPOCHS) for row in noisy]


def differences(other: tuple[float, float], rng: Any, trials: int, n: int = 3) -> Any:
    """Of 100 epochs, half of them at the first rate: (trials, 1, n), base at (15, 0.3)."""
    sides = [
        [log_time_to_marks(c, MARKS, 0.5) for c in losses(*arm, rng, trials * n)]
        for arm in ((15.0, 0.3), other)
    ]
    return (np.array(sides[1]) - np.array(sides[0])).reshape(trials, 1, n)


def shares(d: Any) -> dict[str, float]:
    found = judge_differences(CRITERION, d, d.shape[-1]).status
    return {status: float((found == i).mean()) for i, status in enumerate(STATUSES)}


def test_identical_arms_are_equally_fast():
    """A target that is the base's own last value says "slower" here, with 10 % of the run."""
    d = differences((15.0, 0.3), np.random.default_rng(0), 700)
    assert abs(d.mean()) < 3 * d.std() / math.sqrt(d.size)
    found = shares(d)
    assert found["supported"] <= 0.06 and found["opposite found"] <= 0.06


def test_a_faster_arm_is_faster_wherever_it_ends():
    for plateau in (0.3, 0.32):
        d = differences((12.0, plateau), np.random.default_rng(1), 200, 5)
        assert -30 < d.mean() < -10 and shares(d)["supported"] > 0.8


def test_a_lower_plateau_is_not_faster():
    """Equal speed; 2 % of a loss of 0.3 lower at the end, so a little sooner at the last mark."""
    d = differences((15.0, 0.294), np.random.default_rng(2), 500, 10)
    assert shares(d)["supported"] < 0.1 and abs(d.mean()) < CRITERION.smallest / 2


def record(ratios: list[float], title: str = "adam: backward + step, FCNet") -> dict[str, Any]:
    lines = [
        {"label": "torch, fused", "ratios": []},
        {"label": "LRD, fused", "ratios": ratios},
        {"label": "LRD, snapshot", "ratios": [9.0, 9.0]},
    ]
    return {"facts": {}, "tables": [{"title": title, "lines": lines}]}


def test_cost_is_of_repetitions_in_one_process(tmp_path: Path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "step_a.json").write_text(json.dumps(record([1.1, 0.9])))
    (tmp_path / "step_b.json").write_text(json.dumps(record([1.0], "adam: the step alone")))
    measure = Measure("cost", ("step*.json", "backward + step", "LRD, fused"))
    with mock.patch.object(measures, "CONFIGS", tmp_path / "configs"):
        found = measure_cost(measure)
    assert found == {"step_a: adam: backward + step, FCNet": pytest.approx([10, -10])}


def test_ranges_of_as_many_runs_are_unbiased():
    """Four values of p_sd against four of p, whose accuracies are all the same but for noise."""
    rng = np.random.default_rng(3)
    for n in (3, 10):
        sides = np.ptp(rng.normal(0, 0.15, (2, 2000, 1, 4, n)), axis=-2)
        d = sides[1] - sides[0]
        found = judge_differences(Criterion("rise", 0.2), d, n).status
        for status in ("supported", "opposite found"):
            assert (found == STATUSES.index(status)).mean() <= 0.05


def test_the_best_of_as_many_rates_is_unbiased_and_follows_the_scores_direction(tmp_path: Path):
    """By hand: of 90, 95, 93 the best is 95; of losses it is the lowest."""
    cells: dict[str, list[CellSpec]] = {}
    for side, values in (("base", (90.0, 95.0, 93.0)), ("other", (91.0, 92.0, 97.0))):
        for rate, value in enumerate(values):
            p = 1 if side == "base" else 0.5
            asked = ("task=digits", "optim=adam", f"lrd.p={p}", f"optim.lr=0.0{rate + 1}")
            for seed in range(2):
                finish_with(tmp_path, value + seed, *asked, seed=seed)
            cells.setdefault(side, []).append(CellSpec("smoke", (*asked, "train.epochs=30")))
    pair = Pair(tuple(cells["base"]), tuple(cells["other"]))
    results = collect_results(pair.cells, RunFrames(tmp_path))
    found = measure_pair(Measure("best", ("score",)), pair, results)
    assert found.by_seed == {0: 2.0, 1: 2.0}
    for side in (pair.base, pair.other):
        for cell in side:
            results[cell].__dict__["score"] = ScoreKind("test_loss", maximize=False)
    assert measure_pair(Measure("best", ("score",)), pair, results).by_seed == {0: 1.0, 1: 1.0}
