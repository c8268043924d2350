"""The list of all runs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lrd.runs.store import Run
from page.records import at, day, hardware, number, text

LONGEST = 300  # characters of an error that are shown


@dataclass(frozen=True)
class Value:
    """A text, and what it is sorted by where that is not the text."""

    text: str
    by: float | str | None = None


@dataclass(frozen=True)
class Row:
    """A run: a value for each of HEADS, where its folder is, and what it failed of."""

    values: tuple[Value, ...]
    state: str
    folder: str
    link: str
    error: str


# The columns that hold numbers, and all of them.
NUMBERS = ("rate", "p", "seed", "epochs", "final", "best", "seconds")
HEADS = (
    *("data", "model", "optimizer", "rate", "p", "regularizers", "seed", "epochs", "final"),
    *("best", "seconds", "hardware", "date", "commit", "status"),
)


def listing(runs: Iterable[Run], folder: Callable[[Run], tuple[str, str]]) -> list[Row]:
    """In the order of their columns; ``folder`` gives a run's path to show, and a link to it."""
    rows = [_row(run, *folder(run)) for run in runs]
    return sorted(rows, key=lambda row: [_sortable(value) for value in row.values])


def _sortable(value: Value) -> tuple[bool, float, str]:
    """Numbers before text."""
    by = value.by if isinstance(value.by, int | float) else None
    return by is None, by or 0.0, value.text


def _row(run: Run, shown: str, link: str) -> Row:
    record, state = run.record, run.state
    try:
        metrics = [m for m in run.metrics if isinstance(m, dict)]
    except ValueError:
        metrics, state = [], f"{state}, metrics damaged"
    values = (
        Value(text(at(record, "config", "run", "name")) or run.folder.parts[-3]),
        Value(_chosen(record, "model")),
        Value(_chosen(record, "optim")),
        _number(at(record, "config", "optim", "lr")),
        _kept(record),
        Value(_regularizers(record)),
        _number(record.get("seed")),
        _epochs(record, len(metrics)),
        _score(record, "final"),
        _score(record, "best"),
        _seconds(metrics),
        Value(hardware(record)),
        Value(day(record.get("ended") or record.get("started"))),
        Value(text(record.get("commit"))),
        Value(state),
    )
    error = " ".join(text(record.get("error")).split())
    cut = error if len(error) <= LONGEST else error[:LONGEST] + " ..."
    return Row(values, state, shown, link, cut)


def _chosen(record: Any, group: str) -> str:
    """The name of a choice, or the class that was given by hand."""
    target = text(at(record, "config", group, "_target_")).rpartition(".")[2]
    return text(at(record, "choices", group)) or target


def _number(value: Any) -> Value:
    there = number(value)
    return Value(text(value)) if there is None else Value(f"{there:g}", there)


def _kept(record: Any) -> Value:
    """p, and what else of LRD does not stand at its default."""
    value = at(record, "config", "lrd", "p")
    known = at(record, "identity")
    keys = sorted(known) if isinstance(known, Mapping) else []
    others = [k for k in keys if text(k).startswith("lrd.") and k != "lrd.p"]
    added = "".join(f", {k.removeprefix('lrd.')} {known[k]}" for k in others)
    p = _number(value)
    return Value(p.text + added, p.by)


def _regularizers(record: Any) -> str:
    nodes = at(record, "config", "regularizer")
    if not isinstance(nodes, Mapping):
        return text(nodes)
    return ", ".join(" ".join([text(name), *_settings(node)]) for name, node in nodes.items())


def _settings(node: Any) -> list[str]:
    there = node if isinstance(node, Mapping) else {}
    return [f"{key}={value}" for key, value in there.items() if key != "_target_"]


def _epochs(record: Any, done: int) -> Value:
    """Those done, and those asked for where they are others; at which scale."""
    asked = at(record, "config", "train", "epochs")
    shown = f"{done}" if asked in (done, None) else f"{done} of {asked}"
    scale = number(record.get("scale"))
    return Value(shown + (f" (x {scale:g})" if scale not in (None, 1) else ""), done)


def _score(record: Any, which: str) -> Value:
    value = number(at(record, which, "value"))
    if value is None:
        return Value("")
    return Value(f"{value:.2f} {text(at(record, 'score', 'unit'))}".strip(), value)


def _seconds(metrics: list[dict[str, Any]]) -> Value:
    there = [s for m in metrics if (s := number(m.get("seconds"))) is not None]
    return Value(f"{sum(there):,.0f}", sum(there)) if there else Value("")
