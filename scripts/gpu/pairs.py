"""Real runs in pairs, LRD and its base, at the longest length at which both fit into the time."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lrd.config.compose import compose, to_config
from lrd.config.schema import Config
from lrd.runs.store import RunStore
from scripts.gpu.parts import Deadline, Record, portable, run_limited

OPTIMIZERS = ("sgdm", "adam")  # of the pairs, the one of greatest value first
KEEP = (0.5, 1)  # p of LRD, and of its base
SAVING = 10.0  # seconds in which a run that is asked to end may save its state
PLANNED = 0.9  # the share of the time that is planned: no epoch takes exactly as long as another
_log = logging.getLogger(__name__)


def longest(seconds: float, startup: float, epoch: float, most: int) -> int:
    """Return how many epochs, at most ``most``, each of two runs has in ``seconds`` together."""
    return max(0, min(most, int((PLANNED * seconds / 2 - startup) / epoch)))


def run_pairs(overrides: Sequence[str], folder: Path, deadline: Deadline, record: Record) -> None:
    """Train pairs until the time is over.

    An unfinished pair of the record is resumed first, at its length. Another begins only if its two
    runs have time for an epoch each. The record holds both runs of a pair, ``counts``: whether
    both are finished, without which neither says anything, and ``comparable``: whether they have
    all epochs and images, as the paper's curves.
    """
    for pair in record.pairs:
        if not pair["counts"]:
            _train(pair, overrides, folder, deadline, record)
    for optimizer in OPTIMIZERS[len(record.pairs) :]:
        config = to_config(compose([*overrides, f"optim={optimizer}"]))
        full = config.train.epochs
        timed = record.parts["epochs"]["result"]
        seconds = deadline.left - 2 * SAVING
        epochs = longest(seconds, timed["startup_seconds"], timed["epoch_seconds"], full)
        if not epochs:
            _log.info("no time for a pair of %s", optimizer)
            return
        pair: dict[str, Any] = {
            "optimizer": optimizer,
            "epochs": epochs,
            "of_epochs": full,
            "images": config.dataset.get("subset") or "all",
            "counts": False,
            "comparable": epochs == full and not config.dataset.get("subset"),
            "runs": {},
        }
        record.pairs.append(pair)
        _train(pair, overrides, folder, deadline, record)


def _train(
    pair: dict[str, Any],
    overrides: Sequence[str],
    folder: Path,
    deadline: Deadline,
    record: Record,
) -> None:
    """Train, or resume, both runs of a pair; what is left of the time is theirs in equal parts."""
    for number, p in enumerate(KEEP):
        own = [
            *overrides,
            f"optim={pair['optimizer']}",
            f"lrd.p={p}",
            f"train.epochs={pair['epochs']}",
        ]
        config = to_config(compose([*own, f"run.dir={folder}"]))
        if not RunStore(config).is_finished:
            own = ["run.py", *own, f"run.dir={portable(folder)}"]
            log = folder.with_name(f"{pair['optimizer']}_{p}.log")
            pair["runs"][str(p)] = {"state": "running"}
            record.write()
            _log.info("%s, p = %s: %d epochs", pair["optimizer"], p, pair["epochs"])
            limit = deadline.left / (len(KEEP) - number)
            pair["runs"][str(p)] = asdict(run_limited(own, limit, log, SAVING))
        pair["runs"][str(p)] |= _scores(config)
        record.write()
    pair["counts"] = all(run["status"] == "finished" for run in pair["runs"].values())
    record.write()


def _scores(config: Config) -> dict[str, Any]:
    run = RunStore(config).run
    return {
        "status": run.status,
        "folder": str(run.folder.relative_to(config.run.dir)),
        "final": run.final if run.status == "finished" else None,
    }


def describe_pair(pair: dict[str, Any]) -> str:
    """Return a pair's result, or how far it is, in one line."""
    length = f"{pair['optimizer']}, {pair['epochs']} of {pair['of_epochs']} epochs"
    if pair["images"] != "all":
        length += f", a subset of {pair['images']} images"
    if not pair["counts"]:
        return f"{length}: unfinished, and counts for nothing; the same command resumes it"
    scores = ", ".join(f"p = {p}: {run['final']:.4g}" for p, run in pair["runs"].items())
    note = "" if pair["comparable"] else " (not to be compared with the paper's curves)"
    return f"{length}: {scores}{note}"
