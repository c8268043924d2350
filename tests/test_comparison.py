"""Pairs of filled cells: paired by seed, in the score's unit, and over a table."""

import json
import math
import statistics
from pathlib import Path

import pytest
from cells import Filled, half_width, pairs
from comparison import Score, compare, holm_permutation, holm_t, pooled
from permutation import holm
from pooled import pool
from power import pairs_needed
from tabular import Cell

from lrd.runs.store import Run

ACCURACY = {"name": "test_accuracy", "maximize": True, "unit": "%"}
BASE = {0: 95.2, 1: 95.4, 2: 95.1, 3: 95.3}
OTHER = {0: 95.5, 1: 95.5, 2: 95.6, 3: 95.3}


def run(seed: int, value: float, root: Path = Path("nowhere"), **record: object) -> Run:
    final = {"value": value, "epoch": 2}
    return Run(root / f"seed{seed}", {"seed": seed, "final": final, "score": ACCURACY, **record})


def cell(scores: dict[int, float], paper: float | None = None, failed: tuple[int, ...] = ()):
    runs = tuple(run(seed, value) for seed, value in scores.items())
    lost = tuple(Run(Path("nowhere"), {"seed": seed}) for seed in failed)
    return Filled(Cell("table1_mnist", (), paper), {}, runs, lost)


def test_a_cell_has_mean_deviation_and_interval_over_its_seeds():
    found = cell(BASE)
    values = list(BASE.values())
    assert (found.n, found.mean) == (4, pytest.approx(statistics.fmean(values)))
    assert found.sd == pytest.approx(statistics.stdev(values))
    assert found.half_width == pytest.approx(3.182446305284263 * statistics.stdev(values) / 2)
    assert found.half_width == half_width(values)
    one, none = cell({0: 95.0}), cell({})
    assert (one.mean, one.sd, one.half_width) == (95.0, None, None)
    assert (none.n, none.mean, none.sd, none.half_width) == (0, None, None, None)


def test_runs_are_paired_by_seed_whatever_their_order():
    found = compare(cell(BASE), cell(dict(reversed(OTHER.items())) | {7: 20.0}))
    assert found.seeds == (0, 1, 2, 3) and found.n == 4
    expected = [0.3, 0.1, 0.5, 0.0]
    assert found.effect.differences == pytest.approx(expected)
    assert found.means == pytest.approx((95.25, 95.475))
    half = 3.182446305284263 * statistics.stdev(expected) / 2  # t quantile 0.975, 3 degrees
    assert found.effect.interval == pytest.approx((0.225 - half, 0.225 + half))
    assert found.effect.p_least == 0.125 and found.score == Score("test_accuracy", True, "%")


def test_only_the_seeds_asked_for_are_paired_in_their_order():
    found = compare(cell(BASE), cell(OTHER), seeds=(3, 9, 1))
    assert found.seeds == (3, 1) == tuple(a.seed for a, _ in found.pairs)
    assert all(a.seed == b.seed for a, b in pairs(cell(BASE), cell(OTHER)))


def test_no_pair_and_one_pair():
    none = compare(cell(BASE), cell({9: 1.0}))
    assert (none.n, none.means, none.effect.mean, none.effect.interval) == (0, None, None, None)
    assert none.score == Score() and none.race().n == 0 and none.area("train_loss").n == 0
    one = compare(cell(BASE), cell({1: 95.0}))
    assert one.effect.mean == pytest.approx(-0.4) and one.effect.interval is None
    assert one.plan(0.3) is None


def test_a_score_that_is_nan_is_not_left_out():
    found = compare(cell(BASE), cell(OTHER | {2: math.nan}))
    assert found.n == 4 and math.isnan(found.differences[2])
    assert found.effect.mean is None and found.effect.interval is None
    assert holm_t([found]) == holm_permutation([found]) == [None]


def test_failed_runs_are_named():
    assert compare(cell(BASE, failed=(4,)), cell(OTHER, failed=(5, 4))).failed == (4, 5)
    assert compare(cell(BASE), cell(OTHER)).failed == ()


def test_the_papers_gap_is_what_is_planned_for():
    found = compare(cell(BASE, paper=97.82), cell(OTHER, paper=98.21))
    assert found.paper == 0.39
    plan, other = found.plan(), found.plan(0.2)
    assert plan is not None and other is not None and found.effect.sd is not None
    assert (plan.gap, plan.n) == (0.39, 4) and other.gap == 0.2
    assert plan.pairs == pairs_needed(0.39, found.effect.sd)
    assert compare(cell(BASE, paper=97.82), cell(OTHER)).paper is None
    assert compare(cell(BASE), cell(OTHER)).plan() is None


def test_over_a_table_cells_are_pooled_within_seeds_and_p_values_adjusted():
    table = [
        compare(cell(BASE), cell({s: v + d * (1 + s % 2) for s, v in BASE.items()}))
        for d in (0.1, -0.2, 0.4)
    ]
    everything = pooled(table)
    assert everything is not None
    assert everything.effect == pool([c.differences for c in table]).effect
    assert everything.effect.mean == pytest.approx(0.15)
    assert holm_t(table) == holm([c.effect.p_t for c in table])
    assert holm_permutation(table) == holm([c.effect.p_permutation for c in table])
    assert None not in holm_t(table)


def test_scores_of_several_kinds_are_not_pooled():
    loss = {"name": "test_loss", "maximize": False, "unit": ""}
    runs = tuple(run(seed, 1.0, score=loss) for seed in BASE)
    losses = Filled(Cell("figure9", ()), {}, runs)
    one = compare(cell(BASE), cell(OTHER))
    assert pooled([one, compare(losses, losses)]) is None
    empty = compare(cell({}), cell({}))  # has no score yet
    assert pooled([one, empty]) is not None


def test_convergence_is_of_the_same_pairs(tmp_path: Path):
    arms = []
    for name, curves in (("a", {0: [90, 95], 1: [80, 96]}), ("b", {0: [96, 97], 1: [90, 95]})):
        runs = []
        for seed, scores in curves.items():
            made = run(seed, scores[-1], tmp_path / name)
            made.folder.mkdir(parents=True)
            lines = [
                {"epoch": e, "test_accuracy": s, "train_loss": 100 - s}
                for e, s in enumerate(scores, 1)
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (made.folder / "metrics.jsonl").write_text(text)
            runs.append(made)
        arms.append(Filled(Cell("quickstart", (name,)), {}, tuple(runs)))
    found = compare(*arms)
    assert (found.race().base, found.race().other) == ((2, 2), (1, math.inf))
    assert (found.race(even=True).base, found.race(even=True).other) == ((2, 2), (1, 2))
    assert found.areas("test_accuracy") == {0: 4.0, 1: 4.5}
    assert found.area("train_loss").differences == (-4.0, -4.5)
