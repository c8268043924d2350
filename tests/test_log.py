"""Where an epoch's numbers go: read back from the file, the terminal and wandb's own file."""

import io
import itertools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import tqdm.std
import wandb
from PIL import Image

from lrd.log import Console, JsonLines, Pictures, Wandb
from tests.wandb_file import WandbFile


def numbers(epoch: int, seed: int = 0) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "train_loss": (seed + 0.1 + 0.2) / epoch,
        "test_accuracy": 90.0 + (2.5 if epoch == 2 else -seed),
        "seconds": 1.25,
    }


def lines(path: Path) -> list[dict[str, Any]]:
    assert path.read_bytes().endswith(b"\n")
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(path: Path, epochs: int) -> Path:
    sink = JsonLines(path)
    for epoch in range(1, epochs + 1):
        sink.epoch(numbers(epoch))
    sink.close({})
    return path


def test_json_lines_have_each_epoch_on_disk_as_soon_as_it_ended(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path)
    for epoch in (1, 2, 3):
        sink.step(epoch - 1, 10)
        sink.epoch(numbers(epoch))
        assert lines(path) == [numbers(e) for e in range(1, epoch + 1)]
    sink.close({"status": "finished"})
    assert lines(path) == [numbers(e) for e in (1, 2, 3)]


def test_json_lines_opened_again_go_on_behind_the_epochs_that_count(tmp_path: Path):
    path = written(tmp_path / "metrics.jsonl", 5)
    with path.open("ab") as file:
        file.write(b'{"epoch": 6, "tra')  # killed in the middle of a line
    sink = JsonLines(path, epochs=3)
    assert lines(path) == [numbers(e) for e in (1, 2, 3)]
    sink.epoch(numbers(4, seed=1))
    assert lines(path) == [*(numbers(e) for e in (1, 2, 3)), numbers(4, seed=1)]
    sink.close({})
    JsonLines(path, epochs=4).close({})
    assert len(lines(path)) == 4
    JsonLines(path).close({})
    assert path.read_bytes() == b""


@pytest.mark.parametrize("there, half", [(0, b""), (2, b""), (2, b'{"epoch": 3, "tra')])
def test_json_lines_refuse_a_file_shorter_than_the_checkpoint(
    tmp_path: Path, there: int, half: bytes
):
    path = tmp_path / "metrics.jsonl"
    if there:
        with written(path, there).open("ab") as file:
            file.write(half)
    before = path.read_bytes() if there else None
    with pytest.raises(ValueError) as caught:
        JsonLines(path, epochs=3)
    text = str(caught.value)
    assert text.startswith(f"{path} has {there} epochs and the checkpoint 3")
    assert "run.force=true" in text and len(text.splitlines()) == 1
    assert (path.read_bytes() if path.exists() else None) == before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watch(out: io.StringIO) -> list[str]:
    """What two epochs of three steps leave in ``out``: after each epoch, and at the end."""
    console, seen = Console(2, 3, out), []
    for epoch in (0, 1):
        for step in (1, 2, 3):
            console.step(epoch, step)
        console.epoch({**numbers(epoch + 1), "test_loss": 0.5, "val_miou": 40.0, "val_map": 60.0})
        seen.append(out.getvalue())
    console.close({"status": "finished"})
    return [*seen, out.getvalue()]


def test_without_a_terminal_there_is_one_line_per_epoch_at_its_end():
    after_one, after_two, end = watch(io.StringIO())
    assert after_one.count("\n") == 1 and after_two.count("\n") == 2 and end == after_two
    first, second = (line.split("  ") for line in end.splitlines())
    scores = ["test loss 0.5", "val miou 40", "val map 60", "1.2 s"]
    assert first == ["epoch 1/2", "train loss 0.3", "test accuracy 90", *scores]
    assert second == ["epoch 2/2", "train loss 0.15", "test accuracy 92.5", *scores]


def test_lines_go_to_what_is_standard_output_at_the_time(capsys: pytest.CaptureFixture[str]):
    Console(2, 3).epoch(numbers(1))
    assert capsys.readouterr().out.startswith("epoch 1/2  train loss 0.3")


def test_on_a_terminal_there_is_a_bar_over_all_steps_and_no_lines(monkeypatch: pytest.MonkeyPatch):
    clock = itertools.count()
    monkeypatch.setattr(tqdm.std, "time", lambda: float(next(clock)))  # every step is a second on
    *_, after, end = watch(Terminal())
    assert "\n" not in end and "0/6" in after and "6/6" in after
    assert "epoch 1/2  train loss 0.3  test accuracy 90" in after
    assert end.startswith(after) and end.rsplit("\r", 2)[1].strip() == ""  # the bar is wiped


def test_a_bar_of_a_resumed_run_starts_where_the_run_goes_on(monkeypatch: pytest.MonkeyPatch):
    clock = itertools.count()
    monkeypatch.setattr(tqdm.std, "time", lambda: float(next(clock)))
    out = Terminal()
    console = Console(5, 10, out)
    console.step(3, 4)
    assert "34/50" in out.getvalue()
    console.close({})


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for runs, with all that wandb writes beside them under ``tmp_path`` too."""
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb" / name))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_DISABLE_GIT", "true")
    wandb.teardown()
    yield tmp_path / "runs"
    wandb.teardown()


def record(seed: int = 0, maximize: bool = True, **settings: Any) -> dict[str, Any]:
    own = {"mode": "offline", "project": "lrd", "entity": None, "group": None, "tags": ["a", "b"]}
    return {
        "fingerprint": "0123456789ab",
        "seed": seed,
        "config": {"seed": seed, "train": {"epochs": 2}, "wandb": own | settings},
        "choices": {"task": "digits"},
        "score": {"name": "test_accuracy", "maximize": maximize},
    }


def start(runs: Path, seed: int = 0, **settings: Any) -> tuple[Wandb, Path]:
    folder = runs / "digits" / "0123456789ab" / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return Wandb(record(seed, **settings), folder), folder


def mirror(runs: Path, seed: int = 0, status: str = "finished", **settings: Any) -> Path:
    """The folder of a run of two epochs."""
    sink, folder = start(runs, seed, **settings)
    for epoch in (1, 2):
        sink.step(epoch - 1, 10)
        sink.epoch(numbers(epoch, seed))
    sink.close({"status": status, "final": {"value": 92.5, "epoch": 2}})
    return folder


def read(folder: Path) -> WandbFile:
    wandb.teardown()  # as the process's end does: wait until wandb's service has written all
    (file,) = folder.rglob("*.wandb")
    return WandbFile(file)


def logged(run: WandbFile) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k[0] != "_"} for line in run.history]


def test_wandb_has_every_epoch_the_configuration_and_the_outcome(runs: Path):
    note = "long " * 20_000  # over several of the file's blocks
    run = read(mirror(runs, tags=["a", note[:50]], note=note))
    assert logged(run) == [numbers(1), numbers(2)]
    assert (run.run.project, run.run.run_group) == ("lrd", "0123456789ab")
    assert (run.run.run_id, run.run.display_name) == ("0123456789ab-seed0", "digits seed 0")
    assert list(run.run.tags) == ["a", note[:50]]
    sent = {**record(tags=["a", note[:50]], note=note)["config"], "choices": {"task": "digits"}}
    assert {k: v for k, v in run.config.items() if k != "_wandb"} == sent
    assert run.summary["status"] == "finished" and run.exit_code == 0
    assert run.summary["final"] == {"value": 92.5, "epoch": 2}


@pytest.mark.parametrize("maximize, extreme", [(True, {"max": 92.5}), (False, {"min": 89.0})])
def test_wandb_summarises_the_score_by_its_best_and_last(
    runs: Path, maximize: bool, extreme: dict[str, float]
):
    run = read(mirror(runs, seed=1, status="failed", group="mine", maximize=maximize))
    assert run.summary["test_accuracy"] == {"last": 92.5, **extreme}
    assert run.summary["status"] == "failed" and run.exit_code == 1
    assert run.run.run_group == "mine"


def test_two_runs_in_one_process_stay_apart_in_wandb(runs: Path):
    folders = [mirror(runs, seed=seed) for seed in (0, 1)]
    first, second = map(read, folders)
    assert logged(first) == [numbers(1, 0), numbers(2, 0)]
    assert logged(second) == [numbers(1, 1), numbers(2, 1)]
    assert (first.config["seed"], second.config["seed"]) == (0, 1)
    assert first.run.run_id != second.run.run_id


def test_pictures_are_files_by_name_and_epoch(tmp_path: Path):
    sink = Pictures(tmp_path)
    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    sink.pictures(12, {"2007_000033": picture, "b": picture[:, :2]})
    sink.pictures(12, {"b": picture[:, :3]})  # as a resumed run may
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*"))
    assert found == ["pictures/2007_000033/epoch0012.png", "pictures/b/epoch0012.png"]
    with Image.open(tmp_path / found[0]) as image:
        assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), picture)
    with Image.open(tmp_path / found[1]) as image:
        assert image.size == (7, 3)


def test_wandb_has_the_pictures_against_the_epoch(runs: Path):
    sink, folder = start(runs)
    sink.pictures(3, {"cat": torch.full((3, 4, 6), 9, dtype=torch.uint8)})
    sink.epoch(numbers(3))
    sink.close({"status": "finished"})
    first, second = logged(read(folder))
    assert first["epoch"] == 3 and second == numbers(3)
    (file,) = folder.rglob("*.png")
    assert file.name in str(first) and any(name.startswith("pictures/cat") for name in first)
    with Image.open(file) as image:
        assert image.size == (6, 4) and image.getpixel((0, 0)) == (9, 9, 9)


def fail(*args: Any, **kwargs: Any) -> None:
    raise wandb.Error("the disk is full")


def test_a_run_after_one_whose_wandb_failed_stays_apart_from_it(
    runs: Path, monkeypatch: pytest.MonkeyPatch
):
    sink, _ = start(runs, seed=0)
    monkeypatch.setattr(sink.run, "log", fail)
    with pytest.warns(RuntimeWarning, match="disk is full"):
        sink.epoch(numbers(1))
    sink.close({"status": "finished"})
    second = read(mirror(runs, seed=1))
    assert second.run.run_id == "0123456789ab-seed1"
    assert logged(second) == [numbers(1, 1), numbers(2, 1)]


class Broken:
    """A run of wandb's that fails from one call on, and counts what is asked of it afterwards."""

    def __init__(self, where: str) -> None:
        self.where, self.failed, self.after = where, False, 0
        self.summary = SimpleNamespace(update=lambda numbers: self.call("summary"))

    def call(self, name: str) -> None:
        self.after += self.failed and name != "finish"
        if name == self.where:
            self.failed = True
            raise wandb.Error("the disk is full")

    def define_metric(self, *args: Any, **kwargs: Any) -> None:
        self.call("define_metric")

    def log(self, numbers: Any) -> None:
        self.call("log")

    def finish(self, exit_code: int) -> None:
        self.call("finish")


@pytest.mark.parametrize("where", ["init", "define_metric", "log", "summary", "finish"])
def test_whatever_fails_in_wandb_is_one_warning_and_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
):
    broken = Broken(where)
    monkeypatch.setattr(wandb, "init", fail if where == "init" else lambda **settings: broken)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        sink, _ = start(tmp_path)
        for epoch in (1, 2, 3):
            sink.epoch(numbers(epoch))
        sink.close({"status": "finished"})
    text = "wandb is off for this run: the disk is full"
    assert [(w.category, str(w.message)) for w in seen] == [(RuntimeWarning, text)]
    assert broken.after == 0 and broken.failed == (where != "init")
