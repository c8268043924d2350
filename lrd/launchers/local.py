"""Launcher that runs several jobs at once on this machine. Imports torch only to count GPUs."""

import io
import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import active_children, resource_tracker
from threading import Event, Lock, Thread
from typing import TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from omegaconf import DictConfig

from lrd.launchers.base import JobFunction, JobResult, Results, SweepJob, SweepLauncher
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
    """Run ``cluster.jobs`` jobs at once, each with an equal share of the cores as threads.

    Where runs compute on GPUs, ``cluster.cells_per_gpu`` jobs at once have each GPU, and see no
    other.
    """

    def start(self, jobs: Sequence[SweepJob], num_finished: int) -> Results:
        if num_finished:
            _log.info("%d finished already", num_finished)
        if not jobs:
            return
        cores, settings = len(os.sched_getaffinity(0)), jobs[0].config.cluster
        gpus = visible_gpus() if any(j.config.train.device != "cpu" for j in jobs) else []
        workers = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] * settings.cells_per_gpu
        workers = (workers or [{}] * (settings.jobs or cores))[: settings.jobs]
        chosen = next((d for j in jobs if (d := j.config.train.device).startswith("cuda:")), None)
        if chosen:
            raise ValueError(
                "train.device must be auto, cpu or cuda with +cluster=local, which gives each job "
                f"a GPU, got {chosen}: choose GPUs by CUDA_VISIBLE_DEVICES"
            )
        threads = max(1, cores // len(workers))
        where = f"{cores} cores" + (f" and GPUs {', '.join(gpus)}" if gpus else "")
        _log.info("%d jobs, %d at once on %s", len(jobs), len(workers), where)
        overrides = [
            (*j.overrides, *([] if j.config.train.threads else [f"train.threads={threads}"]))
            for j in jobs
        ]
        resource_tracker.ensure_running()  # a child that started it would unblock the signals
        with forward_signals() as signals:
            results = self._run(overrides, workers[: len(jobs)], signals)
        for job, result in zip(jobs, results, strict=True):
            yield job.run.folder, result
        if signals.signal is not None:
            raise Interrupted(signals.signal)

    def _run(
        self,
        overrides: Sequence[Sequence[str]],
        workers: Sequence[dict[str, str]],
        signals: StopSignals,
    ) -> list[JobResult]:
        """Run the jobs in worker processes, each with environment variables of its own.

        A worker takes one job after another. After a job that failed, or ended its process, another
        process takes its place: an error of a GPU would outlive the job.
        """
        from hydra_plugins.hydra_joblib_launcher._core import execute_job
        from joblib.externals.loky import ProcessPoolExecutor

        results = [JobResult() for _ in overrides]
        waiting = deque(enumerate(overrides))
        context, state = self.context, Singleton.get_state()

        def work(environment: dict[str, str]) -> None:
            with suppress(IndexError):  # no job is left
                while signals.signal is None:
                    with ProcessPoolExecutor(1, env=environment) as process:
                        while signals.signal is None:
                            number, words = waiting.popleft()
                            parts = (context["hydra_context"], context["config"])
                            job = (number, words, *parts, WorkerJob(self.function), state)
                            try:
                                returned = process.submit(execute_job, *job).result()
                                results[number] = JobResult.from_hydra(returned)
                            except Exception as error:
                                if signals.signal is None:  # else it ended before it had handlers
                                    results[number] = JobResult.failed(_lost(error))
                            if results[number].failures:
                                break

        threads = [Thread(target=work, args=[environment]) for environment in workers]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.02)  # signals reach this thread between two calls
        return results


def _lost(error: Exception) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return f"its process ended ({line}); the same command resumes"


def visible_gpus() -> list[str]:
    """Return the GPUs that this process sees, each as CUDA_VISIBLE_DEVICES names it."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(n) for n in range(count)] if named is None else named.split(",")
    return [name.strip() for name in names[:count]]
