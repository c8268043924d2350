"""Kills, concurrent writers and sweeps, in child processes."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lrd.runs.store import RunIndex

ROOT = Path(__file__).parents[2]


def endurance(*arguments: str) -> str:
    command = [sys.executable, str(ROOT / "scripts" / "endurance.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_killed_run_is_bitwise_identical_to_an_undisturbed_one():
    out = endurance("--kills", "4")
    assert "resumes 4, differing bytes 0" in out


@pytest.mark.exhaustive
def test_killed_runs_of_every_optimizer_are_bitwise_identical_to_undisturbed_runs():
    """Every optimizer with and without LRD, killed at every kind of point."""
    out = endurance("--kills", "12", "--every-optimizer")
    points = ("step", "evaluation", "metrics", "flush", "rename", "time")
    assert f"kills 12 ({', '.join(f'{point} 2' for point in points)})" in out
    assert "resumes 12" in out
    assert "differing bytes 0" in out and out.count(" 0 differing bytes") == 12


@pytest.mark.exhaustive
def test_killed_runs_on_real_mnist(real_data: Path):
    mnist = ["task=mnist", "train.epochs=2", "train.max_steps=40", "dataset.holdout=500"]
    out = endurance("--kills", "4", "--seed", "1", *mnist, f"data.root={real_data}")
    assert "resumes 4, differing bytes 0" in out


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_killed_runs_on_a_gpu_with_deterministic_algorithms():
    out = endurance("--kills", "6", "train.device=cuda", "train.deterministic=true")
    assert "resumes 6, differing bytes 0" in out


@pytest.mark.exhaustive
def test_the_comparison_notices_a_difference():
    """The same command with an optimizer that forgets its step on a resume."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
import endurance
from lrd.optim.lr_dropout import LRDropout
load = LRDropout.load_state_dict
def forgetful(self, state):
    load(self, state)
    self.t = 0
LRDropout.load_state_dict = forgetful
sys.argv = ["endurance.py", "--kills", "3"]
sys.exit(endurance.main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "differing bytes 0" not in done.stdout, done.stdout


@pytest.mark.slow
def test_writers_do_every_run_exactly_once():
    out = endurance("--writers", "4")
    assert "4 writers, 6 runs: 6 finished, 6 of them complete" in out
    assert "6 trained in all" in out


@pytest.mark.slow
def test_a_killed_sweep_resumes_with_the_missing_runs_only(tmp_path: Path):
    runs, seeds = tmp_path / "runs", ",".join(map(str, range(10)))
    sweep = ["-m", "train.epochs=2", "model.hidden=[8]", f"seed={seeds}"]
    command = [sys.executable, str(ROOT / "run.py"), *sweep]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as first:
        enough = random.Random(0).randint(3, 6)
        while len(RunIndex(runs).with_status("finished")) < enough:
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    before = {
        r.folder: (r.folder / "metrics.jsonl").read_bytes()
        for r in RunIndex(runs).with_status("finished")
    }
    assert enough <= len(before) < 10
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished already") == len(before)
    assert [r.state for r in RunIndex(runs).runs] == ["finished"] * 10
    assert all((f / "metrics.jsonl").read_bytes() == lines for f, lines in before.items())
