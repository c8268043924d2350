"""The interface between the training loop and whatever records its metrics."""

from typing import Any

Metrics = dict[str, Any]


class Logger:
    """Base of all loggers; every hook does nothing by default."""

    def on_step(self, epoch: int, step: int) -> None:
        """Handle the issue of a step, which the device may not have finished."""

    def on_epoch(self, metrics: Metrics) -> None:
        """Handle the end of an epoch: ``epoch`` (from 1), ``step``, losses, scores, times."""

    def on_images(self, epoch: int, images: dict[str, Any]) -> None:
        """Handle sample predictions after ``epoch``: uint8 tensors (3, h, w) by name."""

    def close(self, summary: Metrics) -> None:
        """Handle the end of the run; ``summary`` has the status, and the scores if it finished."""
