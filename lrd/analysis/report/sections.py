"""A table or a figure of the page: its configurations, what is missing, and how it was made."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrd.analysis.frames import RunFrames, describe_hardware, get_nested
from lrd.analysis.matching import (
    CellResults,
    differing_settings,
    run_commands,
    title_with_overrides,
    with_run_dir,
)
from lrd.analysis.resolve import config_option
from lrd.analysis.studies import CellSpec, FigureSpec, TableSpec
from lrd.runs.store import Run

MAX_NAMED = 2  # of several machines, versions or commits, the most frequent ones have a name
Counts = Sequence[tuple[str, int]]  # texts with their frequencies, the most frequent first


def describe_runs(runs: Iterable[Run]) -> dict[str, Any]:
    """Return where and when runs were made. A record may lack anything, and hold anything.

    Returns:
        ``n``, ``dates`` (the first and the last day), and the counts of ``hardware``, ``versions``
        and ``commits``.
    """
    records = [run.metadata for run in runs]
    days = sorted(d for r in records for d in map(to_day, (r.get("started"), r.get("ended"))) if d)
    return {
        "n": len(records),
        "dates": " to ".join(dict.fromkeys([*days[:1], *days[-1:]])),
        "hardware": _count(map(describe_hardware, records)),
        "versions": _count(map(_versions, records)),
        "commits": _count(text_of(record.get("commit")) for record in records),
    }


def _versions(record: Any) -> str:
    versions = get_nested(record, "versions")
    if not isinstance(versions, Mapping):
        return ""
    order = [name for name in ("torch", "torchvision", "python", "lrd") if name in versions]
    names = [*order, *sorted(versions.keys() - {*order})]
    return ", ".join(f"{name} {versions[name]}" for name in names)


def _count(texts: Iterable[str]) -> Counts:
    return Counter(sorted(filter(None, texts))).most_common()


def text_of(value: Any) -> str:
    """Return a value of a record or a data frame as text; nothing if it is missing."""
    return "" if value is None or value != value else str(value)


def to_day(value: Any) -> str:
    """Return the date, in UTC, of a time in a record."""
    return text_of(value)[:10]


def pluralize(n: int, what: str) -> str:
    """Return a number and its noun: ``1 run``, ``2,000 runs``."""
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def summarize_runs(frames: RunFrames) -> str:
    """Return a sentence on how many runs there are, from where and when."""
    runs = frames.index.runs
    if not runs:
        return f"There are no runs under {frames.root} yet."
    states = sorted(Counter(frames.runs.state).items(), key=lambda s: (s[0] != "finished", s[0]))
    counts = ", ".join(f"{n:,} {state}" for state, n in states)
    made = describe_runs(runs)
    parts = [
        f"{pluralize(len(runs), 'run')} under {frames.root} ({counts})",
        f"made {made['dates']} (UTC)" if made["dates"] else "",
        _name_some("on ", made["hardware"], "machine"),
        _name_some("with torch ", _count(map(text_of, frames.runs.torch)), "version"),
        _name_some("at commit ", made["commits"], "commit"),
    ]
    return ", ".join(filter(None, parts)) + "."


def _name_some(prefix: str, counts: Counts, what: str) -> str:
    """Name the most frequent texts, and count the others."""
    names = [text for text, _ in counts[:MAX_NAMED]]
    if more := len(counts) - len(names):
        names.append(pluralize(more, f"more {what}"))
    *others, last = names or [""]
    return f"{prefix}{', '.join(others)}{' and ' if others else ''}{last}" if names else ""


@dataclass(frozen=True)
class Section:
    """A table or a figure of a study on the page.

    Attributes:
        key: the anchor in the page.
        members: a label, the runs, and the settings that differ from the first one, for every
            configuration.
        run, plan, read, missing: commands that run all of its experiments, show what is left to
            do, print or draw it, and run the configurations without runs.
        content: what is shown of it; None if there is nothing to show.
        error: why it cannot be shown.
    """

    name: str
    key: str
    title: str
    members: Sequence[tuple[str, CellResults, Sequence[tuple[str, Any]]]] = ()
    run: Sequence[str] = ()
    plan: Sequence[str] = ()
    read: str = ""
    missing: Sequence[str] = ()
    content: Any = None
    error: str = ""

    @property
    def provenance(self) -> dict[str, Any]:
        return describe_runs(run for _, results, _ in self.members for run in results.records)

    @property
    def n_filled(self) -> int:
        """The number of configurations that have a run."""
        return sum(results.n > 0 for _, results, _ in self.members)

    @property
    def seeds(self) -> str:
        """The number of seeds of the configurations that have any."""
        counts = sorted({results.n for _, results, _ in self.members if results.n})
        return f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")


def build_section(
    spec: TableSpec | FigureSpec,
    key: str,
    results: Mapping[CellSpec, CellResults],
    overrides: Sequence[str],
) -> Section:
    """Return the section of a table or a figure, without its content.

    Args:
        key: the anchor in the page.
        results: the runs of every configuration.
        overrides: settings that differ from the experiments'.
    """
    if isinstance(spec, TableSpec):
        script, labels = "table", table_labels(spec)
    else:
        script, labels = "figure", figure_labels(spec)
    first = next(iter(results.values()))
    root = first.frames.root
    given, where = with_run_dir(root, overrides), [] if root == "runs" else ["--runs", root]

    def command(script: str, what: str) -> str:
        own = config_option()
        return shlex.join(["python", f"scripts/{script}.py", *own, what, *overrides, *where])

    return Section(
        spec.name,
        key,
        title_with_overrides(spec.title, overrides),
        [
            (labels[cell], found, differing_settings(first.identity, found.identity))
            for cell, found in results.items()
        ],
        run_commands(results, given),
        [command("plan", name) for name in dict.fromkeys(cell.experiment for cell in results)],
        command(script, spec.name),
        run_commands((cell for cell, found in results.items() if not found.n), given),
    )


def table_labels(table: TableSpec) -> dict[CellSpec, str]:
    """Name each cell by its row, its column and, in a group, the overrides that distinguish it."""
    labels = {}
    for names, groups in table.rows:
        for column, group in zip(table.columns, groups, strict=True):
            shared = set.intersection(*(set(cell.overrides) for cell in group))
            for cell in group:
                own = " ".join(o for o in cell.overrides if o not in shared)
                labels[cell] = ", ".join(filter(None, [*names, column, own]))
    return labels


def figure_labels(figure: FigureSpec) -> dict[CellSpec, str]:
    """Name each configuration by its group and its curve."""
    return {
        curve.cell: ", ".join(filter(None, (group.label, curve.label)))
        for group in figure.groups
        for curve in group.curves
    }
