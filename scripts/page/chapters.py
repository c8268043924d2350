"""What the runs of one length of training say: the verdicts, the tables and the figures."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import table
from layout import TABLES
from sweep import into
from tabular import titled
from verdicts import Verdict, judged

from page.figures import begin
from page.grids import grid
from page.studies import Form, Study, table_names


@dataclass(frozen=True)
class Chapter:
    """``scale``: of the paper's epochs. ``given``: the overrides that runs for it take. ``notes``:
    what cannot be shown, and why."""

    scale: float
    given: Sequence[str]
    verdicts: Sequence[Verdict]
    tables: Sequence[Study]
    figures: Sequence[Study]
    notes: Sequence[str]

    @property
    def mark(self) -> str:
        return mark(self.scale)

    @property
    def percent(self) -> str:
        return f"{100 * self.scale:g} %"

    @property
    def studies(self) -> list[Study]:
        return [*self.tables, *self.figures]


def mark(scale: float) -> str:
    """What tells the anchors of a chapter from those of others."""
    return "" if scale == 1 else f"-at-{scale:g}"


def at(scale: float, overrides: Sequence[str]) -> list[str]:
    """The overrides of runs of this length."""
    return [*overrides, *([f"scale={scale!r}"] if scale != 1 else [])]


def chapter(scale: float, root: str, overrides: Sequence[str], workers: Executor) -> Chapter:
    """``overrides`` are the user's, less the scale. What cannot be shown says why in its place.
    ``workers`` draw the figures."""
    asked = at(scale, overrides)
    begun = begin(mark(scale), root, asked, workers)
    tables = [study for name in TABLES for study in _tables(name, mark(scale), root, asked)]
    try:
        verdicts, notes = judged(root, asked), []
    except ValueError as error:
        verdicts, notes = [], [f"verdicts: {error}"]
    figures = [figure.done() for figure in begun]
    notes += [f"{study.name}: {study.error}" for study in (*tables, *figures) if study.error]
    return Chapter(scale, into(root, asked), verdicts, tables, figures, notes)


def _tables(name: str, ends: str, root: str, asked: Sequence[str]) -> list[Study]:
    """A table and what follows from it, such as the test at the rates that it chooses."""
    made = Form("table", name, name + ends, titled(TABLES[name].title, asked), root)
    try:
        parts = table.parts(name, root, asked)
    except ValueError as error:
        return [made.broken(error)]
    studies = []
    for number, (part, filled, settings) in enumerate(parts):
        key = f"{made.key}-{number}" if number else made.key
        form = replace(made, key=key, title=titled(part.title, settings))
        study = form.study(table_names(part), filled, settings)
        studies.append(replace(study, shown=grid(part, filled)) if study.there else study)
    return studies
