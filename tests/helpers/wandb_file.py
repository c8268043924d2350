"""Reads back the ``.wandb`` file of an offline run, which wandb itself no longer does in Python.

Seven bytes of header, then LevelDB's log format: blocks of 32 KiB (the header is part of the first)
with records of crc uint32, length uint16, type uint8 and the data, little-endian; a record that
does not fit its block is cut into a first, middle and last part, and fewer than seven bytes at a
block's end are padding. Each whole record is a protobuf message.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

HEADER = struct.Struct("<IHB")
BLOCK = 32 * 1024
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def messages(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = 7, []
    while at < len(data):
        if (left := BLOCK - at % BLOCK) < HEADER.size:
            at += left
            continue
        crc, length, kind = HEADER.unpack_from(data, at)
        part = data[at + HEADER.size : at + HEADER.size + length]
        assert len(part) == length and crc == zlib.crc32(part, zlib.crc32(bytes([kind])))
        assert bool(parts) == (kind in (MIDDLE, LAST))
        parts.append(part)
        at += HEADER.size + length
        if kind in (WHOLE, LAST):
            yield b"".join(parts)
            parts = []
    assert not parts


class WandbFile:
    """One run: ``run`` (its record), ``config``, ``metrics`` as they are defined, ``history`` (one
    per step), ``summary``."""

    def __init__(self, path: Path) -> None:
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        for message in messages(path):
            record: Any = Record.FromString(message)
            match record.WhichOneof("record_type"):
                case "run":
                    self.run = record.run
                    self.config |= _items(record.run.config.update)
                case "history":
                    self.history.append(_items(record.history.item))
                case "summary":
                    self.summary |= _items(record.summary.update)
                case "metric":
                    self.metrics[record.metric.name or record.metric.glob_name] = record.metric
                case "exit":
                    self.exit_code = record.exit.exit_code


def _items(items: Any) -> dict[str, Any]:
    return {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}


@contextmanager
def contained(folder: Path) -> Iterator[None]:
    """What wandb writes beside its runs goes under ``folder``; nothing leaves the machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR"):
            patch.setenv(f"WANDB_{name}", str(folder / name))
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("WANDB_DISABLE_GIT", "true")
        patch.setenv("WANDB_API_KEY", "0" * 40)
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
        wandb.teardown()
        yield
        wandb.teardown()


def files(folder: Path) -> list[WandbFile]:
    """Those under ``folder``, the earliest first."""
    wandb.teardown()  # as the process's end does: wait until wandb's service has written all
    return [WandbFile(path) for path in sorted(folder.rglob("*.wandb"))]
