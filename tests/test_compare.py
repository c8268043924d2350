"""The comparison of two arms as it is printed, against numbers worked out by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import compare
import pytest

from tests.test_equivalence import begun, finish

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
        finish(root, scores[-1], seed, *settings, **record)
        lines = [
            {"epoch": e, "test_accuracy": s, "train_loss": (100 - s) / 10}
            for e, s in enumerate(scores, 1)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (begun(root, seed, *settings).folder / "metrics.jsonl").write_text(text)


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
    assert head.splitlines()[0] == "quickstart: lrd.p=0.5 against lrd.p=1 [optim=sgdm,adam]"
    # mean 4/3, deviation sqrt(13/3), t = 1.1094, quantile 4.3027
    assert row(scores, "optim=sgdm") == [
        *("3", "95.000", "96.333", "+1.333", "-3.838", "to", "+6.504", "2.082"),
        *("0.3828", "0.3828", "0.5000", "0.25", "0.5000"),
    ]
    assert row(scores, "optim=adam") == [
        *("3", "93.000", "94.000", "+1.000", "-", "0.000", "no", "spread", "-"),
        *("0.2500", "0.25", "0.5000"),
    ]
    # mean 7/6, deviation sqrt(13/12); cells 4/3 and 1
    assert (
        "mean of 2 cells, n = 3 seeds: +1.167, 95 % interval -1.419 to +3.752, p (t) 0.1917, "
        "p (flips) 0.5000 of at least 0.25" in scores
    )
    assert "as well: " in scores and not err


def test_convergence_by_cell_and_over_cells(root: Path, capsys):
    out, _ = show(capsys, root, *PAIR)
    _, _, base, even, loss, score, *_ = sections(out)
    # SGDM's base ends at 95, 96, 94, first had in epochs 3, 4, 3; with LRD 2, never, 2
    assert row(base, "optim=sgdm") == [
        *("3", "3", "/", "2", "3", "/", "2", "2", "0", "1", "-", "-", "1.0000", "0.25")
    ]
    # Adam's ends at 92, 93, 94 in epoch 4; with LRD in epoch 2
    assert row(base, "optim=adam") == [
        *("3", "3", "/", "3", "4", "/", "2", "3", "0", "0", "-2.0", "-", "0.2500", "0.25")
    ]
    # of two cells both sooner, one of each, both sooner: -1, 0, -1
    assert "as a share of all: -0.67, 95 % interval -1.00 to +0.77" in base
    # the worse of 96 and 95 in seed 1 is LRD's 95: epochs 4 and 3
    assert row(even, "optim=sgdm")[:12] == [
        *("3", "3", "/", "3", "3", "/", "2", "3", "0", "0", "-1.0", "-")
    ]
    # heights by the trapezoid rule over epochs 1 to 4: 281.5/3, 281.5/3 and 281/3 without, 284/3,
    # 281.5/3 and 285/3 with LRD: 2.5/3, 0, 4/3
    assert row(score, "optim=sgdm")[:2] == ["3", "+0.722"]
    assert row(loss, "optim=sgdm")[:2] == ["3", "-0.072"]
    assert "Mean of train_loss" in loss and "Mean of test_accuracy" in score


def test_seeds_that_a_gap_would_take(root: Path, capsys):
    out, _ = show(capsys, root, *PAIR)
    assert sections(out)[-1].endswith("unknown: it takes a gap (--gap) and two pairs that differ\n")
    plan = sections(show(capsys, root, *PAIR, "--gap", "2")[0])[-1]
    assert "a difference of 2 4 times out of 5" in plan and "optim=adam" not in plan
    # deviation 2.0817 between its multiples by sqrt(2 / 7.378) and sqrt(2 / 0.0506); pairs about
    # (1.960 + 0.842)^2 (sd / 2)^2 + 1.960^2 / 2: 10.4, 4.2 and 337.8
    n, gap, sd, low, _, high, _, seeds, *ends = row(plan, "optim=sgdm")
    assert (n, gap, sd, low, high, seeds) == ("3", "+2.00", "2.082", "1.084", "13.083", "11")
    assert ends == ["5", "to", "338"]


def test_what_lacks_is_named_with_the_command_that_makes_it(root: Path, capsys):
    out, err = show(capsys, root, *PAIR, "seed=0,1,5")
    assert row(sections(out)[1], "optim=sgdm")[0] == "2"
    assert "python run.py -m +experiment=quickstart optim=sgdm,adam lrd.p=1 seed=5" in err
    out, err = show(capsys, root, "table3")
    assert "no pair of finished runs yet" in out
    assert out.startswith("table3: +arm=lrd against +arm=base\n")  # this one sweeps named arms
    assert "+experiment=table3 +arm=base seed=0,1,2" in err


def test_a_failed_run_and_a_score_that_is_nan_are_told(tmp_path: Path, capsys):
    for p in (1, 0.5):
        lost: Sequence[Sequence[float]] = [(1.0,), (float("nan"),), (2.0,)]
        runs(tmp_path, "sgdm", p, CURVES["sgdm", p] if p == 1 else lost)
    begun(tmp_path, 4, "task=digits", "optim=sgdm", "lrd.p=0.5").write(status="failed")
    out, _ = show(capsys, tmp_path, "quickstart", "optim=sgdm")
    head, scores, *_ = sections(out)
    assert "note: quickstart: seed 4 failed in an arm, and no pair has it" in head
    assert "note: quickstart: a score is not finite, so that nothing follows" in head
    assert row(scores, "quickstart") == [
        *("3", "95.000", "-", "-", "-", "-", "-", "-", "-", "0.25", "-")
    ]


def test_scores_of_several_kinds_are_shown_apart(tmp_path: Path, capsys):
    runs(tmp_path, "sgdm", 1, CURVES["sgdm", 1])
    runs(tmp_path, "sgdm", 0.5, CURVES["sgdm", 0.5])
    loss = {"name": "train_loss", "maximize": False, "unit": ""}
    for p in (1, 0.5):
        runs(tmp_path, "adam", p, CURVES["adam", p], score=loss)
    out, _ = show(capsys, tmp_path, *PAIR)
    assert "Score at the final epoch (test_accuracy %, train_loss)" in out
    assert "not pooled: the cells have several scores" in out and "mean of 2 cells" not in out


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["nothing"], "experiment=nothing is no choice of experiment; there are: "),
        ([*PAIR, "--gap", "0"], "--gap must be a number other than 0, got 0"),
        ([*PAIR, "--gap", "nan"], "--gap must be a number other than 0, got nan"),
        ([*PAIR, "--arms", "lrd.p=1", "lrd.p=1.0"], "the arms must be different configurations"),
        ([*PAIR, "seed=first"], "seed must be whole numbers, got first"),
        ([*PAIR, "train.epochs=0"], "train.epochs must be at least 1, got 0"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str, capsys):
    assert compare.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and line in err and err.count("\n") == 1
