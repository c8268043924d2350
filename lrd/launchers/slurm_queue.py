"""Jobs in SLURM's queue: the id of this process, the submitted jobs of runs, and their states.

Imports no torch. Without SLURM's commands no states are known.
"""

import fcntl
import json
import logging
import subprocess
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lrd.runs.store import Run, find_runs

# SLURM's states of jobs that have ended and that wait; in all other states a job runs.
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
}
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
QUERY_TIMEOUT = 60  # seconds
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubmittedJob:
    """A submitted job.

    Args:
        id: SLURM's id, ``12`` or, in an array, ``12_3``.
        folder: the run directory, relative to the directory of all runs and below it.
        record: the metadata of the run.

    Raises:
        ValueError: The folder is not below the directory of all runs.
        TypeError: A field has another type.
    """

    id: str
    folder: str
    record: dict[str, Any]

    def __post_init__(self) -> None:
        values = (self.id, self.folder, self.record)
        if any(not isinstance(v, t) for v, t in zip(values, (str, str, dict), strict=True)):
            raise TypeError("a job must have an id, a folder and a record")
        path = PurePosixPath(self.folder)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"a job's folder must be below that of all runs, got {self.folder}")


@dataclass(frozen=True)
class RunWithJob(Run):
    """A run with its most recent SLURM job.

    ``job`` and ``slurm_state`` are empty if there is no job or SLURM no longer reports it.
    ``is_submitted``: the job is of this run alone. Otherwise the run was started in it by hand, and
    the job, such as an interactive shell, may outlive the run.
    """

    job: str = ""
    slurm_state: str = ""
    is_submitted: bool = False

    @property
    def state(self) -> str:
        """The run's state, or ``queued``/``running`` if a SLURM job will start or resume it."""
        state = super().state
        if state in ("finished", "running") or self.slurm_state in ("", *ENDED):
            return state
        if self.slurm_state in WAITING:
            return "queued"
        return "running" if self.is_submitted or self.status == "running" else state


def job_directory(root: str | Path) -> Path:
    """Return the directory of the scripts, logs and results of the jobs of runs under ``root``."""
    return Path(root) / ".submitit"


def append_jobs(root: str | Path, jobs: Iterable[SubmittedJob]) -> None:
    """Append submitted jobs to the list of ``root``. Several processes may append at once."""
    job_directory(root).mkdir(parents=True, exist_ok=True)
    lines = b"".join(json.dumps(asdict(job)).encode() + b"\n" for job in jobs)
    with (job_directory(root) / "jobs.jsonl").open("a+b") as file:
        with suppress(OSError):  # without locks, an append is at least one write
            fcntl.flock(file, fcntl.LOCK_EX)
        if file.seek(0, 2):
            file.seek(-1, 2)
            lines = lines if file.read() == b"\n" else b"\n" + lines  # after an incomplete line
        file.write(lines)


def read_jobs(root: str | Path) -> dict[Path, SubmittedJob]:
    """Return the last submitted job of each run directory.

    A damaged line, such as that of a process that was killed or had no room, is left out with a
    warning: its run has no job then. A last line without an end is being written.
    """
    path = job_directory(root) / "jobs.jsonl"
    jobs: dict[Path, SubmittedJob] = {}
    *lines, _ = (path.read_bytes() if path.exists() else b"").split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            job = SubmittedJob(**json.loads(line))
        except (TypeError, ValueError):
            _log.warning("note: %s is damaged in line %d, which is left out", path, number)
            continue
        jobs[Path(root) / job.folder] = job
    return jobs


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
    submitted = {path: job.id for path, job in jobs.items() if path not in finished}
    ids = {path: submitted.get(path, run.metadata.get("job") or "") for path, run in runs.items()}
    states = query_states({ids[path] for path in runs if path not in finished} - {""}) or {}
    return [
        RunWithJob(
            path, runs[path].metadata, ids[path], states.get(ids[path], ""), path in submitted
        )
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
