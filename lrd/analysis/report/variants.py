"""Runs that differ from those of a study by a few settings: a chapter of the page each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import SAME_TASK, differing_settings
from lrd.analysis.resolve import CellSpec, resolve_cell, setting_name
from lrd.analysis.studies.find import find_study, tables_of

MAX_SETTINGS = 3  # in which runs may differ from a configuration of a study


@dataclass(frozen=True)
class RunVariant:
    """Settings under which runs were made.

    Attributes:
        settings: those that differ from the study's, as on the command line; none for its own.
        n: how many finished runs have them; 0 if they were not counted.
        studies: the names of those that have these runs; none if all may have.
    """

    settings: tuple[str, ...] = ()
    n: int = 0
    studies: tuple[str, ...] = ()

    @property
    def scale(self) -> float | None:
        """The length of training as a share of the study's, if that is what differs."""
        (first, *_) = self.settings or ("",)
        return float(first.removeprefix("scale=")) if first.startswith("scale=") else None

    @property
    def suffix(self) -> str:
        """What distinguishes the anchors of the chapter from those of others."""
        if self.scale:
            return f"-at-{self.scale:g}"
        return "".join("-with-" + re.sub(r"[^\w.]+", "-", text) for text in self.settings)

    @property
    def where(self) -> str:
        """The settings in words: ``at 10 % of the epochs``, ``with train.epochs=3``."""
        if self.scale:
            return f"at {100 * self.scale:g} % of the epochs"
        return f"with {' '.join(self.settings)}" if self.settings else "at the study's settings"


def find_variants(
    names: Sequence[str], frames: RunFrames, overrides: Sequence[str]
) -> tuple[list[RunVariant], list[RunVariant]]:
    """Return the settings of finished runs that studies do not have, and those of smaller groups.

    Args:
        names: studies, parts of studies, or experiments.
        frames: the runs.
        overrides: settings that all of them have.

    Returns:
        Every ``scale`` of shortened runs, longest first, and then the settings that most of the
        other runs differ in; and the other groups, the largest first.
    """
    scales = []
    if not any(override.startswith("scale=") for override in overrides):
        finished = frames.runs[frames.runs.status == "finished"].scale.dropna().unique()
        scales = sorted((float(scale) for scale in finished if 0 < scale != 1), reverse=True)
    groups = _other_groups(names, frames, overrides)
    return [*(RunVariant((f"scale={scale!r}",)) for scale in scales), *groups[:1]], groups[1:]


def _other_groups(
    names: Sequence[str], frames: RunFrames, overrides: Sequence[str]
) -> list[RunVariant]:
    """Return the groups of runs of full length that match no configuration, the largest first."""
    asked: dict[tuple[str, CellSpec], dict[str, Any]] = {}
    marks = set()
    for name in names:
        study, rest = find_study(name, overrides)
        cells = [cell for table in tables_of(study).values() for cell in table.cells()]
        curves = [curve for figure in study.figures.values() for curve in figure.curves()]
        for cell in dict.fromkeys([*cells, *(curve.cell for curve in curves)]):
            try:
                found = resolve_cell(cell, rest)
            except ValueError:  # impossible under these settings; the section says why
                continue
            asked[name, cell] = found.identity
            marks.add(found.fingerprint)
    counts: dict[str, list[Any]] = {}
    for run in frames.index.with_status("finished"):
        mark = run.metadata.get("fingerprint")
        if mark not in marks and run.metadata.get("scale", 1) in (1, None) and run.identity:
            counts.setdefault(str(mark), []).append(run)
    groups: dict[tuple[str, ...], RunVariant] = {}
    for mark, runs in counts.items():
        settings, studies = _nearest(runs[0].identity, mark, asked, overrides)
        if settings:
            known = groups.get(settings, RunVariant())
            studies = tuple(dict.fromkeys([*known.studies, *studies]))
            groups[settings] = RunVariant(settings, known.n + len(runs), studies)
    found = groups.values()
    return sorted(found, key=lambda variant: -variant.n)


def _nearest(
    identity: dict[str, Any],
    mark: str,
    asked: dict[tuple[str, CellSpec], dict[str, Any]],
    overrides: Sequence[str],
) -> tuple[tuple[str, ...], list[str]]:
    """Return the fewest settings that make a configuration of a study this one, and the studies
    that have it; none if the settings are many, or if the configuration sets them itself."""
    near: dict[tuple[str, ...], list[tuple[str, CellSpec]]] = {}
    for (study, cell), known in asked.items():
        if any(known.get(name) != identity.get(name) for name in SAME_TASK):
            continue
        differing = differing_settings(known, identity)
        own = set(map(setting_name, (*cell.overrides, *overrides)))
        if len(differing) <= MAX_SETTINGS and not any(
            name in own or name.endswith("_target_") for name, _ in differing
        ):
            settings = (f"{name}={'null' if v is None else v}" for name, v in differing)
            near.setdefault(tuple(settings), []).append((study, cell))
    for settings in sorted(near, key=len):
        ((_, cell), *_) = near[settings]
        if shorter := _shorten(cell, list(settings), mark, overrides):
            return shorter, [study for study, _ in near[settings]]
    return (), []


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
