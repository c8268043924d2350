"""Draw a figure of a study from runs, with the paper's numbers.

    python scripts/figure.py figure8
    python scripts/figure.py figure6 --format pdf
    python scripts/figure.py figure5 train.epochs=5      the same figure from other settings

Trains nothing, and prints the path of the figure. Formats: png, svg, pdf.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from lrd.analysis.command_line import build_parser, print_missing, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, "figure", help="a figure of configs/study, such as figure5")
    parser.add_argument("--format", help="png, svg or pdf (default: as --out ends, or png)")
    parser.add_argument("--out", help="file to write (default: figures/ in the runs directory)")
    args = parser.parse_intermixed_args(arguments)

    def body() -> int:
        from lrd.analysis.frames import RunFrames
        from lrd.analysis.matching import run_commands, with_run_dir
        from lrd.analysis.plotting import FIGURE_FORMATS, draw_figure, encode, write_file
        from lrd.analysis.plotting.series import collect_figure
        from lrd.analysis.studies import read_catalog

        suffix = Path(args.out).suffix.lstrip(".") if args.out else ""
        form = args.format or suffix or "png"
        if form not in FIGURE_FORMATS:
            raise ValueError(f"the format must be one of {', '.join(FIGURE_FORMATS)}, got {form}")
        path = Path(args.out or Path(args.runs) / "figures" / f"{args.figure}.{form}")
        figure = read_catalog().figure(args.figure)
        results = collect_figure(figure, RunFrames(args.runs), args.overrides)
        write_file(path, encode(draw_figure(figure, results, args.overrides).sheet, form))
        print(path)
        empty = [cell for cell, found in results.items() if not found.n]
        commands = run_commands(empty, with_run_dir(args.runs, args.overrides))
        print_missing(list(results.values()), commands, "To run the missing curves")
        return 0

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
