"""Draw a figure of the paper from the runs there are, beside the paper's numbers.

    python scripts/figure.py figure8
    python scripts/figure.py figure6 --format pdf
    python scripts/figure.py figure5 train.epochs=5      the same figure from other settings

Trains nothing, and prints where the figure is. Formats: png, svg, pdf.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import toy
from cells import Filled, tell
from command import reader
from curves import FIGURES, Figure
from drawing import FORMATS, draw, encode
from layout import Cell
from matplotlib.figure import Figure as Sheet
from points import fill_curves, series
from sweep import commands, into

from lrd.runs.store import atomic_write


def place(out: str | None, form: str | None, runs: str, name: str) -> tuple[Path, str]:
    """The file to write and its format: as asked for, else as its name ends, else png."""
    form = form or (Path(out).suffix.lstrip(".") if out else "") or "png"
    if form not in FORMATS:
        raise ValueError(f"the format must be one of {', '.join(FORMATS)}, got {form}")
    return Path(out) if out else Path(runs) / "figures" / f"{name}.{form}", form


def save(path: Path, data: bytes) -> None:
    """Raises ValueError, in one line, where the file cannot be written."""
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, data)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}: {error.filename}") from error


def names() -> list[str]:
    return [*toy.FIGURES, *FIGURES]


def sheet(name: str, runs: str, overrides: Sequence[str] = ()) -> tuple[Sheet, list[Filled]]:
    """A figure drawn from the runs under a folder, and those that fill its cells.

    Raises ValueError, in one line, for an unknown name, a wrong override, and metrics that cannot
    be read.
    """
    if name not in names():
        raise ValueError(f"figure must be one of {', '.join(names())}, got {name}")
    figure, paint = toy.FIGURES[name] if name in toy.FIGURES else (FIGURES[name], _curves)
    filled = fill_curves(figure, runs, overrides)
    return paint(figure, filled, overrides), list(filled.values())


def _curves(figure: Figure, filled: Mapping[Cell, Filled], overrides: Sequence[str]) -> Sheet:
    return draw(figure, series(figure, filled), overrides)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = reader(__doc__, "figure", help=", ".join(names()))
    parser.add_argument("--format", help=f"{', '.join(FORMATS)} (default: as --out ends, or png)")
    parser.add_argument("--out", help="file to write (default: figures/ in the folder of the runs)")
    args = parser.parse_intermixed_args(arguments)
    try:
        path, form = place(args.out, args.format, args.runs, args.figure)
        drawn, cells = sheet(args.figure, args.runs, args.overrides)
        save(path, encode(drawn, form))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path)
    empty = commands((f.cell for f in cells if not f.n), into(args.runs, args.overrides))
    tell(cells, empty, "missing curves are drawn after", args.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
