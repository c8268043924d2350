"""List, show, compare and delete runs.

    python scripts/runs.py                                   all of them
    python scripts/runs.py optim=adam lrd.p=0.5 state=failed those with these values
    python scripts/runs.py 'final>97' --sort=-final          numbers compare; the best score first
    python scripts/runs.py --format csv --out runs.csv       one row a run; also json, parquet
    python scripts/runs.py --show RUN                        configuration, provenance, last epoch
    python scripts/runs.py --diff RUN RUN                    the settings in which two differ
    python scripts/runs.py --prune [FILTER ...] [--yes]      delete partial and failed ones, and,
                                                             without a filter, empty folders

RUN is a run directory, or the start of its fingerprint, with /seed<k> where there are several.
Every column and every setting is a filter. States: finished, running (a process holds it, or a job
of a cluster), queued (a job waits for its turn), partial (stopped; the same command resumes it),
failed, unreadable (its record is damaged; the same command repairs it). A job is shown with SLURM's
own word for its state, if SLURM reports it. Rows that would look alike name the settings in which
they differ.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from lrd.analysis.command_line import build_parser, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__)  # whose overrides are filters here
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--show", metavar="RUN")
    what.add_argument("--diff", nargs=2, metavar="RUN")
    what.add_argument("--prune", action="store_true")
    what.add_argument("--format", default="text", choices=("text", "csv", "json", "parquet"))
    parser.add_argument("--out", metavar="FILE", help="file of --format")
    parser.add_argument("--sort", metavar="COLUMN", help="-COLUMN: from the largest on")
    parser.add_argument("--yes", action="store_true", help="prune without asking")
    args = parser.parse_intermixed_args(arguments)

    def body() -> None:
        from lrd.analysis.frames import find_run, list_frame, run_settings
        from lrd.analysis.render import describe_run, export_runs, format_runs
        from lrd.config.fingerprint import diff_identities
        from lrd.launchers.slurm_queue import list_runs
        from lrd.runs.pruning import delete_folders, find_empty_folders, is_prunable

        runs = list_runs(args.runs)
        if args.show:
            return print(describe_run(find_run(runs, args.show)))
        if args.diff:
            pair = (run_settings(find_run(runs, name)) for name in args.diff)
            return print("\n".join(diff_identities(*pair)) or "no difference")
        frame = list_frame(runs, args.overrides, args.sort)
        if not args.prune:
            return print(export_runs(runs, frame, args.format, args.out))
        root = Path(args.runs)
        doomed = frame.loc[[is_prunable(runs[row], root) for row in frame.index]]
        empty = [] if args.overrides else find_empty_folders(root)
        if not len(doomed) and not empty:
            return print("nothing to prune")
        print(format_runs(runs, doomed) if len(doomed) else f"{len(empty)} empty folders")
        if not args.yes and input("delete these? [y/N] ").strip().lower() not in ("y", "yes"):
            return print("nothing deleted")
        deleted = delete_folders(runs[row].folder for row in doomed.index)
        print(f"deleted {deleted} runs and {delete_folders(empty)} empty folders")

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
