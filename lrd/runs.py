"""Place and record of runs. Imports no torch: the reading scripts use it.

A run lives in ``<runs>/<name>/<fingerprint>/seed<k>/``: ``run.json`` says what it is and how it
ended, ``metrics.jsonl`` has one line per epoch and is the only source of tables and figures.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lrd.config import Config
from lrd.identity import differences, fingerprint, identity
from lrd.lock import is_locked

FORMAT = 1
# The numbers of an epoch that say how long it took; all others are the same whenever it runs.
TIMES = ("seconds", "train_seconds", "images_per_second", "data_wait")


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a metrics.jsonl, less a last one that was still being written."""
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path} is damaged in line {number}") from error
    return lines


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write to a temporary file, flush it to disk and rename it to ``path``.

    The file that was there stays until then, whatever happens.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name too
    finally:
        os.close(folder)


@dataclass(frozen=True)
class Run:
    """One run's folder and its record, as last written."""

    folder: Path
    record: dict[str, Any]

    @property
    def status(self) -> str:
        return self.record.get("status", "new")

    @property
    def state(self) -> str:
        """finished, running, partial, failed, new or unreadable: the status, and whether a living
        process on this machine holds the run."""
        if is_locked(self.folder):
            return "running"
        return {"running": "partial", "interrupted": "partial"}.get(self.status, self.status)

    @property
    def identity(self) -> dict[str, Any]:
        return self.record["identity"]

    @property
    def fingerprint(self) -> str:
        return self.record["fingerprint"]

    @property
    def seed(self) -> int:
        return self.record["seed"]

    @property
    def final(self) -> float:
        """The score at the last epoch that has one, from metrics.jsonl."""
        return self._summary["final"]["value"]

    @property
    def best(self) -> float:
        """The best score of any epoch, from metrics.jsonl."""
        return self._summary["best"]["value"]

    @cached_property
    def _summary(self) -> dict[str, Any]:
        lines = self.metrics
        try:
            return summary(lines, self.record["score"])
        except (KeyError, TypeError, ValueError) as error:
            name = self.record.get("score", {}).get("name", "score")
            raise ValueError(f"{self.folder}/metrics.jsonl must have {name} in an epoch") from error

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary per complete epoch, read once. Raises ValueError for a damaged line."""
        return [json.loads(line) for line in whole_lines(self.folder / "metrics.jsonl")]

    def write(self, **news: Any) -> "Run":
        """Add to the record and write it whole."""
        record = {**self.record, **news}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "run.json", json.dumps(record, indent=1).encode() + b"\n")
        return Run(self.folder, record)


def open_run(config: Config) -> Run:
    """The run of a configuration: what is on disk of it, or a new record, not yet written.

    A record that cannot be read counts as none: it follows from the configuration, the metrics and
    the checkpoint, and is written anew from those. Raises ValueError if it is of another run, as
    after copying a folder by hand, or of a newer version.
    """
    what = identity(config)
    mark = fingerprint(what)
    folder = Path(config.run.dir) / config.run.name / mark / f"seed{config.seed}"
    if (record := _read(folder)) is not None and "identity" in record:
        _check_own(folder, record, {**what, "seed": config.seed})
        return Run(folder, record)
    record = {
        "format": FORMAT,
        "fingerprint": mark,
        "seed": config.seed,
        "identity": what,
        "config": asdict(config),
    }
    return Run(folder, record)


def _check_own(folder: Path, record: dict[str, Any], expected: dict[str, Any]) -> None:
    if record.get("format", 0) > FORMAT:
        raise ValueError(
            f"{folder}/run.json has format {record['format']}, this version reads {FORMAT}: "
            "update, or choose another run.dir"
        )
    there = {**record["identity"], "seed": record.get("seed")}
    if there != expected:
        keys = ", ".join(differences(expected, there))
        raise ValueError(f"{folder}/run.json is of another run ({keys}): move that folder away")


def find(root: str | Path) -> Iterator[Run]:
    """Every run under ``root``, in order of its path."""
    for path in sorted(Path(root).glob("*/*/seed*/run.json")):
        yield Run(path.parent, _read(path.parent) or {"status": "unreadable"})


class RunIndex:
    """Every run under a runs directory, as it was at one moment: one scan, each run.json read once.

    Read it once per command and hand it down, so that two tables of one page show one state of a
    running sweep.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.runs: tuple[Run, ...] = tuple(find(root))

    def with_status(self, *statuses: str) -> list[Run]:
        """The runs of these statuses, in order of their paths."""
        return [run for run in self.runs if run.status in statuses]


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / "run.json").read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def summary(metrics: list[dict[str, Any]], score: dict[str, Any]) -> dict[str, Any]:
    """Final and best value of the score that counts, with their epochs (the first best one)."""
    values = [(line[name], line["epoch"]) for line in metrics if (name := score["name"]) in line]
    sign = 1 if score["maximize"] else -1
    best = max(values, key=lambda v: (sign * v[0], -v[1]))
    return {
        name: {"value": value, "epoch": epoch}
        for name, (value, epoch) in (("final", values[-1]), ("best", best))
    }
