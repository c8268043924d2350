"""A run on Weights & Biases. wandb is imported when a run starts that has it switched on."""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lrd.columns import columns, experiments
from lrd.config import Wandb as Settings
from lrd.lock import Busy, locked
from lrd.log import Numbers, Sink, image, picture_path
from lrd.runs import Run, whole_lines

# Seconds: the longest that wandb may hold a run up at its start and at its end, and how much of its
# own file a kill may cost.
LIMITS: dict[str, Any] = {
    "init_timeout": 20.0,
    "finish_timeout": 60.0,
    "finish_timeout_raises": True,
    "x_transaction_log_flush_interval": 1.0,
}
LOGIN = 20  # seconds that a question for a key waits on a terminal


def bounded() -> Any:
    """wandb's settings for a run of ours: quiet, and never in the way for long."""
    import wandb

    known = {name: value for name, value in LIMITS.items() if name in wandb.Settings.model_fields}
    return wandb.Settings(silent=True, console="off", **known)


def unsent(folder: Path) -> list[Path]:
    """Folders of a run's earlier offline starts that ``wandb sync`` has not sent."""
    there = folder.glob("wandb/offline-run-*")
    return [path for path in there if not any(path.glob("*.wandb.synced"))]


def sent(folder: Path) -> int:
    """The last epoch of a run that ``wandb sync`` has sent from an earlier start of it."""
    epochs = [0]
    for marker in folder.glob("wandb/offline-run-*/*.wandb.synced"):
        with suppress(OSError, ValueError, KeyError):  # a summary without epochs: it sent none
            epochs.append(
                json.loads((marker.parent / "files/wandb-summary.json").read_bytes())["epoch"]
            )
    return max(epochs)


class Wandb(Sink):
    """Mirrors a run to Weights & Biases; what goes wrong there is one warning and no more.

    Every start sends first what metrics.jsonl and pictures/ hold and wandb has not. So each epoch
    is there once, at its own step, however often the run was killed, and whatever wandb's service
    lost with it. A start replaces the offline ones before it that were not synced: ``wandb sync``
    would put its epochs behind theirs. Where wandb cannot be reached, the run is kept offline.

    ``settings`` are ``wandb.*`` of this start, by default those of the record.
    """

    def __init__(self, record: Numbers, folder: Path, settings: Settings | None = None) -> None:
        self.record, self.folder = record, folder
        self.settings = asdict(settings) if settings else record["config"]["wandb"]
        self.run: Any = None
        self.sent = 0
        self.summary: dict[str, dict[str, float]] = {}
        self.replaced: list[Path] = []
        self._try(self._start)

    def epoch(self, numbers: Numbers) -> None:
        if self.run is not None:
            self._try(lambda: self._log(numbers))
            self._drop_replaced()

    def pictures(self, epoch: int, pictures: dict[str, Any]) -> None:
        if self.run is not None:
            self._try(lambda: self._show(epoch, {n: image(p) for n, p in pictures.items()}))

    def close(self, summary: Numbers) -> None:
        def finish() -> None:
            self.run.summary.update({**self.summary, **summary})
            self.run.finish(exit_code=0 if summary.get("status") == "finished" else 1)

        if self.run is not None:
            self._try(finish)
            self._drop_replaced()

    def _start(self) -> None:
        mode = self.settings["mode"]
        try:
            self._open(mode)
        except Exception as error:
            if mode != "online":
                raise
            self._give_up()
            self._warn(f"wandb is kept offline, for `wandb sync {self.folder}/wandb`", error)
            self._open("offline")
        for line in whole_lines(self.folder / "metrics.jsonl"):
            numbers = json.loads(line)
            there = self.folder.glob(picture_path("*", numbers["epoch"]))
            self._show(numbers["epoch"], {path.parent.name: str(path) for path in there})
            self._log(numbers)

    def _open(self, mode: str) -> None:
        import wandb

        record, settings, score = self.record, self.settings, self.record["score"]
        told, before = columns(record), unsent(self.folder)
        if mode == "online" and not wandb.login(timeout=LOGIN):
            raise ConnectionError("no key (`wandb login` asks for one)")
        self.run = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            project=settings["project"],
            entity=settings["entity"],
            group=settings["group"] or record["fingerprint"],
            job_type="train",
            tags=list(dict.fromkeys([*settings["tags"], *experiments(record, record["choices"])])),
            id=f"{record['fingerprint']}-seed{record['seed']}",
            resume="allow",
            name="{dataset} {optimizer} {arm} p={p:g} seed {seed}".format(**told),
            config=told | {"choices": record["choices"], "settings": record["config"]},
            dir=str(self.folder),
            settings=bounded(),
        )
        self.replaced = [path for path in before if path != Path(self.run.dir).parent]
        there = self.run.starting_step - 1 if self.run.resumed else 0
        self.sent = there if mode == "online" else sent(self.folder)
        self.run.define_metric("epoch")
        self.run.define_metric("*", step_metric="epoch")
        self.extremes = {score["name"]: "max" if score["maximize"] else "min"}

    def _log(self, numbers: Numbers) -> None:
        for name, value in numbers.items():
            extreme = self.extremes.get(name, "min" if name.endswith("loss") else None)
            if extreme is None:
                continue
            if name not in self.summary:
                self.run.define_metric(name, step_metric="epoch", summary=f"{extreme},last")
            # A run that wandb goes on with knows no epoch before that, so its summary is set here.
            pick = max if extreme == "max" else min
            best = pick(value, self.summary.get(name, {}).get(extreme, value))
            self.summary[name] = {extreme: best, "last": value}
        if numbers["epoch"] > self.sent:
            self.run.log(numbers, step=numbers["epoch"], commit=True)

    def _show(self, epoch: int, pictures: Mapping[str, Any]) -> None:
        import wandb

        if pictures and epoch > self.sent:
            images = {f"pictures/{name}": wandb.Image(p) for name, p in pictures.items()}
            self.run.log(images, step=epoch, commit=False)  # with the epoch's numbers, which follow

    def _drop_replaced(self) -> None:
        """Remove offline starts of which this one has every epoch."""
        while self.run is not None and self.replaced:
            shutil.rmtree(self.replaced.pop(), ignore_errors=True)

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:
            self._give_up()
            self._warn("wandb is off for this run", error)

    def _give_up(self) -> None:
        """End what there is of wandb's run and service, or the process's next run would join it."""
        broken, self.run = self.run, None
        with suppress(Exception):
            if broken is not None:
                broken.finish(exit_code=1)
        with suppress(Exception):
            import wandb

            wandb.teardown(exit_code=1)

    def _warn(self, what: str, error: Exception) -> None:
        why = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(f"{what}: {why}", RuntimeWarning, stacklevel=3)


def mirror(done: Run, settings: Settings, choices: Mapping[str, str]) -> Run:
    """Note an experiment that finds its run done, and tell wandb where that is on."""
    asked = experiments(done.record, choices)
    known = asked == done.record.get("experiments", []) and (done.folder / "wandb").is_dir()
    if settings.mode == "disabled" or known:
        return done
    with suppress(Busy), locked(done.folder):
        done = done.write(experiments=asked)
        outcome = {name: done.record[name] for name in ("status", "final", "best")}
        Wandb(done.record, done.folder, settings).close(outcome)
    return done
