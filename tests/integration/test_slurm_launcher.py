"""Sweeps on SLURM: with fake SLURM commands, and disturbed on a real one."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lrd.runs.store import find_runs

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
ROOT = Path(__file__).parents[2]

# Fake SLURM commands that run the jobs of an array in turn. sbatch copies its script to `script`
# and writes the exit status of each job to `exits`; squeue reports a job as running until then.
COMMANDS = {
    "sbatch": r"""
cp "$1" "$FAKE_SLURM/script"
grep -q 'partition=nowhere' "$1" &&
  { echo 'sbatch: error: invalid partition specified: nowhere' >&2; exit 1; }
id=$(($(cat "$FAKE_SLURM/id" 2>/dev/null || echo 6) + 1)); echo $id >"$FAKE_SLURM/id"
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\)%.*/\1/p' "$1")
(for task in $(seq 0 ${last:-0}); do
  name=$id
  [ -n "$last" ] && export SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$task && name=${id}_$task
  SLURM_JOB_ID=$((id + task)) SLURM_CPUS_PER_TASK=1 bash "$1"
  echo "$name|$?" >>"$FAKE_SLURM/exits"
done) >/dev/null 2>&1 &
echo "Submitted batch job $id"
""",
    "srun": r"""
while [ "${1#--}" != "$1" ]; do [ "$1" = --unbuffered ] || shift; shift; done
exec "$@"
""",
    "squeue": r"""
[ -e "$FAKE_SLURM/held" ] && { cat "$FAKE_SLURM/held"; exit; }
id=$(cat "$FAKE_SLURM/id")
for k in 0 1 2; do grep -q "_$k|" "$FAKE_SLURM/exits" || echo "${id}_$k|RUNNING"; done
cut -d'|' -f1 "$FAKE_SLURM/exits" | sed 's/$/|COMPLETED/'
""",
}


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "fake_slurm"
    folder.mkdir()
    (folder / "exits").touch()
    for name, body in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in ["PYTHONPATH", *(name for name in os.environ if name.startswith("SLURM_"))]:
        monkeypatch.delenv(name, raising=False)
    return folder


def sweep(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    quick = ["-m", "optim=sgdm", "optim.lr=0.1,1e18", "train.epochs=2", "model.hidden=[8]"]
    command = [sys.executable, str(ROOT / "run.py"), *quick, "+cluster=slurm", *more]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_a_sweep_is_one_array_and_a_second_one_has_the_missing_jobs(
    tmp_path: Path, fake_slurm: Path
):
    settings = ["partition=gpu", "gpus_per_node=2", "cpus_per_task=3", "mem_gb=5", "timeout_min=7"]
    settings += ["array_parallelism=1", "qos=long", "account=me"]
    done = sweep(tmp_path, *(f"cluster.{setting}" for setting in settings), "train.threads=1")
    assert done.stdout.startswith("submitted 2 jobs as array 7; logs: runs/.submitit/7*\n")
    script = (fake_slurm / "script").read_text()
    asked = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", script))
    assert asked == asked | {
        **{"partition": "gpu", "gpus-per-node": "2", "cpus-per-task": "3", "mem": "5GB"},
        **{"time": "7", "array": "0-1%1", "qos": "long", "account": "me", "signal": "USR2@120"},
    }
    assert done.returncode == 1 and done.stderr.count("error: ") == 1
    assert "optim.lr=1e+18" in done.stderr and "train_loss is" in done.stderr
    while (exits := (fake_slurm / "exits").read_text()).count(
        "\n"
    ) < 2:  # written soon after the result
        time.sleep(0.05)
    assert exits == "7_0|0\n7_1|1\n"  # a failing run fails its job
    states = {run.metadata["job"]: run.status for run in find_runs(tmp_path / "runs")}
    assert states == {"7_0": "finished", "7_1": "failed"}
    (fake_slurm / "held").write_text("7_1|PENDING\n")
    done = sweep(tmp_path)
    line = "nothing to submit (1 finished already, 1 in the queue: 7_1)\n"
    assert (done.returncode, done.stdout) == (0, line)


def test_a_rejected_submission_is_one_line(
    tmp_path: Path, fake_slurm: Path, monkeypatch: pytest.MonkeyPatch
):
    for wrong, line in {
        "cluster.mem_gb=0": "cluster.mem_gb must be at least 1, or null, got 0",
        "cluster.partition=nowhere": "SLURM rejects the jobs: invalid partition specified: nowhere",
    }.items():
        done = sweep(tmp_path, wrong)
        assert (done.returncode, done.stderr) == (2, f"error: {line}\n")
    done = sweep(tmp_path, "lrd.p=0.5,2")
    assert (
        done.returncode == 2 and done.stderr.count("\n") == 1 and not (fake_slurm / "id").exists()
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "cluster=slurm needs SLURM's commands" in sweep(tmp_path).stderr
    assert not list(find_runs(tmp_path / "runs"))


@pytest.mark.slurm
@pytest.mark.skipif(
    shutil.which("slurmctld", path="/usr/sbin:" + os.environ["PATH"]) is None,
    reason="needs SLURM: apt-get install slurm-wlm munge",
)
def test_a_disturbed_sweep_on_a_real_slurm():
    command = [sys.executable, str(ROOT / "scripts" / "slurm_endurance.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 runs, differing bytes 0" in done.stdout
    resumes = [int(n) for n in re.findall(r"resumes (\d+)", done.stdout)]
    signaled, requeued, *preempted, canceled = (n > 0 for n in resumes)
    assert signaled and requeued and any(preempted) and not canceled, done.stdout
    assert "submitted 2 jobs as array" in done.stdout and "(4 finished already)" in done.stdout
