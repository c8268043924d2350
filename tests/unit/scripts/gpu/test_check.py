"""The first minutes on a GPU, rehearsed on the CPU in tiny form."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts import bench, gpu_check
from scripts.gpu import check, pairs
from scripts.gpu.epochs import measure_epochs
from scripts.gpu.parts import PROJECT, Deadline, Record

DIGITS = ["task=digits", "train=paper", "model.hidden=[8]", "train.epochs=4", "train.threads=1"]
REHEARSED = [*DIGITS, "train.device=cpu"]
FACTS: dict[str, Any] = {"commit": "abc", "hardware": {"gpu": "card"}, "settings": []}


def test_the_longest_pair_is_the_longest_that_fits():
    for seconds in (0, 30, 144, 500, 10_000):
        for startup, epoch in ((10.0, 1.85), (0.0, 60.0)):
            fits = [n for n in range(201) if 2 * (startup + n * epoch) <= 0.9 * seconds]
            assert pairs.longest(seconds, startup, epoch, 200) == max(fits, default=0)


def test_three_epochs_are_timed_and_their_waits_counted():
    timed, profiled = measure_epochs([*REHEARSED, "optim=sgdm"])
    assert timed["steps"] == 12 == -(-1437 // 128)  # the digits' training samples
    assert timed["epoch_seconds"] > 0 and timed["startup_seconds"] >= 0
    assert timed["implementation"] == "fused" and timed["precision"] == "fp32"
    assert profiled == {**timed, "synchronizations": {}, "waiting_lines": {}}  # none on a CPU


def test_the_lines_that_wait_are_counted(monkeypatch: pytest.MonkeyPatch):
    """torch warns at each such line; here a test does."""
    import warnings

    from scripts.gpu import epochs

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    with epochs._warned_lines(True) as lines:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    ((line, count),) = lines.items()
    assert count == 3 and line.startswith("tests/unit/scripts/gpu/test_check.py:")


def test_results_of_the_tests_are_read(tmp_path: Path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_a(): pass\n"
        "def test_b(): assert False\n"
        "def test_c(): pytest.skip('x')\n"
        "@pytest.fixture\n"
        "def f(): raise ValueError\n"
        "def test_d(f): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml=out"]
    subprocess.run([*command, "."], cwd=tmp_path, capture_output=True)
    assert check.read_counts(tmp_path / "out") == {
        "tests": 4,
        "skipped": 1,
        "failed": ["test_it::test_b", "test_it::test_d"],
    }


def test_parts_are_in_order_and_leave_time_for_runs(tmp_path: Path):
    made = list(check.parts("cuda", False, "data", ["a=1"], tmp_path))
    assert [name for name, *_ in made] == list(check.SHARES)
    assert sum(check.SHARES.values()) < 0.71
    tests = made[0][1]
    marked = {p for p in tests if p.startswith("tests/")}
    found = subprocess.run(
        ["git", "grep", "-l", "^@pytest.mark.gpu"], cwd=PROJECT, capture_output=True, text=True
    )
    assert marked >= set(found.stdout.split()) and "gpu and not slow and not exhaustive" in tests
    for _, arguments, _ in made[1:4]:
        args = bench.parse(arguments[1:])
        assert args.device == "cuda" and args.data == "data" and not args.quick
    assert "optim=sgdm" in made[4][1] and "a=1" in made[4][1]


def small_parts(*_: Any) -> list[tuple[str, list[str], Callable[[], dict[str, Any]]]]:
    """A part that fails, one that has no result, and the timed epochs."""
    timed = {"startup_seconds": 1.0, "epoch_seconds": 0.1, "images_per_second": 1.0, "steps": 12}

    def nothing() -> dict[str, Any]:
        raise FileNotFoundError

    return [
        ("tests", ["-c", "raise SystemExit(1)"], lambda: {"tests": 1, "skipped": 0, "failed": "x"}),
        ("step", ["-c", "print('a table')"], nothing),
        ("epochs", ["-c", ""], lambda: timed),
    ]


@pytest.mark.slow
def test_a_failing_part_stops_none_and_pairs_are_real_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(check, "parts", small_parts)
    monkeypatch.setattr(pairs, "OPTIMIZERS", ("sgdm",))
    out = tmp_path / "out"
    command = ["--minutes", "20", "--device", "cpu", "--out", str(out), *DIGITS]
    assert gpu_check.main(command) == 1  # a test failed
    record = json.loads((out / "gpu_check.json").read_text())
    assert [part["state"] for part in record["parts"].values()] == ["failed", "done", "done"]
    (pair,) = record["pairs"]
    assert pair["counts"] and pair["comparable"]
    assert (pair["epochs"], pair["of_epochs"]) == (4, 4)
    for p, run in pair["runs"].items():
        folder = out / "runs" / run["folder"]
        metadata = json.loads((folder / "run.json").read_text())
        assert metadata["status"] == "finished" and metadata["config"]["lrd"]["p"] == float(p)
        assert metadata["final"]["value"] == run["final"]
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4
    before = capsys.readouterr().out
    assert "sgdm, 4 of 4 epochs: p = 0.5: " in before
    started = {p: run["seconds"] for p, run in pair["runs"].items()}
    assert gpu_check.main(command) == 1
    again = json.loads((out / "gpu_check.json").read_text())
    assert "step: done before" in capsys.readouterr().out
    assert {p: run["seconds"] for p, run in again["pairs"][0]["runs"].items()} == started


@pytest.mark.exhaustive
def test_the_whole_check_is_rehearsed_without_a_gpu(tmp_path: Path):
    """Every part for real, at toy sizes; a loaded machine may end some by their limits."""
    out = tmp_path / "out"
    command = ["--minutes", "2", "--device", "cpu", "--quick", "--out", str(out), *DIGITS]
    assert gpu_check.main(command) == 0
    record = json.loads((out / "gpu_check.json").read_text())
    assert list(record["parts"]) == ["tests", "step", "loop", "data", "epochs"]
    assert {part["state"] for part in record["parts"].values()} <= {"done", "out of time"}
    assert all((out / part["log"]).exists() for part in record["parts"].values())
    assert record["facts"]["settings"] == [*DIGITS, "--quick"]
    assert all(pair["epochs"] >= 1 for pair in record["pairs"])


@pytest.mark.exhaustive
def test_an_unfinished_pair_is_resumed_at_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever the time would allow now: a run of another length would be another run."""
    monkeypatch.setattr(pairs, "OPTIMIZERS", ("sgdm",))
    record = Record(tmp_path, FACTS)
    record.parts["epochs"] = {"result": {"startup_seconds": 0.0, "epoch_seconds": 1.0}}
    pairs.run_pairs(REHEARSED, tmp_path / "runs", Deadline(21), record)  # less than an epoch each
    assert record.pairs == []
    record.pairs.append(
        {
            "optimizer": "sgdm",
            "epochs": 3,
            "of_epochs": 4,
            "images": "all",
            "counts": False,
            "comparable": False,
            "runs": {"0.5": {"state": "out of time"}},
        }
    )
    pairs.run_pairs(REHEARSED, tmp_path / "runs", Deadline(600), record)
    (pair,) = record.pairs
    assert pair["counts"] and pair["epochs"] == 3 and len(pair["runs"]) == 2
    assert "not to be compared with the paper's curves" in pairs.describe_pair(pair)


def test_an_arm_without_its_pair_does_not_count():
    run = {"status": "finished", "final": 94.0}
    pair = {
        "optimizer": "sgdm",
        "epochs": 200,
        "of_epochs": 200,
        "images": "all",
        "counts": False,
        "comparable": True,
        "runs": {"0.5": run},
    }
    assert "94" not in pairs.describe_pair(pair) and "unfinished" in pairs.describe_pair(pair)
    pair |= {"counts": True, "runs": {"0.5": run, "1": run}}
    assert pairs.describe_pair(pair).endswith("p = 0.5: 94, p = 1: 94")
    part = pairs.describe_pair({**pair, "images": 25_000, "comparable": False})
    assert "a subset of 25000 images" in part and "not to be compared" in part


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "--device must be cpu where torch finds no GPU, got cuda"),
        (["--device", "cpu", "task=digit"], "unknown task 'digit'"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "out"
    assert gpu_check.main(["--minutes", "1", "--out", str(out), *arguments]) == 2
    err = capsys.readouterr().err
    assert line in err and len(err.splitlines()) == 1 and not out.exists()
