"""Cells as jobs of SLURM: what is submitted and what comes back; at the end on a real one."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from lrd import jobs
from lrd.cluster import Outcome
from lrd.requeued import Patient
from lrd.runs.signals import Interrupted
from lrd.runs.store import find_runs
from lrd.slurm import Slurm

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
ROOT = Path(__file__).parents[1]


class Story:
    """A run that is stopped by each of the signals in turn, and finishes after them."""

    def __init__(self, *numbers: int) -> None:
        self.left, self.told = list(numbers), []

    def __call__(self, cfg: DictConfig) -> Outcome:
        self.told.append("forced" if cfg.run.force else "run")
        if self.left:
            raise Interrupted(self.left.pop(0))
        return Outcome(97.5)

    def handler(self, number: int, frame: Any) -> None:
        """submitit's: it returns, or, of SIGUSR2, puts the job into the queue and ends."""
        self.told.append(signal.Signals(number).name)
        if number == signal.SIGUSR2:
            sys.exit(-1)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets a program's own handlers, and puts back what was there."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2)}
    yield lambda handler: [signal.signal(n, handler) for n in before]
    for number, handler in before.items():
        signal.signal(number, handler)


def force(value: bool = True) -> DictConfig:
    return OmegaConf.create({"run": {"force": value}})


def test_a_signal_is_the_run_s_first_and_submitit_s_afterwards(own: Callable[..., Any]):
    """After one whose handler returns the run goes on; it is not forced to begin anew."""
    story = Story(signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2)
    own(story.handler)
    with pytest.raises(SystemExit):
        Patient(story)(force())
    assert story.told == ["forced", "SIGTERM", "run", "SIGTERM", "run", "SIGUSR2"]


def test_a_signal_without_such_a_handler_stops_the_run(own: Callable[..., Any]):
    own(signal.SIG_DFL)
    with pytest.raises(Interrupted):
        Patient(Story(signal.SIGTERM))(force())


def test_a_forced_run_that_is_queued_anew_goes_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    story = Story()
    assert Patient(story)(force()).score == 97.5 and story.told == ["run"]


class Waiting(Slurm):
    """Two jobs, of which the queue says what ``looks`` has, one dictionary a look."""

    def __init__(self, folder: Path, looks: list[dict[str, str] | None]) -> None:
        self.folder, self.looks, self.slept = folder, looks, 0

    def outcomes(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Outcome]:
        monkeypatch.setattr(jobs, "states", lambda ids: self.looks.pop(0))
        there = {
            name: SimpleNamespace(
                job_id=name,
                paths=SimpleNamespace(
                    result_pickle=self.folder / name, stderr=self.folder / f"{name}.err"
                ),
            )
            for name in ("7_0", "7_1")
        }
        return dict(self._ended(there, self.sleep))

    def sleep(self, seconds: float) -> None:
        """Meanwhile, at the second look, the first job leaves its result."""
        self.slept += 1
        if self.slept == 2:
            import cloudpickle

            (self.folder / "7_0").write_bytes(cloudpickle.dumps(("success", Outcome(90.0))))


def test_a_job_that_leaves_the_queue_and_no_result_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Not at once, for its result may be on its way; and not because SLURM does not answer."""
    gone, alive = {"7_0": "COMPLETED", "7_1": "CANCELLED"}, {"7_0": "RUNNING", "7_1": "RUNNING"}
    found = Waiting(tmp_path, [None, alive, None, gone, gone]).outcomes(monkeypatch)
    assert found["7_0"] == Outcome(90.0)
    ((_, line, status),) = found["7_1"].failures
    assert "job 7_1 ended without a result, state CANCELLED" in line and status == 1
    assert f"{tmp_path}/7_1.err" in line


def test_a_traceback_of_submitit_s_is_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import cloudpickle

    trace = "Traceback (most recent call last):\n  ...\nImportError: No module named foo\n"
    for name in ("7_0", "7_1"):
        (tmp_path / name).write_bytes(cloudpickle.dumps(("error", trace)))
    found = Waiting(tmp_path, [{}]).outcomes(monkeypatch)
    assert found["7_0"].failures[0][1].startswith("ImportError: No module named foo [")


# A SLURM that runs the jobs of an array one after another: sbatch writes what it was given to
# `script`, the job's exit status to `exits`; squeue says that a job runs until it has one.
PLAYED = {
    "sbatch": r"""
cp "$1" "$PLAYED/script"
grep -q 'partition=nowhere' "$1" &&
  { echo 'sbatch: error: invalid partition specified: nowhere' >&2; exit 1; }
id=$(($(cat "$PLAYED/id" 2>/dev/null || echo 6) + 1)); echo $id >"$PLAYED/id"
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\)%.*/\1/p' "$1")
(for task in $(seq 0 ${last:-0}); do
  name=$id
  [ -n "$last" ] && export SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$task && name=${id}_$task
  SLURM_JOB_ID=$((id + task)) SLURM_CPUS_PER_TASK=1 bash "$1"
  echo "$name|$?" >>"$PLAYED/exits"
done) >/dev/null 2>&1 &
echo "Submitted batch job $id"
""",
    "srun": r"""
while [ "${1#--}" != "$1" ]; do [ "$1" = --unbuffered ] || shift; shift; done
exec "$@"
""",
    "squeue": r"""
[ -e "$PLAYED/held" ] && { cat "$PLAYED/held"; exit; }
for k in 0 1 2; do grep -q "_$k|" "$PLAYED/exits" || echo "$(cat "$PLAYED/id")_$k|RUNNING"; done
cut -d'|' -f1 "$PLAYED/exits" | sed 's/$/|COMPLETED/'
""",
}


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "played"
    folder.mkdir()
    (folder / "exits").touch()
    for name, body in PLAYED.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PLAYED", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return folder


def sweep(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    quick = ["-m", "optim=sgdm", "optim.lr=0.1,1e18", "train.epochs=2", "model.hidden=[8]"]
    command = [sys.executable, str(ROOT / "run.py"), *quick, "+cluster=slurm", *more]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_a_sweep_is_one_array_and_again_what_is_missing(tmp_path: Path, played: Path):
    settings = ["partition=gpu", "gpus_per_node=2", "cpus_per_task=3", "mem_gb=5", "timeout_min=7"]
    settings += ["array_parallelism=1", "qos=long", "account=me"]
    done = sweep(tmp_path, *(f"cluster.{setting}" for setting in settings), "train.threads=1")
    assert done.stdout.startswith("submitted 2 cells as job 7; logs: runs/.submitit/7*\n")
    script = (played / "script").read_text()
    asked = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", script))
    assert asked == asked | {
        **{"partition": "gpu", "gpus-per-node": "2", "cpus-per-task": "3", "mem": "5GB"},
        **{"time": "7", "array": "0-1%1", "qos": "long", "account": "me", "signal": "USR2@120"},
    }
    assert done.returncode == 1 and done.stderr.count("error: ") == 1
    assert "optim.lr=1e+18" in done.stderr and "train_loss is" in done.stderr
    while (exits := (played / "exits").read_text()).count("\n") < 2:  # soon after its result
        time.sleep(0.05)
    assert exits == "7_0|0\n7_1|1\n"  # the failing cell's job fails too
    states = {run.record["job"]: run.status for run in find_runs(tmp_path / "runs")}
    assert states == {"7_0": "finished", "7_1": "failed"}
    (played / "held").write_text("7_1|PENDING\n")
    done = sweep(tmp_path)
    told = "nothing to submit (1 finished already, 1 in the queue: 7_1)\n"
    assert (done.returncode, done.stdout) == (0, told)


def test_what_cannot_be_submitted_is_one_line(
    tmp_path: Path, played: Path, monkeypatch: pytest.MonkeyPatch
):
    for wrong, line in {
        "cluster.mem_gb=0": "cluster.mem_gb must be at least 1, or null, got 0",
        "cluster.partition=nowhere": "SLURM refuses the jobs: invalid partition specified: nowhere",
    }.items():
        done = sweep(tmp_path, wrong)
        assert (done.returncode, done.stderr) == (2, f"error: {line}\n")
    done = sweep(tmp_path, "lrd.p=0.5,2")
    assert done.returncode == 2 and done.stderr.count("\n") == 2 and not (played / "id").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "cluster=slurm needs SLURM's commands" in sweep(tmp_path).stderr
    assert not list(find_runs(tmp_path / "runs"))


@pytest.mark.slurm
@pytest.mark.skipif(
    shutil.which("slurmctld", path="/usr/sbin:" + os.environ["PATH"]) is None,
    reason="needs SLURM: apt-get install slurm-wlm munge",
)
def test_a_sweep_on_a_real_slurm_disturbed_in_every_way():
    command = [sys.executable, str(ROOT / "scripts" / "slurm_endurance.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 cells, differing bytes 0" in done.stdout
    assert "submitted 2 cells as job" in done.stdout and "(10 finished already)" in done.stdout
