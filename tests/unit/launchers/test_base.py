"""The base of the launchers: which jobs start, and how their results are collected."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from lrd.cli import RunFunction
from lrd.config.compose import CONFIGS, compose, to_config
from lrd.config.fingerprint import fingerprint, identity
from lrd.launchers.base import Failure, JobResult, SweepJob, SweepLauncher
from lrd.runs.store import Run


class FakeLauncher(SweepLauncher):
    """Run nothing: the score of a job is its seed, and the jobs of seed 2 fail."""

    started: Sequence[SweepJob] = ()

    def start(
        self, jobs: Sequence[SweepJob], num_finished: int
    ) -> Iterator[tuple[Path, JobResult]]:
        self.started, self.num_finished = jobs, num_finished
        for job in reversed(jobs):  # jobs may end in any order
            seed = job.config.seed
            failures = [Failure("", "it broke", 1)] if seed == 2 else []
            yield job.run.folder, JobResult(None if failures else float(seed), failures)


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLauncher]:
    monkeypatch.chdir(tmp_path)
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("config", return_hydra_config=True)
        context: Any = SimpleNamespace(config_loader=GlobalHydra.instance().config_loader())
        launcher = FakeLauncher()
        function = RunFunction()
        launcher.setup(hydra_context=context, task_function=function, config=config)
        yield launcher


def finish(run: Run, score: float) -> None:
    """Record a run as finished with this score at its last epoch."""
    final = {"value": score, "epoch": 30}
    run.update(
        status="finished",
        score={"name": "test_accuracy", "maximize": True, "unit": "%"},
        final=final,
        best=final,
    )
    line = {"epoch": 30, "test_accuracy": score}
    (run.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def launch(launcher: FakeLauncher, *sweep: str) -> list[float | None]:
    return [r.return_value for r in launcher.launch([text.split() for text in sweep], 0)]


def test_only_missing_runs_start_and_every_job_has_its_score(launcher: FakeLauncher):
    launch(launcher, "seed=1")
    finish(launcher.started[0].run, 97.5)
    scores = launch(launcher, "seed=0", "seed=1", "seed=2", "seed=3", "seed=0 lrd.p=0.5")
    assert scores == [0.0, 97.5, None, 3.0, 0.0]  # the last job repeats the first
    assert [c.config.seed for c in launcher.started] == [0, 2, 3] and launcher.num_finished == 1
    assert launcher.failures == [("seed=2", "it broke", 1)]
    assert launch(launcher, "seed=1 run.force=true") == [1.0]


def test_an_invalid_job_keeps_all_from_starting_and_is_named(launcher: FakeLauncher):
    assert launch(launcher, "seed=0", "lrd.p=2 seed=1") == [None, None] and not launcher.started
    ((job, line, status),) = launcher.failures
    assert job == "lrd.p=2 seed=1" and "lrd.p must be in (0, 1]" in line and status == 2


def test_classes_and_data_of_every_job_are_looked_for_and_a_mistake_is_said_once(
    launcher: FakeLauncher,
):
    missing = "task=mnist data.root=nowhere"
    wrong = "optim._target_=torch.optim.Nope"
    launch(launcher, "seed=0", f"{missing} seed=0", f"{missing} seed=1", f"{wrong} seed=0")
    assert not launcher.started
    (first, data, two), (second, kind, two) = launcher.failures
    assert first == f"{missing} seed=0 and 1 more" and "train-images-idx3-ubyte is missing" in data
    assert second == f"{wrong} seed=0" and "must be importable" in kind and two == 2
    assert not list(Path().iterdir())  # and nothing is written
    launcher.failures.clear()
    launcher.checks_components = False  # SLURM: the nodes may have what is missing here
    launch(launcher, f"{missing} seed=0")
    assert len(launcher.started) == 1 and not launcher.failures


def test_an_error_of_all_jobs_is_one_line(launcher: FakeLauncher):
    launch(launcher, "seed=0 cluster.mem_gb=0", "seed=1 cluster.mem_gb=0")
    assert launcher.failures == [("", "cluster.mem_gb must be at least 1, or null, got 0", 2)]


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("cluster.timeout_min=0", "cluster.timeout_min must be at least 1, got 0"),
        ("cluster.gpus_per_node=-1", "cluster.gpus_per_node must be at least 1, or null, got -1"),
        ("cluster.partition='a b'", "cluster.partition must be a name of the cluster's, or null"),
        ("cluster.partition=''", "cluster.partition must be a name of the cluster's, or null"),
        ("+cluster.foo=1", "unknown setting cluster.foo"),
    ],
)
def test_settings_have_rules(setting: str, rule: str):
    with pytest.raises(ValueError, match=rule.replace("(", r"\(")):
        to_config(compose([setting]))


def test_cluster_settings_are_not_in_the_identity():
    elsewhere = to_config(compose(["cluster.partition=gpu", "cluster.mem_gb=8", "cluster.jobs=2"]))
    assert fingerprint(identity(elsewhere)) == fingerprint(identity(to_config(compose([]))))
