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
import torch

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


WATCH = """
import os, signal
from lrd.loggers.base import Logger

class Watch(Logger):
    def __init__(self, metadata, folder, path):
        self.lr = metadata["config"]["optim"]["lr"]
        with open(path, "a") as file:
            file.write(f"{self.lr} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")

    def on_step(self, epoch, step):
        if self.lr == 0.2:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.lr == 0.3:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
"""
CELLS = ["-m", "optim=sgdm", "optim.lr=0.1,0.2,0.3,0.4", "model.hidden=[8]"]
CELLS += ["train.epochs=1", "train.threads=1", "+cluster=local"]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Settings of a logger that writes what each job sees, kills one job, and fails another."""
    (tmp_path / "watch_jobs.py").write_text(WATCH)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")  # of the workers
    path = tmp_path / "watched"
    setting = f"+logger.watch={{_target_:watch_jobs.Watch,path:{path}}}"
    return [setting, "run.allow=[watch_jobs]", f"run.dir={tmp_path / 'runs'}"]


def seen(folder: Path) -> list[tuple[float, int, str]]:
    """Return learning rate, process and visible GPUs of each job."""
    lines = (folder / "watched").read_text().splitlines()
    return [(float(lr), int(pid), gpus) for lr, pid, gpus in map(str.split, lines)]


@pytest.mark.slow
def test_each_job_has_a_gpu_and_none_touches_another(
    cli, watched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """On two GPUs that only the launcher believes in: jobs are real processes, on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    done = cli(*CELLS, *watched)
    assert "4 jobs, 2 at once on" in done.out and "GPUs 4, 7" in done.out
    jobs = seen(tmp_path)
    assert sorted(lr for lr, *_ in jobs) == [0.1, 0.2, 0.3, 0.4]
    workers = {gpus: {pid for _, pid, own in jobs if own == gpus} for gpus in ("4", "7")}
    assert (
        all(workers.values())
        and not workers["4"] & workers["7"]
        and {gpus for *_, gpus in jobs} == {"4", "7"}
    )
    # A job that failed takes its process along, and no other job: an error of a GPU is for good.
    process = {lr: pid for lr, pid, _ in jobs}
    assert process[0.2] not in (process[0.3], process[0.4]) and process[0.3] != process[0.4]
    finished = {lr for lr, run in by_lr(tmp_path / "runs").items() if run.status == "finished"}
    assert finished == {0.1, 0.4}
    assert done.status == 1 and len(re.findall("^error: ", done.err, re.MULTILINE)) == 2
    assert re.search(r"^error: .*optim.lr=0.2.*: its process ended", done.err, re.MULTILINE)
    assert re.search(r"^error: .*optim.lr=0.3.*illegal memory", done.err, re.MULTILINE)


@pytest.mark.slow
def test_jobs_on_the_cpu_see_what_the_launcher_sees(
    cli, watched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cells = [*CELLS, *watched, "optim.lr=0.1,0.4", "train.device=cpu", "cluster.jobs=1"]
    assert cli(*cells).status == 0
    (first, pid, gpus), (second, other, _) = seen(tmp_path)
    assert (first, second, gpus) == (0.1, 0.4, "None") and pid == other  # one worker for both
    done = cli(*CELLS, *watched, "train.device=cuda:1")
    assert done.status == 2 and len(done.err.splitlines()) == 1
    assert "train.device must be auto, cpu or cuda with +cluster=local" in done.err


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
