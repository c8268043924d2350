"""What the commands that read runs share: their arguments and their error line."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrd.analysis.matching import CellResults


def build_parser(
    doc: str | None, what: str | None = None, **settings: Any
) -> argparse.ArgumentParser:
    """Return a parser for ``script.py [WHAT] [OVERRIDES ...] [--runs RUNS]``.

    Options may stand anywhere, so parse by ``parse_intermixed_args``.

    Args:
        doc: the help text.
        what: an argument before the overrides, with argparse's ``settings``.
    """
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=form)
    if what:
        parser.add_argument(what, **settings)
    parser.add_argument("overrides", nargs="*", help="settings that differ from the experiment's")
    parser.add_argument("--runs", default="runs", help="runs directory (default: runs)")
    return parser


def run_command(body: Callable[[], int | None]) -> int:
    """Run the body of a command; a ValueError or a package that is not installed becomes one line
    on stderr and exit status 2."""
    try:
        return body() or 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if (error.name or "lrd").partition(".")[0] in ("lrd", "tasks", "scripts"):
            raise
        print(f"error: {error.name} is missing: pip install -e '.[experiments]'", file=sys.stderr)
    return 2


def print_missing(results: "Sequence[CellResults]", commands: Sequence[str], what: str) -> None:
    """Print on stderr the commands that make missing runs and, if no run matches, the nearest."""
    from lrd.analysis.matching import explain_mismatches

    if commands:
        print(f"\n{what}:", *commands, sep="\n  ", file=sys.stderr)
    if results and not any(each.n for each in results):
        nearest = explain_mismatches(results) or ["none"]
        where = f"no matching run under {results[0].frames.root}. Finished runs"
        print(f"\n{where}:", *nearest, sep="\n  ", file=sys.stderr)
