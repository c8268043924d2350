"""The SLURM launcher: signals inside a job, and how results and lost jobs are collected."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from omegaconf import DictConfig, OmegaConf

from lrd.launchers import slurm_queue
from lrd.launchers.base import Failure, JobResult
from lrd.launchers.slurm import RequeueableJob, SlurmLauncher
from lrd.runs.ranks import ProcessRank
from lrd.runs.signals import Interrupted

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")


class FakeRun:
    """A run that is stopped by each of the signals in turn and then finishes."""

    def __init__(self, *signals: int) -> None:
        self.signals, self.events = list(signals), []
        self.failures: list[Failure] = []

    def check(self, config: Any) -> None: ...

    def __call__(self, cfg: DictConfig) -> float:
        self.events.append("forced" if cfg.run.force else "run")
        if self.signals:
            raise Interrupted(self.signals.pop(0))
        return 97.5

    def handler(self, number: int, frame: Any) -> None:
        """Act like submitit's handlers: return, or on SIGUSR2 requeue the job and exit."""
        self.events.append(signal.Signals(number).name)
        if number == signal.SIGUSR2:
            sys.exit(-1)


@pytest.fixture
def set_handler(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set signal handlers, and restore the previous ones afterwards."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2)}
    yield lambda handler: [signal.signal(n, handler) for n in before]
    for number, handler in before.items():
        signal.signal(number, handler)


def force(value: bool = True) -> DictConfig:
    return OmegaConf.create({"run": {"force": value}})


def test_the_run_handles_a_signal_before_submitit(set_handler: Callable[..., Any]):
    """If the handler returns, the run resumes, without run.force."""
    run = FakeRun(signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2)
    set_handler(run.handler)
    with pytest.raises(SystemExit):
        RequeueableJob(run)(force())
    assert run.events == ["forced", "SIGTERM", "run", "SIGTERM", "run", "SIGUSR2"]


def test_a_signal_without_a_handler_stops_the_run(set_handler: Callable[..., Any]):
    set_handler(signal.SIG_DFL)
    with pytest.raises(Interrupted):
        RequeueableJob(FakeRun(signal.SIGTERM))(force())


def test_a_forced_run_that_is_requeued_resumes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run = FakeRun()
    assert RequeueableJob(run)(force()).score == 97.5 and run.events == ["run"]


def test_of_several_ranks_rank_zero_alone_requeues_the_job_and_once(
    set_handler: Callable[..., Any],
):
    other = FakeRun(signal.SIGTERM, signal.SIGUSR2)
    set_handler(other.handler)
    with mock.patch.dict(os.environ):
        ProcessRank(1, 2, 1, 2).export("127.0.0.1", 20_000)
        assert RequeueableJob(other)(force()).stopped_by == signal.SIGUSR2
    assert other.events == ["forced", "SIGTERM", "run"]  # resumes after the one, not the other

    class Signaled(FakeRun):
        """Rank zero, which gets the signal again while it requeues the job for another rank's."""

        def handler(self, number: int, frame: Any) -> None:
            os.kill(os.getpid(), number)
            super().handler(number, frame)

    zero = Signaled(signal.SIGUSR2)
    set_handler(zero.handler)
    with mock.patch.dict(os.environ), pytest.raises(SystemExit):
        ProcessRank(0, 2, 0, 2).export("127.0.0.1", 20_000)
        RequeueableJob(zero)(force())
    assert zero.events == ["forced", "SIGUSR2"]


class FakeQueue(SlurmLauncher):
    """Two jobs and the answers of the queue, one dictionary per query."""

    def __init__(self, folder: Path, answers: list[dict[str, str] | None]) -> None:
        self.folder, self.answers, self.num_sleeps = folder, answers, 0

    def results(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, JobResult]:
        monkeypatch.setattr(slurm_queue, "query_states", lambda ids: self.answers.pop(0))
        submitted = {
            name: SimpleNamespace(
                job_id=name,
                paths=SimpleNamespace(
                    result_pickle=self.folder / name, stderr=self.folder / f"{name}.err"
                ),
            )
            for name in ("7_0", "7_1")
        }
        return dict(self._wait(submitted, self.sleep))

    def sleep(self, seconds: float) -> None:
        """Let the first job write its result before the third query."""
        self.num_sleeps += 1
        if self.num_sleeps == 2:
            import cloudpickle

            (self.folder / "7_0").write_bytes(cloudpickle.dumps(("success", JobResult(90.0))))


def test_a_job_that_leaves_the_queue_without_a_result_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Not at the first query, because file systems are slow; and not if SLURM does not answer."""
    gone, alive = {"7_0": "COMPLETED", "7_1": "CANCELLED"}, {"7_0": "RUNNING", "7_1": "RUNNING"}
    found = FakeQueue(tmp_path, [None, alive, None, gone, gone]).results(monkeypatch)
    assert found["7_0"] == JobResult(90.0)
    ((_, line, status),) = found["7_1"].failures
    assert "job 7_1 ended without a result, state CANCELLED" in line and status == 1
    assert f"{tmp_path}/7_1.err" in line


def test_an_exception_in_submitit_is_reported_by_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import cloudpickle

    trace = "Traceback (most recent call last):\n  ...\nImportError: No module named foo\n"
    for name in ("7_0", "7_1"):
        (tmp_path / name).write_bytes(cloudpickle.dumps(("error", trace)))
    found = FakeQueue(tmp_path, [{}]).results(monkeypatch)
    assert found["7_0"].failures[0][1].startswith("ImportError: No module named foo [")
