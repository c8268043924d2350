"""run.py as a user runs it: exit status, one line for every error, finished runs found again."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from lrd.runs.ranks import ProcessRank
from lrd.runs.signals import RankLost
from lrd.runs.store import TIMES, find_runs

ROOT = Path(__file__).parents[2]
QUICK = ["train.epochs=2", "model.hidden=[16]"]


def test_a_run_is_done_once_and_then_found(cli, tmp_path: Path):
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
    assert str(run.folder) in first.out and "Next: " in first.out
    stamp = (run.folder / "metrics.jsonl").stat().st_mtime_ns
    again = cli(*QUICK)
    assert again.status == 0 and "finished already" in again.out
    assert (run.folder / "metrics.jsonl").stat().st_mtime_ns == stamp
    assert cli(*QUICK, "run.force=true").status == 0
    assert (run.folder / "metrics.jsonl").stat().st_mtime_ns != stamp


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_idle_threads_sleep_unless_the_user_says_otherwise(tmp_path: Path, given: str | None):
    """As OpenMP itself reports it, which reads the policy once, when torch is imported."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "true", **({"OMP_WAIT_POLICY": given} if given else {})}
    run = [sys.executable, str(ROOT / "run.py")]
    # a sweep's workers without the user's word: tests/integration/test_local_launcher.py
    for more in ([], ["-m", "+cluster=local", "seed=1"])[: 2 if given else 1]:
        command = [*run, *more, "train.max_steps=1", "train.threads=1", f"run.dir={tmp_path}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0
        shown = re.findall(r"OMP_WAIT_POLICY = '(\w+)'", done.stderr)
        assert shown and set(shown) == {given or "PASSIVE"}


def test_the_record_has_the_provenance(cli):
    cli(*QUICK, "seed=3", "train.threads=1", "optim=sgdm", "lrd.p=0.7")
    record = next(find_runs("runs")).metadata
    assert record["seed"] == 3 and record["threads"] == 1 and record["device"] == "cpu"
    assert record["config"]["lrd"]["p"] == 0.7 and record["choices"]["optim"] == "sgdm"
    assert record["versions"]["torch"] == torch.__version__
    assert record["hardware"]["cpu"] and record["score"]["name"] == "test_accuracy"


def test_two_runs_of_a_seed_are_bitwise_identical_and_seeds_differ(cli):
    def numbers(folder: str, seed: int) -> list[dict[str, float]]:
        cli(*QUICK, f"run.dir={folder}", f"seed={seed}")
        lines = next(find_runs(folder)).metrics
        return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]

    assert numbers("a", 0) == numbers("b", 0) != numbers("c", 1)


def test_a_sweep_runs_every_job_and_skips_finished_runs(cli):
    sweep = ["-m", *QUICK, "optim=sgdm,adam", "lrd.p=1,0.5"]
    assert cli(*sweep, "seed=0").status == 0
    assert len(list(find_runs("runs"))) == 4
    done = cli(*sweep, "seed=0,1")
    assert done.out.count("finished already") == 4 and len(list(find_runs("runs"))) == 8


def test_mistakes_in_a_sweep_are_listed_before_anything_trains_and_leave_nothing(cli):
    done = cli("-m", *QUICK, "lrd.p=0,0.5,2,1")
    assert (done.status, done.out) == (2, "") and not Path("runs").exists()
    first, second = done.err.splitlines()
    assert "lrd.p=0: lrd.p must be in (0, 1]" in first and "got 2.0" in second


def test_missing_data_of_a_sweep_are_one_line(cli):
    done = cli("-m", "+experiment=table1_mnist", "data.root=nowhere")
    assert (done.status, done.out) == (2, "") and not Path("runs").exists()
    (line,) = done.err.splitlines()
    assert line.startswith("error: mnist: nowhere/MNIST/raw/train-images-idx3-ubyte is missing")


def test_a_failing_job_stops_no_other(cli):
    done = cli("-m", *QUICK, "optim=sgdm", "optim.lr=1e30,0.1")
    assert done.status == 1 and "Traceback" not in done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert "optim.lr=1e+30" in line and "lower optim.lr" in line
    assert sorted(run.status for run in find_runs("runs")) == ["failed", "finished"]


def test_what_to_run_next_is_of_the_run_s_own_task_and_can_be_run(cli):
    asked = ["task=toy", "dataset.drawn=5", "train.epochs=2", "task.steps=3", "run.dir=a b"]
    done = cli("seed=4", *asked, "lrd.p=0.3", "lrd.granularity=row", "run.force=true")
    rest = " ".join(asked[:-1]) + " 'run.dir=a b'"
    assert done.status == 0 and done.out.partition("Next: ")[2].splitlines() == [
        f"python run.py seed=4 {rest} lrd.p=1  # without LRD",
        f"      python run.py -m {rest} lrd.p=0.3 lrd.granularity=row seed=5,6  # other seeds",
        "      python scripts/runs.py  # all runs",
    ]
    assert "quickstart" not in done.out
    first, second = done.out.partition("Next: ")[2].splitlines()[:2]
    for line in (first, second):
        assert cli(*shlex.split(line.partition("#")[0])[2:]).status == 0
    runs = {(r.seed, r.metadata["config"]["lrd"]["p"]) for r in find_runs("a b")}
    assert runs == {(4, 0.3), (4, 1), (5, 0.3), (6, 0.3)}
    assert "lrd.p=0.5  # with LRD" in cli("seed=4", *asked, "lrd.p=1").out


def test_a_best_epoch_is_named_only_where_there_are_several(cli):
    assert "best" not in cli("model.hidden=[4]", "train.epochs=1").out
    several = cli("model.hidden=[4]", "train.epochs=2").out
    assert "best: " in several and "chosen on the test set, so optimistic" in several


def test_options_may_stand_anywhere_and_unknown_ones_are_one_line(cli):
    assert cli("seed=1", "--cfg", "job", "lrd.p=0.25").out.count("p: 0.25") == 1
    assert cli(*QUICK, "-m", "seed=1,2").status == 0 and len(list(find_runs("runs"))) == 2
    both = cli("-m", "task=digits", "--cfg", "job")
    assert (both.status, both.out, both.err.count("\n")) == (2, "", 1)
    done = cli("--epochs=3")
    line = "error: unrecognized arguments: --epochs=3; a setting has no dashes: KEY=VALUE\n"
    assert (done.status, done.out, done.err) == (2, "", line)


@pytest.mark.parametrize("value", ["~/r", '"~/r"', "'~/r'"])
def test_a_home_directory_is_expanded_on_the_command_line(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cli("-m", *QUICK, f"run.dir={value}").status == 0
    assert len(list(find_runs(tmp_path / "me" / "r"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["me"]


@pytest.mark.parametrize(
    "settings",
    [
        "model=densenet121 train.batch_size=1",
        "model=densenet121 train.batch_size=4",  # 1,437 digits leave one
        "model=densenet121 +dataset.subset=129",
        "model=densenet121 train.batch_size=12 train.accumulate=3 +dataset.subset=41",  # 36 + 4 + 1
        "task=shapes_det train.batch_size=9",  # 64 = 7 * 9 + 1
        "task=shapes_seg train.batch_size=4 train.accumulate=4 dataset.crop=33 model.weights=none",
    ],
)
def test_a_batch_of_one_image_is_refused_before_training(cli, settings: str):
    """These networks' batch norm sees one value per channel of an image."""
    done = cli(*settings.split(), "train.epochs=1")
    line = "error: train.batch_size must leave no batch of one image, in train.accumulate parts,"
    assert done.status == 2 and done.err.startswith(line) and done.err.count("\n") == 1
    assert "change one of them" in done.err and not any(Path("runs").iterdir())


def test_a_batch_of_one_image_that_batch_norm_takes_trains(cli, tmp_path: Path):
    """An image of 8 x 8 pixels has several values per channel; nothing moves the statistics."""
    short = ("model=resnet8", "train.epochs=1", "+dataset.subset=9", "train.batch_size=8")
    assert cli(*short, "run.dir=a").status == 0
    with mock.patch("lrd.training.trainer.Trainer.require_batches_for_batch_norm"):
        assert cli(*short, "run.dir=b").status == 0
    one, two = (
        torch.load(next(Path(f).rglob("last.pt")), weights_only=True)["model"] for f in "ab"
    )
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert cli(*short, "regularizer=sd", "run.dir=c").status == 0


def test_an_error_that_training_finds_is_a_failed_run_and_no_wrong_command(cli):
    with mock.patch("tasks.classification.Classification.step", side_effect=ValueError("no")):
        done = cli("train.epochs=1")
    (run,) = find_runs("runs")
    assert done.status == 1 and done.err == f"error: no [{run.folder}/error.txt]\n"
    assert run.status == "failed" and "ValueError: no" in (run.folder / "error.txt").read_text()


SWEEPS = {
    "+experiment=smoke": "+experiment=smoke sweeps task, optim, lrd.p and needs -m",
    "+cluster=local": "+cluster=local runs a sweep and needs -m",
    "+cluster=slurm": "+cluster=slurm runs a sweep and needs -m",
    "+search=optuna": "+search=optuna runs a sweep and needs -m",
}


@pytest.mark.parametrize(("override", "line"), SWEEPS.items(), ids=SWEEPS)
def test_a_sweep_needs_the_flag(cli, tmp_path: Path, override: str, line: str):
    if not override.startswith("+experiment"):
        pytest.importorskip(PLUGINS[override])
    done = cli(override, "data.root=nowhere", "run.dir=a b")
    command = f"python run.py -m {override} data.root=nowhere 'run.dir=a b'"
    assert (done.status, done.out) == (2, "") and done.err == f"error: {line}: {command}\n"
    assert not list(tmp_path.iterdir())


PLUGINS = {
    "+cluster=local": "hydra_plugins.hydra_joblib_launcher",
    "+cluster=slurm": "hydra_plugins.hydra_submitit_launcher",
    "+search=optuna": "hydra_plugins.hydra_optuna_sweeper",
}


def test_an_experiment_is_a_sweep(cli):
    assert cli("-m", "+experiment=smoke", "task=digits", "model.hidden=[16]").status == 0
    assert len(list(find_runs("runs"))) == 2


def test_the_flag_and_the_sweep_are_independent(cli, tmp_path: Path):
    """``-m`` without a sweep is one job; an experiment without a sweep needs no ``-m``."""
    assert cli("-m", *QUICK).status == 0 and len(list(find_runs("runs"))) == 1
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    mine = ("--config-dir", str(tmp_path), "+experiment=mine", *QUICK)
    assert cli(*mine).status == 0 and {run.seed for run in find_runs("runs")} == {0, 7}
    assert "finished already" in cli("-m", *mine).out


@pytest.mark.parametrize(
    ("launcher", "cluster"), [("joblib", "local"), ("submitit_slurm", "slurm")]
)
def test_a_launcher_of_hydra_points_to_its_cluster(cli, launcher: str, cluster: str):
    pytest.importorskip(PLUGINS[f"+cluster={cluster}"])
    line = f"error: hydra/launcher={launcher} is not supported: use +cluster={cluster}\n"
    for flag in ([], ["-m"]):
        done = cli(*flag, *QUICK, f"hydra/launcher={launcher}")
        assert (done.status, done.out, done.err) == (2, "", line)


@pytest.mark.parametrize(
    ("cluster", "package"),
    [("slurm", "hydra-submitit-launcher"), ("local", "hydra-joblib-launcher")],
)
def test_a_missing_launcher_package_is_one_line(cluster: str, package: str, tmp_path: Path):
    """Hydra finds no plugins but those of this checkout."""
    code = f"""
import runpy, sys, types
sys.path.insert(0, {str(ROOT)!r})
plugins = sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
plugins.__path__ = [{str(ROOT / "hydra_plugins")!r}]
runpy.run_path({str(ROOT / "run.py")!r}, run_name="__main__")
"""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = run(f"+cluster={cluster}", "seed=0,1", "-m")
    line = f"error: cluster={cluster} needs {package}: pip install -e '.[cluster]'\n"
    assert (done.returncode, done.stderr) == (2, line)
    assert run("--cfg", "job").returncode == 0


def test_a_diverging_loss_is_one_line_and_a_failed_record(cli):
    done = cli(*QUICK, "optim=sgdm", "optim.lr=1e18")
    assert done.status == 1 and done.err.count("\n") == 1
    assert "error: train_loss is" in done.err and "lower optim.lr" in done.err
    (run,) = find_runs("runs")
    assert run.status == "failed" and "train_loss is" in run.metadata["error"]


@pytest.mark.parametrize(
    "rank, error, status, line",
    [
        ("0", ValueError("lrd.p must ..."), 2, "error: lrd.p must ..."),
        ("1", ValueError("lrd.p must ..."), 2, ""),
        ("1", RankLost(1), 4, "error: rank 1 has lost another rank, so the run ended;"),
    ],
)
def test_rank_zero_reports_errors_except_a_lost_rank(
    cli, monkeypatch: pytest.MonkeyPatch, rank: str, error: Exception, status: int, line: str
):
    def fail(*arguments: object) -> None:
        print("started")
        raise error

    slept: list[float] = []
    monkeypatch.setattr("lrd.training.runner.execute", fail)
    monkeypatch.setattr("time.sleep", slept.append)
    ProcessRank(int(rank), 2, int(rank), 2).export("127.0.0.1", 29_500)
    done = cli(*QUICK)
    assert (done.status, done.out) == (status, "started\n" if rank == "0" else "")
    assert done.err.startswith(line) and bool(done.err) is bool(line)
    # torchrun stops all ranks when one ends: rank zero must report first what all ranks know
    assert bool(slept) is (rank != "0" and status != 4)


@pytest.mark.parametrize(
    "stray",
    [
        {"RANK": "3"},
        {"WORLD_SIZE": "4"},
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "3"},
        {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "PMI_RANK": "3"},
    ],
)
def test_variables_of_other_launchers_neither_mute_nor_share_a_run(
    cli, monkeypatch: pytest.MonkeyPatch, stray: dict[str, str]
):
    for name, value in stray.items():
        monkeypatch.setenv(name, value)
    done = cli(*QUICK)
    assert (done.status, done.err) == (0, "") and "test accuracy" in done.out
    (run,) = find_runs("runs")
    assert run.status == "finished" and run.metadata["ranks"] == 1


def test_half_of_torchruns_variables_are_one_line(cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    done = cli(*QUICK)
    assert done.status == 2 and done.out == "" and done.err.count("\n") == 1
    assert done.err.startswith("error: RANK and WORLD_SIZE must come with LOCAL_RANK, ")


def test_a_launcher_of_jobs_does_not_run_on_several_ranks(cli):
    ProcessRank(0, 2, 0, 2).export("127.0.0.1", 29_500)
    done = cli("-m", *QUICK, "+cluster=local", "seed=0,1")
    assert done.status == 2 and done.err.count("\n") == 1
    assert done.err.startswith("error: +cluster=local starts its jobs itself")


def test_errors_are_found_before_anything_is_written(cli, tmp_path: Path):
    for wrong in ("lrd.p=0", "optim=foo", "+foo=1", "task=mnist", "model=fcnet", "optim.lr=-1"):
        extra = ["task=cifar100"] if wrong == "model=fcnet" else []
        done = cli(wrong, "data.root=nowhere", *extra)
        assert done.status == 2 and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert not list(tmp_path.rglob("run.json"))


def test_a_holdout_is_scored_instead_of_the_test_set(cli):
    done = cli(*QUICK, "dataset.holdout=300")
    assert done.status == 0 and "holdout accuracy" in done.out
    (line, _) = next(find_runs("runs")).metrics
    assert "holdout_accuracy" in line and "test_accuracy" not in line


@pytest.mark.parametrize(
    "optim", ["AdamW", "Adagrad", "Adadelta", "Adamax", "NAdam", "ASGD", "Rprop", "Adafactor"]
)
def test_any_optimizer_of_torch_runs(cli, optim: str):
    done = cli(*QUICK, f"optim._target_=torch.optim.{optim}")
    assert (done.status, done.err) == (0, "") and "note: " not in done.out


def test_an_optimizer_without_weight_decay_runs_with_a_note(cli):
    rprop = [*QUICK, "optim._target_=torch.optim.Rprop"]
    done = cli(*rprop, "train.weight_decay=5e-4")
    assert done.status == 0, done.err
    assert done.out.startswith("note: Rprop takes no weight decay, 0.0005 is left out\n")
    done = cli(*rprop, "optim.weight_decay=0.1")
    assert done.status == 2 and "optim.weight_decay is no setting of Rprop" in done.err


@pytest.mark.parametrize(("setting", "used"), [("", 5e-4), ("weight_decay: 0.01\n", 0.01)])
def test_a_user_s_optimizer_trains_with_the_task_s_weight_decay(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, used: float
):
    """An optimizer of another package, added by a file of ``--config-dir``, as documented."""
    code = """
import torch
class Mine(torch.optim.SGD):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        print("weight decay:", self.defaults["weight_decay"])
"""
    (tmp_path / "theirs.py").write_text(code)
    (tmp_path / "optim").mkdir()
    text = f"_target_: theirs.Mine\nlr: 0.1\n{setting}"
    (tmp_path / "optim" / "mine.yaml").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    small = ("model=fcnet", "dataset=digits", "model.hidden=[16]", "train.max_steps=2")
    mine = ("--config-dir", str(tmp_path), "optim=mine", "run.allow=[theirs]")
    done = cli(*mine, "task=cifar10", *small)
    assert done.status == 0, done.err
    (run,) = find_runs("runs")
    assert run.identity["optim.weight_decay"] == used
    assert f"weight decay: {used}\n" in done.out


def test_cfg_shows_the_values_of_task_and_optimizer(cli):
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
        titles = ("Choose with group=option", "Add with +group=option", "Automatic,", "Settings,")
        blocks = re.split("|".join(map(re.escape, titles)), done.stdout)[1:]
        groups = [re.findall(r"^(\w+): .*\n(?:    .*\n)*    \w", block, re.M) for block in blocks]
        chosen = ["dataset", "logger", "model", "optim"]
        chosen += ["regularizer", "schedule", "task", "train"]
        added = ["arm", "cluster", "experiment", "search"]
        assert groups[:3] == [chosen, added, ["tuned"]] and "study" not in done.stdout
        assert "optim: adam, amsgrad, muon, radam, rmsprop, rmsprop_authors, sgdm" in blocks[0]
        assert "    the optimizer and its learning rate" in blocks[0]
    assert not list(tmp_path.iterdir())


def test_a_step_of_real_mnist_and_cifar(cli, real_data: Path):
    for task in ("mnist", "cifar10"):
        small = ["model=fcnet"] if task == "mnist" else ["model=resnet18"]
        quick = ["train.max_steps=2", "train.batch_size=8", "dataset.holdout=64"]
        done = cli(f"task={task}", *small, f"data.root={real_data}", *quick)
        assert done.status == 0, done.err
    assert {r.folder.parts[1] for r in find_runs("runs")} == {"mnist", "cifar10"}
