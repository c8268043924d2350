"""scripts/compare.py: two arms as it prints them, against numbers worked out by hand."""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lrd.config.compose import CONFIGS
from scripts import compare
from tests.helpers.finished_runs import begin, composed, finish_with

PAIR = ["quickstart", "optim=sgdm,adam"]
# By optimizer and p, the test accuracies of three seeds in four epochs.
CURVES = {
    ("sgdm", 1): [(90, 94, 95, 95), (91, 94, 94, 96), (92, 93, 95, 94)],
    ("sgdm", 0.5): [(91, 95, 95, 97), (92, 93, 95, 95), (93, 94, 96, 97)],
    ("adam", 1): [(80, 85, 90, 92), (81, 84, 91, 93), (82, 86, 90, 94)],
    ("adam", 0.5): [(80, 92, 93, 93), (80, 93, 93, 94), (81, 94, 94, 95)],
}


def runs(root: Path, optim: str, p: float, curves: Sequence[Sequence[float]], **record: object):
    settings = ("task=digits", f"optim={optim}", f"lrd.p={p}")
    for seed, scores in enumerate(curves):
        run = finish_with(root, scores[-1], *settings, seed=seed, **record)
        score = run.metadata["score"]["name"]
        lines = [
            {"epoch": e, "train_loss": (100 - s) / 10, score: s} for e, s in enumerate(scores, 1)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run.folder / "metrics.jsonl").write_text(text)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("runs")
    for (optim, p), curves in CURVES.items():
        runs(made, optim, p, curves)
    return made


def show(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> tuple[str, str]:
    assert compare.main([*arguments, "--runs", str(root)]) == 0
    out = capsys.readouterr()
    return out.out, out.err


def row(section: str, name: str) -> list[str]:
    (line,) = (line for line in section.splitlines() if line.startswith(name))
    return line.removeprefix(name).split()


def sections(text: str) -> list[str]:
    return text.split("\n\n")


def test_scores_by_cell_and_over_cells(root: Path, capsys):
    """SGDM: 2, -1, 3; Adam: 1, 1, 1; their means within seeds: 1.5, 0, 2."""
    out, err = show(capsys, root, *PAIR)
    head, scores, *_ = sections(out)
    title, answer, *_ = head.splitlines()
    assert title == "quickstart: with LRD against without"
    assert answer == (
        "with LRD against without: no difference shown in 2 of 2; mean difference +1.17 percentage "
        "points (-1.42 to +3.75); n = 3."
    )
    # mean 4/3, deviation sqrt(13/3), t = 1.1094, quantile 4.3027
    assert row(scores, "SGDM") == [
        *("3", "95.000", "96.333", "+1.333", "-3.838", "to", "+6.504", "2.082"),
        *("0.3828", "0.3828"),
    ]
    assert row(scores, "Adam") == [
        *("3", "93.000", "94.000", "+1.000", "-", "0.000", "sd", "=", "0", "-"),
    ]
    # mean 7/6, deviation sqrt(13/12); cells 4/3 and 1
    assert (
        "mean of 2 configurations, n = 3 seeds: +1.167, 95 % interval -1.419 to +3.752, p (t) "
        "0.1917\n" in scores
    )
    assert "sign flip" not in scores  # three pairs cannot attain less than 0.25
    assert "(mixed effects): " in scores and not err


def test_convergence_by_cell_and_over_cells(root: Path, capsys):
    out, _ = show(capsys, root, *PAIR)
    _, _, base, even, loss, score, *_ = sections(out)
    # SGDM's base ends at 95, 96, 94, first had in epochs 3, 4, 3; with LRD 2, never, 2
    assert row(base, "SGDM") == [
        *("3", "3", "/", "2", "3", "/", "2", "2", "0", "1", "-", "-", "1.0000", "0.25")
    ]
    # Adam's ends at 92, 93, 94 in epoch 4; with LRD in epoch 2
    assert row(base, "Adam") == [
        *("3", "3", "/", "3", "4", "/", "2", "3", "0", "0", "-2.0", "-", "0.2500", "0.25")
    ]
    # of two cells both sooner, one of each, both sooner: -1, 0, -1
    assert "was slower: -0.67, 95 % interval -1.00 to +0.77" in base
    # the worse of 96 and 95 in seed 1 is LRD's 95: epochs 4 and 3
    assert row(even, "SGDM")[:12] == [
        *("3", "3", "/", "3", "3", "/", "2", "3", "0", "0", "-1.0", "-")
    ]
    # heights by the trapezoid rule over epochs 1 to 4: 281.5/3, 281.5/3 and 281/3 without, 284/3,
    # 281.5/3 and 285/3 with LRD: 2.5/3, 0, 4/3
    assert row(score, "SGDM")[:2] == ["3", "+0.722"]
    assert row(loss, "SGDM")[:2] == ["3", "-0.072"]
    assert "Mean of train_loss" in loss and "Mean of test_accuracy" in score


def test_small_differences_keep_their_digits_and_sign(tmp_path: Path, capsys):
    """+0.0002, -0.0001 and +0.0003: mean 0.00013, deviation 0.00021, t interval of 0.00052."""
    runs(tmp_path, "sgdm", 1, [(95.0,), (95.0,), (95.0,)])
    runs(tmp_path, "sgdm", 0.5, [(95.0002,), (94.9999,), (95.0003,)])
    scores = sections(show(capsys, tmp_path, "quickstart", "optim=sgdm")[0])[1]
    assert row(scores, "digits, FCNet, SGDM")[1:8] == [
        *("95.00000", "95.00013", "+0.00013", "-0.00038", "to", "+0.00065", "0.00021"),
    ]


def test_seeds_that_a_gap_would_take(root: Path, capsys):
    out, _ = show(capsys, root, *PAIR)
    plan = sections(out)[-1]
    # scores 95, 96, 94 and 97, 95, 97: r = -sqrt(3) / 2; deviation 2.0817 between its multiples by
    # sqrt(2 / 7.378) and sqrt(2 / 0.0506)
    n, r, sd, low, _, high, *rest = row(plan, "SGDM")
    assert (n, r, sd, low, high) == ("3", "-0.87", "2.082", "1.084", "13.083")
    assert rest == ["-", "-", "-"]
    plan = sections(show(capsys, root, *PAIR, "--gap", "2")[0])[-1]
    assert "a difference of 2 4 times out of 5" in plan
    assert row(plan, "SGDM")[-3:] == ["+2.00", "-", "-"]
    assert plan.endswith("seeds are given from 8 pairs on, since fewer do not know their spread\n")


def test_from_eight_pairs_on_there_are_permutations_and_seeds(tmp_path: Path, capsys):
    """Differences 1 and 3 in turn: deviation sqrt(8 / 7) = 1.069; no flip of eight of one sign
    reaches their sum but all, so p = 2 / 2^8; (1.960 + 0.842)^2 (1.069 / 2)^2 + 1.960^2 / 2 = 4.2
    pairs show 2."""
    base = [(90.0 + i,) for i in range(8)]
    other = [(91.0 + i + 2 * (i % 2),) for i in range(8)]
    for p, curves in ((1, base), (0.5, other)):
        runs(tmp_path, "sgdm", p, curves)
    out, _ = show(capsys, tmp_path, "quickstart", "optim=sgdm", "seed=range(0,8)", "--gap", "2")
    scores, plan = sections(out)[1], sections(out)[-1]
    assert row(scores, "digits, FCNet, SGDM")[-3:] == ["0.0078", "0.0078", "0.0078"]
    cells = row(plan, "digits, FCNet, SGDM")
    assert (cells[0], cells[2], cells[7]) == ("8", "1.069", "5") and cells[9] == "to"


def test_what_lacks_is_named_with_the_command_that_makes_it(root: Path, capsys):
    out, err = show(capsys, root, *PAIR, "seed=0,1,5")
    assert row(sections(out)[1], "SGDM")[0] == "2"
    assert f"python run.py -m +experiment=quickstart optim=sgdm,adam run.dir={root} seed=5" in err
    out, err = show(capsys, root, "table3")
    assert "no pair of finished runs yet" in out
    assert out.startswith("table3: Standard dropout (SD) against No regularization\n")
    assert f"+experiment=table3 +arm=base,sd run.dir={root} seed=0,1,2" in err


def test_a_failed_run_and_a_score_that_is_nan_are_told(tmp_path: Path, capsys):
    for p in (1, 0.5):
        lost: Sequence[Sequence[float]] = [(1.0,), (float("nan"),), (2.0,)]
        runs(tmp_path, "sgdm", p, CURVES["sgdm", p] if p == 1 else lost)
    begin(tmp_path, 4, "task=digits", "optim=sgdm", "lrd.p=0.5").update(status="failed")
    out, _ = show(capsys, tmp_path, "quickstart", "optim=sgdm")
    head, scores, *_ = sections(out)
    assert "note: digits, FCNet, SGDM: seed 4 failed in an arm, and no pair has it" in head
    assert "note: digits, FCNet, SGDM: a score is not finite, so that nothing follows" in head
    assert row(scores, "digits, FCNet, SGDM") == [*("3", "95.000", "-", "-", "-", "-", "-", "-")]


def test_scores_of_several_kinds_are_shown_apart(tmp_path: Path, capsys):
    runs(tmp_path, "sgdm", 1, CURVES["sgdm", 1])
    runs(tmp_path, "sgdm", 0.5, CURVES["sgdm", 0.5])
    loss = {"name": "train_loss", "maximize": False, "unit": ""}
    for p in (1, 0.5):
        runs(tmp_path, "adam", p, CURVES["adam", p], score=loss)
    out, _ = show(capsys, tmp_path, *PAIR)
    assert "Score at the final epoch (test_accuracy %, train_loss)" in out
    assert (
        "not pooled: the configurations have several scores" in out
        and "mean of 2 configurations" not in out
    )


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["nothing"], "nothing must be a study (lr_control, "),
        ([*PAIR, "--gap", "0"], "--gap must be a number other than 0, got 0"),
        ([*PAIR, "--gap", "nan"], "--gap must be a number other than 0, got nan"),
        (
            ["quickstart", "--arms", "lrd.p=1", "lrd.p=1.0"],
            "the arms must be different configurations",
        ),
        ([*PAIR, "--equivalent-within", "0"], "--equivalent-within must be above 0, got 0"),
        ([*PAIR, "--equivalent-within", "nan"], "--equivalent-within must be above 0, got nan"),
        ([*PAIR, "seed=range(3"], "cannot parse 'seed=range(3' as KEY=VALUE"),
        ([*PAIR, "seed=first"], "seed must be whole numbers, got first"),
        ([*PAIR, "train.epochs=0"], "train.epochs must be at least 1, got 0"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str, capsys):
    assert compare.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and line in err and err.count("\n") == 1


SMOKE = ("smoke", "task=digits")
ARMS = ["--arms", "lrd.p=1", "lrd.p=0.5"]
ARMED = (*SMOKE, *ARMS)
WITHIN = "--equivalent-within"
BASE = [97.0, 97.5, 98.0, 97.2]
OTHER = [97.1, 97.4, 98.1, 97.3]  # 0.1 more, 0.1 less, 0.1 more, 0.1 more


def both_arms(root: Path, base: list[float] = BASE, other: list[float] = OTHER) -> None:
    for p, scores in ((1, base), (0.5, other)):
        for seed in reversed(range(len(scores))):
            finish_with(root, scores[seed], "train.epochs=2", f"lrd.p={p}", seed=seed)


def equivalence(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> tuple[str, str]:
    margin = [] if any("within" in a for a in arguments) else ["--equivalent-within", "0.3"]
    return show(capsys, root, *arguments, *margin)


def test_runs_are_paired_by_seed_and_everything_is_shown(tmp_path: Path, capsys):
    both_arms(tmp_path)
    out, err = equivalence(capsys, tmp_path, *SMOKE, "seed=0,1,2,3", *ARMS)
    made = "(fp32, generic, A CPU (2 cores, 1 thread), torch 2.99)"
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
    both_arms(tmp_path)
    out, _ = equivalence(
        capsys, tmp_path, *SMOKE, "seed=0,1,2,3", "--equivalent-within", "0.1", *ARMS
    )
    assert "not shown: equivalence within +-0.1 points" in out
    assert "equal means, 11 pairs show it 4 times out of 5" in out


def test_a_constant_difference_shows_nothing(tmp_path: Path, capsys):
    both_arms(tmp_path, [97.0, 98.0, 96.0], [97.5, 98.5, 96.5])
    for margin in (1, 0.5):
        out, _ = equivalence(
            capsys, tmp_path, *SMOKE, "seed=0,1,2", f"--equivalent-within={margin}", *ARMS
        )
        assert out.endswith(
            "not shown: all 3 differences are +0.500, and no spread shows nothing\n"
        )


def test_runs_made_in_several_ways_are_shown_so(tmp_path: Path, capsys):
    both_arms(tmp_path)
    card = {"cpu": "A CPU", "cores": 2, "gpu": "A card"}
    other = ("train.epochs=2", "lrd.p=0.5")
    finish_with(tmp_path, 97.4, *other, seed=1, hardware=card, precision="bf16")
    out, _ = equivalence(capsys, tmp_path, *SMOKE, "seed=0,1,2,3", *ARMS)
    assert "A CPU (2 cores, 1 thread), torch 2.99; bf16, generic, A card (A CPU), torch" in out


def test_the_printed_commands_fill_exactly_what_is_missing(tmp_path: Path, capsys):
    both_arms(tmp_path, BASE, OTHER[:2])
    finish_with(tmp_path, 97.0, "train.epochs=2", "lrd.p=1", seed=7)  # asked for by nobody
    out, err = equivalence(capsys, tmp_path, *SMOKE, "seed=range(0,5)", *ARMS)
    assert "lrd.p=1    n = 2" in out
    commands = [line.strip() for line in err.splitlines() if "run.py" in line]
    assert commands == [
        f"python run.py -m +experiment=smoke task=digits lrd.p=1 run.dir={tmp_path} seed=4",
        f"python run.py -m +experiment=smoke task=digits lrd.p=0.5 run.dir={tmp_path} seed=2,3,4",
    ]
    for command in commands:
        *overrides, _, seeds = shlex.split(command)[3:]
        for seed in map(int, seeds.removeprefix("seed=").split(",")):
            finish_with(tmp_path, 97.0 + 0.1 * seed, *overrides, seed=seed)
    out, err = equivalence(capsys, tmp_path, *SMOKE, "seed=range(0,5)", *ARMS)
    assert "n = 5" in out and not err


def test_without_runs_it_says_what_there_is(tmp_path: Path, capsys):
    finish_with(tmp_path, 97.0, "train.epochs=3", "lrd.p=1")
    out, err = equivalence(capsys, tmp_path, *SMOKE, *ARMS)
    assert "not shown: 2 pairs are needed, got 0" in out
    assert "1 finished with train.epochs=3 instead of 2" in err
    assert f"task=digits run.dir={tmp_path} seed=0,1,2,3,4,5,6,7,8,9" in err


def test_other_settings_are_other_runs_and_unfinished_ones_do_not_count(tmp_path: Path, capsys):
    both_arms(tmp_path)
    run = begin(tmp_path, 9, "train.epochs=2", "lrd.p=1")
    run.update(status="running")
    out, err = equivalence(capsys, tmp_path, *SMOKE, *ARMS)
    assert "n = 4" in out and f"task=digits run.dir={tmp_path} seed=4,5,6,7,8,9" in err
    out, err = equivalence(capsys, tmp_path, *SMOKE, "train.epochs=4", *ARMS)
    given = f"task=digits train.epochs=4 run.dir={tmp_path} seed=0,1"
    assert "got 0" in out and f"+experiment=smoke {given}" in err


@pytest.mark.parametrize("name", ["fast_digits", "fast_cifar10"])
def test_the_studies_are_ten_pairs_that_differ_in_how_they_train_alone(name: str, tmp_path, capsys):
    out, err = equivalence(capsys, tmp_path, name)
    assert f"+experiment={name} run.dir={tmp_path} seed=0,1,2,3,4,5,6,7,8,9\n" in err
    (line,) = (line for line in out.splitlines() if "; train=fast has " in line)
    changed = line.partition("; train=fast has ")[2].split(", ")
    assert changed and all(setting.startswith("train.") for setting in changed)
    file = OmegaConf.load(CONFIGS / "experiment" / f"{name}.yaml")
    assert OmegaConf.select(file, "hydra.sweeper.params.train") == "paper,fast"


def test_the_cifar_study_keeps_a_tenth_of_the_training_set_and_ends_at_a_decayed_rate():
    config = composed("+experiment=fast_cifar10")
    assert config.dataset["subset"] == 5000 and config.model["blocks"] == 1
    assert config.schedule["milestones"] == [0.5, 0.75] and config.train.epochs >= 4
