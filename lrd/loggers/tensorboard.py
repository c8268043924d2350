"""TensorBoard's event files. The package tensorboard is imported only when a run enables it."""

import shutil
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from lrd.loggers.base import Logger, Metrics

FOLDER = "tensorboard"


class TensorBoardLogger(Logger):
    """Write ``tensorboard/`` in the run directory: metrics and images by epoch, ``steps/...`` by
    step.

    A start writes the whole run again, so that a resumed run has each epoch once.
    """

    def __init__(self, metadata: Metrics, folder: Path) -> None:
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        self.writer = SummaryWriter(str(folder / FOLDER))

    def on_step_metrics(self, metrics: Metrics) -> None:
        for name in metrics.keys() - {"epoch", "step"}:
            self.writer.add_scalar(f"steps/{name}", metrics[name], metrics["step"])

    def on_epoch(self, metrics: Metrics) -> None:
        for name in metrics.keys() - {"epoch"}:
            self.writer.add_scalar(name, metrics[name], metrics["epoch"])
        self.writer.flush()

    def on_images(self, epoch: int, images: dict[str, Any]) -> None:
        for name, image in images.items():
            self.writer.add_image(f"pictures/{name}", image, epoch)

    def close(self, summary: Metrics) -> None:
        self.writer.close()
