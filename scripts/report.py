"""Write one HTML page with everything that runs say about a study.

    python scripts/report.py                     all studies
    python scripts/report.py quickstart          one of them, one of its parts, or an experiment
    python scripts/report.py --runs runs --out runs/report.html
    python scripts/report.py train.epochs=5      the same page from other settings
    python scripts/report.py --wandb wandb.mode=offline wandb.project=lrd

The page has the verdicts on the claims, every table and figure, the deviations and all runs, and
needs no network. Trains nothing, and prints the path of the page. --wandb also logs the tables and
figures to Weights & Biases, as one run; wandb.* say where, as for run.py, or WANDB_MODE.
"""

import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from lrd.analysis.command_line import StudyRequest, run_command, study_parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = study_parser(__doc__)
    parser.add_argument("--out", help="file to write (default: report.html in the runs directory)")
    parser.add_argument("--wandb", action="store_true", help="log tables and figures there too")
    args = parser.parse_intermixed_args(arguments)

    def body() -> int:
        from lrd.analysis.resolve import resolve_cells, split_wandb_settings
        from lrd.analysis.studies.find import find_study
        from lrd.analysis.studies.read import study_files

        if Path(args.runs).exists() and not Path(args.runs).is_dir():
            raise ValueError(f"--runs must be a directory of runs, got {args.runs}")
        request = StudyRequest(args, default="lrd_paper")
        names = request.names if set(request.names) & set(args.words) else list(study_files())
        settings, overrides = split_wandb_settings(request.overrides, args.wandb)
        studies = [find_study(name, overrides) for name in names]
        cells = [(cell, rest) for study, rest in studies for cell in study.cells()]
        resolve_cells(cells, meanwhile=partial(import_module, "lrd.analysis.report"))

        from lrd.analysis.plotting import write_file
        from lrd.analysis.report import build_page

        frames = request.frames()
        out = Path(args.out or Path(args.runs) / "report.html")
        page, problems = build_page(names, frames, out, overrides)
        write_file(out, page.encode(errors="replace"))
        print(out)
        for problem in problems:
            print(f"note: {problem}", file=sys.stderr)
        if args.wandb:
            from lrd.analysis import dashboards

            try:
                print(f"wandb: {dashboards.log_report(names, frames, settings, overrides)}")
            except Exception as error:  # the page is written, whatever wandb raises
                why = dashboards.one_line(error)
                print(f"warning: nothing logged to wandb: {why}", file=sys.stderr)
        return 0

    return run_command(body, args)


if __name__ == "__main__":
    sys.exit(main())
