"""Jobs of SLURM: which this process is, which were submitted for what, and their states.

Imports no torch. SLURM's own commands are asked; where there are none, nothing is known.
"""

import json
import os
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lrd.runs.store import Run, find_runs, read_complete_lines

# In SLURM's words; every other state is one of a job that runs or will run.
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
}
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
PATIENCE = 60  # seconds that a busy controller has to answer


@dataclass(frozen=True)
class Job:
    """A submitted job: SLURM's id (``12``, or ``12_3`` in an array), the folder of the run that it
    is for, below that of all runs, and the run's record as it was to be."""

    id: str
    folder: str
    record: dict[str, Any]


@dataclass(frozen=True)
class Listed(Run):
    """A run with the id of the ``job`` that is or was on it, and SLURM's word for that one's state;
    both empty where there is none, or SLURM knows no more of it."""

    job: str = ""
    word: str = ""

    @property
    def state(self) -> str:
        """As of any run; and running or queued, if a job is that is to begin it or to go on."""
        state = super().state
        if state in ("finished", "running") or self.word in ("", *ENDED):
            return state
        return "queued" if self.word in WAITING else "running"


def this_job() -> str | None:
    """The id of the job that this process is part of, or None outside one."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def folder(root: str | Path) -> Path:
    """Where the jobs of the runs under ``root`` have their scripts, logs and results."""
    return Path(root) / ".submitit"


def note(root: str | Path, jobs: Iterable[Job]) -> None:
    """Add submitted jobs to the list of ``root``, which several processes may do at once."""
    folder(root).mkdir(parents=True, exist_ok=True)
    with (folder(root) / "jobs.jsonl").open("ab") as file:
        file.write(b"".join(json.dumps(asdict(job)).encode() + b"\n" for job in jobs))


def noted(root: str | Path) -> dict[Path, Job]:
    """The last job that was submitted for each run's folder."""
    lines = read_complete_lines(folder(root) / "jobs.jsonl")
    return {Path(root) / job.folder: job for job in (Job(**json.loads(line)) for line in lines)}


def states(ids: Collection[str]) -> dict[str, str] | None:
    """The state of each job that SLURM still knows, in its words; None where it does not answer.

    The queue knows jobs for minutes after their end, the accounting, where there is one, for good.
    """
    if not ids:
        return {}
    queue = _answer("squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T")
    if queue is None:
        return None
    if older := sorted(set(ids) - queue.keys()):
        jobs = f"--jobs={','.join(older)}"
        queue |= _answer("sacct", "-nPX", "--format=JobID,State", jobs) or {}
    return {job: queue[job] for job in ids if job in queue}


def listed(root: str | Path) -> list[Listed]:
    """Every run under ``root``, and those that a job was submitted for and that have not begun."""
    last = noted(root)
    runs = {path: Run(path, job.record) for path, job in last.items()}
    runs |= {run.folder: run for run in find_runs(root)}
    over = {path for path, run in runs.items() if run.status == "finished"}
    ids = {
        path: run.metadata.get("job") or "" if path in over or path not in last else last[path].id
        for path, run in runs.items()
    }
    words = states({ids[path] for path in runs if path not in over} - {""}) or {}
    return [
        Listed(path, runs[path].record, ids[path], words.get(ids[path], ""))
        for path in sorted(runs)
    ]


def _answer(*command: str) -> dict[str, str] | None:
    """A table of job and state."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    pairs = (line.split("|") for line in done.stdout.splitlines() if "|" in line)
    return {job: state.split()[0] for job, state in pairs if state}
