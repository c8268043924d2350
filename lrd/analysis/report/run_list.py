"""The list of all runs of the page."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrd.analysis.frames import RunFrames, as_number, get_nested
from lrd.analysis.report.sections import text_of, to_day

MAX_ERROR = 300  # characters of an error message
# The columns, and those that hold numbers.
LIST_COLUMNS = (
    *("data", "model", "optimizer", "learning rate", "p", "regularizers", "seed", "epochs"),
    *("final", "best", "seconds", "hardware", "date", "commit", "status"),
)
NUMBER_COLUMNS = ("learning rate", "p", "seed", "epochs", "final", "best", "seconds")


@dataclass(frozen=True)
class Value:
    """A text, and the number by which it is sorted."""

    text: str
    by: float | None = None


@dataclass(frozen=True)
class ListedRun:
    """A run: a value for each of LIST_COLUMNS, its directory with a link, and why it failed."""

    values: tuple[Value, ...]
    folder: str
    link: str
    error: str


def list_run_rows(frames: RunFrames, start: Path) -> list[ListedRun]:
    """Return all runs, sorted by their columns; links are relative to the directory ``start``."""
    rows = []
    for row in frames.runs.to_dict("records"):
        folder = Path(row["folder"])
        error = " ".join(text_of(row["error"]).split())
        error = error if len(error) <= MAX_ERROR else error[:MAX_ERROR] + " ..."
        values = _values(row, frames.run(row["folder"]).metadata)
        shown = str(folder.relative_to(frames.root))
        rows.append(ListedRun(values, shown, os.path.relpath(folder, start), error))
    return sorted(rows, key=lambda row: [_sort_key(value) for value in row.values])


def _sort_key(value: Value) -> tuple[bool, float, str]:
    """Sort numbers before text."""
    return value.by is None, value.by or 0.0, value.text


def _values(row: Mapping[Any, Any], record: Any) -> tuple[Value, ...]:
    is_damaged = math.isnan(row["epochs_done"])
    learning_rate, seed = get_nested(record, "config", "optim", "lr"), record.get("seed")
    unit = text_of(row["unit"])
    return (
        Value(text_of(row["dataset"])),
        Value(text_of(row["model"])),
        Value(text_of(row["optimizer"])),
        _format(learning_rate, "g"),
        _lrd_settings(record),
        Value(_regularizers(get_nested(record, "config", "regularizer"))),
        _format(seed, "g"),
        _epochs(record, 0 if is_damaged else int(row["epochs_done"])),
        _format(row["final"], ".2f", unit),
        _format(row["best"], ".2f", unit),
        _format(row["seconds"], ",.0f"),
        Value(text_of(row["hardware"])),
        Value(to_day(record.get("ended") or record.get("started"))),
        Value(text_of(record.get("commit"))),
        Value(row["state"] + ", metrics damaged" * is_damaged),
    )


def _format(value: Any, form: str, unit: str = "") -> Value:
    """Return a number with its unit; what is no number as it is."""
    number = as_number(value)
    if number is None or math.isnan(number):
        return Value(text_of(value))
    return Value(f"{number:{form}} {unit}".strip(), number)


def _lrd_settings(record: Any) -> Value:
    """Return p, and the other settings of LRD that are not at their default."""
    identity = get_nested(record, "identity")
    known = identity if isinstance(identity, Mapping) else {}
    names = sorted(str(name) for name in known if str(name).startswith("lrd.") and name != "lrd.p")
    others = "".join(f", {name.removeprefix('lrd.')} {known[name]}" for name in names)
    p = _format(get_nested(record, "config", "lrd", "p"), "g")
    return Value(p.text + others, p.by)


def _regularizers(nodes: Any) -> str:
    if not isinstance(nodes, Mapping):
        return text_of(nodes)
    texts = []
    for name, node in nodes.items():
        settings = node.items() if isinstance(node, Mapping) else ()
        own = [f"{key}={value}" for key, value in settings if key != "_target_"]
        texts.append(" ".join([text_of(name), *own]))
    return ", ".join(texts)


def _epochs(record: Any, done: int) -> Value:
    """Return the number of epochs, the configured number if it differs, and the scale."""
    configured = get_nested(record, "config", "train", "epochs")
    text = f"{done}" if configured in (done, None) else f"{done} of {configured}"
    scale = as_number(record.get("scale"))
    return Value(text + (f" (x {scale:g})" if scale not in (None, 1) else ""), done)
