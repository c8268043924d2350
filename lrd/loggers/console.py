"""Progress on the terminal."""

import math
import os
import sys
from typing import TextIO

from lrd.loggers.base import Logger, Metrics

SHOWN = ("_loss", "_accuracy", "_miou", "_map", "_basin")


class ConsoleLogger(Logger):
    """Write one line per epoch, the score first; on a terminal also show a bar below the lines.

    The bar has the latest score, the share of the run's steps and the time left. Lines and bar are
    cut to the terminal's width; ``metrics.jsonl`` has every number.

    Args:
        steps: Number of steps of the run, where ``train.max_steps`` may end it.
        steps_per_epoch: Number of steps of an epoch.
        score: Name of the task's score.
        done: Number of steps that a resumed run has taken.
        out: Where to write, by default standard output at the time.
    """

    def __init__(
        self, steps: int, steps_per_epoch: int, score: str, done: int = 0, out: TextIO | None = None
    ) -> None:
        self.steps_per_epoch, self.score = steps_per_epoch, score
        self.epochs = math.ceil(steps / steps_per_epoch)
        self.out, self.bar = out or sys.stdout, None
        if self.out.isatty():
            from tqdm import tqdm

            self.bar = tqdm(
                total=steps,
                initial=done,
                file=self.out,
                leave=False,
                mininterval=0.2,
                dynamic_ncols=True,
                smoothing=0,  # the mean rate since the start, which evaluations are part of
                bar_format="{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps, "
                "{remaining} left",
            )

    def on_step(self, epoch: int, step: int) -> None:
        if self.bar is not None:
            self.bar.update(epoch * self.steps_per_epoch + step - self.bar.n)

    def on_epoch(self, metrics: Metrics) -> None:
        shown = {
            name: f"{name.replace('_', ' ')} {value:.4g}"
            for name, value in metrics.items()
            if name == self.score or name.endswith(SHOWN)
        }
        epoch = f"epoch {metrics['epoch']:>{len(str(self.epochs))}}/{self.epochs}"
        seconds = f"{metrics['seconds']:.1f} s"
        score = shown.pop(self.score, "")
        first, others = [epoch, score] if score else [epoch], list(shown.values())
        if self.bar is None:
            self.out.write("  ".join([*first, *others, seconds]) + "\n")
            self.out.flush()
            return
        width = self._width()
        while others and len("  ".join([*first, *others, seconds])) > width:
            others.pop()
        if score:
            self.bar.set_description(score, refresh=False)
        self.bar.write("  ".join([*first, *others, seconds])[:width], file=self.out)

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self.out.fileno()).columns
        except OSError:
            return 80

    def close(self, summary: Metrics) -> None:
        if self.bar is not None:
            self.bar.close()
