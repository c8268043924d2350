"""Run directories and their records. Imports no torch: the reading commands use it.

A run lives in ``<runs>/<name>/<fingerprint>/seed<k>/``. ``run.json`` says what it is and how it
ended; ``metrics.jsonl`` has one line per epoch and is the only source of scores.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lrd.config import Config, diff_identities, identity
from lrd.config.fingerprint import fingerprint, without_source
from lrd.runs.lock import LOCK_NAME, is_locked

# 2: an identity holds recipes and the code of the user, no labels and no evaluation settings.
RUN_FORMAT = 2
# Metrics that say how long an epoch took; all others are the same whenever the run is made.
TIMES = ("seconds", "train_seconds", "images_per_second", "data_wait")


def read_complete_lines(path: Path) -> list[bytes]:
    """Return the lines of a JSON-lines file without a last, incomplete one.

    Raises:
        ValueError: A complete line is not JSON.
    """
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


def atomic_write(path: Path, data: bytes | memoryview) -> None:
    """Write a temporary file, flush it to disk and rename it to ``path``.

    An existing file stays complete until the rename, whatever happens.
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
    """A run directory and the content of its run.json, as it was when it was read."""

    folder: Path
    metadata: dict[str, Any]

    @property
    def status(self) -> str:
        return self.metadata.get("status", "new")

    @property
    def state(self) -> str:
        """finished, running, partial, failed, new or unreadable: the status, and whether a living
        process on this machine holds the run."""
        if is_locked(self.folder):
            return "running"
        return {"running": "partial", "interrupted": "partial"}.get(self.status, self.status)

    @property
    def identity(self) -> dict[str, Any]:
        return self.metadata["identity"]

    @property
    def fingerprint(self) -> str:
        return self.metadata["fingerprint"]

    @property
    def seed(self) -> int:
        return self.metadata["seed"]

    @property
    def final(self) -> float:
        """The score of the last epoch that has one, from metrics.jsonl."""
        return self._summary["final"]["value"]

    @property
    def best(self) -> float:
        """The best score of any epoch, from metrics.jsonl."""
        return self._summary["best"]["value"]

    @cached_property
    def _summary(self) -> dict[str, Any]:
        lines = self.metrics
        try:
            return summarize(lines, self.metadata["score"])
        except (KeyError, TypeError, ValueError) as error:
            name = self.metadata.get("score", {}).get("name", "score")
            raise ValueError(f"{self.folder}/metrics.jsonl must have {name} in an epoch") from error

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary per complete epoch, read once. Raises ValueError for a damaged line."""
        return [json.loads(line) for line in read_complete_lines(self.folder / "metrics.jsonl")]

    def update(self, **fields: Any) -> "Run":
        """Add ``fields`` to run.json, write it atomically and return the new state."""
        metadata = {**self.metadata, **fields}
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self.folder / "run.json", json.dumps(metadata, indent=1).encode() + b"\n")
        return Run(self.folder, metadata)


class RunStore:
    """The run directory of one configuration, opened with one read and one fingerprint.

    Raises:
        ValueError: run.json is of another run, as after copying a directory by hand, or of a newer
            version. An unreadable run.json counts as none: it follows from the configuration, the
            metrics and the checkpoint, and is written again from those.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._identity = identity(config)
        self._fingerprint = fingerprint(self._identity)
        seed = f"seed{config.seed}"
        self.folder = Path(config.run.dir) / config.run.name / self._fingerprint / seed
        self._read_state: tuple[int, int] | None = None
        self.run = self._read()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "last.pt"

    @property
    def is_finished(self) -> bool:
        """Whether the run is finished and the user does not force a new one."""
        return self.run.status == "finished" and not self.config.run.force

    def require_same_code(self) -> None:
        """Reject a run that another one with the same settings, of other code, left unfinished.

        Raises:
            ValueError: It names what changed and how to go on.
        """
        has_code = without_source(self._identity) != self._identity
        if not has_code or self.config.run.force or self.run.status != "new":
            return
        for path in sorted(self.folder.parents[1].glob(f"*/{self.folder.name}/run.json")):
            metadata = _read_metadata(path.parent) or {}
            found = metadata.get("identity", {})
            if metadata.get("status") != "finished" and (
                without_source(found) == without_source(self._identity)
            ):
                changed = ", ".join(diff_identities(self._identity, found))
                raise ValueError(
                    f"{path.parent} is unfinished and of other code ({changed}): restore that code "
                    "to resume it, or delete it, or pass run.force=true to start beside it"
                )

    def refresh(self) -> Run:
        """Read run.json again if another process has written it since."""
        if self._file_state() != self._read_state:
            self.run = self._read()
        return self.run

    def delete_outputs(self) -> None:
        """Delete what the run's directory holds, except its lock, and forget its metadata."""
        delete_content(self.folder)
        self.refresh()

    def _file_state(self) -> tuple[int, int] | None:
        try:
            stat = (self.folder / "run.json").stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def _read(self) -> Run:
        self._read_state = self._file_state()
        metadata = _read_metadata(self.folder)
        if metadata is not None and "identity" in metadata:
            self._check(metadata)
            return Run(self.folder, metadata)
        return Run(
            self.folder,
            {
                "format": RUN_FORMAT,
                "fingerprint": self._fingerprint,
                "seed": self.config.seed,
                "identity": self._identity,
                "config": asdict(self.config),
            },
        )

    def _check(self, metadata: dict[str, Any]) -> None:
        _check_format(self.folder, metadata)
        expected = {**self._identity, "seed": self.config.seed}
        found = {**metadata["identity"], "seed": metadata.get("seed")}
        if found != expected:
            settings = ", ".join(diff_identities(expected, found))
            raise ValueError(
                f"{self.folder}/run.json is of another run ({settings}): move that directory away"
            )


def delete_content(folder: Path) -> None:
    """Delete what a run's directory holds, except its lock."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK_NAME:
            path.unlink()


class RunIndex:
    """Every run under a runs directory, as it was at one moment: one scan, each run.json read once.

    Read it once per command and pass it on, so that two tables of one page show one state of a
    running sweep.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.runs: tuple[Run, ...] = tuple(find_runs(root))

    def with_status(self, *statuses: str) -> list[Run]:
        """Return the runs of these statuses, in order of their paths."""
        return [run for run in self.runs if run.status in statuses]


def open_run(folder: str | Path) -> Run:
    """Return the run in a directory.

    Raises:
        ValueError: The directory has no readable run.json, or one of a newer version.
    """
    folder = Path(folder).expanduser()
    metadata = _read_metadata(folder)
    if metadata is None or "identity" not in metadata:
        raise ValueError(f"RUN must be a run directory, got {folder}: it has no readable run.json")
    _check_format(folder, metadata)
    return Run(folder, metadata)


def _check_format(folder: Path, metadata: dict[str, Any]) -> None:
    if metadata.get("format", 0) > RUN_FORMAT:
        raise ValueError(
            f"{folder}/run.json has format {metadata['format']}, this version reads "
            f"{RUN_FORMAT}: update, or choose another run.dir"
        )


def find_runs(root: str | Path) -> Iterator[Run]:
    """Yield every run under ``root``, in order of its path."""
    for path in sorted(Path(root).glob("*/*/seed*/run.json")):
        yield Run(path.parent, _read_metadata(path.parent) or {"status": "unreadable"})


def _read_metadata(folder: Path) -> dict[str, Any] | None:
    try:
        metadata = json.loads((folder / "run.json").read_bytes())
    except (OSError, ValueError):
        return None
    return metadata if isinstance(metadata, dict) else None


def summarize(metrics: list[dict[str, Any]], score: dict[str, Any]) -> dict[str, Any]:
    """Return the final and the best value of a run's score, with their epochs (the first best one).

    Raises ValueError or IndexError if no epoch has the score.
    """
    values = [(line[name], line["epoch"]) for line in metrics if (name := score["name"]) in line]
    sign = 1 if score["maximize"] else -1
    best = max(values, key=lambda v: (sign * v[0], -v[1]))
    return {
        name: {"value": value, "epoch": epoch}
        for name, (value, epoch) in (("final", values[-1]), ("best", best))
    }


# What to do about an error of the file system, by its number.
_FULL = "make room there, or choose another run.dir"
_FORBIDDEN = "get permission to write there, or choose another run.dir"
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: "mount it for writing, or choose another run.dir",
}


def describe_os_error(error: OSError, folder: Path) -> str:
    """Return what failed, and what to do about it if it concerns the run's ``folder``."""
    if error.errno is None:  # of a library, such as that of a damaged image
        return " ".join(str(error).split())
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    advice = _ADVICE.get(error.errno)
    is_ours = path is None and advice is not None
    if path is not None:
        is_ours = path.is_relative_to(folder) or folder.is_relative_to(path)
    if not is_ours:
        return f"{path}: {error.strerror}" if path else str(error)
    advice = advice or "see to it, or choose another run.dir"
    return (
        f"{path or folder}: {error.strerror}; what was written before is complete: {advice}, and "
        "run the same command again"
    )
