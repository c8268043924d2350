"""The benchmark command, and its child processes."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import collect_results
from lrd.analysis.studies import CellSpec
from scripts import bench
from scripts.benchmarks import commands
from scripts.benchmarks import optimizers as opt
from scripts.benchmarks.data_loading import (
    boxes_cost_table,
    photos_table,
    photos_workload,
    pil_batches,
    task_batches,
)
from scripts.benchmarks.measure import ChildProcess, Options
from tests.helpers.earlier_commit import commit_lrd

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


def test_the_cost_table_has_cpu_time_per_image_and_judges_real_photos_alone():
    table = boxes_cost_table(QUICK)
    reference, ours = table.lines
    assert table.baseline == reference.label and ours.label == "ours"
    assert table.better == "lower" and ours.target is None
    assert table.title == "CPU time per image of the embedded shapes, 300 x 300"
    for line in table.lines:
        assert len(line.samples) == 2 and line.unit == "ms"
        assert all(0.1 < number < 1000 for number in line.samples)


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
def test_every_section_gives_tables_numbers_and_a_chart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    commit = commit_lrd(tmp_path / "repository", {})
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "repository" / ".git"))
    folder = tmp_path / "out"
    out = run_bench(folder, "all", "--rounds", "3", "--against", "HEAD")
    text = capsys.readouterr().out
    check(out, 3)
    assert all(table["title"] in text for table in out["tables"])
    assert {table["section"] for table in out["tables"]} == set(bench.SECTIONS)
    charts = [folder / f"{name}.png" for name in ("step", "loop", "data", "growth-sweeps")]
    assert all(map(is_png, charts))
    assert " ".join(map(str, ["written:", folder / "bench.json", *charts])) in text
    command = "python scripts/bench.py all --rounds 3 --against HEAD --quick"
    assert out["facts"]["command"] == command

    labels = {table["title"]: [ln["label"] for ln in table["lines"]] for table in out["tables"]}
    earlier = [f"LRD at {commit}, fused", f"LRD at {commit}, snapshot"]
    quotients = [f"{opt.LRD_FUSED} / {earlier[0]}", f"{opt.LRD_SNAPSHOT} / {earlier[1]}"]
    torchs = [opt.TORCH_FUSED, opt.TORCH_FOREACH, opt.TORCH_LOOP]
    ours = [opt.LRD_EAGER, opt.LRD_SNAPSHOT, opt.LRD_FUSED]
    alone, together = (
        next(found for title, found in labels.items() if title.startswith(f"adam: {what}"))
        for what in ("the step alone", "zero_grad + backward + step")
    )
    naive = f"{opt.NAIVE} / {opt.LRD_FUSED}"
    assert alone == [*torchs, *ours, *earlier, opt.NAIVE, naive, *quotients]
    assert {*ours[1:], *earlier, opt.NAIVE, "forward alone", *quotients} <= set(together)
    others = [table for table in out["tables"] if table["section"] != "step"]
    assert not any(line["label"] in earlier for table in others for line in table["lines"])
    compiled = labels["seconds to compile the kernels, once a process"]
    assert compiled == ["adam: LRD, fused, empty cache", "adam: LRD, fused, from the cache"]


def test_startup_measures_every_command(monkeypatch: pytest.MonkeyPatch):
    called: list[list[str]] = []

    def record(arguments: list[str]) -> float:
        called.append(arguments)
        return float(len(called))

    monkeypatch.setattr(commands, "_cpu_seconds", record)
    (table,) = commands.measure_startup(Options(rounds=2))
    names = {path.name for path in (ROOT / "scripts").glob("*.py")} - {"__init__.py"}
    measured = {line.label.removesuffix(" --help") for line in table.lines}
    assert measured == {"import lrd", "run.py", *names}
    assert len(called) == 3 * len(table.lines)  # the first turn does not count
    assert table.lines[0].samples == [len(table.lines) + 1, 2 * len(table.lines) + 1]
    assert {str(line.target) for line in table.lines} == {"<= 0.5", "None"}


def test_the_page_is_measured_with_runs_that_it_shows(monkeypatch: pytest.MonkeyPatch):
    found: list[int] = []

    def read(arguments: list[str]) -> float:
        cell = CellSpec("quickstart", ("optim=adam", "lrd.p=0.5"))
        (results,) = collect_results([cell], RunFrames(arguments[-1])).values()
        found.append(results.n)
        assert arguments[0] == "scripts/report.py" and len(results.curves("train_loss")) == 1
        return 1.0

    monkeypatch.setattr(commands, "_cpu_seconds", read)
    (table,) = commands.measure_pages(Options(quick=True))
    assert found == [1] and [line.label for line in table.lines] == ["2 runs"]


def test_cpu_time_is_the_child_processes():
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    assert commands._cpu_seconds(["-c", busy]) >= 0.3


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


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["step", "--against", "no-such"], "must be a commit of this checkout, got no-such"),
        (["loop", "--against", "HEAD"], "must come with section step or all, got loop"),
    ],
)
def test_a_wrong_commit_is_one_line(
    arguments: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "out"
    assert bench.main([*arguments, "--out", str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: --against {line}\n" and not captured.out
    assert not folder.exists()


def test_a_missing_gpu_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(["step", "--device", "cuda"]) == 2
    assert (
        capsys.readouterr().err
        == "error: --device must be cpu where torch finds no GPU, got cuda\n"
    )
