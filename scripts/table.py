"""Print a table from the runs there are, beside the paper's numbers.

    python scripts/table.py table1
    python scripts/table.py table3 --format markdown
    python scripts/table.py table2 scale=0.15    the same table from other settings
    python scripts/table.py lr_tuned             a grid of rates, and the test at the best ones

Trains nothing. Formats: text, markdown, latex, csv (one line a cell).
"""

import csv
import io
import sys
from collections.abc import Callable, Iterable, Sequence

import tuned
from cells import Filled, fill, tell
from command import reader
from comparison import compare
from effect import Effect
from layout import TABLES
from sweep import commands, into
from tabular import Cell, Table, require_apart, titled
from typeset import TYPESET, Block

Fill = dict[Cell, Filled]
Part = tuple[Table, Fill, Sequence[str]]  # with the settings that its runs were made with

# The lines under each row: what they show of a cell.
LINES: dict[str, Callable[[Filled], str]] = {
    "ours": lambda f: "" if f.mean is None else f"{f.mean:.2f}",
    "95 % ±": lambda f: "" if f.half_width is None else f"{f.half_width:.2f}",
    "n": lambda f: _seeds(f),
    "paper": lambda f: "" if f.cell.paper is None else f"{f.cell.paper:.2f}",
}
HOW = "final epoch, mean over seeds, half of the 95 % t interval, n seeds"
PAIRED = "paired by seed: mean difference, half of its 95 % t interval, n pairs"


def _seeds(filled: Filled) -> str:
    """How many, and how many failed, of which no score is known."""
    failed = f" ({len(filled.failed)} failed)" if filled.failed else ""
    return f"{filled.n}{failed}" if filled.n or failed else ""


def block(table: Table, filled: Fill, overrides: Sequence[str]) -> Block:
    printed = any(cell.paper is not None for cell in table.cells())
    lines = {name: show for name, show in LINES.items() if printed or name != "paper"}
    rows = []
    for labels, groups in table.rows:
        for name, show in lines.items():
            texts = ([show(filled[cell]) or "-" for cell in group] for group in groups)
            rows.append([*_once(labels, name, lines), name, *map(" / ".join, texts)])
    head = [*table.heads, "", *table.columns]
    return Block(titled(table.title, overrides), HOW, head, len(table.heads) + 1, rows, len(lines))


def differences(table: Table, filled: Fill, overrides: Sequence[str]) -> Block:
    """The contrasts of every row: a line each."""
    rows, names = [], [name for name, *_ in table.contrasts]
    for labels, groups in table.rows:
        cells = [filled[cell] for group in groups for cell in group]
        for name, i, j in table.contrasts:
            effect = compare(cells[i], cells[j]).effect
            rows.append([*_once(labels, name, names), name, *_texts(effect)])
    head = [*table.heads, "", "points", "95 % ±", "n"]
    return Block(
        titled("Differences", overrides), PAIRED, head, len(table.heads) + 1, rows, len(names)
    )


def _once(labels: Sequence[str], name: str, names: Iterable[str]) -> Sequence[str]:
    """A row's labels on the first of its lines."""
    return labels if name == next(iter(names)) else [""] * len(labels)


def _texts(effect: Effect) -> list[str]:
    mean = "-" if effect.mean is None else f"{effect.mean:+.2f}"
    low, high = effect.interval or (None, None)
    half = "-" if low is None or high is None else f"{(high - low) / 2:.2f}"
    return [mean, half, str(effect.n or "-")]


def as_csv(made: Sequence[Part]) -> str:
    heads = dict.fromkeys(head for table, *_ in made for head in table.heads)
    numbers = ("mean", "half_width_95", "n", "failed", "paper")
    file = io.StringIO()
    out = csv.DictWriter(file, [*heads, "experiment", "overrides", *numbers], lineterminator="\n")
    out.writeheader()
    for table, filled, overrides in made:
        for labels, groups in table.rows:
            for f in (filled[cell] for group in groups for cell in group):
                told = " ".join([*f.cell.overrides, *overrides])
                there = (f.mean, f.half_width, f.n, len(f.failed), f.cell.paper)
                row = dict(zip(numbers, there, strict=True))
                row |= {"experiment": f.cell.experiment, "overrides": told}
                out.writerow(dict(zip(table.heads, labels, strict=True)) | row)
    return file.getvalue().rstrip("\n")


FORMATS: dict[str, Callable[[Block], str] | None] = {**TYPESET, "csv": None}


def parts(name: str, root: str, overrides: Sequence[str]) -> list[Part]:
    """The table of that name and, of a grid of rates, the test at the chosen ones."""
    table = TABLES[name]
    filled = fill(table.cells(), root, overrides)
    require_apart("cells", (f.identity for f in filled.values()), overrides)
    found = [(table, filled, overrides)]
    if name == "lr_tuned":
        final, kept = tuned.final(table, filled), tuned.tested(overrides)
        found.append((final, fill(final.cells(), root, kept), kept))
    return [part for part in found if part[0].rows]


def shown(made: Sequence[Part], form: str) -> str:
    show = FORMATS[form]
    if show is None:
        return as_csv(made)
    blocks = []
    for table, filled, overrides in made:
        blocks.append(block(table, filled, overrides))
        blocks += [differences(table, filled, overrides)] if table.contrasts else []
    return "\n\n".join(map(show, blocks))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = reader(__doc__, "table", choices=TABLES)
    parser.add_argument("--format", choices=FORMATS, default="text")
    args = parser.parse_intermixed_args(arguments)
    try:
        made = parts(args.table, args.runs, args.overrides)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(shown(made, args.format))
    empty = []
    for _, filled, overrides in made:
        cells = (cell for cell, f in filled.items() if not f.n)
        empty += commands(cells, into(args.runs, overrides))
    everything = [f for _, filled, _ in made for f in filled.values()]
    tell(everything, empty, "empty cells are filled by", args.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
