"""Results of the benchmarks: tables with every raw number, as text, JSON and charts."""

import gc
import json
import operator
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from textwrap import wrap
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrd.training import environment
from scripts.benchmarks.measure import Options, Quartiles, pairwise_ratios

# Okabe and Ito's colors, which color-blind readers distinguish; hatches and markers serve in gray.
_BLUE, _ORANGE, _GRAY = "#0072B2", "#E69F00", "#999999"
_COLORS, _MARKERS, _LINES = ("#000000", _BLUE, _ORANGE, "#009E73"), "os^D", ("-", "--", "-.", ":")
_WIDTH, _BAR, _TITLE = 10.0, 0.27, 0.85  # inches
_SIGNS = {"<": operator.lt, "<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Bound:
    """A target: a bound on a measurement's ratio, or on its value if ``on`` is "value"."""

    sign: str
    bound: float
    on: str = "ratio"

    def holds(self, number: float) -> bool:
        return _SIGNS[self.sign](number, self.bound)

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


@dataclass
class Measurement:
    """One variant: its numbers by round and their ratios to the table's baseline.

    Args:
        label: the variant.
        unit: of ``samples``.
        samples: one number a round.
        ratios: to the baseline, round by round; empty for the baseline itself.
        memory: peak memory in the table's unit.
        target: what the median ratio or value should reach.
        judged: False at toy sizes, for which no target is set.
        x: the place in a sweep, if the table is one.
    """

    label: str
    unit: str
    samples: list[float]
    ratios: list[float] = field(default_factory=list)
    memory: float | None = None
    target: Bound | None = None
    judged: bool = True
    x: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; None without a target or at toy sizes."""
        if self.target is None or not self.judged:
            return None
        numbers = self.ratios if self.target.on == "ratio" else self.samples
        return self.target.holds(Quartiles.of(numbers).median)

    def to_json(self) -> dict[str, Any]:
        """Return all fields, with medians and quartiles."""
        out = asdict(self) | {"target": self.target and str(self.target), "met": self.met}
        out["spread"] = asdict(Quartiles.of(self.samples))
        if self.ratios:
            out["ratio_spread"] = asdict(Quartiles.of(self.ratios))
        return out


@dataclass
class BenchmarkTable:
    """Measurements under one title.

    Args:
        section: the command's section that it belongs to.
        title: what was measured.
        baseline: label of the measurement that ratios refer to; empty without ratios.
        lines: the measurements.
        better: which way the ratios are good, "lower" or "higher".
        memory: unit of the measurements' memory.
        x: what a sweep varies, if the table is one.
        notes: sentences below the table.
    """

    section: str
    title: str
    baseline: str
    lines: list[Measurement]
    better: str = "lower"
    memory: str = ""
    x: str | None = None
    notes: list[str] = field(default_factory=list)

    def line(self, label: str) -> Measurement:
        return next(line for line in self.lines if line.label == label)

    def to_json(self) -> dict[str, Any]:
        """Return all fields."""
        return asdict(self) | {"lines": [line.to_json() for line in self.lines]}

    def to_text(self) -> str:
        """Return a plain table without the columns that no line fills."""
        heads = ["variant", "median", "min", "quartiles", "ratio", "quartiles"]
        heads += [self.memory or "memory", "target", "met"]
        body = [_cells(line, self.baseline) for line in self.lines]
        used = [i for i in range(len(heads)) if any(row[i] for row in body)]
        rows = [[row[i] for i in used] for row in [heads, *body]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0])]
                + [text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True)]
            ).rstrip()
            for row in rows
        ]
        rule = "-" * max(map(len, lines))
        title = f"{self.section}: {self.title}"
        if self.baseline:
            title += f"  (ratios to: {self.baseline}; {self.better} is better)"
        notes = [wrap(n, 98, initial_indent="  ", subsequent_indent="    ") for n in self.notes]
        return "\n".join([title, rule, lines[0], rule, *lines[1:], *sum(notes, [])])


def measurements(
    samples: Mapping[str, Sequence[float]],
    baseline: str,
    *,
    unit: str,
    scale: float = 1.0,
    memory: Mapping[str, float] | None = None,
    targets: Mapping[str, Bound] | None = None,
    x: float | None = None,
) -> list[Measurement]:
    """Return a measurement of each variant; samples times ``scale`` are in ``unit``."""
    return [
        Measurement(
            label,
            unit,
            [scale * number for number in numbers],
            [] if label == baseline else pairwise_ratios(numbers, samples[baseline]),
            (memory or {}).get(label),
            (targets or {}).get(label),
            x=x,
        )
        for label, numbers in samples.items()
    ]


def _format(value: float) -> str:
    """Three significant digits."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 or value == 0 else f"{value:.2g}"


def _cells(line: Measurement, baseline: str) -> list[str]:
    value, several = Quartiles.of(line.samples), len(line.samples) > 1
    ratio, ratio_range = "1" if line.label == baseline else "", ""
    if line.ratios:
        r = Quartiles.of(line.ratios)
        ratio = f"{r.median:.3f}"
        ratio_range = f"{r.low:.3f}-{r.high:.3f}" if len(line.ratios) > 1 else ""
    met = {True: "yes", False: "NO", None: ""}[line.met]
    return [
        line.label if line.x is None else f"{line.label} at {line.x:g}",
        f"{_format(value.median)} {line.unit}",
        _format(value.least) if several else "",
        f"{_format(value.low)}-{_format(value.high)}" if several else "",
        ratio,
        ratio_range,
        "" if line.memory is None else _format(line.memory),
        str(line.target or ""),
        met if line.judged or line.target is None else "not judged",
    ]


def environment_facts(options: Options, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the hardware, versions and command that the numbers were measured with.

    The command lacks ``--data`` and ``--out``: folders of this machine change no number.
    """
    folders = ("--data", "--out")
    kept = [
        text
        for before, text in zip(["", *arguments], arguments, strict=False)
        if before not in folders and text.partition("=")[0] not in folders
    ]
    gpu = options.device.type == "cuda"
    return {
        "command": " ".join(["python scripts/bench.py", *kept]),
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
    """Return :func:`environment_facts` in one line."""
    hardware, versions = facts["hardware"], facts["versions"]
    where = hardware["gpu"] or hardware["cpu"]
    return (
        f"{facts['date'][:10]}, {where}, cores: {hardware['cores']}, threads: {facts['threads']}, "
        f"torch {versions['torch']}; load of the machine before: {facts['load']:.1f}"
    )


def run_sections(
    sections: Mapping[str, Callable[[Options], Iterable[BenchmarkTable]]],
    options: Options,
    facts: dict[str, Any],
    folder: Path,
) -> list[Path]:
    """Measure and print the tables of each section; write bench.json and charts to ``folder``.

    Returns the files. bench.json is written after each table, so that an interruption loses one.
    """
    tables: list[BenchmarkTable] = []
    written = [folder / "bench.json"]
    for name, measure_section in sections.items():
        own: list[BenchmarkTable] = []
        with _imports_not_collected():
            for table in measure_section(options):
                for line in table.lines:
                    line.judged = not options.quick
                print(table.to_text(), end="\n\n", flush=True)
                own.append(table)
                tables.append(table)
                document = {"facts": facts, "tables": [each.to_json() for each in tables]}
                written[0].write_text(json.dumps(document, indent=1) + "\n")
        written += draw_charts(own, folder, name, headline(facts))
    return written


@contextmanager
def _imports_not_collected() -> Iterator[None]:
    """Make the garbage collector skip the objects that exist already.

    Most belong to imported modules. A collection that visits them takes 0.1 s, and the counts of
    memory collect often.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def draw_charts(
    tables: Sequence[BenchmarkTable], folder: Path, section: str, caption: str
) -> list[Path]:
    """Draw bars of the tables with ratios and lines of the sweeps; return the files."""
    bars = [t for t in tables if t.x is None and any(line.ratios for line in t.lines)]
    sweeps = [t for t in tables if t.x is not None]
    drawn: dict[str, Figure] = {}
    if bars:
        drawn[f"{section}.png"] = _draw_bars(bars)
    if sweeps:
        drawn[f"{section}-sweeps.png"] = _draw_sweeps(sweeps)
    for name, figure in drawn.items():
        figure.suptitle(caption, fontsize=9)
        figure.savefig(folder / name, dpi=120, bbox_inches="tight", pad_inches=0.12)
    return [folder / name for name in drawn]


def _draw_bars(tables: Sequence[BenchmarkTable]) -> Figure:
    """Draw a panel for each table, in two columns if there are many."""
    panels = [(t, [ln for ln in t.lines if ln.ratios or ln.label == t.baseline]) for t in tables]
    columns = 2 if len(panels) > 6 else 1
    rows = -(-len(panels) // columns)
    heights = [_BAR * max(len(lines) for _, lines in panels[r::rows]) + _TITLE for r in range(rows)]
    size = _WIDTH * (0.4 + 0.6 * columns), sum(heights) + 0.6
    figure = Figure(figsize=size, layout="constrained")
    ratios = {"height_ratios": heights}
    axes = figure.subplots(rows, columns, gridspec_kw=ratios, squeeze=False).T.flatten()
    for axis, (table, lines) in zip(axes, panels, strict=False):
        _draw_bar_panel(axis, table, lines)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


def _draw_bar_panel(axis: Axes, table: BenchmarkTable, lines: list[Measurement]) -> None:
    quartiles = [Quartiles.of(line.ratios or [1.0]) for line in lines]
    for row, (line, ratio) in enumerate(zip(lines, quartiles, strict=True)):
        color, hatch = (_ORANGE, "//") if "naive" in line.label else (_GRAY, "..")
        if line.label.startswith(("LRD", "ours", "two processes")):
            color, hatch = _BLUE, "xx" if line.label.startswith("LRD at ") else ""
        axis.barh(row, ratio.median, color=color, hatch=hatch, edgecolor="white", height=0.75)
        axis.plot([ratio.low, ratio.high], [row, row], color="black", linewidth=1.5)
        text = f" {ratio.median:.3g}"
        if line.target is not None and line.target.on == "ratio":
            text += f"  (target {line.target})"
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axis.text(max(ratio.median, ratio.high), row, text, va="center", fontsize=8, bbox=paper)
    axis.axvline(1.0, color="black", linewidth=1, linestyle="--")
    axis.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=8)
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.set_xlim(0, 1.22 * max(q.high for q in quartiles))
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    quantity = "time" if table.better == "lower" else "speed"
    axis.set_xlabel(f"{quantity} / {table.baseline}; {table.better} is better", fontsize=8)
    axis.set_title(table.title, fontsize=9, loc="left")


def _draw_sweeps(tables: Sequence[BenchmarkTable]) -> Figure:
    """Draw a row for each table: cost and memory."""
    figure = Figure(figsize=(_WIDTH, 3.0 * len(tables) + 0.6), layout="constrained")
    axes = figure.subplots(len(tables), 2, squeeze=False)
    for table, (cost, memory) in zip(tables, axes, strict=True):
        medians = [Quartiles.of(line.samples).median for line in table.lines]
        _draw_sweep_panel(cost, table, table.lines[0].unit, medians)
        _draw_sweep_panel(memory, table, table.memory, [ln.memory or 0.0 for ln in table.lines])
        memory.set_ylim(bottom=0)
        memory.set_title(f"memory, {table.memory}", fontsize=9, loc="left")
        # The limits leave room for the legend.
        if max(medians) > 10 * min(medians):
            cost.set_yscale("log")
            cost.set_ylim(top=6 * max(medians))
        else:
            cost.set_ylim(0, 1.25 * max(medians))
        cost.set_title(table.title, fontsize=9, loc="left")
        cost.legend(fontsize=7, loc="upper center", ncols=3)
    return figure


def _draw_sweep_panel(axis: Axes, table: BenchmarkTable, unit: str, values: list[float]) -> None:
    series: dict[str, list[tuple[float, float]]] = {}
    for line, value in zip(table.lines, values, strict=True):
        series.setdefault(line.label, []).append((line.x or 0.0, value))
    styles = zip(series.items(), _COLORS, _MARKERS, _LINES, strict=False)
    for (label, points), color, marker, style in styles:
        xs, ys = zip(*points, strict=True)
        axis.plot(xs, ys, color=color, marker=marker, linestyle=style, label=label, markersize=5)
    xs = [line.x or 0.0 for line in table.lines]
    if max(xs) > 20 * min(xs):
        axis.set_xscale("log")
    axis.set_xlabel(table.x or "", fontsize=8)
    axis.set_ylabel(unit, fontsize=8)
    axis.tick_params(which="both", labelsize=8)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
