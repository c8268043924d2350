"""Where an epoch's numbers go: metrics.jsonl, pictures, a terminal. For wandb: lrd/dashboard.py."""

import json
import os
import sys
from io import BytesIO
from pathlib import Path
from typing import Any, TextIO

from lrd.runs import whole_lines, write_whole

Numbers = dict[str, Any]


class Sink:
    """Takes what a run logs. Every hook does nothing here."""

    def step(self, epoch: int, step: int) -> None:
        """A step was issued (not necessarily finished by the device)."""

    def epoch(self, numbers: Numbers) -> None:
        """An epoch ended: ``epoch`` (from 1), ``step``, losses, scores, rates and times."""

    def pictures(self, epoch: int, pictures: dict[str, Any]) -> None:
        """What the model made of some samples after ``epoch``: uint8 tensors (3, h, w) by name."""

    def close(self, summary: Numbers) -> None:
        """The run ended; ``summary`` holds the status, and final and best score if it finished."""


class JsonLines(Sink):
    """metrics.jsonl, the only source of tables and figures: one line an epoch, append-only.

    Opening it cuts what lies beyond the epoch a run goes on from, so that no epoch counts twice.
    """

    def __init__(self, path: Path, epochs: int = 0) -> None:
        kept = whole_lines(path)[:epochs]
        if len(kept) < epochs:
            raise ValueError(
                f"{path} has {len(kept)} epochs and the checkpoint {epochs}: "
                "run.force=true starts the run anew"
            )
        self.file = path.open("r+b" if path.exists() else "wb")
        self.file.truncate(sum(map(len, kept)))
        self.file.seek(0, os.SEEK_END)

    def epoch(self, numbers: Numbers) -> None:
        self.file.write(json.dumps(numbers).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self, summary: Numbers) -> None:
        self.file.close()


class Pictures(Sink):
    """``pictures/<name>/epoch<k>.png`` in a run's folder, so that a name's files are its story."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pictures(self, epoch: int, pictures: dict[str, Any]) -> None:
        for name, picture in pictures.items():
            path = self.folder / picture_path(name, epoch)
            path.parent.mkdir(parents=True, exist_ok=True)
            file = BytesIO()
            image(picture).save(file, "PNG")
            write_whole(path, file.getvalue())


def picture_path(name: str, epoch: int) -> str:
    """Where a picture lies in a run's folder; ``*`` for the name matches all of an epoch's."""
    return f"pictures/{name}/epoch{epoch:04}.png"


def image(picture: Any) -> Any:
    """A uint8 tensor (3, h, w) as PIL has it."""
    from PIL import Image

    return Image.fromarray(picture.permute(1, 2, 0).numpy())


class Console(Sink):
    """A progress bar over the steps on a terminal, one line per epoch elsewhere."""

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

    def step(self, epoch: int, step: int) -> None:
        if self.bar is not None:
            self.bar.update(epoch * self.steps_per_epoch + step - self.bar.n)

    def epoch(self, numbers: Numbers) -> None:
        parts = [f"epoch {numbers['epoch']:>{len(str(self.epochs))}}/{self.epochs}"]
        for name, value in numbers.items():
            if name.endswith(("_loss", "_accuracy", "_miou", "_map", "_basin")):
                parts.append(f"{name.replace('_', ' ')} {value:.4g}")
        line = "  ".join([*parts, f"{numbers['seconds']:.1f} s"])
        if self.bar is not None:
            self.bar.set_postfix_str(line, refresh=False)
        else:
            self.out.write(line + "\n")
            self.out.flush()

    def close(self, summary: Numbers) -> None:
        if self.bar is not None:
            self.bar.close()
