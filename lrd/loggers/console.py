"""Progress on the terminal."""

import sys
from typing import TextIO

from lrd.loggers.base import Logger, Metrics


class ConsoleLogger(Logger):
    """Show a progress bar over the steps on a terminal, one line per epoch elsewhere."""

    def __init__(self, epochs: int, steps_per_epoch: int, out: TextIO | None = None) -> None:
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.out, self.bar = out or sys.stdout, None
        if self.out.isatty():
            from tqdm import tqdm

            self.bar = tqdm(
                total=epochs * steps_per_epoch,
                unit="step",
                file=self.out,
                leave=False,
                mininterval=0.2,
            )

    def on_step(self, epoch: int, step: int) -> None:
        if self.bar is not None:
            self.bar.update(epoch * self.steps_per_epoch + step - self.bar.n)

    def on_epoch(self, metrics: Metrics) -> None:
        parts = [f"epoch {metrics['epoch']:>{len(str(self.epochs))}}/{self.epochs}"]
        for name, value in metrics.items():
            if name.endswith(("_loss", "_accuracy", "_miou", "_map", "_basin")):
                parts.append(f"{name.replace('_', ' ')} {value:.4g}")
        line = "  ".join([*parts, f"{metrics['seconds']:.1f} s"])
        if self.bar is not None:
            self.bar.set_postfix_str(line, refresh=False)
        else:
            self.out.write(line + "\n")
            self.out.flush()

    def close(self, summary: Metrics) -> None:
        if self.bar is not None:
            self.bar.close()
