"""What a study's first compared table or figure says: one sentence and one forest plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix

from matplotlib.ticker import MaxNLocator

from lrd.analysis.comparison import Comparison, compare
from lrd.analysis.comparison_text import POINTS, describe_differences
from lrd.analysis.report.forest_plot import AxisScale, Estimate, fit_axis
from lrd.analysis.report.sections import Section
from lrd.analysis.report.tables import DIGITS, Grid, pooled_estimate
from lrd.analysis.studies import ContrastSpec, Study
from lrd.analysis.studies.find import to_table

MAX_CONTRASTS = 3  # of which a sentence speaks


@dataclass(frozen=True)
class ForestRow:
    """A comparison; ``published`` is the published difference."""

    estimate: Estimate
    published: float | None


@dataclass(frozen=True)
class ForestGroup:
    """Rows of one data set, or of one contrast; ``heading`` is empty if nothing is grouped."""

    heading: str
    rows: Sequence[ForestRow]
    pooled: Estimate | None = None


@dataclass(frozen=True)
class Overview:
    """The answer of a study.

    Attributes:
        title: the study's.
        where: the figure, if the study says nothing by a table, and the settings of the runs.
        source, key: a table or a figure, and its anchor.
        sentence: what the differences say.
        groups, pooled: the rows of the plot, and the mean over all of them.
        scale, ticks: the axis of the plot.
        what: the differences that it shows.
        unit: of the differences.
    """

    title: str
    where: str
    source: str
    key: str
    sentence: str
    groups: Sequence[ForestGroup]
    pooled: Estimate | None
    scale: AxisScale
    ticks: Sequence[float]
    what: str
    unit: str

    @property
    def has_published(self) -> bool:
        return any(row.published is not None for group in self.groups for row in group.rows)


Compared = list[tuple[str, Comparison]]


def build_overview(study: Study, where: str, sections: Sequence[Section]) -> Overview | None:
    """Return what the first section says that compares a pair of runs; None without.

    Args:
        study: the study.
        where: the settings of the runs, if they are not the study's.
        sections: its tables and, for where they say nothing, its figures.
    """
    for section in sections:
        grid, spec, source = section.content, None, "table"
        if isinstance(grid, Grid):
            spec = grid.table
        elif grid is not None and section.name in study.figures:
            spec, source, where = to_table(study.figures[section.name]), "figure", section.title
        results = {found.cell: found for _, found, _ in section.members}
        compared: dict[ContrastSpec, Compared] = {}
        for pair in spec.pairs() if spec else ():
            found = compare(results[pair.base], results[pair.other])
            if found.n:
                label = pair.label.removesuffix(f", {pair.contrast}")
                compared.setdefault(pair.contrast, []).append((label, found))
        if compared:
            return _build(study.title, where, (source, section.key), compared)
    return None


def _build(
    title: str, where: str, source: tuple[str, str], compared: dict[ContrastSpec, Compared]
) -> Overview:
    if len(compared) == 1:
        ((contrast, pairs),) = compared.items()
        groups = _by_data(pairs)
        pooled = pooled_estimate([found for _, found in pairs])
        what = contrast.label or _arms(contrast, "minus")
    else:
        groups = [
            ForestGroup(
                _arms(contrast, "minus"),
                [_row(label, found) for label, found in pairs],
                pooled_estimate([found for _, found in pairs]),
            )
            for contrast, pairs in compared.items()
        ]
        pooled, what = None, "the second minus the first of each pair"
    said = [
        describe_differences(contrast.label or _arms(contrast, "against"), pairs)
        for contrast, pairs in compared.items()
    ]
    if len(said) > MAX_CONTRASTS:
        said = [*said[:MAX_CONTRASTS], f"{len(said) - MAX_CONTRASTS} more comparisons below"]
    sentence = ". ".join(map(_capitalize, said)) + "."
    rows = [row for group in groups for row in group.rows]
    marks = [value for row in rows for value in (row.estimate.mean, row.published)]
    estimates = [row.estimate for row in rows if (row.estimate.n or 0) > 2]
    estimates += [each for each in (pooled, *(group.pooled for group in groups)) if each]
    scale = fit_axis(marks, [end for one in estimates for end in (one.low, one.high)])
    ticks = [t for t in MaxNLocator(4).tick_values(scale.low, scale.high) if scale.holds(t)]
    units = {found.score.unit for pairs in compared.values() for _, found in pairs}
    (unit, *others) = units
    unit = "" if others else POINTS.get(unit, unit)
    return Overview(title, where, *source, sentence, groups, pooled, scale, ticks, what, unit)


def _capitalize(text: str) -> str:
    """Return a sentence with a capital; one that begins with a setting as it is."""
    return text if "=" in text.split()[0] else text[:1].upper() + text[1:]


def _arms(contrast: ContrastSpec, word: str) -> str:
    return f"{', '.join(contrast.other)} {word} {', '.join(contrast.base)}"


def _row(label: str, found: Comparison) -> ForestRow:
    low, high = found.effect.interval or (None, None)
    return ForestRow(
        Estimate(label, found.n, found.effect.mean, low, high, DIGITS), found.published
    )


def _by_data(pairs: Compared) -> list[ForestGroup]:
    """Group comparisons by the data set of their runs, if one has several; what all labels of a
    group begin with is its heading."""
    by_data: dict[str, Compared] = {}
    for label, found in pairs:
        by_data.setdefault(str(found.base.runs.dataset.iloc[0]), []).append((label, found))
    if len(by_data) in (1, len(pairs)):
        return [ForestGroup("", [_row(label, found) for label, found in pairs])]
    groups = []
    for data, members in by_data.items():
        parts = [label.split(", ") for label, _ in members]
        n = len(commonprefix([names[:-1] for names in parts]))
        rows = [
            _row(", ".join(names[n:]), found)
            for names, (_, found) in zip(parts, members, strict=True)
        ]
        groups.append(ForestGroup(", ".join(parts[0][:n]) or data, rows))
    return groups
