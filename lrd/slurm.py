"""Cells as jobs of SLURM: one array, of what is missing. Imports no torch."""

import io
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import fields
from pathlib import Path
from typing import Any

from lrd import jobs
from lrd.cluster import Cell, Elsewhere, Outcome
from lrd.jobs import ENDED, Job
from lrd.requeued import Call, Patient

PAUSE = 15.0  # seconds between two looks at the queue, at most
GRACE = 5.0  # and at least, before a job that left nothing counts as lost: file systems are slow


class Slurm(Elsewhere):
    """One job array of the cells that are neither finished nor in the queue."""

    careful = True
    task = Patient

    def start(self, cells: Sequence[Cell], done: int) -> Iterator[tuple[Path, Outcome]]:
        """Submit, then wait. Raises ValueError if SLURM takes no job as it was asked."""
        if shutil.which("sbatch") is None:
            raise ValueError(
                "cluster=slurm needs SLURM's commands (sbatch, squeue) on this machine"
            )
        queued = self._queued(cells)
        cells = [cell for cell in cells if cell.run.folder not in queued]
        there = [f"{done} finished already"] if done else []
        if queued:
            there.append(f"{len(queued)} in the queue: {', '.join(queued.values())}")
        rest = f" ({', '.join(there)})" if there else ""
        if not cells:
            self.say(f"nothing to submit{rest}")
            return
        submitted = self._submit(cells)
        waiting = {job.job_id: cell for job, cell in zip(submitted, cells, strict=True)}
        count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
        array = submitted[0].job_id.partition("_")[0]
        logs = jobs.folder(cells[0].config.run.dir)
        self.say(f"submitted {count} as job {array}{rest}; logs: {logs}/{array}*")
        try:
            for name, outcome in self._ended({job.job_id: job for job in submitted}):
                cell = waiting.pop(name)
                score = "failed" if outcome.score is None else f"{outcome.score:.2f}"
                self.say(f"[{name}] {cell.text}: {score}")
                yield cell.run.folder, outcome
        except KeyboardInterrupt:
            line = f"left {len(waiting)} jobs to run on (scancel {array} ends them)"
            self.failures.append(("", f"{line}; the same command submits what is missing", 130))

    def _queued(self, cells: Sequence[Cell]) -> dict[Path, str]:
        """The job of each cell that has one which runs or will run."""
        if not cells:
            return {}
        noted = jobs.noted(cells[0].config.run.dir)
        known = {c.run.folder: noted[c.run.folder].id for c in cells if c.run.folder in noted}
        states = jobs.states(known.values())
        if states is None:
            raise ValueError("cluster=slurm needs an answer of SLURM, squeue gives none")
        return {path: job for path, job in known.items() if states.get(job, "FAILED") not in ENDED}

    def _submit(self, cells: Sequence[Cell]) -> list[Any]:
        """The jobs, in the order of the cells, noted for whoever looks."""
        from hydra.core.singleton import Singleton
        from submitit.core.utils import FailedJobError

        state = Singleton.get_state()
        calls = [
            (list(cell.overrides), "hydra.sweep.dir", number, str(number), state)
            for number, cell in enumerate(cells)
        ]
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what it raises
                arguments = zip(*calls, strict=True)
                submitted = self._executor().map_array(Call(self.launcher), *arguments)
        except FailedJobError as error:
            why = str(error).splitlines()[0].removeprefix("sbatch: error: ")
            raise ValueError(f"SLURM refuses the jobs: {why}") from error
        root = cells[0].config.run.dir
        jobs.note(root, map(_noted, submitted, cells))
        return submitted

    def _executor(self) -> Any:
        """submitit's, with what stands under ``hydra.launcher``."""
        import submitit
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

        settings = dict(self.launcher.params)
        shared = {f.name for f in fields(BaseQueueConf)}
        executor = submitit.AutoExecutor(
            settings.pop("submitit_folder"),
            cluster="slurm",
            slurm_max_num_timeout=settings.pop("max_num_timeout"),
        )
        named = {n if n in shared else f"slurm_{n}": value for n, value in settings.items()}
        executor.update_parameters(**named)
        return executor

    def _ended(
        self, waiting: Mapping[str, Any], sleep: Callable[[float], None] = time.sleep
    ) -> Iterator[tuple[str, Outcome]]:
        """Each job with what it left, as it ends. One that is out of the queue and has left nothing
        on two looks was lost: cancelled, or ended by the cluster."""
        left, suspects, pause = dict(waiting), set[str](), 1.0
        while left:
            for name, job in list(left.items()):
                if job.paths.result_pickle.exists():
                    del left[name]
                    yield name, _result(job)
            states = jobs.states(left)
            if states is not None:
                gone = {name for name in left if states.get(name, "ENDED") in {*ENDED, "ENDED"}}
                for name in gone & suspects:
                    yield name, _lost(left.pop(name), states.get(name, "unknown"))
                suspects = gone
            if left:
                sleep(max(pause, GRACE) if suspects else pause)
                pause = min(1.5 * pause, PAUSE)


def _noted(job: Any, cell: Cell) -> Job:
    """A job as the list of jobs has it."""
    folder = cell.run.folder.relative_to(cell.config.run.dir)
    return Job(job.job_id, str(folder), {"choices": cell.choices, **cell.run.metadata})


def _result(job: Any) -> Outcome:
    from submitit.core.utils import pickle_load

    kind, value = pickle_load(job.paths.result_pickle)
    if kind == "success":
        return value
    last = str(value).strip().splitlines()[-1]
    return Outcome(failures=[("", f"{last} [{job.paths.stderr}]", 1)])


def _lost(job: Any, state: str) -> Outcome:
    line = f"job {job.job_id} ended without a result, state {state} [{job.paths.stderr}]"
    return Outcome(failures=[("", line, 1)])
