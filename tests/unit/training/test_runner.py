"""Runs that are stopped, damaged, crowded or out of room: one clear line, nothing whole is lost."""

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lrd.loggers.console import ConsoleLogger
from lrd.runs import store
from lrd.runs.store import TIMES, Run, find_runs
from lrd.training import runner
from lrd.training.checkpoint import load_checkpoint, save_checkpoint
from lrd.training.trainer import Trainer

QUICK = ["train.epochs=3", "model.hidden=[16]", "train.threads=1"]


def numbers(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in run.metrics]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.folder / "last.pt", weights_only=True)["model"]


@pytest.fixture
def reference(cli) -> Run:
    """The same run, left in peace."""
    assert cli(*QUICK, "run.dir=peace").status == 0
    return next(find_runs("peace"))


def same(run: Run, reference: Run) -> bool:
    a, b = weights(run), weights(reference)
    return (
        run.state == "finished"
        and numbers(run) == numbers(reference)
        and run.metadata["best"] == reference.metadata["best"]
        and all(torch.equal(a[k], b[k]) for k in a | b)
    )


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Lets something happen at the n-th step of a run."""

    def arrange(step: int, act: Callable[[], None]) -> None:
        calls = iter(range(1, 10**6))

        def counted(self: ConsoleLogger, epoch: int, at: int) -> None:
            if next(calls) == step:
                act()

        monkeypatch.setattr(ConsoleLogger, "on_step", counted)

    return arrange


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("step", [1, 12, 20])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_signal_saves_at_the_end_of_the_step(cli, reference: Run, stop_at, name: str, step: int):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    stop_at(step, send(number))
    stopped = cli(*QUICK)
    assert stopped.status == 128 + number
    assert f"stopped by {name}, state saved; the same command resumes" in stopped.err
    (run,) = find_runs("runs")
    saved = torch.load(run.folder / "last.pt", weights_only=True)["progress"]
    assert saved["total"] == step and run.state == "partial"
    assert signal.getsignal(number) == before
    again = cli(*QUICK)
    assert again.status == 0 and f"resuming after epoch {(step - 1) // 12}" in again.out
    assert same(next(find_runs("runs")), reference)


def test_a_signal_in_evaluation_saves_and_goes_on(
    cli, reference: Run, monkeypatch: pytest.MonkeyPatch
):
    evaluate = Trainer.evaluate
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "evaluate", lambda *a: (send(signal.SIGTERM)(), evaluate(*a))[1])
        assert cli(*QUICK).status == 143
    (run,) = find_runs("runs")
    assert run.metrics == []
    saved = torch.load(run.folder / "last.pt", weights_only=True)["progress"]
    assert (saved["epoch"], saved["step"]) == (0, 12)
    assert cli(*QUICK).status == 0 and same(next(find_runs("runs")), reference)


def test_a_second_interrupt_ends_at_once(cli, stop_at):
    stop_at(14, lambda: (send(signal.SIGINT)(), send(signal.SIGINT)())[0])
    stopped = cli(*QUICK)
    assert stopped.status == 130 and "stopped at once" in stopped.err
    assert next(find_runs("runs")).state == "partial"


def test_a_signal_ends_the_whole_sweep(cli, stop_at):
    stop_at(2, send(signal.SIGTERM))
    assert cli("-m", *QUICK, "seed=0,1,2").status == 143
    assert len(list(find_runs("runs"))) == 1
    assert cli("-m", *QUICK, "seed=0,1,2").status == 0
    assert [run.state for run in find_runs("runs")] == ["finished"] * 3


@pytest.fixture
def half(cli, stop_at, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that was stopped in its second epoch."""
    with monkeypatch.context():
        stop_at(20, send(signal.SIGTERM))
        cli(*QUICK)
    stop_at(0, lambda: None)
    return next(find_runs("runs"))


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_checkpoint_is_named_and_left(cli, reference: Run, half: Run, damage: str):
    last, before = half.folder / "last.pt", (half.folder / "metrics.jsonl").read_bytes()
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1 if damage == "flip" else 0
    last.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    broken = last.read_bytes()
    done = cli(*QUICK)
    assert done.status == 2 and done.err.count("\n") == 1 and "Traceback" not in done.err
    assert "last.pt is damaged" in done.err and "run.force=true" in done.err
    assert last.read_bytes() == broken
    assert (half.folder / "metrics.jsonl").read_bytes() == before
    assert cli(*QUICK, "run.force=true").status == 0 and same(next(find_runs("runs")), reference)


def test_a_checkpoint_of_another_configuration_is_refused(cli, half: Run):
    cli(*QUICK, "optim.lr=0.01", "run.dir=other", "train.max_steps=20")
    other = next(find_runs("other")).folder / "last.pt"
    (half.folder / "last.pt").write_bytes(other.read_bytes())
    done = cli(*QUICK)
    assert done.status == 2
    assert "optim.lr=0.01 instead of 0.001" in done.err and "train.max_steps=20" in done.err


@pytest.mark.parametrize("change", [{"speed": 1.0}, {"total": None}])
def test_a_checkpoint_whose_progress_has_other_fields_is_named(
    cli, half: Run, change: dict[str, Any]
):
    """As that of an older or a newer version may have."""
    path = half.folder / "last.pt"
    state = load_checkpoint(path, half.identity)
    progress = {**state["progress"], **change}
    state["progress"] = {name: x for name, x in progress.items() if x is not None}
    save_checkpoint(path, state, half.identity)
    done = cli(*QUICK)
    (field,) = change
    assert done.status == 2 and done.err.count("\n") == 1
    assert f"does not fit this version of the code (progress differs in {field})" in done.err
    assert "run.force=true" in done.err


@pytest.mark.parametrize("tail", [b'{"epoch": 2, "trai', b'{"epoch": 2}\n{"epoch": 3}\n'])
def test_lines_beyond_the_checkpoint_are_cut(cli, reference: Run, half: Run, tail: bytes):
    metrics = half.folder / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes() + tail)
    assert len(half.metrics) == 1 + tail.count(b"\n")
    assert cli(*QUICK).status == 0 and same(next(find_runs("runs")), reference)


def test_lost_or_damaged_lines_are_named(cli, half: Run):
    metrics = half.folder / "metrics.jsonl"
    metrics.write_bytes(b'{"epoch": \x00}\n')
    done = cli(*QUICK)
    assert done.status == 2 and "metrics.jsonl is damaged in line 1" in done.err
    assert next(find_runs("runs")).status != "running" and done.err.count("\n") == 1
    metrics.write_bytes(b"")
    done = cli(*QUICK)
    assert done.status == 2 and "has 0 epochs and the checkpoint 1" in done.err
    assert next(find_runs("runs")).state == "failed"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"{}"])
def test_an_unreadable_record_is_written_anew(cli, reference: Run, half: Run, content: bytes):
    (half.folder / "run.json").write_bytes(content)
    assert next(find_runs("runs")).state in ("unreadable", "new")
    assert cli(*QUICK).status == 0 and same(next(find_runs("runs")), reference)
    (half.folder / "run.json").write_bytes(content)  # of the finished run now
    lines = (half.folder / "metrics.jsonl").read_bytes()
    assert cli(*QUICK).status == 0 and same(next(find_runs("runs")), reference)
    assert (half.folder / "metrics.jsonl").read_bytes() == lines


def test_a_folder_copied_over_another_run_is_refused(cli, half: Run):
    cli(*QUICK, "optim.lr=0.01", "run.dir=other")
    other = next(find_runs("other")).folder
    (half.folder / "run.json").write_bytes((other / "run.json").read_bytes())
    done = cli(*QUICK)
    assert done.status == 2 and "run.json is of another run (optim.lr=0.01" in done.err
    other.rename(other.with_name("seed1"))
    done = cli(*QUICK, "optim.lr=0.01", "run.dir=other", "seed=1")
    assert done.status == 2 and "(seed=0 instead of 1): move that directory away" in done.err


def test_a_record_of_a_newer_version_is_refused(cli, half: Run):
    half.update(format=99)
    done = cli(*QUICK)
    assert done.status == 2 and "has format 99, this version reads" in done.err


def test_a_stop_does_not_hide_what_failed_before(cli, stop_at):
    stop_at(2, send(signal.SIGTERM))
    nadam = "optim._target_=torch.optim.NAdam"
    done = cli("-m", *QUICK, nadam, "lrd.implementation=fused,auto")
    assert done.status == 143 and "stopped by SIGTERM" in done.err
    assert "lrd.implementation=fused: the base must be one of" in done.err


def test_other_conditions_are_noted(cli, half: Run):
    record = json.loads((half.folder / "run.json").read_text())
    record["threads"], record["versions"]["torch"] = 64, "1.0"
    record["matmul"] = "onednn"  # of a version that chose by a stopwatch
    (half.folder / "run.json").write_text(json.dumps(record))
    done = cli(*QUICK)
    assert (
        done.status == 0
        and "threads was 64, is 1: the numbers agree up to floating-point error" in done.out
    )
    assert "versions was" in done.out and "matmul was onednn, is default" in done.out


def test_a_failed_run_leaves_its_traceback_and_can_be_mended(
    cli, reference: Run, stop_at, monkeypatch: pytest.MonkeyPatch
):
    def fails() -> None:
        raise RuntimeError("the device is gone")

    stop_at(20, fails)
    done = cli("-m", *QUICK, "seed=0,1")
    assert done.status == 1
    run = Run(next(find_runs("runs")).folder, {})
    assert f"RuntimeError: the device is gone [{run.folder}/error.txt]" in done.err
    assert "fails" in (run.folder / "error.txt").read_text()
    assert [r.state for r in find_runs("runs")] == ["failed", "finished"]
    assert cli(*QUICK).status == 0 and same(next(find_runs("runs")), reference)
    assert not (run.folder / "error.txt").exists()


def test_the_second_process_on_a_run_leaves_it_to_the_first(cli, stop_at):
    errors = []

    def second() -> None:
        command = [sys.executable, str(Path(__file__).parents[3] / "run.py"), *QUICK]
        done = subprocess.run(command, capture_output=True, text=True)
        errors.append((done.returncode, done.stderr))

    stop_at(3, second)
    assert cli(*QUICK).status == 0
    ((status, line),) = errors
    assert status == 3 and f"process {os.getpid()} on " in line and "is working on" in line
    assert line.count("\n") == 1
    assert not (next(find_runs("runs")).folder / ".lock").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small file system of its own, (re)mounted with the given options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted: list[bool] = []

    def mount(options: str) -> Path:
        again = "remount," if mounted else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a tmpfs needs root")
        mounted.append(True)
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(cli, disk: Callable[[str], Path]):
    wide = ["train.epochs=3", "model.hidden=[1000]", "train.threads=1"]
    wide.append("train.checkpoint_every=1")
    cli(*wide, "run.dir=peace")
    place = disk("size=1500k")  # a checkpoint takes 0.9 MB, two at a time do not fit
    done = cli(*wide, f"run.dir={place}")
    assert done.status == 1 and done.err.count("\n") == 1
    assert "No space left on device" in done.err and "run the same command again" in done.err
    (run,) = find_runs(place)
    assert torch.load(run.folder / "last.pt", weights_only=True)["progress"]["epoch"] == 1
    assert not list(run.folder.glob("*.part"))
    disk("size=10m")
    assert cli(*wide, f"run.dir={place}").status == 0
    assert same(next(find_runs(place)), next(find_runs("peace")))


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room there"),
        (errno.EDQUOT, "make room there"),
        (errno.EACCES, "get permission to write there"),
        (errno.EPERM, "get permission to write there"),
        (errno.EROFS, "mount it for writing"),
    ],
)
def test_each_error_of_the_file_system_has_its_advice(
    cli, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
):
    def fails(file: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", fails)
        done = cli(*QUICK)
    assert done.status == 1 and done.err.count("\n") == 1
    assert os.strerror(number) in done.err and f"{advice}, or choose another run.dir" in done.err


@pytest.mark.parametrize(
    "error",
    [
        OSError("image file is truncated"),
        OSError(errno.EIO, "Input/output error", "/data/image.png"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ],
)
def test_what_has_nothing_to_do_with_the_run_directory_gets_no_such_advice(
    cli, stop_at, error: OSError
):
    def fails() -> None:
        raise error

    stop_at(3, fails)
    done = cli(*QUICK)
    assert done.status == 1 and done.err.count("\n") == 1
    assert (error.strerror or str(error)) in done.err and "run.dir" not in done.err
    assert (error.filename or "") in done.err


def test_a_read_only_folder_is_named_and_a_finished_run_is_found_in_it(
    cli, disk: Callable[[str], Path]
):
    place = disk("size=10m")
    cli(*QUICK, f"run.dir={place}")
    disk("ro")
    done = cli(*QUICK, f"run.dir={place}", "seed=1")
    assert done.status == 1 and done.err.count("\n") == 1
    assert "Read-only file system" in done.err and "run.dir" in done.err
    found = cli(*QUICK, f"run.dir={place}")
    assert found.status == 0 and "finished already" in found.out


KILLED = """
import os, sys
from lrd import cli
from lrd.loggers.console import ConsoleLogger
steps = iter(range(1, 10**6))
ConsoleLogger.on_step = lambda *at: next(steps) == {step} and os.kill(os.getpid(), 9)
sys.argv = ["run.py", *{arguments}]
cli.main()
"""


@pytest.mark.parametrize("keep", ["weights", "best"])
def test_a_killed_run_goes_on_from_its_last_checkpoint_by_time(cli, reference: Run, keep: str):
    arguments = [*QUICK, "train.checkpoint_minutes=0", f"run.keep={keep}"]
    code = KILLED.format(step=20, arguments=arguments)
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    (run,) = find_runs("runs")
    saved = torch.load(run.folder / "last.pt", weights_only=True)
    assert saved["progress"]["total"] == 19 and ("best" in saved) == (keep == "best")
    again = cli(*arguments)
    assert again.status == 0 and "resuming after epoch 1, step 7" in again.out
    assert same(next(find_runs("runs")), reference)


def test_checkpoints_come_by_the_clock(cli, monkeypatch: pytest.MonkeyPatch):
    """The loop looks at it after each step and before each batch of evaluation."""
    minutes, saved = itertools.count(), []
    clock = SimpleNamespace(monotonic=lambda: 60 * next(minutes))
    monkeypatch.setattr(runner, "time", clock)
    save = runner._RunSession._save

    def noted(self: Any) -> None:
        saved.append(clock.monotonic() / 60)
        save(self)

    monkeypatch.setattr(runner._RunSession, "_save", noted)
    assert cli(*QUICK, "train.checkpoint_minutes=5").status == 0
    gaps = [after - before for before, after in itertools.pairwise([0, *saved])]
    assert len(gaps) > 4 and all(5 <= gap <= 8 for gap in gaps[:-1])
    monkeypatch.setattr(runner, "time", time)
    saved.clear()
    assert cli(*QUICK, "seed=1").status == 0 and len(saved) == 1  # a short run's last state alone


def test_a_run_that_writes_beside_its_steps_is_the_same(
    cli, reference: Run, monkeypatch: pytest.MonkeyPatch
):
    """As on a GPU."""
    writer = runner.CheckpointWriter
    monkeypatch.setattr(runner, "CheckpointWriter", lambda background: writer(background=True))
    often = [*QUICK, "train.checkpoint_minutes=0", "run.keep=best"]
    monkeypatch.setattr(ConsoleLogger, "on_step", lambda self, epoch, at: stop(at))

    def stop(at: int) -> None:
        if at == 7:
            send(signal.SIGTERM)()

    for _ in range(3):
        assert cli(*often).status == 143
    assert cli(*often).status == 0 and same(next(find_runs("runs")), reference)


WILD = ["train.epochs=5", "model.hidden=[16]", "train.threads=1", "optim.lr=0.5"]


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The weights after each epoch that is trained."""
    seen: list[dict[str, torch.Tensor]] = []
    original = runner._RunSession._on_epoch_end

    def noted(self: Any, trainer: Trainer) -> None:
        seen.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
        original(self, trainer)

    monkeypatch.setattr(runner._RunSession, "_on_epoch_end", noted)
    return seen


@pytest.mark.parametrize("keep", ["weights", "last", "best", "none"])
def test_a_finished_run_keeps_what_it_is_told_to(cli, epochs, keep: str):
    assert cli(*WILD, f"run.keep={keep}").status == 0
    (run,) = find_runs("runs")
    files = {path.name for path in run.folder.glob("*.pt")}
    assert files == {"best": {"last.pt", "best.pt"}, "none": set()}.get(keep, {"last.pt"})
    if keep != "none":
        last = torch.load(run.folder / "last.pt", weights_only=True)
        assert ("optimizer" in last) == (keep == "last") and "best" not in last
        assert equal(last["model"], epochs[-1])
    if keep == "best":
        kept, best = torch.load(run.folder / "best.pt", weights_only=True), run.metadata["best"]
        assert (kept["epoch"], kept["score"]) == (best["epoch"], best["value"])
        assert best["epoch"] < 5 and equal(kept["model"], epochs[best["epoch"] - 1])
    assert "finished already" in cli(*WILD).out


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a | b)


@pytest.mark.parametrize("step", [5, 17, 30, 37, 50])
def test_the_best_epoch_is_that_of_the_whole_run_after_a_resume(cli, epochs, stop_at, step: int):
    stop_at(step, send(signal.SIGTERM))
    assert cli(*WILD, "run.keep=best").status == 143
    assert cli(*WILD, "run.keep=best").status == 0
    (run,) = find_runs("runs")
    best = run.metadata["best"]["epoch"]
    assert equal(torch.load(run.folder / "best.pt", weights_only=True)["model"], epochs[best - 1])


def test_a_best_epoch_before_run_keep_has_no_weights(cli, stop_at):
    stop_at(50, send(signal.SIGTERM))
    assert cli(*WILD).status == 143
    done = cli(*WILD, "run.keep=best")
    (run,) = find_runs("runs")
    assert run.metadata["best"]["epoch"] <= 4
    assert done.status == 0 and "note: no best.pt, as epoch" in done.out
    assert not (run.folder / "best.pt").exists()


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("progress", lambda progress: progress.update(lines=3)),
        ("progress", lambda progress: progress.pop("total")),
        ("model", lambda model: model.popitem()),
        ("optimizer", lambda optimizer: optimizer.pop("state")),
    ],
)
def test_a_checkpoint_of_other_code_is_refused_in_one_line(cli, half: Run, part: str, change):
    state = torch.load(half.folder / "last.pt", weights_only=True)
    change(state[part])
    torch.save(state, half.folder / "last.pt")
    done = cli(*QUICK)
    assert done.status == 2 and done.err.count("\n") == 1
    assert "does not fit this version of the code" in done.err and "run.force=true" in done.err


def test_a_run_reads_its_record_and_hashes_its_fingerprint_once(
    cli, monkeypatch: pytest.MonkeyPatch
):
    """Fresh, and again when it is finished."""
    counts: Counter[str] = Counter()

    def count(name: str) -> None:
        real = getattr(store, name)

        def counted(*arguments: Any) -> Any:
            counts[name] += 1
            return real(*arguments)

        monkeypatch.setattr(store, name, counted)

    count("_read_metadata")
    count("fingerprint")
    for _ in range(2):
        counts.clear()
        assert cli(*QUICK).status == 0
        assert counts == {"_read_metadata": 1, "fingerprint": 1}
