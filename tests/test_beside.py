"""Cells side by side on this machine: as one after another, also where one fails or all stop."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from endurance import differing_bytes, kept

from lrd.beside import Numbered
from lrd.runs.store import Run, find_runs

pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
ROOT = Path(__file__).parents[1]
SWEEP = ["-m", "optim=sgdm", "optim.lr=0.05,1e18,0.1", "train.epochs=80", "model.hidden=[32]"]


def test_lines_are_whole_and_numbered():
    out = io.StringIO()
    writer = Numbered(out, "[3]")
    print("\n[3] optim=adam", file=writer)
    print("epoch", 1, end="", file=writer)
    assert out.getvalue() == "[3] optim=adam\n"
    print("/2", file=writer)
    assert out.getvalue() == "[3] optim=adam\n[3] epoch 1/2\n" and not writer.isatty()


def processes_of(session: int) -> list[str]:
    """Living processes of a session, however they came to their parent."""
    living = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = path.read_text().rsplit(")", 1)
        except OSError:
            continue
        state, _, _, of = rest.split()[:4]
        if int(of) == session and state != "Z":
            living.append(name)
    return living


def by_rate(folder: Path) -> dict[float, Run]:
    return {run.record["config"]["optim"]["lr"]: run for run in find_runs(folder)}


def beside(folder: Path, *more: str) -> Sequence[str]:
    return [
        sys.executable,
        str(ROOT / "run.py"),
        *SWEEP,
        "+cluster=local",
        f"run.dir={folder}",
        *more,
    ]


def test_stopped_by_ctrl_c_and_gone_on_with_it_ends_as_one_after_another(cli, tmp_path: Path):
    """With as many threads as there the bits are the same; what fails is told as there."""
    command = beside(tmp_path / "war", "cluster.jobs=2", "train.threads=1")
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE) as stopped:
        while sum(len(run.metrics) >= 3 for run in find_runs(tmp_path / "war")) < 1:
            assert stopped.poll() is None
            time.sleep(0.02)
        os.killpg(stopped.pid, signal.SIGINT)  # as a terminal does: to every process of the command
        _, err = stopped.communicate()
    assert stopped.returncode == 130 and b"stopped by SIGINT, saved" in err
    assert b"Traceback" not in err
    deadline = time.monotonic() + 30
    while left_over := processes_of(stopped.pid):  # multiprocessing's tracker ends by itself
        assert time.monotonic() < deadline, left_over
        time.sleep(0.1)
    left = {run.status for run in find_runs(tmp_path / "war")}
    assert "interrupted" in left and left <= {"interrupted", "failed", "finished"}
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("error: ") == 1, done.stderr
    assert "optim.lr=1e+18" in done.stderr and "train_loss is" in done.stderr
    peace = cli(*SWEEP, f"run.dir={tmp_path / 'peace'}", "train.threads=1")
    assert peace.status == 1 and peace.err.count("error: ") == 1
    ours, theirs = by_rate(tmp_path / "war"), by_rate(tmp_path / "peace")
    for rate in (0.05, 0.1):
        assert differing_bytes(kept(ours[rate]), kept(theirs[rate])) == 0
        assert ours[rate].record["threads"] == 1
    assert ours[1e18].status == theirs[1e18].status == "failed"


def test_cores_are_divided_and_a_given_number_of_threads_is_kept(tmp_path: Path):
    """Two at once on n cores have n // 2 threads each; and a killed process is one line."""
    cores = len(os.sched_getaffinity(0))
    quick = ["train.epochs=1", "optim.lr=0.05,0.1"]
    assert subprocess.run(beside(tmp_path, *quick, "cluster.jobs=2")).returncode == 0
    assert {run.record["threads"] for run in find_runs(tmp_path)} == {max(1, cores // 2)}
