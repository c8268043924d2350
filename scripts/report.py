"""Write one page with everything that the runs there are say of the paper.

    python scripts/report.py
    python scripts/report.py --runs runs --out runs/report.html
    python scripts/report.py train.epochs=5      the same page from other settings

Verdicts on the claims, every table and figure, the deviations, all runs: one HTML file that needs
no network. Trains nothing, and prints where the page is.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from command import reader
from figure import save
from page.build import build


def main(arguments: Sequence[str] | None = None) -> int:
    parser = reader(__doc__)
    parser.add_argument("--out", help="file to write (default: report.html in that folder)")
    args = parser.parse_intermixed_args(arguments)
    out = Path(args.out) if args.out else Path(args.runs) / "report.html"
    try:
        page, notes = build(args.runs, out, args.overrides)
        save(out, page.encode(errors="replace"))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(out)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
