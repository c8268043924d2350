"""A cell within a job of SLURM, which may be stopped and queued anew. Imports no torch."""

import signal
import sys
from dataclasses import dataclass
from os import environ
from typing import Any

from omegaconf import DictConfig

from lrd.cluster import Outcome, Task, outcome_of
from lrd.runs.signals import Interrupted


@dataclass(frozen=True)
class Patient:
    """A cell within a job. A signal is the run's first, which saves its state and ends; then it is
    for the handler that was there before, submitit's: which puts the job into the queue again and
    ends the process, or returns. Then the run goes on."""

    task: Task

    def __call__(self, cfg: DictConfig) -> Outcome:
        again = int(environ.get("SLURM_RESTART_COUNT", 0)) > 0
        while True:
            cfg.run.force = cfg.run.force and not again
            try:
                return self.task(cfg)
            except Interrupted as stop:
                handler = signal.getsignal(stop.number)
                if not callable(handler) or handler is signal.default_int_handler:
                    raise
                handler(stop.number, None)
                again = True


@dataclass(frozen=True)
class Call:
    """What submitit runs in a job: a cell by Hydra's launcher, as an :class:`Outcome`."""

    launcher: Any

    def __call__(self, *args: Any) -> Outcome:
        try:
            outcome = outcome_of(self.launcher(*args))
        except Interrupted as stop:
            line = f"stopped by {stop}, saved; the same command goes on"
            outcome = Outcome(failures=[("", line, stop.status)])
        if outcome.failures:
            _leave(outcome)
            sys.exit(max(status for _, _, status in outcome.failures))
        return outcome

    def checkpoint(self, *args: Any) -> Any:
        """What to run when the job starts again: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *args)


def _leave(outcome: Outcome) -> None:
    """Put an outcome where submitit puts results, so that the job may end with a status of its own:
    SLURM counts it as failed."""
    from submitit import JobEnvironment
    from submitit.core.utils import cloudpickle_dump, temporary_save_path

    with temporary_save_path(JobEnvironment().paths.result_pickle) as path:
        cloudpickle_dump(("success", outcome), path)
