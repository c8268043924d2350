"""One run from its configuration to its record: found done, gone on with, or begun."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lrd import checkpoint, provenance
from lrd.build import parts, trainer
from lrd.config import Config
from lrd.interrupt import Interrupted, Requests
from lrd.lock import NAME, locked
from lrd.log import Console, JsonLines, Pictures, Wandb
from lrd.runs import Run, open_run, summary
from lrd.train import Trainer

Say = Callable[[str], None]


def run(config: Config, choices: dict[str, str], say: Say) -> Run:
    """Do the run that ``config`` describes, or find it done, or go on with what is there of it.

    ``choices`` are the names picked in each group, for the record; ``say`` takes one line of text.

    Raises:
        ValueError: a user's mistake, before anything is written, or a damaged file of the run.
        Busy: another process works on the run.
        Interrupted: a signal asked to stop; the same command goes on where this one ended.
        FloatingPointError: the loss is not finite any more.
        OSError: a file cannot be written; what was written before is whole.
    """
    if (done := _finished(config)) is not None:
        say(f"finished already: {done.folder} (run.force=true runs it anew)")
        return done
    place = open_run(config)
    folder = place.folder
    before = place.record if (folder / "last.pt").exists() and not config.run.force else None
    built, computed = parts(config, before)
    try:
        with Requests() as requests, locked(folder):
            if (done := _finished(config)) is not None:
                say(f"finished meanwhile by another process: {done.folder}")
                return done
            if config.run.force:
                _clear(config)
            made, computed["implementation"] = trainer(config, built, before, say)
            return _Session(config, made, computed, requests).run(choices, say)
    except OSError as error:
        raise OSError(
            f"{error.filename or folder}: {error.strerror}; what was written before is whole: make "
            "room there, or choose another run.dir, and run the same command again"
        ) from error


def _finished(config: Config) -> Run | None:
    place = open_run(config)
    return place if place.status == "finished" and not config.run.force else None


def _clear(config: Config) -> None:
    """Remove what is there of a run, but for the lock that is held on it."""
    for path in open_run(config).folder.iterdir():
        if path.is_file() and path.name != NAME:
            path.unlink()


@dataclass
class _Session:
    config: Config
    trainer: Trainer
    computed: dict[str, str]
    requests: Requests

    def run(self, choices: dict[str, str], say: Say) -> Run:
        place = open_run(self.config)
        now = provenance.describe(self.trainer.device, **self.computed)
        self.last = place.folder / "last.pt"
        self.identity = place.identity
        if self.last.exists():
            self._resume(place, now, say)
        score = self.trainer.task.score
        place = Run(place.folder, {k: v for k, v in place.record.items() if k != "error"})
        place = place.write(
            status="running",
            started=place.record.get("started", _now()),
            choices=choices,
            scale=self.config.scale,
            score={"name": score.name, "maximize": score.maximize, "unit": score.unit},
            data=self.trainer.task.describe(),
            **now,
        )
        self.trainer.safe_point, self.trainer.after_epoch = self._safe_point, self._after_epoch
        return self._train(place)

    def _resume(self, place: Run, now: dict[str, Any], say: Say) -> None:
        device = self.trainer.device
        self.trainer.load(checkpoint.load(self.last, device, self.identity))
        at = self.trainer.progress
        say(f"going on after epoch {at.epoch}, step {at.step}: {place.folder}")
        for name in ("device", "threads", "versions", *self.computed):
            if name in place.record and place.record[name] != now[name]:
                say(
                    f"note: {name} was {place.record[name]}, is {now[name]}: "
                    "the numbers agree to rounding, not to the bit"
                )

    def _safe_point(self, trainer: Trainer) -> None:
        if self.requests.received is not None:
            self._save()
            raise Interrupted(self.requests.received)

    def _after_epoch(self, trainer: Trainer) -> None:
        if trainer.finished or trainer.progress.epoch % self.config.train.checkpoint_every == 0:
            self._save()
        self._safe_point(trainer)

    def _save(self) -> None:
        checkpoint.save(self.last, self.trainer.state(), self.identity)

    def _train(self, place: Run) -> Run:
        trainer = self.trainer
        lines = JsonLines(place.folder / "metrics.jsonl", trainer.progress.epoch)
        console = Console(trainer.epochs, trainer.task.steps_per_epoch)
        trainer.sinks = [lines, console, Pictures(place.folder)]
        if self.config.wandb.mode != "disabled":
            trainer.sinks += [Wandb(place.record, place.folder)]
        outcome: dict[str, Any] = {"status": "failed"}
        try:
            trainer.run()
            outcome = {"status": "finished", **summary(place.metrics(), place.record["score"])}
            (place.folder / "error.txt").unlink(missing_ok=True)
            return place.write(**outcome, ended=_now())
        except (Interrupted, KeyboardInterrupt):
            outcome = {"status": "interrupted"}
            place.write(**outcome)
            raise
        except Exception as error:
            self._record(error, place)
            raise
        finally:
            trainer.task.close()
            for sink in trainer.sinks:
                sink.close(outcome)

    def _record(self, error: Exception, place: Run) -> None:
        """Note why a run failed; on a full disk there may be no room for that."""
        try:
            (place.folder / "error.txt").write_text("".join(traceback.format_exception(error)))
            place.write(status="failed", error=str(error) or type(error).__name__, ended=_now())
        except OSError:
            pass


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
