"""Numbers, tables and lists of runs as text, Markdown, LaTeX and CSV.

What a command prints is a sequence of reports; every format is one function of their blocks.
"""

import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import yaml

from lrd.analysis.comparison import NOT_REACHED
from lrd.analysis.frames import distinguishing_settings, plain_frame
from lrd.analysis.statistics import PAIRS_LIMIT, Interval
from lrd.runs.store import Run

DASH = "-"


def format_number(value: float | None, form: str = "z.3f") -> str:
    """Return a number; a dash for None and NaN."""
    return DASH if value is None or math.isnan(value) else f"{value:{form}}"


def format_interval(interval: Interval | None, form: str = "+z.3f") -> str:
    if interval is None or math.isnan(interval[0]):
        return DASH
    return f"{interval[0]:{form}} to {interval[1]:{form}}"


def format_p(p: float | None) -> str:
    """Return a p-value; of a small one that it is."""
    return DASH if p is None or math.isnan(p) else "<0.0001" if p < 1e-4 else f"{p:.4f}"


def format_pairs(pairs: int | None) -> str:
    """Return a number of pairs; None stands for more than PAIRS_LIMIT."""
    return f">{PAIRS_LIMIT}" if pairs is None else str(pairs)


def format_epoch(value: float) -> str:
    return "never" if value == NOT_REACHED else f"{value:g}"


def align(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return rows as lines: the first ``left`` columns left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        texts = zip(row, widths, strict=True)
        padded = [t.ljust(w) if i < left else t.rjust(w) for i, (t, w) in enumerate(texts)]
        lines.append("  ".join(padded).rstrip())
    return lines


class Bold(str):
    """A text that Markdown and LaTeX print in bold."""


Cell = str | tuple[str, ...]  # several: of the arms, next to each other


@dataclass(frozen=True)
class TextTable:
    """A table of texts.

    Attributes:
        title: may have several lines.
        note: what the numbers are; a part of the caption.
        labels: how many columns at the left are words.
        per: how many lines belong together, of which the first has the labels; with rules between
            them. 0: plain columns, numbers at the right.
        foot: lines below.
        inline: the same for Markdown and LaTeX, where it has an estimate in one cell.
    """

    title: str
    note: str
    head: list[str]
    labels: int
    rows: Sequence[Sequence[Cell]]
    per: int
    foot: Sequence[str] = ()
    inline: "TextTable | None" = None

    @property
    def caption(self) -> str:
        parts = filter(None, (" ".join(self.title.splitlines()), self.note))
        return ". ".join(part[0].upper() + part[1:] for part in parts)

    def for_papers(self) -> "TextTable":
        """Return the table with an estimate in one cell, and the n of all rows in the caption."""
        found = self.inline or self
        column = found.head.index("n") if "n" in found.head else None
        shared = {row[column] for row in found.rows} if column is not None else set()
        if column is None or len(shared) != 1 or shared <= {DASH, "0"}:
            return found
        head, *rows = (
            [cell for place, cell in enumerate(row) if place != column]
            for row in (found.head, *found.rows)
        )
        note = "; ".join(filter(None, (found.note, f"n = {shared.pop()}")))
        return replace(found, head=head, rows=rows, note=note)


@dataclass(frozen=True)
class Listing:
    """Named texts, each with points."""

    items: Sequence[tuple[str, str, Sequence[str]]]


ReportBlock = str | TextTable | Listing  # a text may have several lines


@dataclass(frozen=True)
class Report:
    """What a command prints: blocks to read, and for csv rows with all digits."""

    blocks: Sequence[ReportBlock]
    rows: pd.DataFrame


def render_reports(reports: Sequence[Report], form: str) -> str:
    """Return reports in one of TEXT_FORMATS, or their rows as csv."""
    if form == "csv":
        frames = [report.rows for report in reports if len(report.rows.columns)]
        return pd.concat(frames, ignore_index=True).to_csv(index=False).rstrip("\n")
    return "\n\n".join(TEXT_FORMATS[form](block) for report in reports for block in report.blocks)


def to_text(block: ReportBlock) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, Listing):
        lines = []
        for name, text, points in block.items:
            lines.append(f"{name:4}{text}")
            for point in points:
                shown = textwrap.fill(point, 95, initial_indent=6 * " ", subsequent_indent=6 * " ")
                lines.append(f"    - {shown.strip()}")
        return "\n".join(lines)
    rows = [list(map(_join, row)) for row in (block.head, *block.rows)]
    if not block.per:
        title = [block.title] if block.title else []
        return "\n".join([*title, *align(rows, block.labels), *block.foot])
    head, *lines = align(rows, left=len(block.head))
    rule = "-" * max(map(len, [head, *lines]))
    groups = ["\n".join(lines[i : i + block.per]) for i in range(0, len(lines), block.per)]
    body = "\n".join([head, rule, f"\n{rule}\n".join(groups), *block.foot])
    return f"{block.title}\n{block.note}\n\n{body}"


def _join(cell: Cell, show: Callable[[str], str] = str) -> str:
    return show(cell) if isinstance(cell, str) else " / ".join(map(show, cell))


def to_markdown(block: ReportBlock) -> str:
    if isinstance(block, str):
        return "\n\n".join(line.strip() for line in block.splitlines())
    if isinstance(block, Listing):
        lines = []
        for name, text, points in block.items:
            lines += [f"- **{name}** {text}", *(f"  - {point}" for point in points)]
        return "\n".join(lines)
    table = block.for_papers()

    def show(text: str) -> str:
        escaped = text.replace("|", r"\|")
        return f"**{escaped}**" if isinstance(text, Bold) else escaped

    rows = [table.head, ["---"] * len(table.head), *table.rows]
    body = ["| " + " | ".join(_join(cell, show) for cell in row) + " |" for row in rows]
    text = filter(None, ("\n".join(filter(None, (table.title, table.note))), "\n".join(body)))
    return "\n\n".join([*text, *(line.strip() for line in table.foot)])


def to_latex(block: ReportBlock) -> str:
    """Return LaTeX that needs the package booktabs alone."""
    if isinstance(block, str):
        return "\n\n".join(_escape(line.strip()) for line in block.splitlines())
    if isinstance(block, Listing):
        lines = []
        for name, text, points in block.items:
            lines.append(rf"\item[{_escape(name)}] {_escape(text)}")
            items = (rf"\item {_escape(point)}" for point in points)
            lines += [r"\begin{itemize}", *items, r"\end{itemize}"] if points else []
        return "\n".join([r"\begin{description}", *lines, r"\end{description}"])
    table = block.for_papers()

    def show(text: str) -> str:
        return rf"\textbf{{{_escape(text)}}}" if isinstance(text, Bold) else _escape(text)

    head, *lines = (
        " & ".join(_join(cell, show) for cell in row) + r" \\" for row in (table.head, *table.rows)
    )
    if table.per > 1:
        for end in range(table.per - 1, len(lines) - 1, table.per):
            lines[end] += r" \addlinespace"
    columns = "l" * table.labels + "c" * (len(table.head) - table.labels)
    caption = [rf"\caption{{{_escape(table.caption)}.}}"] if table.caption else []
    foot = [rf"\par {_escape(line.strip())}" for line in table.foot]
    body = [r"\toprule", head, r"\midrule", *lines, r"\bottomrule"]
    inner = [rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"]
    return "\n".join([r"\begin{table}", r"\centering", *caption, *inner, *foot, r"\end{table}"])


_LATEX = {character: "\\" + character for character in "%&_#${}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": "$<$", ">": "$>$", "±": r"$\pm$", "−": "$-$", "≥": r"$\ge$", "≤": r"$\le$"}


def _escape(text: str) -> str:
    for plain, sign in (("+-", "±"), (">=", "≥"), ("<=", "≤")):
        text = text.replace(plain, sign)
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text).translate(str.maketrans(_LATEX))


TEXT_FORMATS: dict[str, Callable[[ReportBlock], str]] = {
    "text": to_text,
    "markdown": to_markdown,
    "latex": to_latex,
}


RUN_HEADS = ("state", "data", "optim", "p", "seed", "epochs", "final", "arm")
OPTIONAL_HEADS = ("job", "differs in")  # columns that are left out where they would be empty
RUN_HEADS = (*RUN_HEADS, *OPTIONAL_HEADS, "folder")


def format_runs(runs: Sequence[Run], frame: pd.DataFrame) -> str:
    """Return a list of those of ``runs`` whose rows of ``list_frame`` are in ``frame``."""
    runs, rows = [runs[row] for row in frame.index], []
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        done = "damaged" if row["epochs_done"] is None else f"{row['epochs_done']:.0f}"
        score = "" if row["final"] is None else f"{row['final']:.2f} {row['unit']}".strip()
        names = ("state", "dataset", "optimizer", "p", "seed", "epochs", "arm")
        *first, epochs, arm = ("?" if row.get(n) is None else f"{row[n]}" for n in names)
        rows.append([*first, f"{done}/{epochs.removesuffix('.0')}", score, arm, row["job"]])
    alike = [(*row[1:5], row[5].rpartition("/")[2], row[7]) for row in rows]
    differ = distinguishing_settings(runs, alike)
    rows = [[*r, text, str(run.folder)] for r, text, run in zip(rows, differ, runs, strict=True)]
    table = [list(column) for column in zip(RUN_HEADS, *rows, strict=True)]
    table = [column for column in table if column[0] not in OPTIONAL_HEADS or any(column[1:])]
    lines = align(list(zip(*table, strict=True)), left=len(table))
    counts = ", ".join(f"{n} {state}" for state, n in Counter(row[0] for row in rows).items())
    return "\n".join([*lines, f"{len(rows)} runs: {counts or 'none'}"])


def export_runs(runs: Sequence[Run], frame: pd.DataFrame, form: str, out: str | None) -> str:
    """Return a list of runs as text, csv or json, or write it to ``out`` and return that path.

    Args:
        runs: all runs.
        frame: those to export, rows of ``list_frame``.
        form: text, csv, json or parquet.
        out: a file.

    Raises:
        ValueError: parquet has no ``out``, or its library is not installed.
    """
    plain = plain_frame(frame)
    if form == "parquet":
        if out is None:
            raise ValueError("--format parquet must be given --out FILE")
        try:
            plain.to_parquet(out, index=False)
        except ImportError as error:
            raise ValueError("--format parquet needs a package: pip install pyarrow") from error
        return out
    if form == "text":
        text = format_runs(runs, frame)
    elif form == "csv":
        text = str(plain.to_csv(index=False))
    else:
        text = str(plain.to_json(orient="records", indent=1, double_precision=15))
    if out is None:
        return text.rstrip()
    Path(out).write_text(text.rstrip() + "\n")
    return out


def describe_run(run: Run) -> str:
    """Return a run's record, with its state and last epoch, as YAML."""
    record = {k: v for k, v in run.metadata.items() if k not in ("identity", "format", "packages")}
    record = {"folder": str(run.folder), "state": run.state, **record}
    if metrics := run.metrics:
        record["last epoch"] = metrics[-1]
    return yaml.safe_dump(record, sort_keys=False, width=100).rstrip()
