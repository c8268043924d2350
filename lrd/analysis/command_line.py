"""What the commands that read runs share: their arguments and their error line."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrd.analysis.frames import RunFrames
    from lrd.analysis.matching import CellResults
    from lrd.analysis.render import Report
    from lrd.analysis.studies import Study

REPORT_FORMATS = ("text", "markdown", "latex", "csv")


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
    parser.add_argument("overrides", nargs="*", metavar="SETTING=VALUE")
    parser.add_argument("--runs", default="runs", help="runs directory (default: runs)")
    return parser


def study_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser for ``script.py NAME ... [SETTING=VALUE ...]``, which :class:`StudyRequest`
    reads. A setting differs from the experiments'; ``seed=0,1`` takes only these seeds."""
    parser = build_parser(doc)
    (words,) = (action for action in parser._actions if action.dest == "overrides")
    words.metavar, words.dest = "NAME|SETTING=VALUE", "words"
    parser.add_argument("--config-dir", help="directory of studies and experiments of your own")
    return parser


def report_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return :func:`study_parser` with ``--format`` for :func:`print_reports`."""
    parser = study_parser(doc)
    parser.add_argument("--format", default="text", choices=REPORT_FORMATS, help="(default: text)")
    return parser


def print_reports(reports: "Sequence[Report]", form: str) -> None:
    """Print reports in one of REPORT_FORMATS."""
    from lrd.analysis.render import render_reports

    print(render_reports(reports, form))


class StudyRequest:
    """The studies, settings and runs that a command line asks for.

    Args:
        args: the arguments, parsed by :func:`study_parser` or :func:`report_parser`.
        default: the study that stands for none.

    Raises:
        ValueError: in one line, if there is no name, no default, or a seed is no number.
    """

    def __init__(self, args: argparse.Namespace, default: str | None = None) -> None:
        from lrd.analysis.resolve import seeds_of, setting_name

        self.names = [w for w in args.words if "=" not in w and not w.startswith(("+", "~"))]
        self.names = self.names or ([default] if default else [])
        if not self.names:
            raise ValueError(
                "NAME is missing: a study (lrd_paper, or a file in study/), one of its tables or "
                "figures, or an experiment"
            )
        self.given = [word for word in args.words if word not in self.names]
        self.overrides = [word for word in self.given if setting_name(word) != "seed"]
        self.seeds = seeds_of(self.given)
        self.root: str = args.runs

    def studies(self) -> "list[tuple[Study, list[str]]]":
        """Return what each name stands for, with the settings that differ from its experiments'."""
        from lrd.analysis.studies.find import find_study

        return [find_study(name, self.overrides) for name in self.names]

    def frames(self) -> "RunFrames":
        from lrd.analysis.frames import RunFrames

        return RunFrames(self.root, self.seeds)

    def run_overrides(self, overrides: Sequence[str] = (), seeds: bool = True) -> list[str]:
        """Return ``overrides`` with the seeds that are asked for, and the directory of the runs."""
        asked = [word for word in self.given if seeds and word not in self.overrides]
        return [*overrides, *asked, *([] if self.root == "runs" else [f"run.dir={self.root}"])]


def run_command(body: Callable[[], int | None], args: argparse.Namespace | None = None) -> int:
    """Run the body of a command, with the options of ``--config-dir``; a ValueError or a package
    that is not installed becomes one line on stderr and exit status 2."""
    try:
        if not getattr(args, "config_dir", None):
            return body() or 0
        from lrd.config.compose import use_config_dir

        with use_config_dir(args.config_dir):  # type: ignore[union-attr]
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
