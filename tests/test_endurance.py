"""Kills, many writers and sweeps, in processes of their own; the long form is a command."""

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lrd.runs.store import find_runs

ROOT = Path(__file__).parents[1]


def endurance(*arguments: str) -> str:
    command = [sys.executable, str(ROOT / "scripts" / "endurance.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_killed_runs_end_bitwise_as_if_nothing_had_been():
    """Every optimizer with and without LRD, killed wherever it hurts."""
    out = endurance("--kills", "24", "--every-optimizer")
    assert re.search(r"kills 24 \(step \d+, evaluation", out) and "resumes 24" in out
    assert "differing bytes 0" in out and out.count(" 0 differing bytes") == 12


def test_killed_runs_on_real_mnist(real_data: Path):
    mnist = ["task=mnist", "train.epochs=2", "train.max_steps=40", "dataset.holdout=500"]
    out = endurance("--kills", "4", "--seed", "1", *mnist, f"data.root={real_data}")
    assert "resumes 4, differing bytes 0" in out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_killed_runs_on_a_gpu_under_the_determinism_setting():
    out = endurance("--kills", "6", "train.device=cuda", "train.deterministic=true")
    assert "resumes 6, differing bytes 0" in out


def test_the_comparison_would_notice_a_difference():
    """The same harness with a seed of the masks that a resume forgets."""
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


def test_eight_writers_do_every_cell_exactly_once():
    out = endurance("--writers", "8")
    assert "8 writers, 10 cells: 10 finished, 10 of them whole" in out
    assert "10 trained in all" in out


def test_a_sweep_killed_in_the_middle_does_only_what_is_missing(tmp_path: Path):
    seeds = ",".join(map(str, range(20)))
    sweep = ["-m", "train.epochs=2", "model.hidden=[8]", f"seed={seeds}"]
    command = [sys.executable, str(ROOT / "run.py"), *sweep]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as first:
        enough = random.Random(0).randint(5, 12)
        while sum(r.status == "finished" for r in find_runs(tmp_path / "runs")) < enough:
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    before = {
        r.folder: (r.folder / "metrics.jsonl").read_bytes()
        for r in find_runs(tmp_path / "runs")
        if r.status == "finished"
    }
    assert enough <= len(before) < 20
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished already") == len(before)
    assert [r.state for r in find_runs(tmp_path / "runs")] == ["finished"] * 20
    assert all((f / "metrics.jsonl").read_bytes() == lines for f, lines in before.items())
