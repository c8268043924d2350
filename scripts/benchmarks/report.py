"""The tables as text, and everything as one JSON file."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from textwrap import wrap
from typing import Any

import torch

from benchmarks.options import Options
from benchmarks.results import Line, Table
from benchmarks.timing import Spread
from lrd.training import environment

HEADS = ["form", "median", "min", "quartiles", "ratio", "quartiles", "memory", "target", "met"]


def number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 or value == 0 else f"{value:.2g}"


def cells(line: Line, table: Table) -> list[str]:
    time = Spread.of(line.samples)
    alone = len(line.samples) == 1
    ratio, spread = "", ""
    if line.ratios:
        r = Spread.of(line.ratios)
        ratio = f"{r.median:.3f}"
        spread = f"{r.low:.3f}-{r.high:.3f}" if len(line.ratios) > 1 else ""
    elif line.label == table.baseline:
        ratio = "1"
    met = {True: "yes", False: "NO", None: ""}[line.met]
    if line.target is not None and not line.judged:
        met = "not judged"
    return [
        line.label if line.x is None else f"{line.label} at {line.x:g}",
        f"{number(time.median)} {line.unit}",
        "" if alone else number(time.least),
        "" if alone else f"{number(time.low)}-{number(time.high)}",
        ratio,
        spread,
        "" if line.memory is None else number(line.memory),
        str(line.target or ""),
        met,
    ]


def text(table: Table) -> str:
    """A plain table; columns that no line fills are left out."""
    heads = list(HEADS)
    heads[6] = table.memory or heads[6]
    body = [cells(line, table) for line in table.lines]
    used = [i for i in range(len(heads)) if any(row[i] for row in body)]
    rows = [[row[i] for i in used] for row in [heads, *body]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(used))]
    lines = [
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    title = f"{table.section}: {table.title}"
    if table.baseline:
        title += f"  (ratios to: {table.baseline}; {table.better} is better)"
    notes = [wrap(note, 98, initial_indent="  ", subsequent_indent="    ") for note in table.notes]
    return "\n".join([title, rule, lines[0], rule, *lines[1:], *sum(notes, [])])


def facts(options: Options, arguments: Sequence[str]) -> dict[str, Any]:
    """What the numbers were measured with."""
    gpu = options.device.type == "cuda"
    return {
        "command": " ".join(["python scripts/bench.py", *arguments]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": environment.checkout_commit(),
        "hardware": {
            "cpu": environment.cpu_name(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(options.device) if gpu else None,
        },
        "load": round(os.getloadavg()[0], 2),
        "device": options.device.type,
        "threads": options.threads,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "compiler": torch.__config__.show().splitlines()[1].strip(" -"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def headline(facts: dict[str, Any]) -> str:
    hardware, versions = facts["hardware"], facts["versions"]
    where = hardware["gpu"] or hardware["cpu"]
    return (
        f"{facts['date'][:10]}, {where}, cores: {hardware['cores']}, threads: {facts['threads']}, "
        f"torch {versions['torch']}; load of the machine before: {facts['load']:.1f}"
    )


def write_json(path: Path, tables: Sequence[Table], facts: dict[str, Any]) -> None:
    whole = {"facts": facts, "tables": [table.as_json() for table in tables]}
    path.write_text(json.dumps(whole, indent=1) + "\n")
