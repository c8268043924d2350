"""A sweep on a real SLURM, disturbed in every way, and compared with the same sweep run here.

    python scripts/slurm_endurance.py          needs Debian's slurm-wlm and munge (slurm_local.sh)

Twelve cells, one of which must fail. Of the others one gets the signal before a time-out, one is
queued anew, the running ones are preempted, one is cancelled before it begins. Submitting again
adds what is missing. Prints what a user would see and the differing bytes (0), exit status 1 if any
differ. Everything lies in a temporary folder.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from endurance import differing_bytes, kept

from lrd.launchers.slurm_queue import read_jobs
from lrd.runs.store import Run, find_runs

ROOT = Path(__file__).resolve().parents[1]
RATES = [*(f"{k / 100:g}" for k in range(1, 12)), "1e+18"]  # the loss of the last is not finite
EPOCHS = 600
SWEEP = [
    *(
        "-m",
        "optim=sgdm",
        f"optim.lr={','.join(RATES)}",
        f"train.epochs={EPOCHS}",
        "model.hidden=[128]",
    ),
]


def shown(*command: str) -> str:
    """Run a command as a user would, and print it with what it says."""
    print("$", *command, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout.rstrip(), flush=True)
    return done.stdout


def until(what: Callable[[], bool], submitter: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not what():
        if submitter.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("error: the sweep was over before it could be disturbed")
        time.sleep(0.2)


def rate_of(record: dict[str, Any]) -> str:
    return f"{record['config']['optim']['lr']:g}"


def by_rate(folder: str) -> dict[str, Run]:
    return {rate_of(run.record): run for run in find_runs(folder)}


def job_of(rate: str) -> str:
    (job,) = (job.id for job in read_jobs("runs").values() if rate_of(job.record) == rate)
    return job


def in_the_middle(rates: Sequence[str]) -> int:
    """How many of these runs are."""
    runs = by_rate("runs")
    lengths = [len(runs[rate].metrics) for rate in rates if rate in runs]
    return sum(5 <= length < EPOCHS / 2 for length in lengths)


def disturb(submitter: subprocess.Popen[str]) -> None:
    """Each kind of disturbance: to the two that run first, to those after, to one that waits."""
    until(lambda: in_the_middle(RATES[:2]) == 2, submitter)
    # While others of the array wait, SLURM 22.05 delivers the signal and says that it could not:
    # scancel would send it again every few seconds.
    shown("timeout", "2", "scancel", "--signal=USR2", job_of(RATES[0]))
    shown("scontrol", "requeue", job_of(RATES[1]))
    shown(sys.executable, f"{ROOT}/scripts/runs.py")
    until(lambda: in_the_middle(RATES[2:8]) > 0, submitter)
    shown("srun", "--partition=urgent", f"--ntasks={os.cpu_count()}", "echo", "urgent")
    shown("scancel", job_of(RATES[-2]))
    shown("squeue")


def compared() -> int:
    """How many bytes of what the runs left differ from those of the same sweep, run here."""
    here = [sys.executable, f"{ROOT}/run.py", *SWEEP, "run.dir=here", "train.threads=1"]
    subprocess.run(here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ours, theirs = by_rate("here"), by_rate("runs")
    differing = 0
    for rate in RATES[:-1]:
        bytes_ = differing_bytes(kept(ours[rate]), kept(theirs[rate]))
        print(f"lr {rate:5} job {theirs[rate].record['job']:6} {bytes_} differing bytes")
        differing += bytes_
    states = {theirs[RATES[-1]].status, ours[RATES[-1]].status}
    print(f"lr {RATES[-1]:5} {' and '.join(states)}, as it must")
    return differing


def demonstrate() -> int:
    command = [sys.executable, f"{ROOT}/run.py", *SWEEP, "+cluster=slurm"]
    print("$", *command, "&", flush=True)
    with Path("submitter.txt").open("w") as out:
        submitter = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True)
        disturb(submitter)
        status = submitter.wait()
    print("$ wait\n" + Path("submitter.txt").read_text().rstrip())
    print(f"exit status {status}")
    shown(sys.executable, f"{ROOT}/scripts/runs.py")
    shown(*command)
    shown(*command)
    shown(sys.executable, f"{ROOT}/scripts/runs.py")
    differing = compared()
    print(f"{len(RATES) - 1} cells, differing bytes {differing}")
    return 1 if differing else 0


def main() -> int:
    script = str(ROOT / "scripts" / "slurm_local.sh")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["SLURM_LOCAL"] = f"{folder}/slurm"
        started = subprocess.run([script, "start"], stdout=subprocess.PIPE, text=True)
        if started.returncode:
            return started.returncode
        os.environ["SLURM_CONF"] = started.stdout.strip().partition("=")[2]
        try:
            return demonstrate()
        finally:
            subprocess.run([script, "stop"])
            os.chdir(ROOT)


if __name__ == "__main__":
    sys.exit(main())
