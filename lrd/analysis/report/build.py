"""Build the page: from runs to one HTML file."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lrd.analysis.claims.verdicts import Verdict, judge_claims
from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import title_with_overrides, with_run_dir
from lrd.analysis.plotting.figure import draw_figure
from lrd.analysis.plotting.series import collect_figure
from lrd.analysis.report.figures import build_plot
from lrd.analysis.report.render import read_deviations, render
from lrd.analysis.report.run_list import LIST_COLUMNS, NUMBER_COLUMNS, list_run_rows
from lrd.analysis.report.sections import Section, build_section, summarize_runs
from lrd.analysis.report.tables import build_grid
from lrd.analysis.studies import FigureSpec, TableSpec
from lrd.analysis.studies.find import find_study, tables_of
from lrd.analysis.tables import table_parts


@dataclass(frozen=True)
class Chapter:
    """What the runs of one length of training say.

    Attributes:
        scale: the length, as a share of the paper's epochs.
        given: the overrides of runs of this length in this directory.
        problems: what cannot be shown, and why.
    """

    scale: float
    given: Sequence[str]
    verdicts: Sequence[Verdict]
    tables: Sequence[Section]
    figures: Sequence[Section]
    problems: Sequence[str]

    @property
    def suffix(self) -> str:
        return scale_suffix(self.scale)

    @property
    def percent(self) -> str:
        return f"{100 * self.scale:g} %"

    @property
    def sections(self) -> list[Section]:
        return [*self.tables, *self.figures]


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
    full = _build_chapter(names, 1.0, frames, overrides)
    if all(section.error for section in full.sections):
        raise ValueError(full.sections[0].error)
    others = [_build_chapter(names, s, frames, overrides) for s in run_scales(frames, overrides)]
    shorter = [c for c in others if any(section.n_filled for section in c.sections)]
    where = [] if frames.root == "runs" else [f"--runs {frames.root}"]
    page = render(
        summary=summarize_runs(frames),
        root=frames.root,
        command=" ".join(["python scripts/report.py", *names, *where, *overrides]),
        overrides=overrides,
        full=full,
        shorter=shorter,
        deviations=read_deviations(),
        listing=list_run_rows(frames, out.parent),
        heads=LIST_COLUMNS,
        numbers=NUMBER_COLUMNS,
        link_of=lambda folder: os.path.relpath(folder, out.parent),
    )
    shown = [("", full), *((f"at scale {c.scale:g}, ", c) for c in shorter)]
    return page, [where + problem for where, chapter in shown for problem in chapter.problems]


def run_scales(frames: RunFrames, overrides: Sequence[str]) -> list[float]:
    """Return the scales of shortened finished runs, longest first; none if the user sets one."""
    if any(override.startswith("scale=") for override in overrides):
        return []
    scales = frames.runs[frames.runs.status == "finished"].scale.dropna().unique()
    return sorted((float(scale) for scale in scales if 0 < scale != 1), reverse=True)


def scale_suffix(scale: float) -> str:
    """Return what distinguishes the anchors of a chapter from those of others."""
    return "" if scale == 1 else f"-at-{scale:g}"


def with_scale(scale: float, overrides: Sequence[str]) -> list[str]:
    """Return the overrides of runs of this length."""
    return [*overrides, *([f"scale={scale!r}"] if scale != 1 else [])]


def _build_chapter(
    names: Sequence[str], scale: float, frames: RunFrames, overrides: Sequence[str]
) -> Chapter:
    given, suffix = with_scale(scale, overrides), scale_suffix(scale)
    tables, figures, verdicts, problems = [], [], [], []
    for name in names:
        study, rest = find_study(name, given)
        for table in tables_of(study).values():
            tables += _sections(table, suffix, frames, rest)
        for figure in study.figures.values():
            figures += _sections(figure, suffix, frames, rest)
        try:
            verdicts += judge_claims(study, frames, rest)
        except ValueError as error:
            problems.append(f"verdicts: {error}")
    problems += [f"{s.name}: {s.error}" for s in (*tables, *figures) if s.error]
    commands = with_run_dir(frames.root, given)
    return Chapter(scale, commands, verdicts, tables, figures, problems)


def _sections(
    spec: TableSpec | FigureSpec, suffix: str, frames: RunFrames, overrides: Sequence[str]
) -> Iterator[Section]:
    """Yield a figure, or a table and what follows from it, such as the test at the rates that it
    chooses; without what cannot be read, the section says why."""
    key = spec.name + suffix
    section = Section(spec.name, key, title_with_overrides(spec.title, overrides))
    try:
        if isinstance(spec, TableSpec):
            for number, part in enumerate(table_parts(spec, frames, overrides)):
                anchor = f"{key}-{number}" if number else key
                section = build_section(part.table, anchor, part.results, part.overrides)
                content = build_grid(part.table, part.results) if section.n_filled else None
                yield replace(section, content=content)
        else:
            results = collect_figure(spec, frames, overrides)
            section = build_section(spec, key, results, overrides)
            content = build_plot(draw_figure(spec, results), key) if section.n_filled else None
            yield replace(section, content=content)
    except ValueError as error:
        yield replace(section, error=str(error))
