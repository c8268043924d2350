"""Studies: the tables, figures and claims of ``configs/study/*.yaml`` as dataclasses.

A cell of a table or a curve of a figure stands for one configuration, given by an experiment and
overrides. The files say what exists; this module knows no particular study.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lrd.analysis.claims.specs import CellSpec, Claim, read_claims
from lrd.config.compose import CONFIGS, require_checkout

if TYPE_CHECKING:
    from pandas import DataFrame

Spec = TypeVar("Spec")
STUDIES = CONFIGS / "study"
LineStyle = str | tuple[float, tuple[float, ...]]  # matplotlib's: a name, or offset and dashes


class RowSpec(NamedTuple):
    """A row of a table: a label for each head and a group of cells for each column."""

    labels: tuple[str, ...]
    groups: tuple[tuple[CellSpec, ...], ...]


class ContrastSpec(NamedTuple):
    """Two compared cells of a row, counted through its groups: ``other`` minus ``base``."""

    label: str
    base: int
    other: int


@dataclass(frozen=True)
class SelectionSpec:
    """How the best column of every row is chosen and tested.

    ``setting`` is shown of the chosen configurations, called ``label``; ``test`` is the override
    of their test, which replaces the user's of the same name.
    """

    title: str
    setting: str
    label: str
    test: str
    contrast: str


@dataclass(frozen=True)
class TableSpec:
    """A table. ``arms`` name the cells of a column where it has several."""

    name: str
    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[RowSpec, ...]
    contrasts: tuple[ContrastSpec, ...] = ()
    arms: tuple[str, ...] = ()
    selection: SelectionSpec | None = None

    def cells(self) -> list[CellSpec]:
        return [cell for row in self.rows for group in row.groups for cell in group]


@dataclass(frozen=True)
class PanelSpec:
    """A metric of metrics.jsonl against epochs, in ``digits`` where the paper prints it.

    ``final`` is the same score by another evaluation, which the last epoch alone may have, and
    ``final_label`` its name.
    """

    key: str
    label: str
    unit: str = ""
    digits: int = 2
    log: bool = False
    final: str = ""
    final_label: str = ""


@dataclass(frozen=True)
class CurveSpec:
    """The runs of one configuration; a solid line has filled markers, any other has open ones.

    ``paper``: the final values that the paper prints, by metric, called ``short`` there.
    """

    label: str
    short: str
    cell: CellSpec
    color: str
    line: LineStyle = "-"
    marker: str = "o"
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedCurve:
    """One run that others published: a CSV file in the studies' folder, a row an epoch.

    ``sums``: metrics that the file has as a sum over the ``batches`` of an epoch, by their columns.
    """

    label: str
    file: str
    sums: Mapping[str, str] = field(default_factory=dict)
    batches: int = 1


@dataclass(frozen=True)
class GroupSpec:
    """Curves that share a panel."""

    label: str
    curves: tuple[CurveSpec, ...]
    published: tuple[PublishedCurve, ...] = ()


@dataclass(frozen=True)
class FigureSpec:
    """A panel for every metric and group; ``across`` says which stand side by side.

    ``draw``: the dotted name of a function that draws a figure which has no learning curves.
    """

    name: str
    title: str
    panels: tuple[PanelSpec, ...]
    groups: tuple[GroupSpec, ...]
    across: Literal["panels", "groups"] = "panels"
    draw: str | None = None

    def curves(self) -> list[CurveSpec]:
        return [curve for group in self.groups for curve in group.curves]


@dataclass(frozen=True)
class Catalog:
    """Tables and figures by name, and claims."""

    tables: Mapping[str, TableSpec]
    figures: Mapping[str, FigureSpec]
    claims: tuple[Claim, ...]

    def table(self, name: str) -> TableSpec:
        """Raises ValueError, in one line, for an unknown name."""
        return _named("table", self.tables, name)

    def figure(self, name: str) -> FigureSpec:
        """Raises ValueError, in one line, for an unknown name."""
        return _named("figure", self.figures, name)


def _named(what: str, known: Mapping[str, Spec], name: str) -> Spec:
    if name not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}, got {name}")
    return known[name]


@cache
def read_catalog() -> Catalog:
    """Read all studies of ``configs/study``."""
    require_checkout()
    found = [read_study(path) for path in sorted(STUDIES.glob("*.yaml"))]
    return Catalog(
        {name: table for study in found for name, table in study.tables.items()},
        {name: figure for study in found for name, figure in study.figures.items()},
        tuple(claim for study in found for claim in study.claims),
    )


def read_study(path: Path) -> Catalog:
    """Read one file. Raises ValueError, in one line, if it is not as ``paper.yaml`` says."""
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
        tables = {n: _table(n, **t) for n, t in content.get("tables", {}).items()}
        figures = {n: _figure(n, tables, **f) for n, f in content.get("figures", {}).items()}
        claims = read_claims(content.get("claims", {}))
    except (
        *(OSError, YAMLError, OmegaConfBaseException),
        *(KeyError, TypeError, AttributeError, IndexError),
    ) as error:
        what = " ".join(str(error).split())
        raise ValueError(
            f"{path} must be as {STUDIES.name}/paper.yaml: {what or error!r}"
        ) from error
    return Catalog(tables, figures, claims)


def _table(
    name: str,
    title: str,
    heads: Sequence[str],
    columns: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    experiment: str = "",
    arms: Mapping[str, str] | None = None,
    contrasts: Sequence[Sequence[Any]] = (),
    columns_first: bool = False,
    selection: Mapping[str, str] | None = None,
) -> TableSpec:
    made = []
    for row in rows:
        source, own = row.get("experiment", experiment), row.get("overrides", "")
        values: Iterator[float | None] = iter(row.get("paper", ()))
        groups = []
        for column in columns.values():
            first, second = (column, own) if columns_first else (own, column)
            group = []
            for arm in (arms or {"": ""}).values():
                overrides = f"{first} {second} {arm}".split()
                group.append(CellSpec(source, tuple(overrides), next(values, None)))
            groups.append(tuple(group))
        made.append(RowSpec(tuple(row["labels"]), tuple(groups)))
    return TableSpec(
        name,
        title,
        tuple(heads),
        tuple(columns),
        tuple(made),
        tuple(ContrastSpec(*contrast) for contrast in contrasts),
        tuple(arms or ()),
        SelectionSpec(**selection) if selection else None,
    )


def _figure(
    name: str,
    tables: Mapping[str, TableSpec],
    title: str,
    experiment: str,
    groups: Sequence[Mapping[str, Any]],
    curves: Sequence[Mapping[str, Any]] = (),
    panels: Sequence[Mapping[str, Any]] = (),
    paper: Mapping[str, str] | None = None,
    **options: Any,
) -> FigureSpec:
    printed: dict[tuple[str, frozenset[str]], float | None] = {}
    if paper:
        cells = tables[paper["table"]].cells()
        printed = {(cell.experiment, frozenset(cell.overrides)): cell.paper for cell in cells}

    def curve(
        group: Mapping[str, Any], label: str, overrides: str, line: Any = "-", **given: Any
    ) -> CurveSpec:
        words = tuple(f"{group.get('overrides', '')} {overrides}".split())
        if paper:
            value = printed.get((paper.get("experiment", experiment), frozenset(words)))
            given |= {"paper": {} if value is None else {paper["metric"]: value}}
        if not isinstance(line, str):
            line = (line[0], tuple(line[1]))
        given = {"short": label, "color": group.get("color")} | given
        return CurveSpec(label=label, cell=CellSpec(experiment, words), line=line, **given)

    made = []
    for group in groups:
        drawn = tuple(curve(group, **given) for given in group.get("curves", curves))
        published = tuple(PublishedCurve(**given) for given in group.get("published", ()))
        made.append(GroupSpec(group.get("label", ""), drawn, published))
    return FigureSpec(
        name, title, tuple(PanelSpec(**panel) for panel in panels), tuple(made), **options
    )


@cache
def _read_csv(file: str) -> "DataFrame":
    import pandas as pd

    return pd.read_csv(STUDIES / file, comment="#")


def read_published(published: PublishedCurve) -> "DataFrame":
    """Return a row an epoch, with the metrics as a run logs them."""
    found = _read_csv(published.file)
    means = {metric: found[name] / published.batches for metric, name in published.sums.items()}
    return found.assign(**means)
