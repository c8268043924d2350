"""One run from its configuration to its record: found done, gone on with, or begun."""

import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from lrd import checkpoint, machine, provenance
from lrd.build import parts, trainer
from lrd.columns import experiments
from lrd.config import Config
from lrd.dashboard import Wandb, mirror
from lrd.interrupt import Interrupted, RankLost, Requests
from lrd.lock import NAME, locked
from lrd.log import Console, JsonLines, Pictures
from lrd.ranks import Ranks, join
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
        RankLost: of several ranks another one is gone; the same command goes on from the last save.
        FloatingPointError: the loss is not finite any more.
        OSError: a file cannot be written; what was written before is whole.
    """
    ranks = join(gpus=config.train.device != "cpu" and torch.cuda.is_available())
    if not ranks.first:
        say = _silent
    if (done := ranks.once(lambda: _finished(config))) is not None:
        say(f"finished already: {done.folder} (run.force=true runs it anew)")
        return ranks.once(lambda: mirror(done, config.wandb, choices))
    before = ranks.once(lambda: _before(config, ranks))
    folder = open_run(config).folder
    built, computed = ranks.everywhere(lambda: parts(config, before, ranks))
    try:
        with Requests() as requests, ExitStack() as held:
            ranks.once(lambda: held.enter_context(locked(folder)))
            if (done := ranks.once(lambda: _finished(config))) is not None:
                say(f"finished meanwhile by another process: {done.folder}")
                return done
            if config.run.force:
                ranks.once(lambda: _clear(config))
            made, computed["implementation"] = ranks.everywhere(
                lambda: trainer(config, built, before, say)
            )
            return _Session(config, made, computed, requests).run(choices, say)
    except OSError as error:
        raise OSError(
            f"{error.filename or folder}: {error.strerror}; what was written before is whole: make "
            "room there, or choose another run.dir, and run the same command again"
        ) from error


def _silent(line: str) -> None:
    """What all ranks would say, the first says."""


def _before(config: Config, ranks: Ranks) -> dict[str, Any] | None:
    """What the run's record, if it goes on, decides; and what one rank measures for all of them."""
    place = open_run(config)
    goes_on = (place.folder / "last.pt").exists() and not config.run.force
    before = place.record if goes_on else None
    if ranks.several:
        _, matmul = machine.prepare(config, before)
        before = {**(before or {}), "matmul": matmul}
    return before


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
        self.ranks = self.trainer.ranks
        place = self.ranks.once(lambda: open_run(self.config))
        now = provenance.describe(self.trainer.device, **self.computed)
        now["ranks"] = self.ranks.world
        self.last = place.folder / "last.pt"
        self.identity = place.identity
        if self.last.exists():
            self._resume(place, now, say)
        score = self.trainer.task.score
        place = Run(place.folder, {k: v for k, v in place.record.items() if k != "error"})
        news = dict(
            status="running",
            started=place.record.get("started", _now()),
            choices=choices,
            experiments=experiments(place.record, choices),
            scale=self.config.scale,
            score={"name": score.name, "maximize": score.maximize, "unit": score.unit},
            data=self.trainer.task.describe(),
            **now,
        )
        place = self.ranks.once(lambda: place.write(**news))
        self.trainer.safe_point, self.trainer.after_epoch = self._safe_point, self._after_epoch
        return self._train(place)

    def _resume(self, place: Run, now: dict[str, Any], say: Say) -> None:
        device = self.trainer.device
        self.trainer.load(checkpoint.load(self.last, device, self.identity))
        at = self.trainer.progress
        say(f"going on after epoch {at.epoch}, step {at.step}: {place.folder}")
        for name in ("device", "threads", "versions", "ranks", *self.computed):
            if name in place.record and place.record[name] != now[name]:
                say(
                    f"note: {name} was {place.record[name]}, is {now[name]}: "
                    "the numbers agree to rounding, not to the bit"
                )

    def _safe_point(self, trainer: Trainer) -> None:
        received = self.ranks.largest(self.requests.received)
        if received is not None:
            self._save()
            raise Interrupted(received)

    def _after_epoch(self, trainer: Trainer) -> None:
        if trainer.finished or trainer.progress.epoch % self.config.train.checkpoint_every == 0:
            self._save()
        self._safe_point(trainer)

    def _save(self) -> None:
        state = self.trainer.state()
        self.ranks.once(lambda: checkpoint.save(self.last, state, self.identity))

    def _train(self, place: Run) -> Run:
        trainer = self.trainer
        self.ranks.once(lambda: self._open_sinks(place))
        outcome: dict[str, Any] = {"status": "failed"}
        try:
            trainer.run()
            place = self.ranks.once(lambda: self._finish(place))
            outcome = {name: place.record[name] for name in ("status", "final", "best")}
            return place
        except (Interrupted, KeyboardInterrupt):
            outcome = {"status": "interrupted"}
            self._write(place, **outcome)
            raise
        except Exception as error:
            if self.ranks.lost(error):
                outcome = {"status": "interrupted"}
                self._write(place, **outcome)
                raise RankLost(self.ranks.rank) from error
            self._record(error, place)
            raise
        finally:
            trainer.task.close()
            for sink in trainer.sinks:
                sink.close(outcome)

    def _open_sinks(self, place: Run) -> None:
        """Of several ranks the first alone logs."""
        trainer = self.trainer
        lines = JsonLines(place.folder / "metrics.jsonl", trainer.progress.epoch)
        console = Console(trainer.epochs, trainer.task.steps_per_epoch)
        trainer.sinks = [lines, console, Pictures(place.folder)]
        if self.config.wandb.mode != "disabled":
            trainer.sinks += [Wandb(place.record, place.folder, self.config.wandb)]

    def _finish(self, place: Run) -> Run:
        outcome = summary(place.metrics, place.record["score"])
        (place.folder / "error.txt").unlink(missing_ok=True)
        return place.write(status="finished", **outcome, ended=_now())

    def _write(self, place: Run, **news: Any) -> None:
        """By the first rank, without a word with the others, who may be gone."""
        if self.ranks.first:
            place.write(**news)

    def _record(self, error: Exception, place: Run) -> None:
        """Note why a run failed; on a full disk there may be no room for that."""
        if not self.ranks.first:
            return
        try:
            (place.folder / "error.txt").write_text("".join(traceback.format_exception(error)))
            place.write(status="failed", error=str(error) or type(error).__name__, ended=_now())
        except OSError:
            pass


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
