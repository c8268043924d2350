"""Print the tables of a study from runs, with published numbers, and the differences they show.

    python scripts/table.py table1
    python scripts/table.py table3 --format markdown
    python scripts/table.py table2 scale=0.15    the same table from other settings
    python scripts/table.py lr_tuned             a grid of rates, and the test at the best ones
    python scripts/table.py --config-dir my/configs my_experiment

NAME is a study (a file in study/), one of its tables or figures, or an experiment, whose table has
what it sweeps as rows and columns. Trains nothing. Formats: text, markdown, latex, csv (one line a
cell, with its differences from those that it is compared with).
"""

import sys
from collections.abc import Sequence

from lrd.analysis.command_line import (
    StudyRequest,
    print_missing,
    print_reports,
    report_parser,
    run_command,
)


def main(arguments: Sequence[str] | None = None) -> int:
    args = report_parser(__doc__).parse_intermixed_args(arguments)

    def body() -> None:
        from lrd.analysis.matching import run_commands
        from lrd.analysis.studies.find import tables_of
        from lrd.analysis.tables import table_parts, table_report

        request = StudyRequest(args)
        frames = request.frames()
        parts = [
            part
            for study, overrides in request.studies()
            for table in tables_of(study).values()
            for part in table_parts(table, frames, overrides)
        ]
        if not parts:
            raise ValueError(f"{' '.join(request.names)} has no table")
        print_reports([table_report(parts)], args.format)
        commands = []
        for _, results, overrides in parts:
            empty = (cell for cell, found in results.items() if not found.n)
            commands += run_commands(empty, request.run_overrides(overrides))
        everything = [found for part in parts for found in part.results.values()]
        print_missing(everything, commands, "To run the missing configurations")

    return run_command(body, args)


if __name__ == "__main__":
    sys.exit(main())
