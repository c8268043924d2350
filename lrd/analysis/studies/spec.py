"""What a study's tables and figures consist of.

A cell of a table or a curve of a figure stands for one configuration, given by an experiment and
overrides. The files say what exists; this package knows no particular study.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from lrd.analysis.resolve import CellSpec

LineStyle = str | tuple[float, tuple[float, ...]]  # matplotlib's: a name, or offset and dashes


class RowSpec(NamedTuple):
    """A row of a table: a label for each head and a group of cells for each column."""

    labels: tuple[str, ...]
    groups: tuple[tuple[CellSpec, ...], ...]


class ContrastSpec(NamedTuple):
    """Cells that are compared, ``other`` minus ``base``.

    ``base`` and ``other`` name a row, a column or an arm, or several of these; the comparison is
    made at every value of what they do not name.
    """

    base: tuple[str, ...]
    other: tuple[str, ...]
    label: str = ""

    def __str__(self) -> str:
        return self.label or f"{', '.join(self.other)} - {', '.join(self.base)}"


class CellPair(NamedTuple):
    """Two cells of a table that a contrast compares; ``label`` says where."""

    contrast: ContrastSpec
    label: str
    base: CellSpec
    other: CellSpec


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


class TargetSpec(NamedTuple):
    """A value of a metric that runs are to reach, fixed before they are made."""

    metric: str
    value: float
    maximize: bool

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if self.maximize else '<='} {self.value:g}"


@dataclass(frozen=True)
class TableSpec:
    """A table. ``heads`` name the labels of the rows; ``arms`` name the cells of a column where it
    has several; ``targets`` are by the labels of a row."""

    name: str
    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[RowSpec, ...]
    contrasts: tuple[ContrastSpec, ...] = ()
    arms: tuple[str, ...] = ()
    selection: SelectionSpec | None = None
    targets: Mapping[tuple[str, ...], TargetSpec] = field(default_factory=dict)

    def cells(self) -> list[CellSpec]:
        return [cell for row in self.rows for group in row.groups for cell in group]

    @property
    def places(self) -> dict[tuple[str, ...], CellSpec]:
        """The cells by the labels of their row, their column and their arm."""
        arms = self.arms or ("",)
        return {
            (*row.labels, column, arm): cell
            for row in self.rows
            for column, group in zip(self.columns, row.groups, strict=True)
            for arm, cell in zip(arms, group, strict=True)
        }

    @property
    def axes(self) -> list[tuple[str, ...]]:
        """The names along each part of a place."""
        return [tuple(dict.fromkeys(names)) for names in zip(*self.places, strict=True)]

    def axis_of(self, name: str) -> int:
        """Return which part of a place has a name, the last where several have it.

        Raises:
            ValueError: no row, column or arm has this name.
        """
        found = [axis for axis, names in enumerate(self.axes) if name in names]
        if not found:
            names = ", ".join(name for names in self.axes for name in names if name)
            raise ValueError(f"{self.name}: a contrast must name one of {names}, got {name}")
        return found[-1]

    def pairs(self) -> list[CellPair]:
        """Return every pair of cells that the contrasts compare."""
        places, axes = self.places, self.axes
        found = []
        for contrast in self.contrasts:
            base, other = (
                {self.axis_of(name): name for name in names}
                for names in (contrast.base, contrast.other)
            )
            named = base.keys() | other.keys()
            for place, cell in places.items():
                if all(place[axis] == name for axis, name in base.items()):
                    changed = tuple(other.get(axis, name) for axis, name in enumerate(place))
                    if changed != place and changed in places:
                        free = [axis for axis in range(len(place)) if axis not in named]
                        where = [place[axis] for axis in free if len(axes[axis]) > 1]
                        shown = where if len(self.contrasts) == 1 else [*where, str(contrast)]
                        label = ", ".join(shown or filter(None, (place[axis] for axis in free)))
                        found.append(CellPair(contrast, label, cell, places[changed]))
        return found


@dataclass(frozen=True)
class PanelSpec:
    """A metric of metrics.jsonl against epochs, in ``digits`` where it was published.

    ``final`` is the same score by another evaluation, which the last epoch alone may have, and
    ``final_label`` its name. ``difference``: instead of each curve its paired difference from the
    first one of its group.
    """

    key: str
    label: str
    unit: str = ""
    digits: int = 2
    log: bool = False
    final: str = ""
    final_label: str = ""
    difference: bool = False

    @property
    def series(self) -> str:
        """The name of what is drawn, among the series of a cell."""
        return f"{self.key}, difference" if self.difference else self.key


@dataclass(frozen=True)
class CurveSpec:
    """The runs of one configuration; a solid line has filled markers, any other has open ones.

    ``published``: the final values that were published, by metric, called ``short`` there.
    """

    label: str
    short: str
    cell: CellSpec
    color: str
    line: LineStyle = "-"
    marker: str = "o"
    published: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedCurve:
    """One run that others published: a CSV file beside the study's, a row an epoch.

    ``sums``: metrics that the file has as a sum over the ``batches`` of an epoch, by their columns.
    """

    label: str
    file: Path
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

    Without ``panels``, those of the training loss and of the score are drawn. ``own_limits``: each
    group has its own, as where groups are different tasks. ``draw``: the dotted name of a function
    that draws a figure which has no learning curves.
    """

    name: str
    title: str
    panels: tuple[PanelSpec, ...]
    groups: tuple[GroupSpec, ...]
    across: Literal["panels", "groups"] = "panels"
    own_limits: bool = False
    draw: str | None = None

    def curves(self) -> list[CurveSpec]:
        return [curve for group in self.groups for curve in group.curves]
