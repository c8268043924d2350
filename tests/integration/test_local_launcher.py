"""Parallel jobs on this machine equal serial jobs, also after a failure or a stop."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from lrd.runs.store import Run, find_runs
from scripts.benchmarks.endurance import count_differing_bytes

pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
ROOT = Path(__file__).parents[2]
SWEEP = ["-m", "optim=sgdm", "optim.lr=0.05,1e18,0.1", "train.epochs=80", "model.hidden=[32]"]


def processes_of(session: int) -> list[str]:
    """Return the names of the living processes of a session, whatever their parent."""
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


def by_lr(folder: Path) -> dict[float, Run]:
    return {run.metadata["config"]["optim"]["lr"]: run for run in find_runs(folder)}


def local_command(folder: Path, *more: str) -> Sequence[str]:
    return [
        sys.executable,
        str(ROOT / "run.py"),
        *SWEEP,
        "+cluster=local",
        f"run.dir={folder}",
        *more,
    ]


@pytest.mark.slow
def test_a_stopped_and_resumed_sweep_equals_a_serial_one(cli, tmp_path: Path):
    """Bitwise, at equal numbers of threads; a failing job is reported in the same way."""
    command = local_command(tmp_path / "stopped", "cluster.jobs=2", "train.threads=1")
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE) as stopped:
        while sum(len(run.metrics) >= 3 for run in find_runs(tmp_path / "stopped")) < 1:
            assert stopped.poll() is None
            time.sleep(0.02)
        os.killpg(stopped.pid, signal.SIGINT)  # a terminal sends it to every process
        _, err = stopped.communicate()
    assert stopped.returncode == 130 and b"stopped by SIGINT, state saved" in err
    assert b"Traceback" not in err
    deadline = time.monotonic() + 30
    while left_over := processes_of(stopped.pid):  # multiprocessing's resource tracker ends last
        assert time.monotonic() < deadline, left_over
        time.sleep(0.1)
    left = {run.status for run in find_runs(tmp_path / "stopped")}
    assert "interrupted" in left and left <= {"interrupted", "failed", "finished"}
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("error: ") == 1, done.stderr
    assert "optim.lr=1e+18" in done.stderr and "train_loss is" in done.stderr
    serial = cli(*SWEEP, f"run.dir={tmp_path / 'serial'}", "train.threads=1")
    assert serial.status == 1 and serial.err.count("error: ") == 1
    ours, theirs = by_lr(tmp_path / "stopped"), by_lr(tmp_path / "serial")
    for lr in (0.05, 0.1):
        assert count_differing_bytes(ours[lr], theirs[lr]) == 0
        assert ours[lr].metadata["threads"] == 1
    assert ours[1e18].status == theirs[1e18].status == "failed"


@pytest.mark.slow
def test_jobs_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two jobs at once on n cores have n // 2 threads each, which sleep while they are idle. The
    workers find the checkout."""
    for name in ("PYTHONPATH", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "true")
    cores = len(os.sched_getaffinity(0))
    quick = ["train.epochs=1", "optim.lr=0.05,0.1"]
    command = local_command(tmp_path, *quick, "cluster.jobs=2")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"OMP_WAIT_POLICY = '(\w+)'", done.stderr)
    assert shown and set(shown) == {"PASSIVE"}
    assert {run.metadata["threads"] for run in find_runs(tmp_path)} == {max(1, cores // 2)}
