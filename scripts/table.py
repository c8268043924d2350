"""Print a table of the paper from the runs there are, beside the paper's numbers.

    python scripts/table.py table1
    python scripts/table.py table1 --format markdown
    python scripts/table.py table1 train.epochs=5      the same table from other settings

Trains nothing. Formats: text, markdown, latex, csv (one line a cell).
"""

import argparse
import csv
import io
import sys
from collections.abc import Callable, Sequence

from cells import Filled, fill, missing, tell
from layout import TABLES, Cell, Table

Fill = dict[Cell, Filled]
Rows = list[list[str]]

# The lines under each row: what they show of a cell.
LINES: dict[str, Callable[[Filled], str]] = {
    "ours": lambda f: "" if f.mean is None else f"{f.mean:.2f}",
    "95 % ±": lambda f: "" if f.half_width is None else f"{f.half_width:.2f}",
    "n": lambda f: "" if not f.n else str(f.n),
    "paper": lambda f: "" if f.cell.paper is None else f"{f.cell.paper:.2f}",
}


def rows(table: Table, filled: Fill) -> Rows:
    """The table as text: a line of heads, then four lines a row."""
    out: Rows = [[*table.heads, "", *table.columns]]
    for labels, groups in table.rows:
        for name, show in LINES.items():
            first = name == next(iter(LINES))
            texts = [[show(filled[cell]) or "-" for cell in group] for group in groups]
            out.append([*(labels if first else ("",) * len(labels)), name, *map(" / ".join, texts)])
    return out


def text(table: Table, filled: Fill) -> str:
    body = rows(table, filled)
    widths = [max(len(row[i]) for row in body) for i in range(len(body[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in body]
    rule = "-" * max(map(len, lines))
    per = len(LINES)
    blocks = ["\n".join(lines[i : i + per]) for i in range(1, len(lines), per)]
    return "\n".join([lines[0], rule, f"\n{rule}\n".join(blocks)])


def markdown(table: Table, filled: Fill) -> str:
    head, *body = rows(table, filled)
    return "\n".join("| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *body])


def latex(table: Table, filled: Fill) -> str:
    head, *body = rows(table, filled)
    escaped = [[c.replace("%", r"\%").replace("±", r"$\pm$") for c in row] for row in body]
    lines = [" & ".join(row) + r" \\" for row in escaped]
    for i in range(len(LINES) - 1, len(lines), len(LINES)):
        lines[i] += r" \hline"
    columns = "l" * (len(table.heads) + 1) + "c" * len(table.columns)
    top = " & ".join(head) + r" \\ \hline"
    begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    return "\n".join([begin, r"\hline", top, *lines, end])


def as_csv(table: Table, filled: Fill) -> str:
    file = io.StringIO()
    out = csv.writer(file, lineterminator="\n")
    out.writerow([*table.heads, "experiment", "overrides", "mean", "half_width_95", "n", "paper"])
    for labels, groups in table.rows:
        for cell in (cell for group in groups for cell in group):
            f = filled[cell]
            overrides = " ".join(cell.overrides)
            numbers = [f.mean, f.half_width, f.n, cell.paper]
            out.writerow([*labels, cell.experiment, overrides, *numbers])
    return file.getvalue().rstrip("\n")


FORMATS = {"text": text, "markdown": markdown, "latex": latex, "csv": as_csv}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("overrides", nargs="*", help="settings that differ from the experiment's")
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--runs", default="runs", help="folder of the runs (default: runs)")
    args = parser.parse_intermixed_args(arguments)
    table = TABLES[args.table]
    try:
        filled = fill(table.cells(), args.runs, args.overrides)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.format != "csv":
        print(table.title + (f" [{' '.join(args.overrides)}]" if args.overrides else ""))
        print("final epoch, mean over seeds, half of the 95 % t interval, n seeds\n")
    print(FORMATS[args.format](table, filled))
    cells = list(filled.values())
    tell(cells, missing(cells, args.overrides), "empty cells are filled by", args.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
