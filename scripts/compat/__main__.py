"""Check LRDropout around every optimizer of torch, pytorch_optimizer, timm and schedulefree.

    python -m scripts.compat                           all; writes docs/compatibility.md
    python -m scripts.compat timm.adamw torch.Adam     these; writes nothing

Prints a table: with p = 1 bitwise the plain optimizer, with p = 0.5 its step under the mask, and
saved and resumed bitwise. The exit status is 1 if a check fails. Takes two minutes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lrd.analysis.command_line import run_command

REPOSITORY = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m scripts.compat", description=__doc__, formatter_class=kind
    )
    parser.add_argument("optimizers", nargs="*", metavar="PACKAGE.NAME", help="(default: all)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "compatibility.md")
    args = parser.parse_args(arguments)

    def body() -> int:
        from scripts.compat.cases import find_all_cases
        from scripts.compat.checks import check
        from scripts.compat.page import compatibility_page, outcome_rows

        outcomes = [check(case) for case in find_all_cases(args.optimizers)]
        failed = any(False in (o.plain, o.masked, o.resumed) for o in outcomes)
        if args.optimizers:
            print(*outcome_rows(outcomes), sep="\n")
        else:
            args.out.write_text(page := compatibility_page(outcomes))
            print(page)
        return int(failed)

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
