"""Launcher that runs several jobs at once on this machine. Imports no torch."""

import io
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import active_children, resource_tracker
from threading import Event, Lock, Thread
from typing import TextIO

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lrd.launchers.base import Failure, JobFunction, JobResult, Results, SweepJob, SweepLauncher
from lrd.runs.signals import SIGNALS, Interrupted, StopSignals

STOP_SIGNAL = signal.SIGUSR1  # asks a worker to save its run and end
_log = logging.getLogger(__name__)


class PrefixedStdout(io.TextIOBase):
    """Write complete lines, each with the number of its job as a prefix.

    The stream is not a terminal, so a run shows no progress bar on it.
    """

    def __init__(self, out: TextIO, prefix: str) -> None:
        self.out, self.prefix, self.rest = out, prefix, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        lines = [line.removeprefix(self.prefix).strip() for line in lines if line]
        self.out.write("".join(f"{self.prefix} {line}\n" for line in lines))
        self.out.flush()
        return len(text)


@cache
def _worker_signals() -> StopSignals:
    """Install the signal handlers of a worker process, once, and watch its parent."""
    signals = StopSignals().__enter__()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    Thread(target=_end_with_parent, args=[os.getppid()], daemon=True).start()
    return signals


_RUNNING = Lock()  # held while a job runs


def _end_with_parent(parent: int) -> None:
    """End this process if its parent is killed, after its run has saved its state."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), STOP_SIGNAL)
    with _RUNNING:
        os._exit(128 + STOP_SIGNAL)


@dataclass(frozen=True)
class WorkerJob:
    """A job in a worker process, which runs many jobs in turn but starts none after a signal."""

    function: JobFunction

    def __call__(self, cfg: DictConfig) -> JobResult:
        signals = _worker_signals()
        prefix = f"[{HydraConfig.get().job.num}]"
        if signals.signal is None:
            try:
                with _RUNNING, redirect_stdout(PrefixedStdout(sys.stdout, prefix)):  # type: ignore[type-var]
                    return JobResult.of(self.function, cfg)
            except Interrupted as stop:
                signals.signal = stop.number
        return JobResult(stopped_by=signals.signal)


@contextmanager
def forward_signals() -> Iterator[StopSignals]:
    """Forward stop signals to the child processes, which save and end, and wait for them.

    A second Ctrl-C ends this process at once.
    """
    done = Event()
    with StopSignals() as signals:

        def forward() -> None:
            while not done.wait(0.1):
                children = active_children() if signals.signal else []  # new children too
                for child in filter(None, (process.pid for process in children)):
                    with suppress(ProcessLookupError):
                        os.kill(child, STOP_SIGNAL)

        thread = Thread(target=forward, daemon=True)
        thread.start()
        # Children start with the signals blocked until their handlers exist. This process receives
        # the signals in `thread`.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield signals
        finally:
            done.set()
            thread.join()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class LocalLauncher(SweepLauncher):
    """Run ``cluster.jobs`` jobs at once; each gets an equal share of the cores as threads."""

    def start(self, jobs: Sequence[SweepJob], num_finished: int) -> Results:
        if num_finished:
            _log.info("%d finished already", num_finished)
        if not jobs:
            return
        cores = len(os.sched_getaffinity(0))
        at_once = jobs[0].config.cluster.jobs or cores
        threads = max(1, cores // at_once)
        _log.info("%d jobs, %d at once on %d cores", len(jobs), at_once, cores)
        overrides = [
            (*j.overrides, *([] if j.config.train.threads else [f"train.threads={threads}"]))
            for j in jobs
        ]
        resource_tracker.ensure_running()  # a child that started it would unblock the signals
        with forward_signals() as signals:
            results = self._run(overrides, min(at_once, len(jobs)), signals)
        for job, result in zip(jobs, results, strict=True):
            yield job.run.folder, result
        if signals.signal is not None:
            raise Interrupted(signals.signal)

    def _run(
        self, overrides: Sequence[Sequence[str]], num_workers: int, signals: StopSignals
    ) -> list[JobResult]:
        from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
        from joblib.externals.loky import get_reusable_executor

        launcher = JoblibLauncher(**{**self.settings, "n_jobs": num_workers})
        launcher.setup(task_function=WorkerJob(self.function), **self.context)
        try:
            return [JobResult.from_hydra(returned) for returned in launcher.launch(overrides, 0)]
        except Exception as error:
            if signals.signal is None:  # otherwise a worker without handlers received the signal
                line = str(error).splitlines()[0]
                reason = f"a worker ended and stopped the others ({line}); the same command resumes"
                self.failures.append(Failure("", reason, 1))
            return [JobResult() for _ in overrides]
        finally:
            get_reusable_executor().shutdown(wait=True)
