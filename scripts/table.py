"""Print a table from the runs, beside the paper's numbers.

    python scripts/table.py table1
    python scripts/table.py table3 --format markdown
    python scripts/table.py table2 scale=0.15    the same table from other settings
    python scripts/table.py lr_tuned             a grid of rates, and the test at the best ones

Trains nothing. Formats: text, markdown, latex, csv (one line a cell).
"""

import sys
from collections.abc import Sequence

from lrd.analysis.command_line import build_parser, print_missing, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, "table", help="a table of configs/study, such as table1")
    parser.add_argument("--format", default="text", choices=("text", "markdown", "latex", "csv"))
    args = parser.parse_intermixed_args(arguments)

    def body() -> None:
        from lrd.analysis.frames import RunFrames
        from lrd.analysis.matching import run_commands, with_run_dir
        from lrd.analysis.studies import read_catalog
        from lrd.analysis.tables import render_parts, table_parts

        table = read_catalog().table(args.table)
        parts = table_parts(table, RunFrames(args.runs), args.overrides)
        print(render_parts(parts, args.format))
        commands = []
        for _, results, overrides in parts:
            empty = (cell for cell, found in results.items() if not found.n)
            commands += run_commands(empty, with_run_dir(args.runs, overrides))
        everything = [found for part in parts for found in part.results.values()]
        print_missing(everything, commands, "To run the missing configurations")

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
