"""Equivalence of two arms: the statistics against R and scipy, the pairing against its records."""

import math
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import equivalence
import numpy as np
import pytest
from omegaconf import OmegaConf
from paired import Paired
from scipy import stats

from lrd.config.compose import CONFIGS, compose, to_config
from lrd.config.schema import Config
from lrd.runs.store import Run, open_run

# The data set "clinic" of R's package equivalence: two groups of 15, taken as pairs.
FIRST = {
    "var1": "2.84 2.51 2.41 2.95 3.14 3.79 4.14 3.85 3.02 3.45 5.37 3.81 4.19 3.16 3.84",
    "var2": "4.00 3.26 4.14 3.42 3.25 4.34 4.97 4.31 3.11 3.41 5.02 4.21 4.59 5.30 4.32",
}
SECOND = {
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
    x, y = (np.array(part[name].split(), float) for part in (FIRST, SECOND))
    found = Paired(tuple(x - y))
    assert found.n == 15 and found.mean == pytest.approx(mean)
    assert found.spread / math.sqrt(15) == pytest.approx(error)
    assert found.interval(0.90) == pytest.approx(interval)
    assert found.p_value(0.6) == pytest.approx(p)


def samples(count: int, n: int, mean: float, spread: float, seed: int) -> list[Paired]:
    rows = np.random.default_rng(seed).normal(mean, spread, (count, n))
    return [Paired(tuple(row)) for row in rows.tolist()]


@pytest.mark.parametrize("n", [2, 3, 10, 40])
def test_the_statistics_are_scipys(n: int):
    for found in samples(10, n, 0.1, 0.4, seed=n):
        x, zero = np.array(found.differences), np.zeros(n)
        both = [stats.ttest_rel(x, zero + 0.3, alternative="less").pvalue]
        both += [stats.ttest_rel(x, zero - 0.3, alternative="greater").pvalue]
        assert found.p_value(0.3) == pytest.approx(max(both))
        for level in (0.90, 0.95):
            expected: Any = stats.ttest_rel(x, zero)
            interval = expected.confidence_interval(level)
            assert found.interval(level) == pytest.approx((interval.low, interval.high))


def test_equivalence_is_shown_exactly_where_the_90_percent_interval_is_inside_the_margin():
    shown = 0
    for found in samples(400, 10, 0.1, 0.3, seed=1):
        low, high = found.interval(0.90)
        assert (found.p_value(0.3) < 0.05) == (-0.3 < low and high < 0.3)
        shown += found.p_value(0.3) < 0.05
    assert 100 < shown < 300


def test_a_true_difference_of_the_margin_passes_in_5_percent_and_the_interval_covers_95():
    found = samples(2000, 10, 0.3, 0.2, seed=2)
    passed = np.mean([f.p_value(0.3) < 0.05 for f in found])
    covered = np.mean([low <= 0.3 <= high for low, high in (f.interval(0.95) for f in found)])
    four = 4 * math.sqrt(0.05 * 0.95 / 2000)
    assert abs(passed - 0.05) < four and abs(covered - 0.95) < four


@pytest.mark.parametrize("spread", [0.2, 0.6])
def test_so_many_pairs_as_needed_have_the_power(spread: float):
    like = Paired((-spread / math.sqrt(2), spread / math.sqrt(2)))
    n = like.pairs_needed(0.3)
    assert n is not None
    for pairs, rate in ((n, "enough"), (n - 1, "too few")):
        passed = np.mean([f.p_value(0.3) < 0.05 for f in samples(1500, pairs, 0, spread, 3)])
        off = 4 * math.sqrt(0.16 / 1500)
        assert passed > 0.8 - off if rate == "enough" else passed < 0.8 + off
    assert Paired((-30.0, 30.0)).pairs_needed(0.3) is None


@pytest.mark.parametrize(
    "difference, p", [(0.0, 0.0), (0.2, 0.0), (-0.2, 0.0), (0.3, 1.0), (0.5, 1.0), (-0.5, 1.0)]
)
def test_a_constant_difference_is_a_point(difference: float, p: float):
    found = Paired((difference,) * 4)
    assert found.spread == 0 and found.p_value(0.3) == p
    assert found.interval(0.90) == found.interval(0.95) == (difference, difference)


@cache
def settings(*overrides: str) -> Config:
    return to_config(compose(overrides))


def begun(root: Path, seed: int, *overrides: str) -> Run:
    config = settings(*overrides)
    return open_run(replace(config, seed=seed, run=replace(config.run, dir=str(root))))


def finish(root: Path, value: float, seed: int, *overrides: str, **record: Any) -> None:
    """A finished run as training would leave it."""
    score = {"name": "test_accuracy", "maximize": True, "unit": "%"}
    made = dict(implementation="generic", threads=1, versions={"torch": "2.99"})
    made |= {"hardware": {"cpu": "A CPU", "cores": 2, "gpu": None}, "score": score, **record}
    final = {"value": value, "epoch": 1}
    begun(root, seed, *overrides).write(status="finished", final=final, **made)


SMOKE = ("smoke", "task=digits")
ARMS = ["--arms", "lrd.p=1", "lrd.p=0.5"]
BASE = [97.0, 97.5, 98.0, 97.2]
OTHER = [97.1, 97.4, 98.1, 97.3]  # 0.1 more, 0.1 less, 0.1 more, 0.1 more


def both(root: Path, base: list[float] = BASE, other: list[float] = OTHER) -> None:
    for p, scores in ((1, base), (0.5, other)):
        for seed in reversed(range(len(scores))):
            finish(root, scores[seed], seed, "train.epochs=2", f"lrd.p={p}")


def show(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> tuple[str, str]:
    assert equivalence.main([*arguments, "--runs", str(root)]) == 0
    out = capsys.readouterr()
    return out.out, out.err


def test_runs_are_paired_by_seed_and_everything_is_shown(tmp_path: Path, capsys):
    both(tmp_path)
    out, err = show(capsys, tmp_path, *SMOKE, "seed=0,1,2,3", *ARMS)
    made = "(fp32, generic, A CPU, 2 cores, threads 1, torch 2.99)"
    assert f"lrd.p=1    n = 4  mean 97.425  {made}" in out
    assert f"lrd.p=0.5  n = 4  mean 97.475  {made}" in out
    assert "lrd.p=0.5 has lrd.p=0.5 instead of 1" in out
    half = 2.353363434801824 * 0.1 / math.sqrt(4)  # t quantile 0.95, 3 degrees of freedom
    assert "mean difference  +0.050 (standard deviation 0.100, -0.100 to +0.100)" in out
    assert f"90 % interval     {0.05 - half:+.3f} to {0.05 + half:+.3f}" in out
    assert "95 % interval     -0.109 to +0.209" in out
    assert "two one-sided t tests against +-0.3: p = 0.0077" in out  # t = 5, 3 degrees
    assert out.endswith("\nequivalent within +-0.3 points\n") and not err


def test_what_is_not_shown_says_how_many_pairs_would_do(tmp_path: Path, capsys):
    both(tmp_path)
    out, _ = show(capsys, tmp_path, *SMOKE, "seed=0,1,2,3", "--margin", "0.1", *ARMS)
    assert "not shown: equivalence within +-0.1 points" in out
    assert "equal means, 11 pairs show it 4 times out of 5" in out


def test_a_constant_difference_is_shown_or_not_without_nan(tmp_path: Path, capsys):
    both(tmp_path, [97.0, 98.0, 96.0], [97.5, 98.5, 96.5])
    for margin, last in ((1, "equivalent within +-1 points"), (0.5, "not shown: equivalence")):
        out, _ = show(capsys, tmp_path, *SMOKE, "seed=0,1,2", f"--margin={margin}", *ARMS)
        assert "interval     +0.500 to +0.500" in out and last in out and "nan" not in out


def test_runs_made_in_several_ways_are_shown_so(tmp_path: Path, capsys):
    both(tmp_path)
    card = {"cpu": "A CPU", "cores": 2, "gpu": "A card"}
    finish(tmp_path, 97.4, 1, "train.epochs=2", "lrd.p=0.5", hardware=card, precision="bf16")
    out, _ = show(capsys, tmp_path, *SMOKE, "seed=0,1,2,3", *ARMS)
    assert "A CPU, 2 cores, threads 1, torch 2.99; bf16, generic, A card, threads 1" in out


def test_the_printed_commands_fill_exactly_what_is_missing(tmp_path: Path, capsys):
    both(tmp_path, BASE, OTHER[:2])
    finish(tmp_path, 97.0, 7, "train.epochs=2", "lrd.p=1")  # asked for by nobody
    out, err = show(capsys, tmp_path, *SMOKE, "seed=range(0,5)", *ARMS)
    assert "lrd.p=1    n = 2" in out
    commands = [line.strip() for line in err.splitlines() if "run.py" in line]
    assert commands == [
        "python run.py -m +experiment=smoke task=digits lrd.p=1 seed=4",
        "python run.py -m +experiment=smoke task=digits lrd.p=0.5 seed=2,3,4",
    ]
    for command in commands:
        *overrides, seeds = shlex.split(command)[3:]
        for seed in map(int, seeds.removeprefix("seed=").split(",")):
            finish(tmp_path, 97.0 + 0.1 * seed, seed, *overrides)
    out, err = show(capsys, tmp_path, *SMOKE, "seed=range(0,5)", *ARMS)
    assert "n = 5" in out and not err


def test_without_runs_it_says_what_there_is(tmp_path: Path, capsys):
    finish(tmp_path, 97.0, 0, "train.epochs=3", "lrd.p=1")
    out, err = show(capsys, tmp_path, *SMOKE, *ARMS)
    assert "not shown: at least 2 pairs are needed, got 0" in out
    assert "1 finished with train.epochs=3 instead of 2" in err
    assert "lrd.p=0.5 seed=0,1,2,3,4,5,6,7,8,9" in err


def test_other_settings_are_other_runs_and_unfinished_ones_do_not_count(tmp_path: Path, capsys):
    both(tmp_path)
    run = begun(tmp_path, 9, "train.epochs=2", "lrd.p=1")
    run.write(status="running", final={"value": 50.0, "epoch": 1})
    out, err = show(capsys, tmp_path, *SMOKE, *ARMS)
    assert "n = 4" in out and "lrd.p=1 seed=4,5,6,7,8,9" in err
    out, err = show(capsys, tmp_path, *SMOKE, "train.epochs=4", *ARMS)
    assert "got 0" in out and "+experiment=smoke task=digits train.epochs=4 lrd.p=1 seed=0,1" in err


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["nothing"], "experiment=nothing is no choice of experiment; there are: "),
        ([*SMOKE, "--arms", "lrd.p=1", "lrd.p=1.0"], "the arms must be different configurations"),
        (["quickstart", *ARMS], "optim must be one value here, got sgdm,rmsprop,adam,amsgrad,"),
        ([*SMOKE, *ARMS, "seed=first"], "seed must be whole numbers, got first"),
        ([*SMOKE, *ARMS, "seed=range(3"], "cannot read 'seed=range(3' as KEY=VALUE"),
        ([*SMOKE, *ARMS, "train.epochs=0"], "train.epochs must be at least 1, got 0"),
        ([*SMOKE, *ARMS, "--margin", "0"], "--margin must be above 0, got 0"),
        ([*SMOKE, *ARMS, "--margin", "nan"], "--margin must be above 0, got nan"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str, capsys):
    assert equivalence.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and line in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["fast_digits", "fast_cifar10"])
def test_the_studies_are_ten_pairs_that_differ_in_how_they_train_alone(name: str, tmp_path, capsys):
    out, err = show(capsys, tmp_path, name)
    assert f"+experiment={name} train=paper seed=0,1,2,3,4,5,6,7,8,9\n" in err
    assert f"+experiment={name} train=fast seed=0,1,2,3,4,5,6,7,8,9\n" in err
    (line,) = (line for line in out.splitlines() if line.startswith("train=fast has "))
    changed = line.removeprefix("train=fast has ").split(", ")
    assert changed and all(setting.startswith("train.") for setting in changed)
    file = OmegaConf.load(CONFIGS / "experiment" / f"{name}.yaml")
    assert OmegaConf.select(file, "hydra.sweeper.params.train") == "paper,fast"


def test_the_cifar_study_keeps_a_tenth_of_the_training_set_and_ends_at_a_decayed_rate():
    config = settings("+experiment=fast_cifar10")
    assert config.dataset["subset"] == 5000 and config.model["blocks"] == 1
    assert config.schedule["milestones"] == [0.5, 0.75] and config.train.epochs >= 4
