"""Jobs in SLURM's queue: the id of this process, the submitted jobs of runs, and their states.

Imports no torch. Without SLURM's commands no states are known.
"""

import json
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lrd.runs.store import Run, find_runs, read_complete_lines

# SLURM's states of jobs that have ended and that wait; in all other states a job runs.
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
}
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
QUERY_TIMEOUT = 60  # seconds


@dataclass(frozen=True)
class SubmittedJob:
    """A submitted job.

    Args:
        id: SLURM's id, ``12`` or, in an array, ``12_3``.
        folder: the run directory, relative to the directory of all runs.
        record: the metadata of the run.
    """

    id: str
    folder: str
    record: dict[str, Any]


@dataclass(frozen=True)
class RunWithJob(Run):
    """A run with its most recent SLURM job.

    ``job`` and ``slurm_state`` are empty if there is no job or SLURM no longer reports it.
    """

    job: str = ""
    slurm_state: str = ""

    @property
    def state(self) -> str:
        """The run's state, or ``queued``/``running`` if a SLURM job will start or resume it."""
        state = super().state
        if state in ("finished", "running") or self.slurm_state in ("", *ENDED):
            return state
        return "queued" if self.slurm_state in WAITING else "running"


def job_directory(root: str | Path) -> Path:
    """Return the directory of the scripts, logs and results of the jobs of runs under ``root``."""
    return Path(root) / ".submitit"


def append_jobs(root: str | Path, jobs: Iterable[SubmittedJob]) -> None:
    """Append submitted jobs to the list of ``root``. Several processes may append at once."""
    job_directory(root).mkdir(parents=True, exist_ok=True)
    with (job_directory(root) / "jobs.jsonl").open("ab") as file:
        file.write(b"".join(json.dumps(asdict(job)).encode() + b"\n" for job in jobs))


def read_jobs(root: str | Path) -> dict[Path, SubmittedJob]:
    """Return the last submitted job of each run directory."""
    lines = read_complete_lines(job_directory(root) / "jobs.jsonl")
    jobs = (SubmittedJob(**json.loads(line)) for line in lines)
    return {Path(root) / job.folder: job for job in jobs}


def query_states(ids: Collection[str]) -> dict[str, str] | None:
    """Return the state of each job that SLURM still knows, None if SLURM does not answer.

    The queue keeps jobs for minutes after they end, the accounting database permanently.
    """
    if not ids:
        return {}
    queue = _query("squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T")
    if queue is None:
        return None
    if older := sorted(set(ids) - queue.keys()):
        queue |= _query("sacct", "-nPX", "--format=JobID,State", f"--jobs={','.join(older)}") or {}
    return {job: queue[job] for job in ids if job in queue}


def list_runs(root: str | Path) -> list[RunWithJob]:
    """Return every run under ``root``, including runs whose submitted job has not started."""
    jobs = read_jobs(root)
    runs = {path: Run(path, job.record) for path, job in jobs.items()}
    runs |= {run.folder: run for run in find_runs(root)}
    finished = {path for path, run in runs.items() if run.status == "finished"}
    ids = {
        path: jobs[path].id
        if path in jobs and path not in finished
        else run.metadata.get("job") or ""
        for path, run in runs.items()
    }
    states = query_states({ids[path] for path in runs if path not in finished} - {""}) or {}
    return [
        RunWithJob(path, runs[path].metadata, ids[path], states.get(ids[path], ""))
        for path in sorted(runs)
    ]


def _query(*command: str) -> dict[str, str] | None:
    """Return {job id: state} from a command that prints ``id|state`` lines, None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    pairs = (line.split("|") for line in done.stdout.splitlines() if "|" in line)
    return {job: state.split()[0] for job, state in pairs if state}
