"""run.py as a user runs it: exit status, one line for every mistake, runs found again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lrd.runs.signals import RankLost
from lrd.runs.store import TIMES, find_runs

ROOT = Path(__file__).parents[1]
QUICK = ["train.epochs=2", "model.hidden=[16]"]


def test_a_run_is_done_once_and_found_afterwards(cli, tmp_path: Path):
    first = cli(*QUICK)
    assert first.status == 0 and first.err == ""
    (run,) = find_runs("runs")
    lines = [json.loads(x) for x in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [x["epoch"] for x in lines] == [1, 2]
    assert set(lines[0]) == {
        *("epoch", "step", "lr", "fraction_kept", *TIMES),
        *("train_loss", "train_loss_sum", "train_accuracy", "test_loss", "test_accuracy"),
    }
    accuracy = lines[-1]["test_accuracy"]
    assert run.status == "finished" and run.final == accuracy
    assert f"test accuracy {accuracy:.2f} % after epoch 2" in first.out
    assert str(run.folder) in first.out and "next: " in first.out
    stamp = (run.folder / "metrics.jsonl").stat().st_mtime_ns
    again = cli(*QUICK)
    assert again.status == 0 and "finished already" in again.out
    assert (run.folder / "metrics.jsonl").stat().st_mtime_ns == stamp
    assert cli(*QUICK, "run.force=true").status == 0
    assert (run.folder / "metrics.jsonl").stat().st_mtime_ns != stamp


def test_the_record_says_where_the_numbers_come_from(cli):
    cli(*QUICK, "seed=3", "train.threads=1", "optim=sgdm", "lrd.p=0.7")
    record = next(find_runs("runs")).record
    assert record["seed"] == 3 and record["threads"] == 1 and record["device"] == "cpu"
    assert record["config"]["lrd"]["p"] == 0.7 and record["choices"]["optim"] == "sgdm"
    assert record["versions"]["torch"] == torch.__version__
    assert record["hardware"]["cpu"] and record["score"]["name"] == "test_accuracy"


def test_two_runs_of_a_seed_are_bitwise_the_same_and_seeds_differ(cli):
    def numbers(folder: str, seed: int) -> list[dict[str, float]]:
        cli(*QUICK, f"run.dir={folder}", f"seed={seed}")
        lines = next(find_runs(folder)).metrics
        return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]

    assert numbers("a", 0) == numbers("b", 0) != numbers("c", 1)


def test_a_sweep_runs_every_cell_and_skips_what_is_done(cli):
    sweep = ["-m", *QUICK, "optim=sgdm,adam", "lrd.p=1,0.5"]
    assert cli(*sweep, "seed=0").status == 0
    assert len(list(find_runs("runs"))) == 4
    done = cli(*sweep, "seed=0,1")
    assert done.out.count("finished already") == 4 and len(list(find_runs("runs"))) == 8


def test_a_failing_cell_stops_no_other_and_all_are_listed(cli):
    done = cli("-m", *QUICK, "lrd.p=0,0.5,2,1")
    assert done.status == 2 and len(list(find_runs("runs"))) == 2
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "Traceback" not in done.err
    assert "lrd.p=0: lrd.p must be in (0, 1]" in errors[0] and "got 2.0" in errors[1]


def test_an_experiment_is_a_sweep_with_or_without_the_flag(cli):
    small = ["+experiment=smoke", "task=digits", "model.hidden=[16]"]
    assert cli(*small).status == 0 and len(list(find_runs("runs"))) == 2
    assert cli("-m", *small).out.count("finished already") == 2


def test_a_loss_that_explodes_ends_in_one_line_and_a_record(cli):
    done = cli(*QUICK, "optim=sgdm", "optim.lr=1e18")
    assert done.status == 1 and done.err.count("\n") == 1
    assert "error: train_loss is" in done.err and "lower optim.lr" in done.err
    (run,) = find_runs("runs")
    assert run.status == "failed" and "train_loss is" in run.record["error"]


@pytest.mark.parametrize(
    "rank, error, status, line",
    [
        ("0", ValueError("lrd.p must ..."), 2, "error: lrd.p must ..."),
        ("1", ValueError("lrd.p must ..."), 2, ""),
        ("1", RankLost(1), 4, "error: rank 1 has lost another rank, so the run ended;"),
    ],
)
def test_of_several_ranks_one_speaks_for_all_unless_another_is_lost(
    cli, monkeypatch: pytest.MonkeyPatch, rank: str, error: Exception, status: int, line: str
):
    def fail(*told: object) -> None:
        print("begun")
        raise error

    slept: list[float] = []
    monkeypatch.setattr("lrd.training.runner.execute", fail)
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setenv("RANK", rank)
    done = cli(*QUICK)
    assert (done.status, done.out) == (status, "begun\n" if rank == "0" else "")
    assert done.err.startswith(line) and bool(done.err) is bool(line)
    assert bool(slept) is (rank != "0")  # the launcher ends the others with the first that ends


def test_mistakes_are_found_before_anything_is_written(cli, tmp_path: Path):
    for wrong in ("lrd.p=0", "optim=foo", "+foo=1", "task=mnist", "model=fcnet", "optim.lr=-1"):
        extra = ["task=cifar100"] if wrong == "model=fcnet" else []
        done = cli(wrong, "data.root=nowhere", *extra)
        assert done.status == 2 and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert not list(tmp_path.rglob("run.json"))


def test_a_holdout_is_scored_in_place_of_the_test_set(cli):
    done = cli(*QUICK, "dataset.holdout=300")
    assert done.status == 0 and "holdout accuracy" in done.out
    (line, _) = next(find_runs("runs")).metrics
    assert "holdout_accuracy" in line and "test_accuracy" not in line


@pytest.mark.parametrize(
    "optim", ["AdamW", "Adagrad", "Adadelta", "Adamax", "NAdam", "ASGD", "Rprop", "Adafactor"]
)
def test_any_optimizer_of_torch_runs(cli, optim: str):
    extra = ["~optim.weight_decay"] if optim == "Rprop" else []
    done = cli(*QUICK, f"optim._target_=torch.optim.{optim}", *extra)
    assert done.status == 0, done.err


def test_help_and_cfg_say_what_there_is(cli):
    shown = cli("--cfg", "job", "task=cifar10", "optim=radam").out
    assert "lr: 0.03" in shown and "weight_decay: 0.0005" in shown


@pytest.mark.parametrize(
    ("arguments", "status"), [(["--help"], 0), (["lrd.p=2"], 2), (["optim=foo"], 2)]
)
def test_as_a_process(arguments: list[str], status: int, tmp_path: Path):
    command = [sys.executable, str(ROOT / "run.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == status and "Traceback" not in done.stderr
    if status:
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    else:
        assert "python run.py task=cifar10 optim=adam lrd.p=0.5" in done.stdout
        assert "optim: adam, amsgrad, radam, rmsprop, rmsprop_authors, sgdm" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_step_of_real_mnist_and_cifar(cli, real_data: Path):
    for task in ("mnist", "cifar10"):
        small = ["model=fcnet"] if task == "mnist" else ["model=resnet18"]
        quick = ["train.max_steps=2", "train.batch_size=8", "dataset.holdout=64"]
        done = cli(f"task={task}", *small, f"data.root={real_data}", *quick)
        assert done.status == 0, done.err
    assert {r.folder.parts[1] for r in find_runs("runs")} == {"mnist", "cifar10"}
