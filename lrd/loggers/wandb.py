"""Weights & Biases. The package wandb is imported only when a run enables it."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lrd.loggers.base import Logger, Metrics
from lrd.loggers.images import to_image
from lrd.runs.labels import experiment_names, run_labels

# Seconds that wandb may delay a run at its start and at its end, and seconds of its own log that a
# kill may lose.
LIMITS: dict[str, Any] = {
    "init_timeout": 20.0,
    "finish_timeout": 60.0,
    "finish_timeout_raises": True,
    "x_transaction_log_flush_interval": 1.0,
}
LOGIN_TIMEOUT = 20  # seconds that the prompt for an API key waits on a terminal


def limited_settings() -> Any:
    """Return wandb's own settings for a run: quiet and with limited waiting times."""
    import wandb

    known = {name: value for name, value in LIMITS.items() if name in wandb.Settings.model_fields}
    return wandb.Settings(silent=True, console="off", **known)


def unsynced_directories(folder: Path) -> list[Path]:
    """Return the directories of earlier offline starts that ``wandb sync`` has not uploaded."""
    offline = folder.glob("wandb/offline-run-*")
    return [path for path in offline if not any(path.glob("*.wandb.synced"))]


def last_synced_step(folder: Path, run_id: str) -> int:
    """Return the last step that ``wandb sync`` has uploaded from earlier starts of a wandb run."""
    steps = [0]
    for marker in folder.glob(f"wandb/offline-run-*-{run_id}/*.wandb.synced"):
        with suppress(OSError, ValueError, KeyError):  # a summary without steps: none uploaded
            summary = json.loads((marker.parent / "files/wandb-summary.json").read_bytes())
            steps.append(summary["_step"])
    return max(steps)


def wandb_id(metadata: Metrics) -> str:
    """Return a run's id at wandb: a forced run starts later, so it is a new run there."""
    started = re.sub(r"[^0-9T]", "", str(metadata.get("started", "")).partition("+")[0])
    return "-".join(filter(None, [metadata["fingerprint"], f"seed{metadata['seed']}", started]))


class WandbLogger(Logger):
    """Mirror a run to Weights & Biases; a failure there is one warning and does not stop the run.

    Every start is passed what the run directory holds, and sends what wandb lacks. So wandb has
    each epoch once, at the step at which it ended, however often the run was killed, and whatever
    wandb's service lost with it. A start replaces earlier offline starts that were not synced,
    because ``wandb sync`` would append its epochs to theirs. If wandb is unreachable, the run is
    logged offline.

    Args:
        metadata: The run's metadata, with ``config.wandb`` of this start.
        folder: The run directory.
    """

    def __init__(self, metadata: Metrics, folder: Path) -> None:
        self.metadata, self.folder = metadata, folder
        self.settings = metadata["config"]["wandb"]
        self.run: Any = None
        self.last_step = 0  # that wandb has
        self.summary: dict[str, dict[str, float]] = {}
        self.images: dict[str, Any] = {}  # of the epoch that is logged next
        self.replaced: list[Path] = []
        self._try(self._start)

    def on_step_metrics(self, metrics: Metrics) -> None:
        named = {n if n == "step" else f"steps/{n}": x for n, x in metrics.items() if n != "epoch"}
        if self.run is not None and metrics["step"] > self.last_step:
            # Committed with the next step: an epoch may end at this one.
            self._try(lambda: self.run.log(named, step=metrics["step"], commit=False))

    def on_epoch(self, metrics: Metrics) -> None:
        if self.run is not None:
            self._try(lambda: self._log(metrics))
            self._delete_replaced()

    def on_images(self, epoch: int, images: dict[str, Any]) -> None:
        self.images = images

    def close(self, summary: Metrics) -> None:
        def finish() -> None:
            self.run.summary.update({**self.summary, **summary})
            self.run.finish(exit_code=0 if summary.get("status") == "finished" else 1)

        if self.run is not None:
            self._try(finish)
            self._delete_replaced()

    def _start(self) -> None:
        mode = self.settings["mode"]
        try:
            self._open(mode)
        except Exception as error:
            if mode != "online":
                raise
            self._abandon()
            self._warn(f"wandb logs offline, for `wandb sync {self.folder}/wandb`", error)
            self._open("offline")

    def _open(self, mode: str) -> None:
        import wandb

        metadata, settings, score = self.metadata, self.settings, self.metadata["score"]
        labels, before = run_labels(metadata), unsynced_directories(self.folder)
        experiments = experiment_names(metadata, metadata["choices"])
        if mode == "online" and not wandb.login(timeout=LOGIN_TIMEOUT):
            raise ConnectionError("no key (`wandb login` asks for one)")
        self.run = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            project=settings["project"],
            entity=settings["entity"],
            group=settings["group"] or metadata["fingerprint"],
            job_type="train",
            tags=list(dict.fromkeys([*settings["tags"], *experiments])),
            id=wandb_id(metadata),
            resume="allow",
            name="{dataset} {optimizer} {arm} p={p:g} seed {seed}".format(**labels),
            config=labels | {"choices": metadata["choices"], "settings": metadata["config"]},
            dir=str(self.folder),
            settings=limited_settings(),
        )
        self.replaced = [path for path in before if path != Path(self.run.dir).parent]
        known = self.run.starting_step - 1 if self.run.resumed else 0
        offline = last_synced_step(self.folder, wandb_id(metadata))
        self.last_step = known if mode == "online" else offline
        self.run.define_metric("epoch")
        self.run.define_metric("*", step_metric="epoch")
        self.run.define_metric("steps/*", step_metric="step")
        self.extremes = {score["name"]: "max" if score["maximize"] else "min"}

    def _log(self, metrics: Metrics) -> None:
        import wandb

        for name, value in metrics.items():
            extreme = self.extremes.get(name, "min" if name.endswith("loss") else None)
            if extreme is None:
                continue
            if name not in self.summary:
                self.run.define_metric(name, step_metric="epoch", summary=f"{extreme},last")
            # A resumed wandb run does not know earlier epochs, so its summary is computed here.
            pick = max if extreme == "max" else min
            best = pick(value, self.summary.get(name, {}).get(extreme, value))
            self.summary[name] = {extreme: best, "last": value}
        images, self.images = self.images, {}
        if metrics["step"] > self.last_step:
            drawn = {f"pictures/{n}": wandb.Image(to_image(x)) for n, x in images.items()}
            self.run.log({**metrics, **drawn}, step=metrics["step"], commit=True)

    def _delete_replaced(self) -> None:
        """Delete earlier offline starts, of which this one has every epoch."""
        while self.run is not None and self.replaced:
            shutil.rmtree(self.replaced.pop(), ignore_errors=True)

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:
            self._abandon()
            self._warn("wandb is disabled for this run", error)

    def _abandon(self) -> None:
        """End wandb's run and service, or the next run of this process would join them."""
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
