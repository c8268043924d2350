"""Jobs of SLURM: ids, the list of what was submitted, and states; SLURM's commands are played."""

import os
from pathlib import Path

import pytest

from lrd import jobs
from lrd.config.compose import compose, to_config
from lrd.jobs import Job, listed, note, noted, states, this_job
from lrd.runs.lock import run_lock
from lrd.runs.store import Run, open_run


def play(folder: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """Commands that are shell scripts, before all others."""
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
def test_the_id_is_the_one_that_squeue_shows(
    variables: dict[str, str], job: str | None, monkeypatch: pytest.MonkeyPatch
):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert this_job() == job


def test_states_are_the_queue_s_and_for_older_jobs_the_accounting_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    play(
        tmp_path,
        monkeypatch,
        squeue="printf '7_0|RUNNING\\n7_1|PENDING\\n'",
        sacct='case "$*" in *--jobs=5,6_1*) printf "5|CANCELLED by 0\\n6_1|COMPLETED\\n";; esac',
    )
    asked = ["7_0", "7_1", "5", "6_1"]
    assert states(asked) == {
        **{"7_0": "RUNNING", "7_1": "PENDING"},
        **{"5": "CANCELLED", "6_1": "COMPLETED"},
    }


def test_without_accounting_or_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    play(
        tmp_path,
        monkeypatch,
        squeue="echo '7|RUNNING'",
        sacct="echo 'Slurm accounting storage is disabled' >&2; exit 1",
    )
    assert states(["7", "3"]) == {"7": "RUNNING"}
    play(tmp_path, monkeypatch, squeue="exit 1")
    assert states(["7"]) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert states(["7"]) is None and states([]) == {}


def test_the_last_job_of_a_run_counts_and_half_a_line_does_not(tmp_path: Path):
    note(tmp_path, [Job("1_0", "digits/a/seed0", {}), Job("1_1", "digits/a/seed1", {})])
    note(tmp_path, [Job("2", "digits/a/seed1", {"seed": 1})])
    with (tmp_path / ".submitit" / "jobs.jsonl").open("a") as file:
        file.write('{"job": "3')
    found = noted(tmp_path)
    assert {str(k.relative_to(tmp_path)): v.id for k, v in found.items()} == {
        "digits/a/seed0": "1_0",
        "digits/a/seed1": "2",
    }
    assert noted(tmp_path / "elsewhere") == {}


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Run]:
    """Runs of four seeds, each with a job; the first has finished, the last has not begun."""
    monkeypatch.chdir(tmp_path)
    runs = [open_run(to_config(compose([f"seed={seed}"]))) for seed in range(4)]
    note(
        "runs",
        [Job(f"4_{i}", str(Path(*r.folder.parts[1:])), r.record) for i, r in enumerate(runs)],
    )
    runs[0].write(status="finished", job="4_0")
    runs[1].write(status="running", job="4_1")
    runs[2].write(status="failed", job="4_2")
    return {f"4_{i}": run for i, run in enumerate(runs)}


def test_a_job_that_lives_is_a_run_s_state(
    submitted: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    play(tmp_path, monkeypatch, squeue="printf '4_1|RUNNING\\n4_2|PENDING\\n4_3|PENDING\\n'")
    assert {run.job: (run.state, run.word) for run in listed("runs")} == {
        **{"4_0": ("finished", ""), "4_1": ("running", "RUNNING")},
        **{"4_2": ("queued", "PENDING"), "4_3": ("queued", "PENDING")},
    }


def test_a_job_that_ended_leaves_what_the_run_says(
    submitted: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ended = "printf '4_1|CANCELLED\\n4_2|FAILED\\n4_3|CANCELLED\\n'"
    play(tmp_path, monkeypatch, squeue=ended)
    states = {run.job: run.state for run in listed("runs")}
    assert states == {"4_0": "finished", "4_1": "partial", "4_2": "failed", "4_3": "new"}
    play(tmp_path, monkeypatch, squeue="exit 1")
    with run_lock(submitted["4_2"].folder):
        states = {run.job: run.state for run in listed("runs")}
    assert states == {"4_0": "finished", "4_1": "partial", "4_2": "running", "4_3": "new"}


def test_slurm_is_not_asked_where_nothing_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    open_run(to_config(compose([]))).write(status="finished", job=None)
    monkeypatch.setattr(jobs, "_answer", lambda *command: pytest.fail("asked"))
    (run,) = listed("runs")
    assert run.job == "" and run.state == "finished"
