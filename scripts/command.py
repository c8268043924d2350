"""The command line that all scripts share which read runs."""

import argparse
from typing import Any

FORM = argparse.RawDescriptionHelpFormatter


def reader(doc: str | None, what: str | None = None, **settings: Any) -> argparse.ArgumentParser:
    """A parser for ``script.py [WHAT] [OVERRIDES ...] [--runs RUNS]``; ``doc`` is its help.

    ``settings`` are argparse's of the argument ``what``. Options may stand anywhere, so parse by
    ``parse_intermixed_args``.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=FORM)
    if what:
        parser.add_argument(what, **settings)
    parser.add_argument("overrides", nargs="*", help="settings that differ from the experiment's")
    parser.add_argument("--runs", default="runs", help="folder of the runs (default: runs)")
    return parser
