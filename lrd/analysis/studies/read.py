"""Read studies: ``study/NAME.yaml`` of the user's directory and of ``configs/``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lrd.analysis.claims.specs import Claim, read_claims
from lrd.analysis.studies.spec import (
    CellSpec,
    ContrastSpec,
    CurveSpec,
    FigureSpec,
    GroupSpec,
    PanelSpec,
    PublishedCurve,
    RowSpec,
    SelectionSpec,
    TableSpec,
    TargetSpec,
)
from lrd.config.compose import config_dirs, require_checkout

if TYPE_CHECKING:
    from pandas import DataFrame


ROW_KEYS = ("labels", "overrides", "published", "experiment", "target")
GROUP_KEYS = ("label", "overrides", "color", "curves", "published")


@dataclass(frozen=True)
class Replication:
    """What others published of two configurations: ``values`` of ``base`` and ``other``, by a
    statistic, from n runs each."""

    source: str
    statistic: str
    base: CellSpec
    other: CellSpec
    values: tuple[float, float]
    n: int

    @property
    def difference(self) -> float:
        return round(self.values[1] - self.values[0], 6)


@dataclass(frozen=True)
class Study:
    """Tables and figures by name, claims, and what others published of their configurations."""

    name: str
    title: str
    tables: Mapping[str, TableSpec] = field(default_factory=dict)
    figures: Mapping[str, FigureSpec] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    replications: tuple[Replication, ...] = ()

    def cells(self) -> list[CellSpec]:
        """Return the configurations that the study reads, in the order in which it names them."""
        cells = [cell for table in self.tables.values() for cell in table.cells()]
        cells += [curve.cell for figure in self.figures.values() for curve in figure.curves()]
        pairs = [pair for claim in self.claims for rule in claim.rules for pair in rule.pairs]
        cells += [cell for pair in pairs for cell in pair.cells]
        return list(dict.fromkeys(cells))

    @property
    def experiments(self) -> list[str]:
        """The experiments that the study reads, in the order in which it names them."""
        return list(dict.fromkeys(cell.experiment for cell in self.cells()))


def study_files() -> dict[str, Path]:
    """Return the file of every study by its name; one of the user's hides ours of that name."""
    require_checkout()
    files: dict[str, Path] = {}
    for folder in config_dirs():
        for path in sorted(folder.glob("study/*.yaml")):
            files.setdefault(path.stem, path)
    return files


def all_studies() -> list[Study]:
    """Read all studies, the user's first."""
    return [read_study(path) for path in study_files().values()]


def read_study(path: Path) -> Study:
    """Read one file.

    Raises:
        ValueError: in one line, if it is not as ``lrd_paper.yaml`` says.
    """
    try:
        return _read_study(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise ValueError(f"cannot read the study {path}: {error.strerror}") from error


@cache
def _read_study(path: Path, changed: int) -> Study:
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
        tables = {n: _table(n, **t) for n, t in content.get("tables", {}).items()}
        given = content.get("figures", {})
        figures = {n: _figure(n, path.parent, tables, **f) for n, f in given.items()}
        claims = read_claims(content.get("claims", {}))
        title = content.get("title", path.stem)
        replications = tuple(_replication(**r) for r in content.get("replications", ()))
    except (
        *(YAMLError, OmegaConfBaseException, UnicodeDecodeError),
        *(KeyError, TypeError, AttributeError, IndexError),
    ) as error:
        what = " ".join(str(error).split()) or repr(error)
        raise ValueError(f"{path} must be as study/lrd_paper.yaml: {what}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Study(path.stem, title, tables, figures, claims, replications)


def _replication(
    source: str, statistic: str, experiment: str, values: Sequence[float], n: int, **ends: str
) -> Replication:
    base, other = (CellSpec(experiment, tuple(ends.pop(end).split())) for end in ("from", "to"))
    first, second = values
    if ends:
        raise TypeError(f"a replication has no {next(iter(ends))}")
    return Replication(source, statistic, base, other, (first, second), n)


def _table(
    name: str,
    title: str,
    heads: Sequence[str],
    columns: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    experiment: str = "",
    arms: Mapping[str, str] | None = None,
    contrasts: Sequence[Mapping[str, Any]] | None = None,
    columns_first: bool = False,
    selection: Mapping[str, str] | None = None,
) -> TableSpec:
    made = []
    for row in rows:
        _require_known(f"{name}: a row", row, ROW_KEYS)
        source, own = row.get("experiment", experiment), row.get("overrides", "")
        if not source:
            raise ValueError(f"{name}: a table, or each of its rows, must name its experiment")
        values: Iterator[float | None] = iter(row.get("published", ()))
        groups = []
        for column in columns.values():
            first, second = (column, own) if columns_first else (own, column)
            group = []
            for arm in (arms or {"": ""}).values():
                overrides = f"{first} {second} {arm}".split()
                group.append(CellSpec(source, tuple(overrides), next(values, None)))
            groups.append(tuple(group))
        made.append(RowSpec(tuple(row["labels"]), tuple(groups)))
    table = TableSpec(
        name,
        title,
        tuple(heads),
        tuple(columns),
        tuple(made),
        arms=tuple(arms or ()),
        selection=SelectionSpec(**selection) if selection else None,
        targets={tuple(r["labels"]): _target(name, r["target"]) for r in rows if "target" in r},
    )
    if contrasts is None:  # a table with arms compares them
        contrasts = [{"from": table.arms[0]}] if len(table.arms) > 1 else []
    found = tuple(each for given in contrasts for each in _contrasts(table, **given))
    return replace(table, contrasts=found)


def _require_known(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise TypeError(f"{what} has {', '.join(known)}, got {key}")


def _target(table: str, text: str) -> TargetSpec:
    metric, sign, value = [*str(text).split(), "", "", ""][:3]
    try:
        return TargetSpec(metric, float(value), {">=": True, "<=": False}[sign])
    except (ValueError, KeyError):
        raise ValueError(
            f"{table}: a target must be METRIC >= VALUE or METRIC <= VALUE, got {text}"
        ) from None


def _contrasts(table: TableSpec, label: str = "", **ends: Any) -> Iterator[ContrastSpec]:
    """Yield a contrast from ``from`` to each of ``to``, by default to all others of its kind."""
    base = _names(ends.pop("from"))
    others = ends.pop("to", None)
    if ends:
        raise TypeError(f"{table.name}: a contrast has from, to and label, got {next(iter(ends))}")
    if others is not None:
        yield ContrastSpec(base, _names(others), label)
        return
    (name,) = base
    for other in table.axes[table.axis_of(name)]:
        if other != name:
            yield ContrastSpec(base, (other,))


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _figure(
    name: str,
    folder: Path,
    tables: Mapping[str, TableSpec],
    title: str,
    experiment: str,
    groups: Sequence[Mapping[str, Any]],
    curves: Sequence[Mapping[str, Any]] = (),
    panels: Sequence[Mapping[str, Any]] = (),
    published: Mapping[str, str] | None = None,
    **options: Any,
) -> FigureSpec:
    printed: dict[tuple[str, frozenset[str]], float | None] = {}
    if published:
        cells = tables[published["table"]].cells()
        printed = {(cell.experiment, frozenset(cell.overrides)): cell.published for cell in cells}

    def curve(
        group: Mapping[str, Any], label: str, overrides: str, line: Any = "-", **given: Any
    ) -> CurveSpec:
        words = tuple(f"{group.get('overrides', '')} {overrides}".split())
        if published:
            value = printed.get((published.get("experiment", experiment), frozenset(words)))
            given |= {"published": {} if value is None else {published["metric"]: value}}
        if not isinstance(line, str):
            line = (line[0], tuple(line[1]))
        given = {"short": label, "color": group.get("color")} | given
        return CurveSpec(label=label, cell=CellSpec(experiment, words), line=line, **given)

    made = []
    for group in groups:
        _require_known(f"{name}: a group", group, GROUP_KEYS)
        drawn = tuple(curve(group, **given) for given in group.get("curves", curves))
        others = tuple(
            PublishedCurve(**given | {"file": folder / given["file"]})
            for given in group.get("published", ())
        )
        made.append(GroupSpec(group.get("label", ""), drawn, others))
    return FigureSpec(
        name, title, tuple(PanelSpec(**panel) for panel in panels), tuple(made), **options
    )


@cache
def _read_csv(file: Path) -> "DataFrame":
    import pandas as pd

    return pd.read_csv(file, comment="#")


def read_published(published: PublishedCurve) -> "DataFrame":
    """Return a row an epoch, with the metrics as a run logs them."""
    found = _read_csv(published.file)
    means = {metric: found[name] / published.batches for metric, name in published.sums.items()}
    return found.assign(**means)
