"""One run from its configuration to its record: start it, resume it, or return it if finished."""

import json
import logging
import shlex
import time
import traceback
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from lrd.config import Config
from lrd.config.fingerprint import FOLDER_DATASETS
from lrd.loggers import ConsoleLogger, ImageLogger, JSONLLogger, Logger, StepLogger, replay
from lrd.runs import (
    Interrupted,
    RankLost,
    Run,
    RunLocked,
    RunStore,
    StopSignals,
    TrainingFailed,
    run_lock,
)
from lrd.runs.labels import experiment_names
from lrd.runs.store import describe_os_error, summarize
from lrd.training.builder import build, build_task, build_trainer, check_eval, resolve_loggers
from lrd.training.checkpoint import (
    BestWeights,
    CheckpointError,
    CheckpointWriter,
    load_checkpoint,
)
from lrd.training.distributed import DistributedContext, describe_error, init_distributed
from lrd.training.environment import describe_environment
from lrd.training.trainer import Trainer

log = logging.getLogger(__name__)


def execute(config: Config, choices: dict[str, str], command: str = "") -> Run:
    """Execute the run of ``config``: return it if finished, resume it, or start it.

    Args:
        config: The checked configuration.
        choices: The name picked in each group, for the record.
        command: The command line of this run alone, for the record.

    Raises:
        ValueError: A user's mistake, before anything is written, or a damaged file of the run.
        RunLocked: Another process works on the run.
        Interrupted: A signal stopped the run; the same command resumes it.
        RankLost: This rank failed alone, or another one is lost; the same command resumes.
        RankFailed: Another rank failed, and all ranks know it.
        FloatingPointError: A loss is not finite.
        TrainingFailed: A step raised a ValueError.
        OSError: A file cannot be written; what was written before is complete.
    """
    ranks = init_distributed(gpus=config.train.device != "cpu" and torch.cuda.is_available())
    try:
        return _execute(config, choices, command, ranks)
    except Exception as error:
        if ranks.is_peer_lost(error):
            raise RankLost(ranks.rank) from error
        if ranks.fails_alone(error):
            raise RankLost(ranks.rank, f"failed ({describe_error(error)})") from error
        raise


def _execute(
    config: Config, choices: dict[str, str], command: str, ranks: DistributedContext
) -> Run:
    store = ranks.on_all_ranks(lambda: RunStore(config))
    if ranks.on_rank_zero(lambda: store.is_finished):
        ranks.on_rank_zero(lambda: _require_same_data(store))
        log.info(f"finished already: {store.folder} (run.force=true runs it again)")
        ranks.on_rank_zero(lambda: _note_other_evaluation(store.run, config))
        return ranks.on_rank_zero(lambda: _log_finished(store.run, config, choices))
    ranks.on_all_ranks(store.require_same_code)
    resumes = not config.run.force and ranks.on_rank_zero(store.checkpoint.exists)
    recorded = ranks.on_rank_zero(lambda: store.run.metadata) if resumes else None
    parts = ranks.on_all_ranks(lambda: build(config, ranks))
    try:
        with StopSignals() as signals, ExitStack() as held:
            ranks.on_rank_zero(lambda: held.enter_context(run_lock(store.folder)))
            if ranks.on_rank_zero(lambda: store.refresh() and store.is_finished):
                log.info(f"finished meanwhile by another process: {store.folder}")
                return ranks.on_rank_zero(lambda: store.run)
            if config.run.force:
                ranks.on_rank_zero(store.delete_outputs)
            trainer, implementation = ranks.on_all_ranks(
                lambda: build_trainer(config, parts, recorded, ranks)
            )
            computed = {
                "precision": parts.precision,
                "implementation": implementation,
            }
            return _RunSession(store, trainer, computed, signals).run(choices, command)
    except OSError as error:
        raise OSError(describe_os_error(error, store.folder)) from error


def _require_same_data(store: RunStore) -> None:
    """Reject a finished run of other data than there are now, where they are at hand."""
    if store.run.metadata.get("data_manifest") is None:
        return
    try:
        found = build_task(store.config).manifest()
    except (ValueError, OSError):  # data are missing: nothing says that they differ
        return
    _compare_data(store.run, found)


def _compare_data(run: Run, found: str | None) -> None:
    """Raise ValueError if a run was made with other data than ``found``, a manifest."""
    recorded = run.metadata.get("data_manifest")
    if recorded is not None and recorded != found:
        state = "finished" if run.status == "finished" else "unfinished"
        is_folder = run.metadata["config"]["dataset"]["_target_"] in FOLDER_DATASETS
        name = "dataset.name" if is_folder else "run.name"
        raise ValueError(
            f"{run.folder} is {state}, with other data (then {recorded}, now {found}): restore "
            f"them, or keep both runs by {name}=NAME, or replace this one by run.force=true"
        )


def _note_other_evaluation(run: Run, config: Config) -> None:
    """Name the command that scores a finished run with the evaluation settings of ``config``.

    Raises:
        ValueError: The task has no such evaluation.
    """
    recorded = {"base_size": None, **run.metadata["config"].get("eval", {})}
    requested = asdict(config.eval)
    changed = [
        f"eval.{name}={json.dumps(requested[name]).strip(chr(34)).replace(' ', '')}"
        for name in ("mode", "final_mode", "scales", "base_size")
        if name in recorded and recorded[name] != requested[name]
    ]
    if changed:
        check_eval(config.eval, build_task(config))
        command = shlex.join(["python", "scripts/evaluate.py", str(run.folder), *changed])
        log.info(f"note: it was scored with other eval settings; these: {command}")


def _batch_norm_kind(model: nn.Module, world: int) -> str:
    """Return over what batch norm takes its statistics."""
    local = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not isinstance(module, nn.SyncBatchNorm)
    ]
    return f"over shards of {world} ranks" if local and world > 1 else "over the batch"


def _open_chosen_loggers(run: Run, config: Config) -> list[Logger]:
    """Open the loggers of ``logger=`` and pass them what the run directory holds."""
    metadata = {**run.metadata, "config": asdict(config)}
    loggers = [make(metadata, run.folder) for make in resolve_loggers(config).values()]
    for logger in loggers:
        replay(logger, run.folder)
    return loggers


def _log_finished(run: Run, config: Config, choices: dict[str, str]) -> Run:
    """Record a further experiment that requests a finished run, and log the run if a logger is
    chosen that has not logged it, whose folder has the logger's name."""
    requested, names = experiment_names(run.metadata, choices), resolve_loggers(config)
    is_recorded = requested == run.metadata.get("experiments", [])
    if not names or (is_recorded and all((run.folder / name).is_dir() for name in names)):
        return run
    with suppress(RunLocked), run_lock(run.folder):
        run = run.update(experiments=requested)
        for logger in _open_chosen_loggers(run, config):
            logger.close({name: run.metadata[name] for name in ("status", "final", "best")})
    return run


@dataclass
class _RunSession:
    """A run while this process holds its lock."""

    store: RunStore
    trainer: Trainer
    computed: dict[str, str]
    signals: StopSignals

    def run(self, choices: dict[str, str], command: str) -> Run:
        self.ranks = self.trainer.ranks
        run = self.ranks.on_rank_zero(lambda: self.store.run)
        environment = describe_environment(self.trainer.device, **self.computed)
        environment["ranks"] = self.ranks.world
        environment["batch_norm"] = _batch_norm_kind(self.trainer.model, self.ranks.world)
        self.identity = run.identity
        manifest = self.ranks.on_all_ranks(self.trainer.task.manifest)
        self.writer = CheckpointWriter(background=self.trainer.device.type == "cuda")
        self.best: BestWeights | None = None
        kept = None
        if self.store.checkpoint.exists():
            self.ranks.on_all_ranks(lambda: _compare_data(run, manifest))
            kept = self.ranks.on_all_ranks(lambda: self._resume(run, environment))
        if self.store.config.run.keep == "best":
            self.best = BestWeights(self.trainer.model, self.trainer.task.score, kept)
        self._schedule_save()
        score = self.trainer.task.score
        run = Run(run.folder, {k: v for k, v in run.metadata.items() if k != "error"})
        fields = dict(
            status="running",
            started=run.metadata.get("started", _now()),
            command=command,
            choices=choices,
            experiments=experiment_names(run.metadata, choices),
            scale=self.store.config.scale,
            score={"name": score.name, "maximize": score.maximize, "unit": score.unit},
            data=self.trainer.task.describe(),
            data_manifest=manifest,
            **environment,
        )
        run = self.ranks.on_rank_zero(lambda: run.update(**fields))
        self.trainer.on_step_end, self.trainer.on_epoch_end = self._on_step_end, self._on_epoch_end
        return self._train(run)

    def _resume(self, run: Run, environment: dict[str, Any]) -> dict[str, Any] | None:
        """Load the checkpoint; return what is known of the best epoch."""
        path = self.store.checkpoint
        state = load_checkpoint(path, self.identity)
        try:
            self.trainer.load_state_dict(state)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} does not fit this version of the code ({_first_line(error)}): delete it "
                "or pass run.force=true to restart the run"
            ) from error
        at = self.trainer.state
        log.info(f"resuming after epoch {at.epoch}, step {at.step}: {run.folder}")
        for name in (
            "device",
            "threads",
            "versions",
            "ranks",
            "batch_norm",
            "matmul",
            *self.computed,
        ):
            now = environment.get(name, "default")
            if name in run.metadata and run.metadata[name] != now:
                log.info(
                    f"note: {name} was {run.metadata[name]}, is {now}: the numbers "
                    "agree up to floating-point error, not bitwise"
                )
        score = self.trainer.task.score
        lines = [line for line in run.metrics[: at.epoch] if score.name in line]
        if "best" in state or not lines:
            return state.get("best")
        best = summarize(lines, {"name": score.name, "maximize": score.maximize})["best"]
        return {"epoch": best["epoch"], "score": best["value"], "model": None}

    def _on_step_end(self, trainer: Trainer) -> None:
        """Save if a signal asks the run to stop, or if it is time: 0, below every signal."""
        is_due = time.monotonic() >= self.next_save
        signal = self.ranks.all_reduce_max(self.signals.signal or (0 if is_due else None))
        if signal is not None:
            self._save()
        if signal:
            self.ranks.on_rank_zero(self.writer.wait)
            raise Interrupted(signal)

    def _on_epoch_end(self, trainer: Trainer) -> None:
        every = self.store.config.train.checkpoint_every
        if trainer.finished or (every and trainer.state.epoch % every == 0):
            self._save()
        self._on_step_end(trainer)

    def _schedule_save(self) -> None:
        self.next_save = time.monotonic() + 60 * self.store.config.train.checkpoint_minutes

    def _save(self) -> None:
        is_full = not self.trainer.finished or self.store.config.run.keep == "last"
        state = self.trainer.state_dict(full=is_full)
        self.ranks.on_rank_zero(lambda: self._write(state))
        self._schedule_save()

    def _write(self, state: dict[str, Any]) -> None:
        """Write the checkpoint, with the best weights; a finished run has these in best.pt."""
        best = self.best.kept if self.best else None
        if best is not None and best["model"] is not None:
            if self.trainer.finished:
                self.writer.write(self.store.folder / "best.pt", best, self.identity)
            else:
                state = {**state, "best": best}
        self.writer.write(self.store.checkpoint, state, self.identity)

    def _train(self, run: Run) -> Run:
        trainer = self.trainer
        outcome: dict[str, Any] = {"status": "failed"}
        trains = False
        try:
            self.ranks.on_rank_zero(lambda: self._open_loggers(run))
            trains = True
            trainer.run()
            run = self.ranks.on_rank_zero(lambda: self._finish(run))
            outcome = {name: run.metadata[name] for name in ("status", "final", "best")}
            return run
        except (Interrupted, KeyboardInterrupt):
            outcome = {"status": "interrupted"}
            self._update(run, **outcome)
            raise
        except Exception as error:
            if self.ranks.is_peer_lost(error):
                outcome = {"status": "interrupted"}
                self._update(run, **outcome)
                raise
            self._record_failure(error, run)
            if trains and isinstance(error, ValueError):  # neither command nor files are wrong
                raise TrainingFailed(str(error)) from error
            raise
        finally:
            self.writer.close()
            trainer.task.close()
            for logger in trainer.loggers:
                logger.close(outcome)

    def _open_loggers(self, run: Run) -> None:
        """Open the loggers; only rank zero logs."""
        trainer, config = self.trainer, self.store.config
        trainer.loggers = [
            JSONLLogger(run.folder / "metrics.jsonl", trainer.state.epoch),
            ConsoleLogger(
                trainer.steps,
                trainer.task.steps_per_epoch,
                trainer.task.score.name,
                done=trainer.state.total,
            ),
            ImageLogger(run.folder),
        ]
        if self.best is not None:
            trainer.loggers.append(self.best)
        steps = run.folder / "steps.jsonl"
        if config.log.every_steps or steps.exists():
            trainer.loggers.append(StepLogger(steps, trainer.state.total))
        trainer.loggers += _open_chosen_loggers(run, config)

    def _finish(self, run: Run) -> Run:
        self.writer.wait()
        scores = summarize(run.metrics, run.metadata["score"])
        (run.folder / "error.txt").unlink(missing_ok=True)
        finished = run.update(status="finished", **scores, ended=_now())
        if self.store.config.run.keep == "none":
            self.store.checkpoint.unlink()
        if self.best is not None and not (run.folder / "best.pt").exists():
            log.info(
                f"note: no best.pt, as epoch {scores['best']['epoch']} was before run.keep=best"
            )
        return finished

    def _update(self, run: Run, **fields: Any) -> None:
        """Update the record on rank zero, without communication: other ranks may be lost."""
        if self.ranks.is_rank_zero:
            run.update(**fields)

    def _record_failure(self, error: Exception, run: Run) -> None:
        """Record why a run failed, if the disk has room for it."""
        if not (self.ranks.is_rank_zero or self.ranks.fails_alone(error)):
            return
        try:
            (run.folder / "error.txt").write_text("".join(traceback.format_exception(error)))
            reason = str(error) or type(error).__name__
            self._update(run, status="failed", error=reason, ended=_now())
        except OSError:
            pass


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
