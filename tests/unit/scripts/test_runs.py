"""scripts/runs.py: list, filter, show, compare and prune."""

import json
import shutil
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lrd.analysis.render import OPTIONAL_HEADS, RUN_HEADS
from lrd.config.compose import compose, to_config
from lrd.runs.lock import run_lock
from lrd.runs.store import Run, RunStore
from scripts import runs as script


def make(status: str, *overrides: str, **record: Any) -> Run:
    run = RunStore(to_config(compose(["run.dir=runs", *overrides]))).run
    choices = {"optim": next((o[6:] for o in overrides if o.startswith("optim=")), "adam")}
    return run.update(status=status, choices=choices, **record)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Run]:
    monkeypatch.chdir(tmp_path)
    score = {"name": "test_accuracy", "unit": "%", "maximize": True}
    made = {
        "finished": make("finished", score=score),
        "partial": make("running", "seed=1"),
        "stopped": make("interrupted", "optim=sgdm", "lrd.p=1"),
        "failed": make("failed", "optim=radam", "optim.lr=1e-3", error="train_loss is nan"),
        "unreadable": make("finished", "seed=2"),
    }
    line = json.dumps({"epoch": 1, "test_accuracy": 97.25})
    (made["finished"].folder / "metrics.jsonl").write_text(line + '\n{"ep')
    (made["unreadable"].folder / "run.json").write_text("{")
    return made


@pytest.fixture
def show(runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: str, status: int = 0) -> str:
        assert script.main(arguments) == status
        out = capsys.readouterr()
        return out.err if status else out.out

    return call


def test_every_run_is_listed_with_its_state(show, runs: dict[str, Run]):
    with run_lock(runs["stopped"].folder):
        out = show()
    assert "5 runs: " in out
    states = {line.split()[-1]: line.split()[0] for line in out.splitlines()[1:-1]}
    expected = dict(partial="partial", stopped="running", failed="failed", unreadable="unreadable")
    for name, state in {**expected, "finished": "finished"}.items():
        assert states[str(runs[name].folder)] == state
    line = next(x for x in out.splitlines() if x.startswith("finished"))
    assert "1/30" in line and "97.25 %" in line and "Adam" in line


def test_rows_that_look_alike_name_the_settings_in_which_they_differ(show):
    """Those alone: a run's length, the seed and the choices have columns of their own."""
    rates = ("0.01", "0.02")
    alike = [make("running", "optim=sgdm", f"optim.lr={rate}", "train.epochs=7") for rate in rates]
    other = make("running", "optim=sgdm", "optim.lr=0.03", "train.epochs=8")
    rows = {line.split()[-1]: line for line in show().splitlines()}
    assert "differs in" in show()
    for run, rate in zip(alike, rates, strict=True):
        assert f" optim.lr={rate} " in rows[str(run.folder)]
    assert "=" not in rows[str(other.folder)] and "differs in" not in show("train.epochs=8")
    for rescale in ("true", "false"):
        make("running", "optim=sgdm", "train.epochs=9", f"lrd.rescale={rescale}")
    assert "lrd.rescale=True" in show("train.epochs=9")
    assert "lrd.rescale=False" in show("train.epochs=9")  # at its default, which no identity names


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["optim=adam"], {"finished", "partial"}),
        (["optim.lr=0.001"], {"finished", "partial", "failed"}),
        (["optim.lr=1e-3", "state=failed"], {"failed"}),
        (["lrd.p=1"], {"stopped"}),
        (["seed=1"], {"partial"}),
        (["state=partial"], {"partial", "stopped"}),
        (["name=mnist"], set()),
        (["name=["], set()),  # no YAML
    ],
)
def test_filters_by_setting(show, runs: dict[str, Run], filters: list[str], names: set[str]):
    out = show(*filters)
    assert {n for n, run in runs.items() if f"{run.folder}\n" in out} == names


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["lrd.q=1"], "error: no run has a setting lrd.q"),
        (["adam"], "error: a filter must be SETTING=VALUE, got adam"),
        (["p<["], "error: p< must be given a number, got ["),
        (["--show", "ffff"], "error: RUN must name one run, got ffff, which names 0"),
    ],
)
def test_mistakes_are_one_line(show, arguments: list[str], line: str):
    err = show(*arguments, status=2)
    assert err.startswith(line) and err.count("\n") == 1


def test_show_and_diff(show, runs: dict[str, Run]):
    out = show("--show", str(runs["failed"].folder))
    assert "error: train_loss is nan" in out and "lr: 0.001" in out and "state: failed" in out
    mark = runs["finished"].folder.parts[-2][:6]
    assert "97.25" in show("--show", f"{mark}/seed0")
    out = show("--diff", f"{mark}/seed0", str(runs["stopped"].folder))
    assert "lrd.p=1.0 instead of 0.5" in out and "optim.momentum=0.9 instead of None" in out
    assert "train.epochs" not in out


def test_pruning_asks_and_spares_what_finished_or_runs(
    show, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("builtins.input", lambda text: "n")
    assert "nothing deleted" in show("--prune")
    assert all(run.folder.exists() for run in runs.values())
    with run_lock(runs["partial"].folder):
        assert "deleted 3" in show("--prune", "--yes")
    gone = {name for name, run in runs.items() if not run.folder.exists()}
    assert gone == {"stopped", "failed", "unreadable"}
    assert "deleted 1" in show("--prune", "--yes")
    assert "nothing to prune" in show("--prune", "--yes")
    assert not runs["stopped"].folder.parent.exists() and runs["finished"].folder.exists()


def test_pruning_removes_run_folders_in_which_nothing_is(show, runs: dict[str, Run]):
    """Not those that a process is about to fill, that are of others, or that links lead to."""
    mark = runs["finished"].fingerprint
    gone = [Path("runs/digits", *parts) for parts in ((mark, "seed7"), ("0" * 12, "seed1"))]
    elsewhere = Path("elsewhere/other")
    kept = [Path("runs/digits/notes/seed1"), Path("runs/digits", mark, "seed8"), elsewhere]
    for folder in (*gone, *kept):
        folder.mkdir(parents=True)
    (gone[0] / ".lock").touch()
    Path("runs/digits", mark, "seed9").symlink_to(elsewhere.absolute())
    show("--prune", "--yes", "state=failed")
    assert all(folder.is_dir() for folder in (*gone, *kept))
    with run_lock(kept[1]):
        assert "deleted 3 runs and 2 empty folders" in show("--prune", "--yes")
        assert not any(folder.exists() for folder in gone) and not gone[1].parent.exists()
        assert all(folder.is_dir() for folder in kept) and runs["finished"].folder.is_dir()
    Path("runs/digits", mark, "seed7").mkdir()
    assert "1 empty folder" in show("--prune", "--yes")
    assert "nothing to prune" in show("--prune", "--yes")


def test_moved_and_copied_runs_still_read(show, runs: dict[str, Run]):
    shutil.copytree("runs", "elsewhere/deep", copy_function=shutil.copy)
    shutil.move("runs", "moved")
    for folder in ("elsewhere/deep", "moved"):
        assert "5 runs: " in show("--runs", folder)
    assert "0 runs: none" in show()


def test_a_link_is_no_run_folder_to_delete(show, runs: dict[str, Run], tmp_path: Path):
    """A hostile folder cannot make pruning delete what lies elsewhere."""
    outside = tmp_path / "precious"
    shutil.copytree(runs["failed"].folder, outside)
    link = runs["failed"].folder.with_name("seed9")
    link.symlink_to(outside, target_is_directory=True)
    show("--prune", "--yes")
    assert (outside / "run.json").exists()


HEADS = {
    "state": ("finished", {"finished"}),
    "data": ("digits", {"finished", "partial", "stopped", "failed"}),
    "optim": ("radam", {"failed"}),
    "p": ("1", {"stopped"}),
    "seed": ("1", {"partial"}),
    "epochs": ("30", {"finished", "partial", "stopped", "failed"}),
    "final": ("97.25", {"finished"}),
    "arm": ("base", {"stopped"}),
    "differs in": ("lrd.p=0.7", set()),
    "job": ("12 RUNNING", set()),
}


def test_every_column_is_a_filter(show, runs: dict[str, Run]):
    shown = show().splitlines()[0]
    for head in RUN_HEADS:
        assert head in shown or head in OPTIONAL_HEADS
        value, names = HEADS.get(head, (str(runs["failed"].folder), {"failed"}))
        out = show(f"{head}={value}")
        assert {n for n, run in runs.items() if f"{run.folder}\n" in out} == names, head


def test_numbers_compare_and_rows_are_sorted(show, runs: dict[str, Run]):
    assert f"{runs['finished'].folder}\n" in show("final>97") and "0 runs" in show("final>97.25")
    assert "1 runs" in show("final<=97.25") and "3 runs" in show("p<1", "epochs>=30")
    rates = {rate: make("running", f"optim.lr={rate}", "seed=9") for rate in ("2e-3", "0.2", "3")}
    expected = [str(rates[rate].folder) for rate in ("2e-3", "0.2", "3")]
    rows = [line.split()[-1] for line in show("seed=9", "--sort=optim.lr").splitlines()[1:-1]]
    assert rows == expected
    rows = [line.split()[-1] for line in show("--sort=-optim.lr").splitlines()[1:-1]]
    assert rows[:2] == expected[:0:-1] and rows[-1] == str(runs["unreadable"].folder)
    states = [line.split()[0] for line in show("--sort=state").splitlines()[1:-1]]
    assert states == sorted(states)
    assert "--sort must name a column or a setting, got lr" in show("--sort", "lr", status=2)
    assert "final> must be given a number, got high" in show("final>high", status=2)
    assert "Did you mean optim.lr?" in show("optim.lrr=1", status=2)


def test_settings_that_distinguish_rows_come_first(show):
    """The optimizer's before the data's, and one that always differs with another comes later."""
    makes = [
        ("optim.lr=0.01", "dataset.holdout=10"),
        ("optim.lr=0.02", "dataset.holdout=20"),
        ("optim.lr=0.02", "dataset.holdout=30"),
    ]
    for overrides in makes:
        make("running", "train.epochs=4", "train.batch_size=16", "optim=sgdm", *overrides)
    lines = [x for x in show("train.epochs=4").splitlines() if "optim.lr=" in x]
    assert len(lines) == 3
    assert all("optim.lr=0.0" in x and x.index("optim.lr=") < x.index("holdout=") for x in lines)


@pytest.mark.parametrize("form", ["csv", "json"])
def test_export_has_a_row_a_run_with_its_settings(show, runs: dict[str, Run], form: str):
    read: Any = pd.read_csv if form == "csv" else pd.read_json
    printed = read(StringIO(show("--format", form, "state=failed")))
    assert show("--format", form, "--out", f"all.{form}").strip() == f"all.{form}"
    frame = read(f"all.{form}").set_index("folder")
    assert len(frame) == 5 and len(printed) == 1
    row = frame.loc[str(runs["failed"].folder)]
    assert row["optim.lr"] == 1e-3 and row["error"] == "train_loss is nan"
    assert json.loads(row["model.hidden"]) == [1000, 1000]
    assert frame.loc[str(runs["finished"].folder), "final"] == 97.25
    assert frame["final"].notna().sum() == 1 and frame["seed"].tolist().count(1) == 1


def test_parquet_needs_a_file_and_its_library(
    show, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
):
    assert "must be given --out" in show("--format", "parquet", status=2)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        err = show("--format", "parquet", "--out", "all.parquet", status=2)
        assert err == "error: --format parquet needs a package: pip install pyarrow\n"
    pytest.importorskip("pyarrow")
    show("--format", "parquet", "--out", "all.parquet")
    frame = pd.read_parquet("all.parquet").set_index("folder")
    assert len(frame) == 5 and frame.loc[str(runs["failed"].folder), "optim.lr"] == 1e-3
