"""Runs as data frames: columns, states, damage, filters, and what importing costs."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lrd.analysis import load_curves, load_runs
from lrd.analysis.frames import describe_hardware, distinguishing_settings, select_runs
from lrd.runs.store import RunIndex
from tests.helpers.finished_runs import begin, configured, curve, finish, finish_with


def test_a_run_is_a_row_with_its_settings_as_columns(tmp_path: Path):
    config = configured(tmp_path, "optim=adam", "optim.lr=0.002", "+arm=lrd_sd", "train.epochs=3")
    for seed in (0, 1):
        finish(config, seed, curve(90.0 + seed, 3))
    frame = load_runs(tmp_path)
    assert len(frame) == 2 and frame.seed.tolist() == [0, 1]
    row = frame.iloc[1]
    assert (row.status, row.state, row.arm, row.dataset) == (*["finished"] * 2, "lrd_sd", "Digits")
    assert (row["optim.lr"], row["train.epochs"], row["lrd.p"]) == (0.002, 3, 0.5)
    assert (row.final, row.best, row.seconds, row.epochs, row.epochs_done) == (91, 91, 3, 3, 3)
    assert (row.score, row.unit, row.commit) == ("test_accuracy", "%", "0123456789ab")
    assert row.hardware == "Testing CPU (2 cores, 1 thread)"
    assert Path(row.folder).is_dir() and row.fingerprint == Path(row.folder).parts[-2]
    means = frame.query("status == 'finished'").groupby(["dataset", "arm"]).final.mean()
    assert means.tolist() == [90.5]
    pd.testing.assert_frame_equal(frame, load_runs(RunIndex(tmp_path)))


def test_an_epoch_is_a_row_and_a_missing_metric_is_nan(tmp_path: Path):
    run = finish_with(tmp_path, 90.0)
    lines = [{"epoch": 1, "a": 1.0}, {"epoch": 2, "a": float("nan"), "b": 2}]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    frame = load_curves(tmp_path)
    assert frame.epoch.tolist() == [1, 2] and frame.finite.tolist() == [True, False]
    assert frame.b.isna().tolist() == [True, False]
    asked = load_curves(tmp_path, ["b", "c"])
    assert list(asked) == ["folder", "fingerprint", "seed", "epoch", "finite", "b", "c"]


def test_runs_of_every_state_have_a_row(tmp_path: Path):
    finish_with(tmp_path, 90.0)
    begin(tmp_path, 1).update(status="failed", error="train_loss is nan")
    begin(tmp_path, 2).update(status="running")
    broken = finish_with(tmp_path, 90.0, seed=3)
    (broken.folder / "run.json").write_text("{")
    damaged = finish_with(tmp_path, 90.0, seed=4)
    (damaged.folder / "metrics.jsonl").write_text('{"epoch": "one"}\n')
    frame = load_runs(tmp_path).set_index("seed")
    states = ["finished", "failed", "partial", "unreadable", "finished"]
    assert frame.state.tolist() == states
    assert frame.final.isna().tolist() == [False, True, True, True, True]
    assert "damaged in line 1" in frame.problem[4] and pd.isna(frame.epochs_done[4])
    assert len(load_curves(tmp_path)) == 2  # of the finished and of the unreadable run
    assert frame.error[1] == "train_loss is nan"


def test_an_empty_directory_has_empty_frames(tmp_path: Path):
    runs, curves = load_runs(tmp_path), load_curves(tmp_path)
    assert runs.empty and {"status", "final", "folder"} <= set(runs)
    assert curves.empty and list(curves) == ["folder", "fingerprint", "seed", "epoch", "finite"]


def test_rows_are_selected_by_setting(tmp_path: Path):
    for rate in (0.001, 0.002):
        finish_with(tmp_path, 90.0, f"optim.lr={rate}")
    frame = load_runs(tmp_path)
    assert len(select_runs(frame, ["optim.lr=1e-3", "state=finished"])) == 1
    with pytest.raises(ValueError, match="no run has a setting lrd.q"):
        select_runs(frame, ["lrd.q=1"])


def test_rows_that_look_alike_are_distinguished_by_what_they_have(tmp_path: Path):
    """As many settings as it takes, and none that is absent."""
    arms = ("base", "sd", "nl", "ng")
    runs = [begin(tmp_path, 0, f"+arm={arm}").update(status="finished") for arm in arms]
    texts = distinguishing_settings(runs, ["one"] * len(runs))
    assert len(set(texts)) == len(arms) and "None" not in "".join(texts)
    assert "regularizer.sd" in texts[1] and "regularizer.sd" not in texts[2]


@pytest.mark.parametrize(
    "record, text",
    [
        ({}, ""),
        ({"hardware": "a box"}, "a box"),
        ({"hardware": {"cpu": "C", "cores": 8}, "threads": 1}, "C (8 cores, 1 thread)"),
        ({"hardware": {"cpu": "C", "gpu": "G"}, "device": "cuda"}, "G (C)"),
        ({"hardware": {"cpu": "C", "gpu": "G", "cores": 8}, "device": "cpu"}, "C (8 cores)"),
    ],
)
def test_hardware_is_one_text(record: dict, text: str):
    assert describe_hardware(record) == text


def test_importing_the_package_and_asking_for_help_load_nothing_heavy():
    heavy = "{'torch', 'pandas', 'scipy', 'matplotlib', 'statsmodels'}"
    commands = ("table", "compare", "plan", "verdicts", "runs", "figure", "report")
    code = f"""
import sys
import lrd.analysis
from scripts import {", ".join(commands)}
assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)
import lrd.analysis.frames, lrd.analysis.claims.verdicts, lrd.analysis.tables, lrd.analysis.planning
assert 'torch' not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr
