"""A run on W&B: read back from wandb's own files, and from what a server near it was sent."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import wandb
from PIL import Image

from lrd.config.schema import WandbSettings as Settings
from lrd.loggers import wandb as wandb_logger
from lrd.loggers.base import Logger
from lrd.loggers.images import ImageLogger
from lrd.loggers.jsonl import JSONLLogger, replay
from lrd.loggers.wandb import WandbLogger
from lrd.training import runner
from tests.helpers.finished_runs import configured, numbers
from tests.helpers.wandb_file import WandbFile, contained, files
from tests.helpers.wandb_server import Server, serving

ROOT = Path(__file__).parents[3]
ID = "0123456789ab-seed0"


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """A folder for runs, with all that wandb writes beside them under ``tmp_path`` too."""
    with contained(tmp_path / "wandb"):
        yield tmp_path / "runs"


@pytest.fixture
def server(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server
        wandb.teardown()


def record(seed: int = 0, maximize: bool = True, **settings: Any) -> dict[str, Any]:
    own = {"mode": "offline", "project": "lrd", "entity": None, "group": None, "tags": ["a", "b"]}
    return {
        "fingerprint": "0123456789ab",
        "seed": seed,
        "config": {
            "lrd": {"p": 0.5},
            "optim": {"_target_": "torch.optim.SGD", "momentum": 0.9},
            "task": {"_target_": "tasks.classification.Classification"},
            "dataset": {"_target_": "tasks.images.Digits", "name": "digits"},
            "model": {"_target_": "tasks.models.fcnet.FCNet"},
            "wandb": own | settings,
        },
        "choices": {"task": "digits", "model": "fcnet", "experiment": "table1"},
        "score": {"name": "test_accuracy", "maximize": maximize},
    }


COLUMNS = {
    "arm": "lrd",
    "optimizer": "SGDM",
    "p": 0.5,
    "task": "Classification",
    "dataset": "Digits",
    "model": "FCNet",
    "seed": 0,
    "fingerprint": "0123456789ab",
}


def place(runs: Path, seed: int = 0) -> Path:
    folder = runs / "digits" / "0123456789ab" / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def start(runs: Path, seed: int = 0, **settings: Any) -> tuple[WandbLogger, Path]:
    folder = place(runs, seed)
    return WandbLogger(record(seed, **settings), folder), folder


def mirror(runs: Path, seed: int = 0, status: str = "finished", **settings: Any) -> Path:
    """The folder of a run of two epochs."""
    logger, folder = start(runs, seed, **settings)
    for epoch in (1, 2):
        logger.on_step(epoch - 1, 10)
        logger.on_epoch(numbers(epoch, seed))
    logger.close({"status": status, "final": {"value": 92.5, "epoch": 2}})
    return folder


def train(runs: Path, after: int, to: int, status: str = "finished", mode: str = "offline") -> Path:
    """A run that goes on after an epoch, as the session has it, and ends with another."""
    folder = place(runs)
    lines = JSONLLogger(folder / "metrics.jsonl", after)
    sent = WandbLogger(record(mode=mode), folder)
    replay(sent, folder)
    loggers: list[Logger] = [lines, ImageLogger(folder), sent]
    for epoch in range(after + 1, to + 1):
        for logger in loggers:
            if epoch % 2:
                logger.on_images(epoch, {"cat": torch.full((3, 4, 6), epoch, dtype=torch.uint8)})
            logger.on_epoch(numbers(epoch))
    for logger in loggers:
        logger.close({"status": status})
    return folder


def read(folder: Path) -> WandbFile:
    (file,) = files(folder)
    return file


def plain(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was logged but pictures, of lines of a history."""
    return [{k: v for k, v in line.items() if k[0] != "_" and "/" not in k} for line in lines]


def sync(*paths: Path) -> None:
    command = [sys.executable, "-m", "wandb", "sync", *map(str, paths)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def whole(lines: list[dict[str, Any]], epochs: int) -> None:
    """Every epoch is there once, at its own step."""
    assert plain(lines) == [numbers(epoch) for epoch in range(1, epochs + 1)]
    assert [line["_step"] for line in lines] == [line["step"] for line in lines]


def test_wandb_has_every_epoch_the_configuration_and_the_outcome(runs: Path):
    note = "long " * 20_000  # over several of the file's blocks
    run = read(mirror(runs, tags=["a", note[:50]], note=note))
    assert plain(run.history) == [numbers(1), numbers(2)]
    assert (run.run.project, run.run.run_group) == ("lrd", "0123456789ab")
    assert run.run.run_id == ID and run.run.job_type == "train"
    assert run.run.display_name == "Digits SGDM lrd p=0.5 seed 0"
    assert list(run.run.tags) == ["a", note[:50], "table1"]
    made = record(tags=["a", note[:50]], note=note)
    sent = COLUMNS | {"settings": made["config"], "choices": made["choices"]}
    assert {k: v for k, v in run.config.items() if k != "_wandb"} == sent
    assert run.summary["status"] == "finished" and run.exit_code == 0
    assert run.summary["final"] == {"value": 92.5, "epoch": 2}


def test_every_metric_is_drawn_against_the_epoch(runs: Path):
    run = read(mirror(runs))
    assert run.metrics["*"].step_metric == "epoch" and run.metrics["epoch"].step_metric == ""
    assert {name for name, m in run.metrics.items() if m.step_metric == "epoch"} == {
        *("*", "train_loss", "test_accuracy")
    }


@pytest.mark.parametrize("maximize, extreme", [(True, {"max": 92.5}), (False, {"min": 89.0})])
def test_wandb_summarises_the_score_by_its_best_and_last_and_losses_by_their_least(
    runs: Path, maximize: bool, extreme: dict[str, float]
):
    run = read(mirror(runs, seed=1, status="failed", group="mine", maximize=maximize))
    assert run.summary["test_accuracy"] == {"last": 92.5, **extreme}
    assert run.summary["train_loss"] == {"last": 1.3 / 2, "min": 1.3 / 2}
    assert run.summary["status"] == "failed" and run.exit_code == 1
    assert run.run.run_group == "mine"


def test_tags_name_every_experiment_that_asked(runs: Path):
    folder = place(runs)
    asked: dict[str, Any] = record() | {"experiments": ["table2", "figure10"]}
    asked["config"]["wandb"] = asdict(Settings("offline", "p", tags=["mine"]))
    WandbLogger(asked, folder).close({"status": "finished"})
    run = read(folder)
    assert list(run.run.tags) == ["mine", "table2", "figure10", "table1"]
    assert run.run.project == "p"


def test_two_runs_in_one_process_stay_apart_in_wandb(runs: Path):
    folders = [mirror(runs, seed=seed) for seed in (0, 1)]
    first, second = map(read, folders)
    assert plain(first.history) == [numbers(1, 0), numbers(2, 0)]
    assert plain(second.history) == [numbers(1, 1), numbers(2, 1)]
    assert (first.config["seed"], second.config["seed"]) == (0, 1)
    assert first.run.run_id != second.run.run_id


def test_wandb_has_the_pictures_beside_the_epochs_numbers(runs: Path):
    logger, folder = start(runs)
    logger.on_images(3, {"cat": torch.full((3, 4, 6), 9, dtype=torch.uint8)})
    logger.on_epoch(numbers(3))
    logger.close({"status": "finished"})
    (line,) = read(folder).history
    assert plain([line]) == [numbers(3)] and line["_step"] == 30
    (file,) = folder.rglob("*.png")
    assert file.name in str(line) and any(name.startswith("pictures/cat") for name in line)
    with Image.open(file) as image:
        assert image.size == (6, 4) and image.getpixel((0, 0)) == (9, 9, 9)


def later() -> None:
    """wandb names a start's folder by the second."""
    time.sleep(1.1)


def test_an_offline_start_has_the_whole_run_and_replaces_what_was_not_synced(runs: Path):
    train(runs, 0, 5, "interrupted")
    later()
    run = read(train(runs, 3, 8))  # the checkpoint was an earlier epoch's
    whole(run.history, 8)
    assert run.run.run_id == ID and run.exit_code == 0
    assert run.summary["test_accuracy"] == {"last": 90.0, "max": 92.5}
    seen = [line["epoch"] for line in run.history if any("pictures/cat" in key for key in line)]
    assert seen == [1, 3, 5, 7]


def test_synced_starts_are_kept_and_gone_on_with(runs: Path, server: Server):
    folder = train(runs, 0, 5, "interrupted")
    wandb.teardown()
    sync(folder / "wandb")
    whole(server.runs[ID].lines, 5)
    later()
    train(runs, 3, 8)
    assert len(files(folder)) == 2
    sync(folder / "wandb")
    whole(server.runs[ID].lines, 8)
    assert server.runs[ID].summary["test_accuracy"] == {"last": 90.0, "max": 92.5}
    assert server.runs[ID].tags == ["a", "b", "table1"]


def test_an_online_run_is_gone_on_with_and_what_was_not_sent_is_sent_later(
    runs: Path, server: Server
):
    train(runs, 0, 3, "interrupted", mode="online")
    whole(server.runs[ID].lines, 3)
    train(runs, 2, 5, "interrupted", mode="offline")  # away from the network for a while
    later()
    folder = train(runs, 4, 8, mode="online")
    whole(server.runs[ID].lines, 8)
    assert server.runs[ID].summary["test_accuracy"] == {"last": 90.0, "max": 92.5}
    assert not list(folder.glob("wandb/offline-run-*"))


def unreachable(runs: Path) -> None:
    """It is said once, and the run is kept."""
    with pytest.warns(RuntimeWarning) as seen:
        logger, folder = start(runs, mode="online")
        logger.on_epoch(numbers(1))
        logger.close({"status": "finished"})
    (text,) = [str(warning.message) for warning in seen]
    assert f"logs offline, for `wandb sync {folder}/wandb`: " in text and "\n" not in text
    (run,) = [file for file in files(folder) if file.history]
    whole(run.history, 1)
    assert list(folder.glob("wandb/offline-run-*"))


def test_a_dead_network_is_one_warning_and_the_run_is_kept_offline(
    runs: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(wandb_logger.LIMITS, "init_timeout", 0.5)
    monkeypatch.setattr(wandb, "login", lambda timeout: True)  # which gives up after 10 s
    unreachable(runs)


def test_a_bad_key_is_one_warning_and_the_run_is_kept_offline(
    runs: Path, monkeypatch: pytest.MonkeyPatch
):
    with serving(status=401) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        unreachable(runs)


def test_no_key_is_one_warning_and_the_run_is_kept_offline(
    runs: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(runs / "none"))
    unreachable(runs)


def test_a_network_that_dies_meanwhile_is_one_warning_and_the_file_is_whole(
    runs: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(wandb_logger.LIMITS, "finish_timeout", 1.0)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        logger, folder = start(runs, mode="online")
        logger.on_epoch(numbers(1))
    logger.on_epoch(numbers(2))
    with pytest.warns(RuntimeWarning, match="wandb is disabled for this run: Timed out") as seen:
        logger.close({"status": "finished"})
    assert len(seen) == 1
    whole(read(folder).history, 2)


def test_a_killed_service_is_one_warning_and_the_next_run_has_another(
    runs: Path, monkeypatch: pytest.MonkeyPatch
):
    started: list[subprocess.Popen[bytes]] = []

    class Kept(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Kept)
    logger, _ = start(runs, seed=0)
    (service,) = [process for process in started if "wandb-core" in str(process.args)]
    service.kill()
    service.wait()
    with pytest.warns(RuntimeWarning, match="wandb is disabled for this run") as seen:
        for epoch in (1, 2, 3):
            logger.on_epoch(numbers(epoch))
        logger.close({"status": "finished"})
    assert len(seen) == 1
    second = read(mirror(runs, seed=1))
    assert plain(second.history) == [numbers(1, 1), numbers(2, 1)]


def command(root: Path, *overrides: str) -> list[str]:
    given = ("run.dir=" + str(root), "wandb.mode=offline", "train.threads=1", *overrides)
    return [sys.executable, str(ROOT / "run.py"), *given]


@pytest.mark.slow
def test_a_run_killed_in_an_epoch_is_whole_in_wandb_after_its_resume(runs: Path, cli):
    asked = command(runs, "train.epochs=12")
    first = subprocess.Popen(asked, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("epoch  4"):
            break
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    (metrics,) = runs.rglob("metrics.jsonl")
    assert 4 <= len(metrics.read_text().splitlines()) < 12
    (before,) = runs.rglob("offline-run-*")
    assert cli(*asked[2:]).status == 0
    run = read(runs)
    logged = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert plain(run.history) == logged and len(logged) == 12
    assert [line["_step"] for line in run.history] == [line["step"] for line in logged]
    accuracy = [line["test_accuracy"] for line in logged]
    assert run.summary["test_accuracy"] == {"last": accuracy[-1], "max": max(accuracy)}
    assert before.name.endswith(run.run.run_id) and not before.exists()


def test_a_run_without_wandb_does_not_load_it(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)  # whoever imports it fails
    short = ("train.epochs=1", "train.max_steps=1", "lrd.implementation=reference")
    assert cli(*short).status == 0
    with pytest.warns(RuntimeWarning, match="wandb is disabled for this run"):
        assert cli(*short, "seed=1", "wandb.mode=offline").status == 0


def fail(*args: Any, **kwargs: Any) -> None:
    raise wandb.Error("the disk\nis full")


def test_a_run_after_one_whose_wandb_failed_stays_apart_from_it(
    runs: Path, monkeypatch: pytest.MonkeyPatch
):
    logger, _ = start(runs, seed=0)
    monkeypatch.setattr(logger.run, "log", fail)
    with pytest.warns(RuntimeWarning, match="disk is full"):
        logger.on_epoch(numbers(1))
    logger.close({"status": "finished"})
    second = read(mirror(runs, seed=1))
    assert second.run.run_id == "0123456789ab-seed1"
    assert plain(second.history) == [numbers(1, 1), numbers(2, 1)]


class Broken:
    """A run of wandb's that fails from one call on, and counts what is asked of it afterwards."""

    resumed = False

    def __init__(self, where: str, folder: Path) -> None:
        self.where, self.failed, self.after = where, False, 0
        self.dir = str(folder / "wandb" / "offline-run-x" / "files")
        self.summary = SimpleNamespace(update=lambda numbers: self.call("summary"))

    def call(self, name: str) -> None:
        self.after += self.failed and name != "finish"
        if name == self.where:
            self.failed = True
            fail()

    def define_metric(self, *args: Any, **kwargs: Any) -> None:
        self.call("define_metric")

    def log(self, numbers: Any, step: int, commit: bool) -> None:
        self.call("log")

    def finish(self, exit_code: int) -> None:
        self.call("finish")


@pytest.mark.parametrize("where", ["init", "define_metric", "log", "summary", "finish"])
def test_whatever_fails_in_wandb_is_one_warning_and_nothing_more(
    runs: Path, monkeypatch: pytest.MonkeyPatch, where: str
):
    broken = Broken(where, runs)
    monkeypatch.setattr(wandb, "init", fail if where == "init" else lambda **settings: broken)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        logger, _ = start(runs)
        for epoch in (1, 2, 3):
            logger.on_epoch(numbers(epoch))
        logger.close({"status": "finished"})
    text = "wandb is disabled for this run: the disk is full"
    assert [(w.category, str(w.message)) for w in seen] == [(RuntimeWarning, text)]
    assert broken.after == 0 and broken.failed == (where != "init")


def test_a_forced_run_after_a_sync_is_a_new_run_with_all_epochs(
    runs: Path, server: Server, monkeypatch: pytest.MonkeyPatch
):
    config = configured(runs, "model.hidden=[4]", "train.epochs=3", "wandb.mode=offline")
    config.run.force = True
    sent = []
    for start in ("2026-01-02T03:04:05+00:00", "2026-01-02T03:04:06+00:00"):
        monkeypatch.setattr(runner, "_now", lambda start=start: start)
        run = runner.execute(config, {})
        wandb.teardown()
        sync(run.folder / "wandb")
        sent.append(run.metrics)
    first, second = (server.runs[name] for name in sorted(server.runs))
    assert sorted(server.runs)[1].endswith("-seed0-20260102T030406")
    for lines, found in zip(sent, (first, second), strict=True):
        assert plain(found.lines) == lines and len(lines) == 3
    assert len(files(run.folder)) == 1  # the earlier start's files are gone


def test_steps_are_logged_between_the_epochs(runs: Path):
    logger, folder = start(runs)
    told = {"epoch": 1, "loss": 0.5, "gradient_norm": 2.0, "lr": 0.1}
    for step in (5, 10):  # an epoch ends at step 10
        logger.on_step_metrics({**told, "step": step})
    logger.on_epoch(numbers(1))
    logger.on_step_metrics({**told, "epoch": 2, "step": 15})
    logger.close({"status": "interrupted"})
    history = read(folder).history
    assert [line["_step"] for line in history] == [5, 10, 15]
    assert all(line["steps/gradient_norm"] == 2.0 for line in history)
    assert [line["test_accuracy"] for line in history if "test_accuracy" in line] == [90.0]


def test_an_experiment_that_finds_a_run_done_is_one_of_its_tags(runs: Path):
    """A cell that two experiments share is one run, there too."""
    for name in ("quickstart", "lr_control", "lr_control"):
        found = configured(runs, "model.hidden=[4]", "train.epochs=1")
        found.wandb = Settings(mode="offline")
        run = runner.execute(found, {"experiment": name})
    assert run.metadata["experiments"] == ["quickstart", "lr_control"]
    (there,) = files(run.folder)
    assert set(there.run.tags) == {"quickstart", "lr_control"}
    assert [line["epoch"] for line in there.history] == [1] and there.exit_code == 0
