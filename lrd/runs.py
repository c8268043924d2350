"""Identity, place and record of runs. Imports no torch: the reading scripts use it.

A run lives in ``<runs>/<name>/<fingerprint>/seed<k>/``: ``run.json`` says what it is and how it
ended, ``metrics.jsonl`` has one line per epoch and is the only source of tables and figures.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from lrd.config import Config
from lrd.lock import is_locked

FORMAT = 1


def identity(config: Config) -> dict[str, Any]:
    """What distinguishes a configuration's numbers, as a flat ``{"train.epochs": 100, ...}``.

    Left out: the seed, settings that say where and how fast but not what (``apart`` in
    lrd/config.py), and closed settings at their default, so that a new setting voids no finished
    run. A number that is whole counts as an integer; a weights file counts by its content.
    """
    flat = _flat(config)
    return {
        name: flat[name]
        for name in sorted(flat)
        if name not in DEFAULTS or flat[name] != DEFAULTS[name]
    }


def _flat(config: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for group in fields(Config):
        value = getattr(config, group.name)
        if not group.metadata.get("identity", True):
            continue
        if is_dataclass(value):
            for f in fields(value):
                if f.metadata.get("identity", True):
                    flat[f"{group.name}.{f.name}"] = _canonical(getattr(value, f.name))
        else:
            nodes = flatten(value, f"{group.name}.") if isinstance(value, dict) else {}
            flat |= {name: _content(name, v) for name, v in nodes.items()}
    return flat


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary as ``{"a.b": value}``."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _content(name: str, value: Any) -> Any:
    """A weights file by its content, whatever it is called; anything else in canonical form."""
    if name.endswith(".weights") and isinstance(value, str) and Path(value).is_file():
        return "sha256:" + hashlib.sha256(Path(value).read_bytes()).hexdigest()
    return _canonical(value)


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    if isinstance(value, dict):
        return {k: _canonical(v) for k, v in value.items()}
    return value


# The closed settings that belong to an identity where they differ from this.
DEFAULTS = _flat(Config())


def differences(asked: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """``setting=value instead of value`` for each setting in which two identities differ."""
    return [
        f"{name}={there.get(name, DEFAULTS.get(name))} "
        f"instead of {asked.get(name, DEFAULTS.get(name))}"
        for name in sorted(asked.keys() | there.keys())
        if there.get(name) != asked.get(name)
    ]


def fingerprint(identity: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for an identity."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


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
        """The score at the last epoch, which tables print."""
        return self.record["final"]["value"]

    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary per finished epoch. Raises ValueError for a line that is damaged."""
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in whole_lines(path)]

    def write(self, **news: Any) -> "Run":
        """Add to the record and write it whole: to a temporary file, then renamed."""
        record = {**self.record, **news}
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".run.json.{os.getpid()}"
        part.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(part, self.folder / "run.json")
        return Run(self.folder, record)


def open_run(config: Config) -> Run:
    """The run of a configuration: what is on disk of it, or a new record, not yet written.

    A record that cannot be read counts as none: it follows from the configuration, the metrics and
    the checkpoint, and is written anew from those.
    """
    what = identity(config)
    mark = fingerprint(what)
    folder = Path(config.run.dir) / config.run.name / mark / f"seed{config.seed}"
    if (record := _read(folder)) is not None and "identity" in record:
        return Run(folder, record)
    record = {
        "format": FORMAT,
        "fingerprint": mark,
        "seed": config.seed,
        "identity": what,
        "config": asdict(config),
    }
    return Run(folder, record)


def find(root: str | Path) -> Iterator[Run]:
    """Every run under ``root``, in order of its path."""
    for path in sorted(Path(root).glob("*/*/seed*/run.json")):
        yield Run(path.parent, _read(path.parent) or {"status": "unreadable"})


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / "run.json").read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def summary(metrics: list[dict[str, Any]], score: dict[str, Any]) -> dict[str, Any]:
    """Final and best value of the score that counts, with their epochs (the first best one)."""
    values = [(line[score["name"]], line["epoch"]) for line in metrics]
    sign = 1 if score["maximize"] else -1
    best = max(values, key=lambda v: (sign * v[0], -v[1]))
    return {
        name: {"value": value, "epoch": epoch}
        for name, (value, epoch) in (("final", values[-1]), ("best", best))
    }
