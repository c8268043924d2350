"""Sweeps on SLURM: with fake SLURM commands, and disturbed on a real one."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lrd.launchers.slurm_queue import read_jobs
from lrd.runs.store import Run, find_runs
from scripts.benchmarks.endurance import (
    SLURM_CPUS,
    count_differing_bytes,
    disturb_slurm_sweep,
    local_slurm,
)

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
ROOT = Path(__file__).parents[2]

# Fake SLURM commands that run the jobs of an array in turn. sbatch copies its script to `script`,
# its environment to `environment`, and writes the exit status of each job to `exits`; squeue shows
# a job as running until then. srun runs the tasks of a job at once, with a log each.
COMMANDS = {
    "sbatch": r"""
cp "$1" "$FAKE_SLURM/script"; env >"$FAKE_SLURM/environment"
grep -q 'partition=nowhere' "$1" &&
  { echo 'sbatch: error: invalid partition specified: nowhere' >&2; exit 1; }
id=$(($(cat "$FAKE_SLURM/id" 2>/dev/null || echo 6) + 1)); echo $id >"$FAKE_SLURM/id"
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\)%.*/\1/p' "$1")
export SLURM_NTASKS_PER_NODE=$(sed -n 's/^#SBATCH --ntasks-per-node=//p' "$1")
(for task in $(seq 0 ${last:-0}); do
  name=$id
  [ -n "$last" ] && export SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$task && name=${id}_$task
  SLURM_JOB_ID=$((id + task)) SLURM_CPUS_PER_TASK=1 bash "$1"
  echo "$name|$?" >>"$FAKE_SLURM/exits"
done) >/dev/null 2>&1 &
echo "Submitted batch job $id"
""",
    "srun": r"""
while [ "${1#--}" != "$1" ]; do
  [ "$1" = --output ] && log=$2
  [ "$1" = --unbuffered ] || shift; shift
done
array=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
log=$(echo "$log" | sed "s/%j/$SLURM_JOB_ID/g; s/%A_%a/$array/g")
mkdir -p "$(dirname "$log")"
export SLURM_NTASKS=$SLURM_NTASKS_PER_NODE SLURM_JOB_NUM_NODES=1
for task in $(seq 0 $((SLURM_NTASKS - 1))); do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" >"${log/\%t/$task}" &
  tasks="$tasks $!"
done
status=0
for task in $tasks; do wait $task || status=$?; done
exit $status
""",
    "squeue": r"""
[ -e "$FAKE_SLURM/held" ] && { cat "$FAKE_SLURM/held"; exit; }
id=$(cat "$FAKE_SLURM/id")
for name in $id ${id}_0 ${id}_1; do
  grep -q "^$name|" "$FAKE_SLURM/exits" || echo "$name|RUNNING"
done
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


def run_on_two_ranks(folder: Path, *settings: str) -> Run:
    """Train one run in ``folder`` on two ranks, by torchrun's variables."""
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "forked_ranks.py"), "2", *settings]
    command += ["run.dir=alone", "train.threads=1"]
    environment = {**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    (run,) = find_runs(folder / "alone")
    return run


SWEEP = ["-m", "optim=sgdm", "optim.lr=0.1,1e18", "train.epochs=2", "model.hidden=[8]"]
SWEEP.append("+cluster=slurm")


def test_a_sweep_is_one_array_and_a_second_one_has_the_missing_jobs(
    cli, tmp_path: Path, fake_slurm: Path
):
    settings = ["partition=gpu", "gpus_per_node=2", "cpus_per_task=3", "mem_gb=5", "timeout_min=7"]
    settings += ["array_parallelism=1", "qos=long", "account=me"]
    more = [*(f"cluster.{setting}" for setting in settings), "train.threads=1"]
    command = [sys.executable, str(ROOT / "run.py"), *SWEEP, *more]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
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
    again = cli(*SWEEP)
    line = "nothing to submit (1 finished already, 1 in the queue: 7_1)\n"
    assert (again.status, again.out) == (0, line)


def test_a_rejected_submission_is_one_line(
    cli, tmp_path: Path, fake_slurm: Path, monkeypatch: pytest.MonkeyPatch
):
    for wrong, line in {
        "cluster.mem_gb=0": "cluster.mem_gb must be at least 1, or null, got 0",
        "cluster.partition=nowhere": "SLURM rejects the jobs: invalid partition specified: nowhere",
    }.items():
        done = cli(*SWEEP, wrong)
        assert (done.status, done.err) == (2, f"error: {line}\n")
    done = cli(*SWEEP, "lrd.p=0.5,2")
    assert done.status == 2 and done.err.count("\n") == 1 and not (fake_slurm / "id").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "cluster=slurm needs SLURM's commands" in cli(*SWEEP).err
    assert not list(find_runs(tmp_path / "runs"))


@pytest.mark.slow
def test_a_job_of_two_ranks_is_a_run_of_torchrun_and_has_nothing_of_the_job_that_submits_it(
    tmp_path: Path, fake_slurm: Path, monkeypatch: pytest.MonkeyPatch
):
    inherited = {"SLURM_JOB_ID": "3", "SLURM_ARRAY_TASK_ID": "5", "SBATCH_TIMELIMIT": "1"}
    inherited |= {"SLURM_CPUS_PER_TASK": "7", "RANK": "3", "SLURM_CONF": "where/it/is"}
    for name, value in inherited.items():
        monkeypatch.setenv(name, value)
    settings = ["optim=sgdm", "train.epochs=2", "model.hidden=[8]"]
    command = [sys.executable, str(ROOT / "run.py"), "-m", *settings, "+cluster=slurm"]
    command += ["cluster.ranks_per_cell=2", "cluster.gpus_per_node=4"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.startswith("submitted 1 job as array 7; logs: ")
    assert "#SBATCH --ntasks-per-node=2\n" in (fake_slurm / "script").read_text()
    lines = (fake_slurm / "environment").read_text().splitlines()
    assert [x for x in lines if x.split("=")[0] in inherited] == ["SLURM_CONF=where/it/is"]
    (run,) = find_runs(tmp_path / "runs")
    assert run.metadata["ranks"] == 2 and run.metadata["job"] == "7"
    logs = [p.read_text() for p in sorted((tmp_path / "runs" / ".submitit" / "7").glob("*.out"))]
    assert ["epoch 2/2" in log for log in logs] == [True, False]  # rank zero alone prints
    assert count_differing_bytes(run, run_on_two_ranks(tmp_path, *settings)) == 0


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (
            "cluster.gpus_per_node=3",
            "cluster.gpus_per_node must be a multiple of cluster.ranks_per_cell=2, or null, got 3",
        ),
        ("hydra.launcher.nodes=2", "hydra.launcher.nodes must be 1, got 2: the processes of a run"),
    ],
)
def test_the_ranks_of_a_job_share_a_node_and_its_gpus(
    cli, fake_slurm: Path, setting: str, line: str
):
    done = cli(*SWEEP, "cluster.ranks_per_cell=2", setting)
    assert done.status == 2 and done.err.startswith(f"error: {line}")
    assert done.err.count("\n") == 1 and not (fake_slurm / "id").exists()


real_slurm = pytest.mark.skipif(
    shutil.which("slurmctld", path="/usr/sbin:" + os.environ["PATH"]) is None,
    reason="needs SLURM: apt-get install slurm-wlm munge",
)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The SLURM_CONF of a real SLURM, where no other is started or stopped."""
    with local_slurm(tmp_path_factory.mktemp("slurm")) as conf:
        yield conf


@pytest.mark.slurm
@real_slurm
def test_ranks_of_a_real_slurm_are_stopped_requeued_and_preempted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: str
):
    """A job of two ranks gets the signal before a time-out, is requeued, and is then preempted. All
    bytes are those of a run by torchrun's variables."""
    settings = ["optim=sgdm", "train.epochs=120", "model.hidden=[32]", "optim.lr=0.01"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", slurm)
    command = [sys.executable, str(ROOT / "run.py"), "-m", *settings]
    command += ["+cluster=slurm", "cluster.ranks_per_cell=2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as submitter:
        epochs = wait_for_epochs(3, submitter)
        (job,) = (job.id for job in read_jobs("runs").values())
        subprocess.run(["timeout", "2", "scancel", "--signal=USR2", job])
        epochs = wait_for_epochs(epochs + 3, submitter, restarted=(job, 1))
        urgent = ["srun", "--partition=urgent", f"--ntasks={SLURM_CPUS}", "true"]
        subprocess.run(urgent, check=True, capture_output=True)
        text, _ = submitter.communicate(timeout=300)
    assert submitter.returncode == 0, text
    (run,) = find_runs("runs")
    assert epochs < 120 and run.metadata["job"] == job
    (log, other) = (Path(f"runs/.submitit/{job}/{job}_{rank}_log.out") for rank in (0, 1))
    assert log.read_text().count("resuming after epoch") >= 2
    assert "epoch" not in other.read_text()
    (tmp_path / "alone").mkdir()
    alone = run_on_two_ranks(tmp_path / "alone", *settings)
    assert count_differing_bytes(Run(tmp_path / run.folder, run.metadata), alone) == 0


def wait_for_epochs(
    count: int, submitter: subprocess.Popen[str], restarted: tuple[str, int] | None = None
) -> int:
    """Wait until a run, of a job that has ``restarted`` so often, has logged ``count`` epochs;
    return how many."""
    until = time.monotonic() + 120
    while time.monotonic() < until and submitter.poll() is None:
        done = [len(run.metrics) for run in find_runs("runs")]
        if done and done[0] >= count and (not restarted or restarts(restarted[0]) == restarted[1]):
            return done[0]
        time.sleep(0.2)
    raise AssertionError("no epochs")


def restarts(job: str) -> int:
    """Return how often SLURM has requeued a job."""
    done = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True)
    return int(re.findall(r"Restarts=(\d+)", done.stdout)[0])


@pytest.mark.exhaustive
@real_slurm
def test_a_disturbed_sweep_on_a_real_slurm(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slurm: str,
    capfd: pytest.CaptureFixture[str],
):
    """What scripts/endurance.py --slurm does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", slurm)
    status = disturb_slurm_sweep()
    out = "".join(capfd.readouterr())
    assert status == 0, out
    assert "5 runs, differing bytes 0" in out
    resumes = [int(n) for n in re.findall(r"resumes (\d+)", out)]
    signaled, requeued, *preempted, canceled = (n > 0 for n in resumes)
    assert signaled and requeued and any(preempted) and not canceled, out
    assert "submitted 2 jobs as array" in out and "(4 finished already)" in out
