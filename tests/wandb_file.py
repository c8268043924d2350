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
from pathlib import Path
from typing import Any

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
    """One run: ``run`` (its record), ``config``, ``history`` (one per log call), ``summary``."""

    def __init__(self, path: Path) -> None:
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
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
                case "exit":
                    self.exit_code = record.exit.exit_code


def _items(items: Any) -> dict[str, Any]:
    return {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
