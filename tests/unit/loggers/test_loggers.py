"""Where an epoch's numbers go: read back from the file and the terminal."""

import io
import itertools
import json
import logging
import os
import re
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
import torch
import tqdm.std
from PIL import Image

import lrd.loggers
from lrd.cli import StdoutHandler
from lrd.loggers.base import Logger
from lrd.loggers.console import ConsoleLogger
from lrd.loggers.images import ImageLogger, read_images
from lrd.loggers.jsonl import JSONLLogger, StepLogger, replay
from tests.helpers.finished_runs import numbers


def lines(path: Path) -> list[dict[str, Any]]:
    assert path.read_bytes().endswith(b"\n")
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(path: Path, epochs: int) -> Path:
    logger = JSONLLogger(path)
    for epoch in range(1, epochs + 1):
        logger.on_epoch(numbers(epoch))
    logger.close({})
    return path


def test_json_lines_have_each_epoch_on_disk_as_soon_as_it_ended(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    logger = JSONLLogger(path)
    for epoch in (1, 2, 3):
        logger.on_step(epoch - 1, 10)
        logger.on_epoch(numbers(epoch))
        assert lines(path) == [numbers(e) for e in range(1, epoch + 1)]
    logger.close({"status": "finished"})
    assert lines(path) == [numbers(e) for e in (1, 2, 3)]


def test_json_lines_opened_again_go_on_behind_the_epochs_that_count(tmp_path: Path):
    path = written(tmp_path / "metrics.jsonl", 5)
    with path.open("ab") as file:
        file.write(b'{"epoch": 6, "tra')  # killed in the middle of a line
    logger = JSONLLogger(path, epochs=3)
    assert lines(path) == [numbers(e) for e in (1, 2, 3)]
    logger.on_epoch(numbers(4, seed=1))
    assert lines(path) == [*(numbers(e) for e in (1, 2, 3)), numbers(4, seed=1)]
    logger.close({})
    JSONLLogger(path, epochs=4).close({})
    assert len(lines(path)) == 4
    JSONLLogger(path).close({})
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
        JSONLLogger(path, epochs=3)
    text = str(caught.value)
    assert text.startswith(f"{path} has {there} epochs and the checkpoint 3")
    assert "run.force=true" in text and len(text.splitlines()) == 1
    assert (path.read_bytes() if path.exists() else None) == before


def watch(out: TextIO, epochs: int = 2, **settings: Any) -> Iterator[None]:
    """Log epochs of three steps to ``out``; yield after each and, after the end, once more."""
    console = ConsoleLogger(3 * epochs, 3, "test_accuracy", out=out, **settings)
    for epoch in range(epochs):
        for step in (1, 2, 3):
            console.on_step(epoch, step)
        scores = {"test_loss": 0.5, "val_miou": 40.0, "val_map": 60.0}
        console.on_epoch({**numbers(epoch + 1), **scores})
        yield
    console.close({"status": "finished"})
    yield


def test_without_a_terminal_there_is_one_line_per_epoch_at_its_end():
    out = io.StringIO()
    after_one, after_two, end = (out.getvalue() for _ in watch(out))
    assert after_one.count("\n") == 1 and after_two.count("\n") == 2 and end == after_two
    first, second = (line.split("  ") for line in end.splitlines())
    scores = ["test loss 0.5", "val miou 40", "val map 60", "1.2 s"]
    assert first == ["epoch 1/2", "test accuracy 90", "train loss 0.3", *scores]
    assert second == ["epoch 2/2", "test accuracy 92.5", "train loss 0.15", *scores]


def test_lines_go_to_what_is_standard_output_at_the_time(capsys: pytest.CaptureFixture[str]):
    ConsoleLogger(6, 3, "test_accuracy").on_epoch(numbers(1))
    assert capsys.readouterr().out.startswith("epoch 1/2  test accuracy 90  train loss 0.3")


class Terminal:
    """A pseudo-terminal of a width, and what its screen shows of what is written to ``out``."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.master, slave = os.openpty()
        termios.tcsetwinsize(slave, (24, columns))
        os.set_blocking(self.master, False)
        self.out = open(slave, "w", encoding="utf-8")
        self.written = b""

    def screen(self) -> list[str]:
        with suppress(BlockingIOError):
            while read := os.read(self.master, 65536):
                self.written += read
        lines, column = [""], 0
        for character in self.written.decode():
            if character == "\r":
                column = 0
            elif character == "\n":
                lines.append("")
            else:
                if column == self.columns:  # the terminal wraps
                    lines.append("")
                    column = 0
                lines[-1] = lines[-1][:column].ljust(column) + character + lines[-1][column + 1 :]
                column += 1
        return [line.rstrip() for line in lines]

    def close(self) -> None:
        self.out.close()
        os.close(self.master)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Terminal]]:
    clock = itertools.count()
    monkeypatch.setattr(tqdm.std, "time", lambda: float(next(clock)))  # every look is a second on
    opened: list[Terminal] = []

    def open_terminal(columns: int) -> Terminal:
        opened.append(Terminal(columns))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.close()


def test_on_a_terminal_lines_stay_above_a_bar_with_score_progress_and_time(terminal):
    wide = terminal(120)
    steps = watch(wide.out)
    next(steps)
    line = "test accuracy {}  train loss {}  test loss 0.5  val miou 40  val map 60  1.2 s"
    first, bar = wide.screen()
    assert first == f"epoch 1/2  {line.format(90, 0.3)}"
    assert re.match(r"test accuracy 90:  50%\|.+\| 3/6 steps, 00:\d\d left$", bar)
    assert 110 < len(bar) < 120
    next(steps)
    second = f"epoch 2/2  {line.format(92.5, 0.15)}"
    *lines, bar = wide.screen()
    assert lines == [first, second] and bar.startswith("test accuracy 92.5: 100%|")
    next(steps)
    assert wide.screen() == [first, second, ""]  # the bar is wiped


@pytest.mark.parametrize("columns", [80, 50, 30])
def test_lines_and_bar_are_cut_to_the_terminal_and_keep_the_score(terminal, columns: int):
    narrow = terminal(columns)
    one, two, end = (narrow.screen() for _ in watch(narrow.out))
    assert [len(one), len(two), len(end)] == [2, 3, 3] and end[:2] == two[:2]
    for *lines, bar in (one, two):
        assert all(len(line) <= columns for line in [*lines, bar])
        assert all(x.startswith(f"epoch {n}/2  test acc") for n, x in enumerate(lines, 1))
        assert bar.startswith("test accuracy 9")
        assert lines[-1].endswith("1.2 s") or columns == 30
        assert bar.endswith("left") or columns < 80
    assert ("train loss 0.3" in one[0]) is (columns >= 50) and "val map" not in one[0]


def test_the_bar_counts_the_steps_that_the_run_will_take(terminal):
    """``train.max_steps`` ends a run in its second epoch, and a resumed run goes on at its step."""
    wide = terminal(100)
    console = ConsoleLogger(14, 10, "test_accuracy", done=12, out=wide.out)
    console.on_step(1, 3)
    (bar,) = wide.screen()
    assert "13/14 steps" in bar and " 93%" in bar and bar.endswith("left")
    console.on_epoch(numbers(2))
    assert wide.screen()[0].startswith("epoch 2/2  test accuracy")
    console.close({})


def test_a_message_is_a_line_above_the_bar(terminal, monkeypatch: pytest.MonkeyPatch):
    wide = terminal(100)
    console = ConsoleLogger(6, 3, "test_accuracy", out=wide.out)
    console.on_step(0, 1)
    monkeypatch.setattr("sys.stdout", wide.out)
    StdoutHandler().emit(logging.LogRecord("lrd", logging.INFO, "", 0, "note: this", (), None))
    first, bar = wide.screen()
    assert first == "note: this" and "1/6 steps" in bar
    console.close({})


def test_pictures_are_files_by_name_and_epoch(tmp_path: Path):
    logger = ImageLogger(tmp_path)
    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    logger.on_images(12, {"2007_000033": picture, "b": picture[:, :2]})
    logger.on_images(12, {"b": picture[:, :3]})  # as a resumed run may
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*"))
    assert found == ["pictures/2007_000033/epoch0012.png", "pictures/b/epoch0012.png"]
    with Image.open(tmp_path / found[0]) as image:
        assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), picture)
    with Image.open(tmp_path / found[1]) as image:
        assert image.size == (7, 3)


class Recorder(Logger):
    """What a logger of ``logger=`` is passed, as JSON in the order of the calls."""

    started: list["Recorder"] = []

    def __init__(self, metadata: dict[str, Any], folder: Path, word: str = "") -> None:
        self.metadata, self.word, self.calls = metadata, word, list[tuple[str, Any]]()
        self.started.append(self)

    def on_step_metrics(self, metrics: dict[str, Any]) -> None:
        self.calls.append(("step", metrics))

    def on_epoch(self, metrics: dict[str, Any]) -> None:
        self.calls.append(("epoch", metrics))

    def on_images(self, epoch: int, images: dict[str, Any]) -> None:
        self.calls.append(("images", (epoch, sorted(images))))

    def close(self, summary: dict[str, Any]) -> None:
        self.calls.append(("close", summary["status"]))


@pytest.mark.parametrize("name", ["a/b", "../../escaped", "..", ".hidden", "/root", "a b%2Fé\n?*"])
def test_any_name_of_a_picture_stays_in_its_folder(tmp_path: Path, name: str):
    picture = torch.arange(48, dtype=torch.uint8).view(3, 4, 4)
    ImageLogger(tmp_path / "run").on_images(1, {name: picture, "plain": picture})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert all(path.parents[1] == tmp_path / "run" / "pictures" for path in files)
    assert not any(path.parent.name.startswith(".") for path in files)
    found = read_images(tmp_path / "run", 1)
    assert found.keys() == {name, "plain"} and torch.equal(found[name], picture)


def test_steps_are_kept_up_to_the_one_that_a_run_resumes_from(tmp_path: Path):
    path = tmp_path / "steps.jsonl"
    logger = StepLogger(path)
    for step in (5, 10, 15):
        logger.on_step_metrics({"epoch": 1, "step": step, "loss": 0.5})
    with path.open("ab") as file:
        file.write(b'{"epoch": 2, "st')  # killed in the middle of a line
    StepLogger(path, 15)
    assert [line["step"] for line in lines(path)] == [5, 10, 15]
    StepLogger(path, 12).on_step_metrics({"epoch": 2, "step": 15, "loss": 0.25})
    assert [(x["step"], x["loss"]) for x in lines(path)] == [(5, 0.5), (10, 0.5), (15, 0.25)]
    StepLogger(tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_a_replay_passes_everything_in_order(tmp_path: Path):
    written(tmp_path / "metrics.jsonl", 2)
    image = torch.arange(72, dtype=torch.uint8).view(3, 4, 6)
    ImageLogger(tmp_path).on_images(2, {"cat": image})
    steps = StepLogger(tmp_path / "steps.jsonl")
    for epoch, step in ((1, 5), (1, 10), (2, 15), (3, 25)):
        steps.on_step_metrics({"epoch": epoch, "step": step})
    found = Recorder({}, tmp_path)
    replay(found, tmp_path)
    kinds = [kind for kind, _ in found.calls]
    assert kinds == ["step", "step", "epoch", "step", "images", "epoch", "step"]
    assert found.calls[4] == ("images", (2, ["cat"]))
    assert torch.equal(read_images(tmp_path, 2)["cat"], image)


def test_a_run_logs_to_ones_own_logger_every_epoch_and_step(cli, monkeypatch: pytest.MonkeyPatch):
    started = list[Recorder]()
    monkeypatch.setattr(Recorder, "started", started)
    short = ("train.epochs=2", "model.hidden=[8]", "train.batch_size=512", "optim=sgdm", "lrd.p=1")
    own = ("+logger.own._target_=tests.unit.loggers.test_loggers.Recorder", "run.allow=[tests]")
    done = cli(*short, *own, "+logger.own.word=hello", "log.every_steps=2")
    assert done.status == 0, done.err
    (logger,) = started
    assert logger.word == "hello" and logger.metadata["config"]["train"]["epochs"] == 2
    (folder,) = (path.parent for path in Path("runs").rglob("metrics.jsonl"))
    steps, epochs = lines(folder / "steps.jsonl"), lines(folder / "metrics.jsonl")
    assert [line for kind, line in logger.calls if kind == "step"] == steps
    assert [line for kind, line in logger.calls if kind == "epoch"] == epochs
    assert logger.calls[-1] == ("close", "finished")
    assert [line["step"] for line in steps] == [2, 4, 6] and [x["step"] for x in epochs] == [3, 6]
    # The same command again is finished, and has logged; without the logger the numbers are equal.
    assert cli(*short, "run.dir=plain").status == 0
    (plain,) = Path("plain").rglob("metrics.jsonl")
    same = [{k: v for k, v in x.items() if "loss" in k or "accuracy" in k} for x in lines(plain)]
    assert same == [{k: x[k] for k in y} for x, y in zip(epochs, same, strict=True)]
    assert not (plain.parent / "steps.jsonl").exists()
    assert cli(*short, *own).status == 0  # a finished run is passed on too
    assert started[1].calls[:-1] == logger.calls[:-1]


def test_step_metrics_are_those_of_a_loop_by_hand(cli):
    """One step on all digits: loss and gradient of the initial network, by torch alone."""
    one = ("train.max_steps=1", "train.batch_size=1437", "model.hidden=[8]", "lrd.p=1")
    assert cli(*one, "log.every_steps=1", "optim=sgdm", "optim.lr=0.25").status == 0
    (folder,) = (path.parent for path in Path("runs").rglob("steps.jsonl"))
    (line,) = lines(folder / "steps.jsonl")
    (epoch,) = lines(folder / "metrics.jsonl")
    saved = torch.load(folder / "last.pt", weights_only=True)["model"]
    config = json.loads((folder / "run.json").read_text())["config"]
    from lrd.config.compose import restore_config
    from lrd.training.builder import build

    parts = build(restore_config(config, ()))
    moved = [p.detach() - saved[name] for name, p in parts.model.named_parameters()]
    norm = float(torch.cat([x.flatten() for x in moved]).double().norm()) / 0.25
    assert line["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    assert line["loss"] == pytest.approx(epoch["train_loss"]) and line["lr"] == 0.25
    assert line["epoch"] == line["step"] == 1


def test_tensorboard_has_each_epoch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("tensorboard")
    events: Any = import_module("tensorboard.backend.event_processing.event_accumulator")
    from lrd.loggers.tensorboard import TensorBoardLogger

    written(tmp_path / "metrics.jsonl", 2)
    for _ in range(2):  # a second start
        logger = TensorBoardLogger({}, tmp_path)
        replay(logger, tmp_path)
        logger.on_step_metrics({"epoch": 3, "step": 25, "gradient_norm": 2.0})
        logger.on_images(3, {"cat": torch.zeros(3, 4, 6, dtype=torch.uint8)})
        logger.on_epoch(numbers(3))
        logger.close({"status": "finished"})
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in found.Scalars("train_loss")]
    expected = [(e, pytest.approx(numbers(e)["train_loss"], rel=1e-6)) for e in (1, 2, 3)]
    assert losses == expected
    assert [(e.step, e.value) for e in found.Scalars("steps/gradient_norm")] == [(25, 2.0)]
    assert [event.step for event in found.Images("pictures/cat")] == [3]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["logger=tensorboard"], "needs a package: pip install tensorboard"),
        (["logger=nothing"], "unknown logger 'nothing'; available: none, tensorboard, wandb"),
        (["+logger.own._target_=tests.unit.test_muon.test_x"], "run.allow=[tests] allows"),
        (["+logger.own._target_=torch.nn.Linear"], "must be a subclass of Logger"),
        (["log.every_steps=0"], "log.every_steps must be at least 1, or null, got 0"),
    ],
)
def test_a_wrong_logger_is_one_line_before_the_data(
    cli, monkeypatch: pytest.MonkeyPatch, overrides: list[str], expected: str
):
    for name in [n for n in sys.modules if n.startswith("tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("lrd.loggers.tensorboard", "torch.utils.tensorboard"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for package in (lrd.loggers, torch.utils):
        monkeypatch.delattr(package, "tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    done = cli("task=mnist", "data.root=nowhere", *overrides)
    assert done.status == 2 and expected in done.err and done.err.count("\n") == 1
