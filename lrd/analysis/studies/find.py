"""What a name on a command line stands for: a study, a part of one, or an experiment.

A study of an experiment that no file describes comes from its sweep: the values of one setting are
columns, compared with the first, and those of the others are rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path
from typing import TypeVar

from lrd.analysis.resolve import list_experiments, setting_name, sweep_values, swept_settings
from lrd.analysis.studies.read import Study, all_studies, read_study
from lrd.analysis.studies.spec import (
    CellSpec,
    ContrastSpec,
    CurveSpec,
    FigureSpec,
    GroupSpec,
    LineStyle,
    RowSpec,
    TableSpec,
)

Part = TypeVar("Part", TableSpec, FigureSpec)
# Okabe and Ito's colors, with lines and markers, of curves that a study's file does not describe.
STYLES: list[tuple[str, LineStyle, str]] = [
    ("#000000", "--", "o"),
    ("#D55E00", "-", "s"),
    ("#0072B2", "-", "D"),
    ("#009E73", (0, (3, 1)), "^"),
    ("#E69F00", (0, (5, 1, 1, 1)), "v"),
    ("#CC79A7", (0, (8, 2)), "P"),
    ("#56B4E9", (0, (1, 1)), "X"),
]


def find_study(name: str, overrides: Sequence[str] = ()) -> tuple[Study, list[str]]:
    """Return what a name stands for, and the overrides that are left.

    Args:
        name: a study, or its file; a table, figure or claim of one, which is then its only part;
            or an experiment.
        overrides: settings that differ from the experiments'. One that the rows, columns or curves
            set themselves chooses those with this value. Of an experiment without a study, those
            that are swept are its rows and columns.

    Raises:
        ValueError: in one line, if nothing has this name, or a study's file cannot be read.
    """
    if name.endswith(".yaml"):
        return _restrict(read_study(Path(name)), overrides)
    studies = all_studies()
    for study in studies:
        if study.name == name:
            return _restrict(study, overrides)
    for study in studies:
        tables = {n: table for n, table in study.tables.items() if n == name}
        figures = {n: figure for n, figure in study.figures.items() if n == name}
        claims = tuple(claim for claim in study.claims if claim.name == name)
        if tables or figures or claims:
            part = replace(study, name=name, tables=tables, figures=figures, claims=claims)
            return _restrict(part, overrides)
    experiments = list_experiments()
    if name not in experiments:
        known = ", ".join(study.name for study in studies)
        raise ValueError(
            f"{name} must be a study ({known}), one of its tables, figures or claims, or an "
            f"experiment ({', '.join(experiments)})"
        )
    return _study_of_sweep(name, overrides)


def _restrict(study: Study, overrides: Sequence[str]) -> tuple[Study, list[str]]:
    """Keep the cells and curves that have the overrides, of settings that they set themselves."""
    if not overrides:
        return study, []
    tables, figures, kept = dict(study.tables), dict(study.figures), []
    for override in overrides:
        in_tables = [n for n, t in tables.items() if any(_sets(c, override) for c in t.cells())]
        curves = {name: figure.curves() for name, figure in figures.items()}
        in_figures = [n for n, cs in curves.items() if any(_sets(c.cell, override) for c in cs)]
        if not in_tables and not in_figures:
            kept.append(override)
            continue
        chosen = {
            name: _choose_cells(table, override) if name in in_tables else _add(table, override)
            for name, table in tables.items()
        }
        drawn = {
            name: _choose_curves(figure, override) if name in in_figures else _add(figure, override)
            for name, figure in figures.items()
        }
        tables = {name: table for name, table in chosen.items() if table.rows}
        figures = {name: figure for name, figure in drawn.items() if figure.groups}
        if not tables and not figures:
            raise ValueError(f"{study.name} has no table and no curve with {override}")
    return replace(study, tables=tables, figures=figures), kept


def _add(part: Part, override: str) -> Part:
    """Return a table or a figure whose configurations have a further setting."""

    def changed(cell: CellSpec) -> CellSpec:
        return replace(cell, overrides=(*cell.overrides, override))

    if isinstance(part, TableSpec):
        rows = (
            RowSpec(row.labels, tuple(tuple(map(changed, group)) for group in row.groups))
            for row in part.rows
        )
        return replace(part, rows=tuple(rows))
    groups = (
        replace(group, curves=tuple(replace(c, cell=changed(c.cell)) for c in group.curves))
        for group in part.groups
    )
    return replace(part, groups=tuple(groups))


def _sets(cell: CellSpec, override: str) -> bool:
    return setting_name(override) in map(setting_name, cell.overrides)


def _alternatives(override: str) -> set[str]:
    """Return the overrides that a sweep, or a single value, stands for."""
    name, _, text = override.partition("=")
    return {f"{name}={value}" for value in sweep_values(name.lstrip("+"), text)}


def _choose_cells(table: TableSpec, override: str) -> TableSpec:
    chosen = _alternatives(override)
    places = {p: cell for p, cell in table.places.items() if chosen & {*cell.overrides}}
    if not places:
        return replace(table, rows=())
    *_, columns, arms = ([n for n in names if n in kept] for names, kept in _axes(table, places))
    rows = []
    for labels in dict.fromkeys(place[:-2] for place in places):
        groups = [tuple(places.get((*labels, c, arm)) for arm in arms) for c in columns]
        if any(cell is None for group in groups for cell in group):
            raise ValueError(f"{table.name} has {override} in some rows and columns only")
        rows.append(RowSpec(labels, tuple(groups)))  # type: ignore[arg-type]
    made = replace(
        table,
        columns=tuple(columns),
        rows=tuple(rows),
        arms=tuple(arms) if len(arms) > 1 else (),
        contrasts=(),
    )
    names = {name for axis in made.axes for name in axis}
    contrasts = tuple(c for c in table.contrasts if {*c.base, *c.other} <= names)
    return replace(made, contrasts=contrasts)


def _axes(
    table: TableSpec, places: Iterable[tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    return zip(table.axes, map(set, zip(*places, strict=True)), strict=True)


def _choose_curves(figure: FigureSpec, override: str) -> FigureSpec:
    chosen = _alternatives(override)
    groups = (
        replace(group, curves=tuple(c for c in group.curves if chosen & {*c.cell.overrides}))
        for group in figure.groups
    )
    return replace(figure, groups=tuple(group for group in groups if group.curves))


def _study_of_sweep(experiment: str, overrides: Sequence[str]) -> tuple[Study, list[str]]:
    sweep = swept_settings(experiment, (), overrides)
    names = [setting_name(o) for o in sweep]
    rest = [o for o in overrides if setting_name(o) not in names]
    varied = [n for n, values in sweep.items() if len(values) > 1] or list(sweep)
    arms = [n for n in varied if setting_name(n) in ("lrd.p", "arm")] or varied
    across = arms[-1] if arms else ""
    columns = [f"{across}={value}" for value in sweep.get(across, ())] or [experiment]
    down = {n: values for n, values in sweep.items() if n != across}
    rows = []
    for chosen in product(*down.values()):
        own = tuple(f"{n}={value}" for n, value in zip(down, chosen, strict=True))
        cells = [CellSpec(experiment, (*own, column) if across else own) for column in columns]
        rows.append(RowSpec(chosen or (experiment,), tuple((cell,) for cell in cells)))
    table = TableSpec(
        experiment,
        f"{experiment}: score of the last epoch",
        tuple(map(setting_name, down)) or ("",),
        tuple(columns),
        tuple(rows),
        tuple(ContrastSpec((columns[0],), (other,)) for other in columns[1:]),
    )
    return Study(experiment, experiment, {experiment: table}), rest


def tables_of(study: Study) -> dict[str, TableSpec]:
    """Return the tables of a study; of one with figures alone, tables of their curves."""
    return {**study.tables} or {name: to_table(figure) for name, figure in study.figures.items()}


def published_value(experiment: str, overrides: Sequence[str]) -> float | None:
    """Return what a table of the studies has for a configuration, if it has one."""
    tables = (table for study in all_studies() for table in study.tables.values())
    for table in tables:
        for cell in table.cells():
            if cell.experiment == experiment and set(cell.overrides) <= set(overrides):
                return cell.published
    return None


def figures_of(study: Study) -> dict[str, FigureSpec]:
    """Return the figures of a study; of one that has tables alone, the curves of their cells."""
    return {**study.figures} or {name: _to_figure(table) for name, table in study.tables.items()}


def to_table(figure: FigureSpec) -> TableSpec:
    """Return a table with a row a group and a column a curve, compared with the first curve."""
    named = [_curve_names(group) for group in figure.groups]
    columns = tuple(dict.fromkeys(name for curves in named for name in curves))
    alike = all(tuple(curves) == columns for curves in named)
    rows, groups = [], [group.label or figure.name for group in figure.groups]
    for label, curves in zip(groups, named, strict=True):
        cells = [_with_value(curve) for curve in curves.values()]
        if alike:
            rows.append(RowSpec((label,), tuple((cell,) for cell in cells)))
        else:
            rows += [
                RowSpec((label, name), ((cell,),)) for name, cell in zip(curves, cells, strict=True)
            ]
    heads = ("",) if alike else ("", "curve")
    shown = columns if alike else ("score",)
    contrasts = tuple(ContrastSpec((columns[0],), (c,)) for c in columns[1:]) if alike else ()
    return TableSpec(figure.name, figure.title, heads, shown, tuple(rows), contrasts)


def _curve_names(group: GroupSpec) -> dict[str, CurveSpec]:
    """Name curves by their labels; curves of the same label by what they alone override."""
    labels = [curve.label for curve in group.curves]
    shared = set.intersection(*(set(curve.cell.overrides) for curve in group.curves))
    return {
        curve.label
        if labels.count(curve.label) == 1
        else " ".join(o for o in curve.cell.overrides if o not in shared): curve
        for curve in group.curves
    }


def _with_value(curve: CurveSpec) -> CellSpec:
    """Return a curve's cell with the value that was published of it, if one metric has one."""
    values = list(curve.published.values())
    return replace(curve.cell, published=values[0]) if len(values) == 1 else curve.cell


def _to_figure(table: TableSpec) -> FigureSpec:
    """Return a figure with a group a row, or a row and column, and a curve a column, or an arm."""
    groups = []
    for row in table.rows:
        if table.arms:
            for column, cells in zip(table.columns, row.groups, strict=True):
                label = ", ".join([*row.labels, column])
                groups.append(GroupSpec(label, tuple(_styled(table.arms, cells))))
        else:
            cells = [cell for group in row.groups for cell in group]
            groups.append(GroupSpec(", ".join(row.labels), tuple(_styled(table.columns, cells))))
    return FigureSpec(table.name, table.title, (), tuple(groups))


def _styled(labels: Sequence[str], cells: Sequence[CellSpec]) -> Iterator[CurveSpec]:
    for label, cell, (color, line, marker) in zip(labels, cells, cycle(STYLES)):
        yield CurveSpec(label, label, cell, color, line, marker)
