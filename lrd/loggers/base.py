"""The interface between the training loop and whatever records its metrics."""

from typing import Any

Metrics = dict[str, Any]


class Logger:
    """Base of all loggers; every hook does nothing by default.

    A logger that ``logger=`` may name is constructed as ``Logger(metadata, folder, **settings)``,
    with the run's metadata, in which ``config`` is this start's, and the run directory. Every start
    first passes it all epochs, steps and images that the run directory holds: such a logger begins
    a new history, or skips what it has.
    """

    def on_step(self, epoch: int, step: int) -> None:
        """Handle the issue of a step, which the device may not have finished."""

    def on_step_metrics(self, metrics: Metrics) -> None:
        """Handle a step that ``log.every_steps`` logs: ``epoch`` (from 1), ``step``, ``loss``,
        ``gradient_norm``, ``lr``."""

    def on_epoch(self, metrics: Metrics) -> None:
        """Handle the end of an epoch: ``epoch`` (from 1), ``step``, losses, scores, times."""

    def on_images(self, epoch: int, images: dict[str, Any]) -> None:
        """Handle sample predictions after ``epoch``: uint8 tensors (3, h, w) by name."""

    def close(self, summary: Metrics) -> None:
        """Handle the end of the run; ``summary`` has the status, and the scores if it finished."""
