"""What a run's record says, in words. A record may lack anything, and hold anything."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrd.runs.store import Run


def at(record: Any, *path: str) -> Any:
    """What stands there in a record; None where it does not reach as far."""
    for name in path:
        record = record.get(name) if isinstance(record, Mapping) else None
    return record


def number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def text(value: Any) -> str:
    return "" if value is None else str(value)


def hardware(record: Any) -> str:
    """The device that computed, and how much of it."""
    there = at(record, "hardware")
    if not isinstance(there, Mapping):
        return text(there)
    cpu, gpu = text(there.get("cpu")), there.get("gpu")
    if gpu and at(record, "device") != "cpu":
        return f"{gpu} ({cpu})"
    counts = (("core", there.get("cores")), ("thread", at(record, "threads")))
    sizes = ", ".join(f"{n} {what}" + ("" if n == 1 else "s") for what, n in counts if n)
    return f"{cpu} ({sizes})" if sizes else cpu


def versions(record: Any) -> str:
    there = at(record, "versions")
    if not isinstance(there, Mapping):
        return ""
    order = [n for n in ("torch", "torchvision", "python", "lrd") if n in there]
    return ", ".join(f"{name} {there[name]}" for name in [*order, *sorted(there.keys() - {*order})])


def day(value: Any) -> str:
    """The date of a time as records have it, in UTC."""
    return text(value)[:10]


@dataclass(frozen=True)
class Facts:
    """Where and when runs were made: each with how many of them, the most frequent first."""

    n: int
    first: str
    last: str
    hardware: Sequence[tuple[str, int]]
    versions: Sequence[tuple[str, int]]
    commits: Sequence[tuple[str, int]]

    @property
    def dates(self) -> str:
        return self.first if self.first == self.last else f"{self.first} to {self.last}"


def facts(runs: Iterable[Run]) -> Facts:
    records = [run.record for run in runs]
    days = sorted(d for r in records for d in (day(r.get("started")), day(r.get("ended"))) if d)
    first, last = (days[0], days[-1]) if days else ("", "")
    return Facts(
        len(records),
        first,
        last,
        counted(map(hardware, records)),
        counted(map(versions, records)),
        counted(text(r.get("commit")) for r in records),
    )


def counted(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Each text with how often it stands there, the most frequent first."""
    counts = Counter(t for t in texts if t)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
