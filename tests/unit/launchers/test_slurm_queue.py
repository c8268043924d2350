"""SLURM's queue: job ids, the list of submitted jobs, and states, with fake SLURM commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lrd.config.compose import compose, to_config
from lrd.launchers import slurm_queue
from lrd.launchers.slurm_queue import (
    SubmittedJob,
    append_jobs,
    list_runs,
    query_states,
    read_jobs,
)
from lrd.runs.lock import run_lock
from lrd.runs.store import Run, RunStore
from lrd.training.environment import slurm_job_id


def fake_commands(folder: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """Put shell scripts with these bodies first on PATH."""
    for name, body in commands.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "17"}, "17"),
        (
            {"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "0"},
            "17_0",
        ),
    ],
)
def test_this_job_has_the_id_that_squeue_shows(
    variables: dict[str, str], job: str | None, monkeypatch: pytest.MonkeyPatch
):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert slurm_job_id() == job


def test_states_come_from_the_queue_and_for_older_jobs_from_the_accounting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fake_commands(
        tmp_path,
        monkeypatch,
        squeue="printf '7_0|RUNNING\\n7_1|PENDING\\n'",
        sacct='case "$*" in *--jobs=5,6_1*) printf "5|CANCELLED by 0\\n6_1|COMPLETED\\n";; esac',
    )
    asked = ["7_0", "7_1", "5", "6_1"]
    assert query_states(asked) == {
        **{"7_0": "RUNNING", "7_1": "PENDING"},
        **{"5": "CANCELLED", "6_1": "COMPLETED"},
    }


def test_without_accounting_or_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake_commands(
        tmp_path,
        monkeypatch,
        squeue="echo '7|RUNNING'",
        sacct="echo 'Slurm accounting storage is disabled' >&2; exit 1",
    )
    assert query_states(["7", "3"]) == {"7": "RUNNING"}
    fake_commands(tmp_path, monkeypatch, squeue="exit 1")
    assert query_states(["7"]) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert query_states(["7"]) is None and query_states([]) == {}


def test_the_last_job_of_a_run_counts_and_an_incomplete_line_does_not(tmp_path: Path):
    append_jobs(
        tmp_path,
        [SubmittedJob("1_0", "digits/a/seed0", {}), SubmittedJob("1_1", "digits/a/seed1", {})],
    )
    append_jobs(tmp_path, [SubmittedJob("2", "digits/a/seed1", {"seed": 1})])
    with (tmp_path / ".submitit" / "jobs.jsonl").open("a") as file:
        file.write('{"job": "3')
    found = read_jobs(tmp_path)
    assert {str(k.relative_to(tmp_path)): v.id for k, v in found.items()} == {
        "digits/a/seed0": "1_0",
        "digits/a/seed1": "2",
    }
    assert read_jobs(tmp_path / "elsewhere") == {}


def test_a_torn_line_costs_one_job_and_not_the_list(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A process was killed while it wrote, and others append after it."""
    append_jobs(tmp_path, [SubmittedJob("1", "digits/a/seed0", {})])
    path = tmp_path / ".submitit" / "jobs.jsonl"
    with path.open("a") as file:
        file.write('{"id": "2", "fol')
    append_jobs(tmp_path, [SubmittedJob("3", "digits/a/seed2", {})])
    with path.open("a") as file:
        file.write(
            '{"id": 4, "folder": "digits/a/seed3", "record": {}}\n["5"]\nnull\n{"id": "6"}\n'
        )
    assert [job.id for job in read_jobs(tmp_path).values()] == ["1", "3"]
    assert [r.getMessage() for r in caplog.records] == [
        f"note: {path} is damaged in line {n}, which is left out" for n in (2, 4, 5, 6, 7)
    ]


@pytest.mark.parametrize("folder", ["/etc", "../elsewhere/a/seed0", "digits/../../a", "", "."])
def test_a_listed_directory_is_below_that_of_the_runs(
    tmp_path: Path, folder: str, caplog: pytest.LogCaptureFixture
):
    append_jobs(tmp_path, [SubmittedJob("1", "digits/a/seed0", {})])
    with (tmp_path / ".submitit" / "jobs.jsonl").open("a") as file:
        file.write(json.dumps({"id": "2", "folder": folder, "record": {}}) + "\n")
    assert [str(path) for path in read_jobs(tmp_path)] == [f"{tmp_path}/digits/a/seed0"]
    assert "line 2" in caplog.text
    with pytest.raises(ValueError, match="must be below that of all runs"):
        SubmittedJob("2", folder, {})


APPEND = """
import sys
from lrd.launchers.slurm_queue import SubmittedJob, append_jobs
root, name = sys.argv[1:]
for number in range(40):
    job = SubmittedJob(f"{name}_{number}", f"{name}/a/seed{number}", {"x": "y" * 9999})
    append_jobs(root, [job] * 3)
"""


def test_processes_that_append_at_once_keep_each_others_lines(tmp_path: Path):
    command = [sys.executable, "-c", APPEND, str(tmp_path)]
    children = [subprocess.Popen([*command, name]) for name in "123"]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert len(read_jobs(tmp_path)) == 3 * 40
    lines = (tmp_path / ".submitit" / "jobs.jsonl").read_text().splitlines()
    assert len(lines) == 3 * 3 * 40 and all(json.loads(line) for line in lines)


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Run]:
    """Four runs, each with a job; the first has finished, the last has not started."""
    monkeypatch.chdir(tmp_path)
    runs = [RunStore(to_config(compose([f"seed={seed}"]))).run for seed in range(4)]
    append_jobs(
        "runs",
        [
            SubmittedJob(f"4_{i}", str(Path(*r.folder.parts[1:])), r.metadata)
            for i, r in enumerate(runs)
        ],
    )
    runs[0].update(status="finished", job="4_0")
    runs[1].update(status="running", job="4_1")
    runs[2].update(status="failed", job="4_2")
    return {f"4_{i}": run for i, run in enumerate(runs)}


def test_a_waiting_or_running_job_determines_the_state_of_its_run(
    submitted: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fake_commands(
        tmp_path, monkeypatch, squeue="printf '4_1|RUNNING\\n4_2|PENDING\\n4_3|PENDING\\n'"
    )
    assert {run.job: (run.state, run.slurm_state) for run in list_runs("runs")} == {
        **{"4_0": ("finished", ""), "4_1": ("running", "RUNNING")},
        **{"4_2": ("queued", "PENDING"), "4_3": ("queued", "PENDING")},
    }


def test_an_ended_job_does_not_change_the_state_of_its_run(
    submitted: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ended = "printf '4_1|CANCELLED\\n4_2|FAILED\\n4_3|CANCELLED\\n'"
    fake_commands(tmp_path, monkeypatch, squeue=ended)
    states = {run.job: run.state for run in list_runs("runs")}
    assert states == {"4_0": "finished", "4_1": "partial", "4_2": "failed", "4_3": "new"}
    fake_commands(tmp_path, monkeypatch, squeue="exit 1")
    with run_lock(submitted["4_2"].folder):
        states = {run.job: run.state for run in list_runs("runs")}
    assert states == {"4_0": "finished", "4_1": "partial", "4_2": "running", "4_3": "new"}


@pytest.mark.parametrize(
    ("status", "slurm_state", "state"),
    [
        ("interrupted", "RUNNING", "partial"),  # stopped by hand; the shell goes on
        ("failed", "RUNNING", "failed"),
        ("running", "RUNNING", "running"),  # on another node, whose locks may not reach here
        ("interrupted", "PENDING", "queued"),  # the script that starts it is queued again
        ("running", "COMPLETED", "partial"),
    ],
)
def test_a_run_started_by_hand_in_a_job_has_a_state_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, slurm_state: str, state: str
):
    """As in an interactive shell of SLURM, which outlives the runs that are started in it."""
    monkeypatch.chdir(tmp_path)
    RunStore(to_config(compose([]))).run.update(status=status, job="17")
    fake_commands(tmp_path, monkeypatch, squeue=f"echo '17|{slurm_state}'")
    (run,) = list_runs("runs")
    assert (run.job, run.slurm_state, run.state) == ("17", slurm_state, state)


def test_slurm_is_not_queried_if_all_runs_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    RunStore(to_config(compose([]))).run.update(status="finished", job=None)
    monkeypatch.setattr(slurm_queue, "_query", lambda *command: pytest.fail("asked"))
    (run,) = list_runs("runs")
    assert run.job == "" and run.state == "finished"
