"""From a folder of runs to the page."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from cells import wanted
from layout import TABLES

from lrd.runs.store import Run, find_runs
from page.ahead import compose_ahead
from page.chapters import Chapter, at, chapter
from page.deviations import deviations
from page.listing import HEADS, NUMBERS, listing
from page.records import number
from page.render import render
from page.summary import summarize


def build(root: str, out: Path, overrides: Sequence[str] = ()) -> tuple[str, list[str]]:
    """The page as HTML, to stand at ``out``, and what could not be shown of it, a line each.

    Raises ValueError, in one line, where ``root`` is no folder and where no study of the paper can
    be asked for under ``overrides``.
    """
    if Path(root).exists() and not Path(root).is_dir():
        raise ValueError(f"--runs must be a folder of runs, got {root}")
    check(overrides)
    runs = list(find_runs(root))
    lengths = [1.0, *scales(runs, overrides)]
    with ProcessPoolExecutor(processes(), get_context("spawn")) as workers:
        compose_ahead([at(scale, overrides) for scale in lengths], workers)
        full = chapter(1.0, root, overrides, workers)
        if all(study.error for study in full.studies):
            raise ValueError(full.studies[0].error)
        others = [chapter(scale, root, overrides, workers) for scale in lengths[1:]]
    shorter = [c for c in others if any(study.there for study in c.studies)]

    def folder(run: Run) -> str:
        return os.path.relpath(run.folder, out.parent)

    page = render(
        summary=summarize(runs, root),
        root=root,
        command=command(root, overrides),
        overrides=overrides,
        full=full,
        shorter=shorter,
        deviations=deviations(),
        listing=listing(runs, lambda run: (str(run.folder.relative_to(root)), folder(run))),
        heads=HEADS,
        numbers=NUMBERS,
        folder=folder,
    )
    return page, [note for c in [full, *shorter] for note in notes(c)]


def processes() -> int:
    """Those that compose and draw: one for every core of a small machine."""
    return min(8, len(os.sched_getaffinity(0)))


def check(overrides: Sequence[str]) -> None:
    """Raises ValueError where no experiment can be asked for under ``overrides``."""
    cells = [cell for table in TABLES.values() for cell in table.cells()]
    mistakes = []
    for cell in {cell.experiment: cell for cell in reversed(cells)}.values():
        try:
            wanted(cell, tuple(overrides))
            return
        except ValueError as error:
            mistakes.append(error)
    raise mistakes[0]


def notes(of: Chapter) -> list[str]:
    where = "" if of.scale == 1 else f"at scale {of.scale:g}, "
    return [where + note for note in of.notes]


def command(root: str, overrides: Sequence[str]) -> str:
    where = [] if root == "runs" else [f"--runs {root}"]
    return " ".join(["python scripts/report.py", *where, *overrides])


def scales(runs: Sequence[Run], overrides: Sequence[str]) -> list[float]:
    """Those at which finished runs were asked for, but the whole one, the longest first; none where
    the user names one."""
    if any(override.startswith("scale=") for override in overrides):
        return []
    found = {number(run.record.get("scale")) for run in runs if run.status == "finished"}
    return sorted((s for s in found if s is not None and 0 < s != 1), reverse=True)
