"""metrics.jsonl, the only source of scores, and steps.jsonl: a line per epoch or step."""

import json
import os
from pathlib import Path

from lrd.loggers.base import Logger, Metrics
from lrd.loggers.images import read_images
from lrd.runs.store import atomic_write, read_complete_lines


class JSONLLogger(Logger):
    """Append each epoch's metrics to metrics.jsonl.

    Opening the file truncates it to ``epochs`` lines, the epoch that a run resumes from, so that no
    epoch counts twice.
    """

    def __init__(self, path: Path, epochs: int = 0) -> None:
        kept = read_complete_lines(path)[:epochs]
        if len(kept) < epochs:
            raise ValueError(
                f"{path} has {len(kept)} epochs and the checkpoint {epochs}: "
                "run.force=true restarts the run"
            )
        self.file = path.open("r+b" if path.exists() else "wb")
        self.file.truncate(sum(map(len, kept)))
        self.file.seek(0, os.SEEK_END)

    def on_epoch(self, metrics: Metrics) -> None:
        self.file.write(json.dumps(metrics).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self, summary: Metrics) -> None:
        self.file.close()


class StepLogger(Logger):
    """Append a line to steps.jsonl for each step that ``log.every_steps`` logs.

    Opening the file drops the steps after ``step``, from which a run resumes.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        kept = [line for line in read_complete_lines(path) if json.loads(line)["step"] <= step]
        if path.exists() and path.stat().st_size > sum(map(len, kept)):
            atomic_write(path, b"".join(kept))

    def on_step_metrics(self, metrics: Metrics) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(metrics).encode() + b"\n")


def replay(logger: Logger, folder: Path) -> None:
    """Pass a logger what a run directory holds, in the order in which it was logged."""
    steps, epochs = (
        [json.loads(line) for line in read_complete_lines(folder / name)]
        for name in ("steps.jsonl", "metrics.jsonl")
    )
    for metrics in epochs:
        while steps and steps[0]["epoch"] <= metrics["epoch"]:
            logger.on_step_metrics(steps.pop(0))
        if images := read_images(folder, metrics["epoch"]):
            logger.on_images(metrics["epoch"], images)
        logger.on_epoch(metrics)
    for line in steps:
        logger.on_step_metrics(line)
