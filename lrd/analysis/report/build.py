"""Build the page: from runs to one HTML file."""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lrd.analysis.claims.verdicts import Verdict, judge_claims
from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import CellResults, title_with_overrides, with_run_dir
from lrd.analysis.plotting.figure import draw_figure
from lrd.analysis.plotting.series import collect_figure
from lrd.analysis.report.figures import Plot, build_plot
from lrd.analysis.report.overview import Overview, build_overview
from lrd.analysis.report.render import is_judged, read_deviations, render
from lrd.analysis.report.run_list import LIST_COLUMNS, NUMBER_COLUMNS, list_run_rows
from lrd.analysis.report.sections import Section, build_section, summarize_runs
from lrd.analysis.report.tables import build_grid
from lrd.analysis.report.variants import RUN_KIND, RunVariant, find_variants
from lrd.analysis.resolve import config_option, resolve_cells
from lrd.analysis.studies import CellSpec, FigureSpec, TableSpec
from lrd.analysis.studies.find import find_study, tables_of
from lrd.analysis.studies.read import Study
from lrd.analysis.tables import table_parts
from lrd.config.parallel import garbage_kept, run_jobs


@dataclass(frozen=True)
class StudyPart:
    """What a chapter shows of a study; ``problems`` says what it cannot show, and why."""

    name: str
    verdicts: Sequence[Verdict]
    tables: Sequence[Section]
    figures: Sequence[Section]
    problems: Sequence[str]
    overview: Overview | None

    @property
    def has_runs(self) -> bool:
        sections = (*self.tables, *self.figures)
        return any(s.n_filled for s in sections) or any(map(is_judged, self.verdicts))


@dataclass(frozen=True)
class Chapter:
    """What the runs under the same settings say.

    Attributes:
        variant: the settings that are not the studies'.
        given: the overrides of these runs in this directory.
        command: the command that shows them as a page of their own.
    """

    variant: RunVariant
    given: Sequence[str]
    command: str
    studies: Sequence[StudyPart]

    @property
    def suffix(self) -> str:
        return self.variant.suffix

    @property
    def verdicts(self) -> list[Verdict]:
        return [verdict for study in self.studies for verdict in study.verdicts]

    @property
    def decided(self) -> list[Verdict]:
        """The verdicts that depend on runs; none if all of them lack runs."""
        found = [v for v in self.verdicts if any(part.rule.pairs for part in v.parts)]
        return found if any(v.status != "not enough runs" for v in found) else []

    @property
    def tables(self) -> list[Section]:
        return [table for study in self.studies for table in study.tables]

    @property
    def figures(self) -> list[Section]:
        return [figure for study in self.studies for figure in study.figures]

    @property
    def sections(self) -> list[Section]:
        return [*self.tables, *self.figures]

    @property
    def problems(self) -> list[str]:
        return [problem for study in self.studies for problem in study.problems]


@garbage_kept()
def build_page(
    names: Sequence[str], frames: RunFrames, out: Path, overrides: Sequence[str] = ()
) -> tuple[str, list[str]]:
    """Build the page of tables, figures and claims.

    Args:
        names: studies, parts of studies, or experiments.
        frames: the runs.
        out: the file of the page, to which its links are relative.
        overrides: settings that differ from the experiments'.

    Returns:
        The HTML, and a line for everything that cannot be shown.

    Raises:
        ValueError: in one line, if no table and no figure accepts ``overrides``.
    """
    drafts = [_draft_chapter(names, RunVariant(), frames, overrides)]
    variants = find_variants(names, frames, overrides)
    drafts += [_draft_chapter(names, variant, frames, overrides) for variant in variants.shown]
    jobs = {key: job for draft in drafts for key, job in draft.figure_jobs().items()}  # the longest
    jobs |= {key: job for draft in drafts for key, job in draft.number_jobs(frames).items()}
    done = run_jobs([partial(_attempt, job) for job in jobs.values()])
    results = dict(zip(jobs, done, strict=True))
    full, *others = (draft.finish(results) for draft in drafts)
    if all(section.error for section in full.sections):
        raise ValueError(full.sections[0].error)
    others = [chapter for chapter in others if any(s.has_runs for s in chapter.studies)]
    problems = [("", full), *((f"{c.variant.where}: ", c) for c in others)]
    empty = [study.name for study in full.studies if not study.has_runs]
    if len(empty) < len(full.studies) or others:
        full = replace(full, studies=[study for study in full.studies if study.has_runs])
    else:
        empty = []
    studies = [find_study(name)[0] for name in names]
    titles = list(dict.fromkeys(study.title for study in studies))
    pages = dict.fromkeys(study.deviations for study in studies if study.deviations)
    page = render(
        title=titles[0] if len(titles) == 1 else "Learning Rate Dropout",
        summary=summarize_runs(frames),
        root=frames.root,
        command=full.command,
        overrides=overrides,
        overviews=_overviews([full, *others]),
        full=full,
        others=others,
        smaller=[
            (v, _page_command(v.studies, frames, [*overrides, *v.settings]))
            for v in variants.smaller
        ],
        unlike=[(kind, n, _list_command(kind, frames)) for kind, n in variants.unlike],
        empty=empty,
        deviations=[read_deviations(page) for page in pages],
        listing=list_run_rows(frames, out.parent),
        heads=LIST_COLUMNS,
        numbers=NUMBER_COLUMNS,
        link_of=lambda folder: os.path.relpath(folder, out.parent),
    )
    return page, [where + problem for where, chapter in problems for problem in chapter.problems]


def _overviews(chapters: Sequence[Chapter]) -> list[Overview]:
    """Return what each study says, from the first chapter that has its runs: by a table, and by a
    figure where the tables of that chapter say nothing; those of studies with claims first."""
    found: dict[tuple[str, str], Overview] = {}
    studies = [study for chapter in chapters for study in chapter.studies]
    for study in sorted(studies, key=lambda study: not study.verdicts):
        if study.overview:
            found.setdefault((study.name, study.overview.source), study.overview)
    return list(found.values())


def _page_command(names: Sequence[str], frames: RunFrames, overrides: Sequence[str]) -> str:
    where = [] if frames.root == "runs" else ["--runs", frames.root]
    return shlex.join(["python", "scripts/report.py", *config_option(), *names, *where, *overrides])


def _list_command(kind: Sequence[str], frames: RunFrames) -> str:
    named = zip(RUN_KIND, kind, strict=True)
    filters = [f"{name}={value}" for name, value in named if value]
    where = [] if frames.root == "runs" else ["--runs", frames.root]
    return shlex.join(["python", "scripts/runs.py", *where, "state=finished", *filters])


def _draft_chapter(
    names: Sequence[str], variant: RunVariant, frames: RunFrames, overrides: Sequence[str]
) -> "_ChapterDraft":
    given = [*overrides, *variant.settings]
    studies: dict[str, tuple[Study, Sequence[str]]] = {}
    for name in variant.studies or names:
        try:
            studies[name] = find_study(name, given)
        except ValueError:
            if not variant.settings:  # else this study's own settings are others
                raise
    resolve_cells((cell, rest) for study, rest in studies.values() for cell in study.cells())
    sections: dict[str, list[list[_Draft]]] = {}
    taken: Counter[str] = Counter()  # a table and a figure may have one name
    for name, (study, rest) in studies.items():
        sections[name] = [[], []]
        for specs, found in zip((tables_of(study), study.figures), sections[name], strict=True):
            for spec in specs.values():
                taken[spec.name] += 1
                number = f"--{taken[spec.name]}" if taken[spec.name] > 1 else ""
                found += _drafts(spec, spec.name + number + variant.suffix, frames, rest)
    command = _page_command(variant.studies or names, frames, given)
    return _ChapterDraft(variant, with_run_dir(frames.root, given), command, studies, sections)


@dataclass(frozen=True)
class _ChapterDraft:
    """A chapter before its contents: of each study the sections, those of tables first."""

    variant: RunVariant
    given: Sequence[str]
    command: str
    studies: Mapping[str, tuple[Study, Sequence[str]]]
    sections: Mapping[str, Sequence[Sequence["_Draft"]]]

    def figure_jobs(self) -> dict[Any, Callable[[], Any]]:
        """Return what draws each figure."""
        figures = [figure for _, figures in self.sections.values() for figure in figures]
        return {each.section.key: each.build for each in figures if each.build}

    def number_jobs(self, frames: RunFrames) -> dict[Any, Callable[[], Any]]:
        """Return what makes each table and each verdict."""
        tables = [table for tables, _ in self.sections.values() for table in tables]
        jobs: dict[Any, Callable[[], Any]] = {}
        jobs |= {each.section.key: each.build for each in tables if each.build}
        for name, (study, rest) in self.studies.items():
            for claim in study.claims:
                one = replace(study, claims=(claim,))
                key = self.variant.settings, name, claim.name
                jobs[key] = partial(judge_claims, one, frames, rest)
        return jobs

    def finish(self, results: Mapping[Any, Any]) -> Chapter:
        """Return the chapter with what the jobs returned or raised."""
        parts, settings = [], self.variant.settings
        for name, (study, _) in self.studies.items():
            tables, figures = ([each.finish(results) for each in s] for s in self.sections[name])
            judged = [results[settings, name, claim.name] for claim in study.claims]
            verdicts = [verdict for each in judged if isinstance(each, list) for verdict in each]
            failed = dict.fromkeys(f"verdicts: {e}" for e in judged if isinstance(e, ValueError))
            problems = [*failed, *(f"{s.name}: {s.error}" for s in (*tables, *figures) if s.error)]
            if settings and not any(s.n_filled for s in (*tables, *figures)):
                problems = []  # not every study can have these settings
            where = self.variant.where if settings else ""
            overview = build_overview(study, where, [*tables, *figures])
            parts.append(StudyPart(name, verdicts, tables, figures, problems, overview))
        return Chapter(self.variant, self.given, self.command, parts)


@dataclass(frozen=True)
class _Draft:
    """A section, and what builds its content; None where nothing is to be shown."""

    section: Section
    build: Callable[[], Any] | None = None

    def finish(self, results: Mapping[Any, Any]) -> Section:
        content = results.get(self.section.key)
        if isinstance(content, ValueError):
            return replace(self.section, error=str(content))
        return replace(self.section, content=content)


def _attempt(job: Callable[[], Any]) -> Any:
    try:
        return job()
    except ValueError as error:  # one part of the page says why it is not there
        return error


def _drafts(
    spec: TableSpec | FigureSpec, key: str, frames: RunFrames, overrides: Sequence[str]
) -> Iterator[_Draft]:
    """Yield a figure, or a table and what follows from it, such as the test at the rates that it
    chooses; without what cannot be read, the section says why."""
    try:
        if isinstance(spec, TableSpec):
            for number, part in enumerate(table_parts(spec, frames, overrides)):
                anchor = f"{key}-{number}" if number else key
                section = build_section(part.table, anchor, part.results, part.overrides)
                build = partial(build_grid, part)
                yield _Draft(section, build if section.n_filled else None)
        else:
            results = collect_figure(spec, frames, overrides)
            section = build_section(spec, key, results, overrides)
            build = partial(_draw, spec, results, key)
            yield _Draft(section, build if section.n_filled else None)
    except ValueError as error:
        title = title_with_overrides(spec.title, overrides)
        yield _Draft(Section(spec.name, key, title, error=str(error)))


def _draw(spec: FigureSpec, results: Mapping[CellSpec, CellResults], key: str) -> Plot:
    return build_plot(draw_figure(spec, results), key)
