"""Write one page with everything that the runs there are say of the paper.

    python scripts/report.py
    python scripts/report.py --runs runs --out runs/report.html
    python scripts/report.py train.epochs=5      the same page from other settings
    python scripts/report.py --wandb wandb.mode=offline wandb.project=lrd

Verdicts on the claims, every table and figure, the deviations, all runs: one HTML file that needs
no network. Trains nothing, and prints where the page is. --wandb logs the tables and figures to
Weights & Biases too, as one run; where is said by wandb.* as for run.py, or by WANDB_MODE.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command import reader


def main(arguments: Sequence[str] | None = None) -> int:
    parser = reader(__doc__)
    parser.add_argument("--out", help="file to write (default: report.html in that folder)")
    parser.add_argument("--wandb", action="store_true", help="log tables and figures there too")
    args = parser.parse_intermixed_args(arguments)
    # Here, as the processes that compose for the page load this file, and need none of it.
    from figure import save
    from page.build import build
    from wandb_report import settings, split

    ours, overrides = split(args.overrides)
    out = Path(args.out) if args.out else Path(args.runs) / "report.html"
    try:
        where = settings(ours)
        page, notes = build(args.runs, out, overrides)
        save(out, page.encode(errors="replace"))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(out)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return _log(args.runs, where, overrides) if args.wandb else 0


def _log(root: str, where: Any, overrides: Sequence[str]) -> int:
    """The page is written, whatever wandb has to say."""
    from wandb_report import log

    try:
        print(f"wandb: {log(root, where, overrides)}")
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        print(f"warning: nothing logged to wandb: {why}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
