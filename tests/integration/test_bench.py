"""The benchmark command, and its child processes."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lrd.optim import kernels
from scripts import bench
from scripts.benchmarks import optimizers as opt
from scripts.benchmarks import startup
from scripts.benchmarks.data_loading import photos_table, photos_workload, pil_batches, task_batches
from scripts.benchmarks.measure import ChildProcess, Options

ROOT = Path(__file__).parents[2]
QUICK = Options(quick=True, rounds=2)


def echo(prefix: str) -> Callable[..., Any]:
    return lambda word: f"{prefix} {word} {os.environ.get('BENCH_TEST', '')} {os.getpid()}"


def broken() -> Callable[..., Any]:
    raise ArithmeticError("no such thing")


def test_child_processes_have_their_own_environment():
    with (
        ChildProcess(echo, "a", environment={"BENCH_TEST": "x"}) as a,
        ChildProcess(echo, "b") as b,
    ):
        a.start_turn("1")
        b.start_turn("2")
        first, second = a.finish_turn().split(" "), b.finish_turn().split(" ")
        assert first[:3] == ["a", "1", "x"] and second[:3] == ["b", "2", ""]
        assert len({first[3], second[3], str(os.getpid())}) == 3
        assert a.peak_memory() >= 0


def test_a_failing_child_reports_its_traceback():
    with ChildProcess(broken) as child, pytest.raises(RuntimeError, match="no such thing"):
        child.turn()


def test_the_photos_table_has_both_loaders_with_and_without_workers():
    table = photos_table(QUICK)
    assert [line.label for line in table.lines] == [
        "PIL in a DataLoader, 0 workers",
        "PIL in a DataLoader, 2 workers",
        "ours, 0 workers",
        "ours, 2 workers",
    ]
    assert table.baseline == "PIL in a DataLoader, 2 workers" and table.better == "higher"
    assert table.title == "batches of 8 of the embedded shapes, crop 33"
    for line in table.lines:
        assert len(line.samples) == 2 and line.unit == "images/s"
        assert all(math.isfinite(n) and n > 0 for n in line.samples)
        assert len(line.ratios) == (0 if line.label == table.baseline else 2)


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_workers_end_with_the_child_they_belong_to():
    workload, crop = photos_workload(QUICK)
    with (
        ChildProcess(task_batches, workload, "data.workers=2") as ours,
        ChildProcess(pil_batches, workload, crop, 2) as theirs,
    ):
        left = []
        for child, workers in ((ours, 2), (theirs, 0)):  # ours live on, theirs end with the epoch
            assert child.turn(2).images == 16
            pid = child.pid
            assert pid is not None and len(children(pid)) == workers
            left += [str(pid), *children(pid)]
    assert [pid for pid in left if Path(f"/proc/{pid}").exists()] == []


def run_bench(folder: Path, *arguments: str) -> dict[str, Any]:
    assert bench.main([*arguments, "--quick", "--out", str(folder)]) == 0
    return json.loads((folder / "bench.json").read_text())


def check(out: dict[str, Any], rounds: int) -> None:
    assert out["facts"]["threads"] == 1 and out["facts"]["hardware"]["cores"] >= 1
    for table in out["tables"]:
        assert table["lines"] and table["title"]
        for line in table["lines"]:
            assert all(math.isfinite(n) for n in line["samples"]), line
            assert len(line["samples"]) in (1, rounds) or "epoch" in line["label"]
            assert line["met"] is None  # toys are not judged


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("section", ["step", "loop", "data", "growth"])
def test_a_section_gives_tables_numbers_and_a_chart(
    section: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(kernels, "COMPILE", False)
    out = run_bench(tmp_path, section, "--rounds", "3")
    check(out, 3)
    text = capsys.readouterr().out
    assert all(table["title"] in text for table in out["tables"])
    assert {table["section"] for table in out["tables"]} == {section}
    charts = [f"{section}.png"] * (section != "growth") + [f"{section}-sweeps.png"] * (
        section == "growth"
    )
    assert charts and all(is_png(tmp_path / name) for name in charts)
    assert f"written: {tmp_path / 'bench.json'} {tmp_path / charts[0]}" in text
    assert out["facts"]["command"] == f"python scripts/bench.py {section} --rounds 3 --quick"


def test_startup_measures_every_command(monkeypatch: pytest.MonkeyPatch):
    called: list[list[str]] = []

    def record(arguments: list[str]) -> float:
        called.append(arguments)
        return float(len(called))

    monkeypatch.setattr(startup, "_cpu_seconds", record)
    (table,) = startup.measure_startup(Options(rounds=2))
    commands = {path.name for path in (ROOT / "scripts").glob("*.py")} - {"__init__.py"}
    measured = {line.label.removesuffix(" --help") for line in table.lines}
    assert measured == {"import lrd", "run.py", *commands}
    assert len(called) == 3 * len(table.lines)  # the first turn does not count
    assert table.lines[0].samples == [len(table.lines) + 1, 2 * len(table.lines) + 1]
    assert {str(line.target) for line in table.lines} == {"<= 0.5", "None"}


def test_cpu_time_is_the_child_processes():
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    assert startup._cpu_seconds(["-c", busy]) >= 0.3


@pytest.mark.slow
def test_everything_compiled(tmp_path: Path):
    out = run_bench(tmp_path, "all", "--rounds", "2")
    check(out, 2)
    assert {table["section"] for table in out["tables"]} == set(bench.SECTIONS)
    variants = {line["label"] for table in out["tables"] for line in table["lines"]}
    assert {opt.LRD_FUSED, opt.LRD_COMPILED, opt.LRD_EAGER, opt.NAIVE, opt.TORCH_FUSED} <= variants


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--rounds", "0"], "must be at least 1, got 0"),
        (["speed"], "invalid choice: 'speed'"),
    ],
)
def test_a_wrong_command_is_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit, match="2"):
        bench.main(arguments)
    assert line in capsys.readouterr().err


def test_a_missing_gpu_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(["step", "--device", "cuda"]) == 2
    assert (
        capsys.readouterr().err
        == "error: --device must be cpu where torch finds no GPU, got cuda\n"
    )
