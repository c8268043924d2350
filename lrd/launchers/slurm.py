"""Launcher that submits the missing runs of a sweep as one SLURM job array. Imports no torch."""

import io
import logging
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lrd.launchers import slurm_queue
from lrd.launchers.base import Failure, JobFunction, JobResult, Results, SweepJob, SweepLauncher
from lrd.launchers.slurm_queue import ENDED, SubmittedJob
from lrd.runs.ranks import ProcessRank
from lrd.runs.signals import Interrupted, RankLost

MAX_PAUSE = 15.0  # seconds between two queries of the queue
# The ranks of a job meet on their node at a port by the job's id, which no other job there has, and
# below the ports that Linux gives away by itself (from 32768).
FIRST_PORT, NUM_PORTS = 20_000, 10_000
MIN_GRACE = 5.0  # seconds before a job without a result counts as lost: file systems are slow
_ROOT = Path(__file__).resolve().parents[2]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequeueableJob:
    """A run inside a SLURM job, which may be stopped and requeued.

    The run handles a signal first: it saves its state and ends. Then the handler that submitit
    installed before runs. It requeues the job and ends the process, or it returns, and the run
    resumes. Of several ranks, which all stop after the same step, rank zero alone requeues the job.
    """

    function: JobFunction

    def __call__(self, cfg: DictConfig) -> JobResult:
        restarted = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
        while True:
            cfg.run.force = cfg.run.force and not restarted
            try:
                return JobResult.of(self.function, cfg)
            except Interrupted as stop:
                handler = signal.getsignal(stop.number)
                if not callable(handler) or handler is signal.default_int_handler:
                    raise
                is_rank_zero = ProcessRank.from_environment().is_rank_zero
                if not is_rank_zero and stop.number == _requeue_signal():
                    return JobResult(stopped_by=stop.number)
                # The same signal may come twice, and the job must be requeued once.
                signal.signal(stop.number, signal.SIG_IGN)
                handler(stop.number, None)
                signal.signal(stop.number, handler)
                restarted = True


def _requeue_signal() -> int:
    """Return the signal at which submitit requeues a job."""
    from submitit import JobEnvironment

    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


@dataclass(frozen=True)
class SlurmJob:
    """The function that submitit runs in each task of a job: a run by Hydra's launcher, as a
    JobResult. The tasks are the ranks of the run, and that of rank zero decides how the job ends.
    """

    launcher: Any

    def __call__(self, *args: Any) -> JobResult:
        process = _join_ranks()
        try:
            with process.output():
                result = JobResult.from_hydra(self.launcher(*args))
        except Interrupted as stop:
            reason = f"stopped by {stop}, state saved; the same command resumes the run"
            result = JobResult.failed(reason, stop.status)
        except RankLost as lost:
            result = JobResult.failed(str(lost), lost.status)
            sys.stderr.write(f"error: {lost}\n")
        if result.failures and process.is_rank_zero:
            _write_result(result)
            sys.exit(max(failure.status for failure in result.failures))
        return result

    def checkpoint(self, *args: Any) -> Any:
        """Return what submitit runs when the job is requeued: the same job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *args)


def _join_ranks() -> ProcessRank:
    """Translate SLURM's variables of this task into torchrun's, by which ranks meet."""
    from submitit import JobEnvironment

    task = JobEnvironment()
    process = ProcessRank(task.global_rank, task.num_tasks, task.local_rank, task.num_tasks)
    process.export("127.0.0.1", FIRST_PORT + int(task.raw_job_id) % NUM_PORTS)
    return process


@contextmanager
def _outside_job() -> Iterator[None]:
    """Hide the variables of the SLURM job that this process is part of, if any, so that the jobs
    that it submits do not inherit them; where SLURM's configuration is stays known."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    from submitit.helpers import clean_env

    kept = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env():
        os.environ.update(kept)
        yield


def _write_result(result: JobResult) -> None:
    """Write a result where submitit writes results.

    The job can then exit with a nonzero status, so that SLURM counts it as failed.
    """
    from submitit import JobEnvironment
    from submitit.core.utils import cloudpickle_dump, temporary_save_path

    with temporary_save_path(JobEnvironment().paths.result_pickle) as path:
        cloudpickle_dump(("success", result), path)


class SlurmLauncher(SweepLauncher):
    """Submit one job array of the runs that are neither finished nor in the queue, and wait."""

    checks_components = False  # the nodes may have other packages and data

    def start(self, jobs: Sequence[SweepJob], num_finished: int) -> Results:
        """Submit ``jobs`` and yield their results. Raises ValueError if SLURM rejects them."""
        if shutil.which("sbatch") is None:
            raise ValueError("cluster=slurm needs SLURM's commands (sbatch, squeue), found none")
        queued = self._queued_jobs(jobs)
        jobs = [job for job in jobs if job.run.folder not in queued]
        others = [f"{num_finished} finished already"] if num_finished else []
        if queued:
            others.append(f"{len(queued)} in the queue: {', '.join(queued.values())}")
        suffix = f" ({', '.join(others)})" if others else ""
        if not jobs:
            _log.info("nothing to submit%s", suffix)
            return
        submitted = self._submit(jobs)
        waiting = {s.job_id: job for s, job in zip(submitted, jobs, strict=True)}
        array = submitted[0].job_id.partition("_")[0]
        logs = slurm_queue.job_directory(jobs[0].config.run.dir)
        count = f"{len(jobs)} job{'s' * (len(jobs) > 1)}"
        _log.info("submitted %s as array %s%s; logs: %s/%s*", count, array, suffix, logs, array)
        try:
            for job_id, result in self._wait({s.job_id: s for s in submitted}):
                job = waiting.pop(job_id)
                score = "failed" if result.score is None else f"{result.score:.2f}"
                _log.info("[%s] %s: %s", job_id, job.text, score)
                yield job.run.folder, result
        except KeyboardInterrupt:
            reason = f"{len(waiting)} jobs continue (scancel {array} ends them)"
            reason += "; the same command submits missing runs"
            self.failures.append(Failure("", reason, 130))

    def _queued_jobs(self, jobs: Sequence[SweepJob]) -> dict[Path, str]:
        """Return {run directory: job id} for runs with a job that waits or runs."""
        if not jobs:
            return {}
        known = slurm_queue.read_jobs(jobs[0].config.run.dir)
        ids = {j.run.folder: known[j.run.folder].id for j in jobs if j.run.folder in known}
        states = slurm_queue.query_states(ids.values())
        if states is None:
            raise ValueError("cluster=slurm needs an answer from SLURM, but squeue gives none")
        return {path: job for path, job in ids.items() if states.get(job, "FAILED") not in ENDED}

    def _submit(self, jobs: Sequence[SweepJob]) -> list[Any]:
        """Submit one array, record its jobs and return submitit's jobs in the order of ``jobs``."""
        from hydra.core.singleton import Singleton
        from hydra_plugins.hydra_submitit_launcher import submitit_launcher
        from submitit.core.utils import FailedJobError

        launcher = submitit_launcher.SlurmLauncher(**self.settings)
        launcher.setup(task_function=RequeueableJob(self.function), **self.context)
        state = Singleton.get_state()
        calls = [
            (list(job.overrides), "hydra.sweep.dir", number, str(number), state)
            for number, job in enumerate(jobs)
        ]
        try:
            # submitit prints what it raises
            with _outside_job(), redirect_stderr(io.StringIO()):
                arguments = zip(*calls, strict=True)
                submitted = _executor(launcher).map_array(SlurmJob(launcher), *arguments)
        except FailedJobError as error:
            reason = str(error).splitlines()[0].removeprefix("sbatch: error: ")
            raise ValueError(f"SLURM rejects the jobs: {reason}") from error
        root, entries = jobs[0].config.run.dir, []
        for job_id, job in zip((s.job_id for s in submitted), jobs, strict=True):
            record = {"choices": job.choices, **job.run.metadata}
            entries.append(SubmittedJob(job_id, str(job.run.folder.relative_to(root)), record))
        slurm_queue.append_jobs(root, entries)
        return submitted

    def _wait(
        self, submitted: Mapping[str, Any], sleep: Callable[[float], None] = time.sleep
    ) -> Iterator[tuple[str, JobResult]]:
        """Yield each job id with its result when the job ends.

        A job is lost (canceled, or ended by the cluster) if two queries in a row do not find it in
        the queue and it has left no result.
        """
        left, suspects, pause = dict(submitted), set[str](), 1.0
        while left:
            for job_id, job in list(left.items()):
                if job.paths.result_pickle.exists():
                    del left[job_id]
                    yield job_id, _read_result(job)
            states = slurm_queue.query_states(left)
            if states is not None:
                gone = {name for name in left if states.get(name, "ENDED") in {*ENDED, "ENDED"}}
                for job_id in gone & suspects:
                    state, log = states.get(job_id, "unknown"), left.pop(job_id).paths.stderr
                    reason = f"job {job_id} ended without a result, state {state} [{log}]"
                    yield job_id, JobResult.failed(reason)
                suspects = gone
            if left:
                sleep(max(pause, MIN_GRACE) if suspects else pause)
                pause = min(1.5 * pause, MAX_PAUSE)


def _executor(launcher: Any) -> Any:
    """Return submitit's executor with the settings under ``hydra.launcher``."""
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    settings = dict(launcher.params)
    # A job must find `lrd` and `hydra_plugins`, also if this checkout is not installed.
    path = f'export PYTHONPATH={shlex.quote(str(_ROOT))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
    if settings.get("nodes", 1) != 1:
        raise ValueError(
            f"hydra.launcher.nodes must be 1, got {settings['nodes']}: the processes of a run "
            "(cluster.ranks_per_cell) share one node"
        )
    settings["setup"] = [*(settings.get("setup") or []), path]
    shared = {field.name for field in fields(BaseQueueConf)}
    folder, timeouts = settings.pop("submitit_folder"), settings.pop("max_num_timeout")
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=timeouts)
    named = {n if n in shared else f"slurm_{n}": value for n, value in settings.items()}
    executor.update_parameters(**named)
    return executor


def _read_result(job: Any) -> JobResult:
    from submitit.core.utils import pickle_load

    kind, value = pickle_load(job.paths.result_pickle)
    if kind == "success":
        return value
    last = str(value).strip().splitlines()[-1]
    return JobResult.failed(f"{last} [{job.paths.stderr}]")
