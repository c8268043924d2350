"""Draw the figures of a study from runs, with published numbers.

    python scripts/figure.py figure8
    python scripts/figure.py figure6 --format pdf
    python scripts/figure.py figure5 train.epochs=5      the same figure from other settings
    python scripts/figure.py quickstart                  the curves of an experiment's runs

NAME is a study (a file in study/), one of its figures or tables, or an experiment, whose figure has
a curve for each value of the last setting that it sweeps. Trains nothing, and prints the paths.
Formats: png, svg, pdf.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from lrd.analysis.command_line import StudyRequest, print_missing, run_command, study_parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = study_parser(__doc__)
    parser.add_argument("--format", help="png, svg or pdf (default: as --out ends, or png)")
    parser.add_argument("--out", help="file to write (default: figures/ in the runs directory)")
    args = parser.parse_intermixed_args(arguments)

    def body() -> None:
        from lrd.analysis.matching import run_commands
        from lrd.analysis.plotting import FIGURE_FORMATS, draw_figure, encode, write_file
        from lrd.analysis.plotting.series import collect_figure
        from lrd.analysis.studies.find import figures_of

        suffix = Path(args.out).suffix.lstrip(".") if args.out else ""
        form = args.format or suffix or "png"
        if form not in FIGURE_FORMATS:
            raise ValueError(f"the format must be one of {', '.join(FIGURE_FORMATS)}, got {form}")
        request = StudyRequest(args)
        frames = request.frames()
        asked = [(f, o) for study, o in request.studies() for f in figures_of(study).values()]
        if not asked or (args.out and len(asked) > 1):
            raise ValueError(
                f"{' '.join(request.names)} has {len(asked)} figures"
                + (", and --out takes one: name a figure" if asked else "")
            )
        commands, everything = [], []
        for figure, overrides in asked:
            path = Path(args.out or Path(args.runs) / "figures" / f"{figure.name}.{form}")
            results = collect_figure(figure, frames, overrides)
            write_file(path, encode(draw_figure(figure, results, overrides).sheet, form))
            print(path)
            empty = [cell for cell, found in results.items() if not found.n]
            commands += run_commands(empty, request.run_overrides(overrides))
            everything += results.values()
        print_missing(everything, commands, "To run the missing curves")

    return run_command(body, args)


if __name__ == "__main__":
    sys.exit(main())
