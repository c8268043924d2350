"""Runs that differ from those of a study by some settings: a chapter of the page each."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lrd.analysis.frames import RunFrames, as_number
from lrd.analysis.matching import SAME_TASK, differing_settings
from lrd.analysis.resolve import CellSpec, resolve_cell, resolve_cells, setting_name
from lrd.analysis.studies import Study
from lrd.analysis.studies.find import find_study, tables_of
from lrd.runs.store import Run

RUN_KIND = ("dataset", "model", "optimizer")  # columns that say what is trained


@dataclass(frozen=True)
class RunVariant:
    """Settings under which runs were made.

    Attributes:
        settings: those that differ from the study's, as on the command line, ``scale`` first; none
            for its own.
        n: how many finished runs have them; 0 if they were not counted.
        studies: the names of those that have these runs; none if all may have.
    """

    settings: tuple[str, ...] = ()
    n: int = 0
    studies: tuple[str, ...] = ()

    @property
    def scale(self) -> float | None:
        """The length of training as a share of the study's, if that differs."""
        (first, *_) = self.settings or ("",)
        return float(first.removeprefix("scale=")) if first.startswith("scale=") else None

    @property
    def _others(self) -> tuple[str, ...]:
        return self.settings[1:] if self.scale else self.settings

    @property
    def suffix(self) -> str:
        """What distinguishes the anchors of the chapter from those of others."""
        at = f"-at-{self.scale:g}" if self.scale else ""
        return at + "".join("-with-" + re.sub(r"[^\w.]+", "-", text) for text in self._others)

    @property
    def where(self) -> str:
        """The settings in words: ``at 10 % of the epochs``, ``with train.epochs=3``."""
        at = [f"at {100 * self.scale:g} % of the epochs"] if self.scale else []
        others = [f"with {' '.join(self._others)}"] if self._others else []
        return " ".join([*at, *others]) or "at the study's settings"


class Variants(NamedTuple):
    """The settings of finished runs that studies do not have.

    Attributes:
        shown: every ``scale`` of runs that differ in nothing else, longest first, and then the
            settings that most of the other runs differ in.
        smaller: those of the other runs, the most frequent first.
        unlike: how many runs are near no configuration, by their RUN_KIND.
    """

    shown: list[RunVariant]
    smaller: list[RunVariant]
    unlike: list[tuple[tuple[str, ...], int]]


class _Asked(NamedTuple):
    """The configurations of tables and figures, each with its study, and the fingerprints of all
    runs that the studies show."""

    cells: dict[tuple[str, CellSpec], dict[str, Any]]
    marks: set[str]


def find_variants(names: Sequence[str], frames: RunFrames, overrides: Sequence[str]) -> Variants:
    """Return the settings of finished runs that studies do not have.

    Args:
        names: studies, parts of studies, or experiments.
        frames: the runs.
        overrides: settings that all of them have.
    """
    is_scaled = any(override.startswith("scale=") for override in overrides)
    asked: dict[tuple[str, ...], _Asked] = {}
    filled: set[tuple[str, ...]] = set()
    counts: dict[tuple[tuple[str, ...], str], list[Run]] = {}
    for run in frames.index.with_status("finished"):
        scale = as_number(run.metadata.get("scale"))
        own = (f"scale={scale!r}",) if scale and scale != 1 and not is_scaled else ()
        if own not in asked:
            asked[own] = _collect(names, overrides, own)
        mark = str(run.metadata.get("fingerprint"))
        if mark in asked[own].marks:
            filled.add(own)
        elif run.metadata.get("identity"):
            counts.setdefault((own, mark), []).append(run)
    groups: dict[tuple[str, ...], RunVariant] = {}
    unlike: list[str] = []
    for (own, mark), runs in counts.items():
        given = [*overrides, *own]
        settings, studies = _nearest(runs[0].identity, mark, asked[own].cells, given)
        if settings:
            known = groups.get((*own, *settings), RunVariant())
            studies = tuple(dict.fromkeys([*known.studies, *studies]))
            variant = RunVariant((*own, *settings), known.n + len(runs), studies)
            groups[variant.settings] = variant
        else:
            unlike += [str(run.folder) for run in runs]
    scales = [variant for variant in map(RunVariant, filled) if variant.scale]
    scales.sort(key=lambda variant: -(variant.scale or 1))
    found = sorted(groups.values(), key=lambda variant: -variant.n)
    rows = frames.runs[frames.runs.folder.isin(unlike)].fillna({n: "" for n in RUN_KIND})
    kinds = Counter(zip(*(rows[name] for name in RUN_KIND), strict=True))
    return Variants([*scales, *found[:1]], found[1:], kinds.most_common())


def _collect(names: Sequence[str], overrides: Sequence[str], own: tuple[str, ...]) -> _Asked:
    found = _Asked({}, set())
    studies = {name: find_study(name, overrides) for name in names}
    resolve_cells((c, [*rest, *own]) for study, rest in studies.values() for c in study.cells())
    for name, (study, rest) in studies.items():
        shown = {cell for table in tables_of(study).values() for cell in table.cells()}
        shown |= {c.cell for figure in study.figures.values() for c in figure.curves()}
        for cell in dict.fromkeys([*study.cells(), *_test_cells(study)]):
            try:
                resolved = resolve_cell(cell, [*rest, *own])
            except ValueError:  # impossible under these settings; the section says why
                continue
            found.marks.add(resolved.fingerprint)
            if cell in shown:
                found.cells[name, cell] = resolved.identity
    return found


def _test_cells(study: Study) -> Iterator[CellSpec]:
    """Yield the configurations of the tests of tables that choose settings."""
    for table in study.tables.values():
        if table.selection:
            for cell in table.cells():
                yield CellSpec(cell.experiment, (*cell.overrides, table.selection.test))


def _nearest(
    identity: dict[str, Any],
    mark: str,
    asked: dict[tuple[str, CellSpec], dict[str, Any]],
    overrides: Sequence[str],
) -> tuple[tuple[str, ...], list[str]]:
    """Return the fewest settings that make a configuration of a study this one, and the studies
    that have it; none if the configuration sets them itself, or if they are other classes."""
    near: dict[tuple[str, ...], list[tuple[str, CellSpec]]] = {}
    for (study, cell), known in asked.items():
        if any(known.get(name) != identity.get(name) for name in SAME_TASK):
            continue
        differing = differing_settings(known, identity)
        own = set(map(setting_name, (*cell.overrides, *overrides)))
        if not any(name in own or name.endswith("_target_") for name, _ in differing):
            settings = (f"{name}={_to_text(value)}" for name, value in differing)
            near.setdefault(tuple(settings), []).append((study, cell))
    for settings in sorted(near, key=len):
        ((_, cell), *_) = near[settings]
        if shorter := _shorten(cell, list(settings), mark, overrides):
            return shorter, [study for study, _ in near[settings]]
    return (), []


def _to_text(value: Any) -> str:
    """Return a value as it is written on a command line."""
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"
    )


def _shorten(
    cell: CellSpec, settings: list[str], mark: str, overrides: Sequence[str]
) -> tuple[str, ...]:
    """Return the settings without those that follow from the others; none if they do not do."""

    def makes(chosen: Sequence[str]) -> bool:
        try:
            return resolve_cell(cell, [*overrides, *chosen]).fingerprint == mark
        except ValueError:
            return False

    if not makes(settings):
        return ()
    for setting in list(settings):
        rest = [other for other in settings if other != setting]
        if rest and makes(rest):
            settings = rest
    return tuple(settings)
