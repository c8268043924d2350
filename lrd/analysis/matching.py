"""The runs of a configuration: those whose fingerprint equals that of a cell.

Without a match, the nearest runs and the commands that make the missing ones are named.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from lrd.analysis.frames import RunFrames
from lrd.analysis.resolve import (
    Resolved,
    resolve_cell,
    resolve_cells,
    run_line,
    sweep_parameters,
    sweep_values,
)
from lrd.analysis.statistics import half_width
from lrd.analysis.studies import CellSpec
from lrd.config.fingerprint import DEFAULTS, diff_identities
from lrd.runs.store import Run

SAME_TASK = ("task._target_", "dataset._target_", "dataset.name")  # of runs that are compared
log = logging.getLogger(__name__)
Block = dict[str, tuple[str, ...]]  # the values of every setting; the cells are their product


@dataclass(frozen=True)
class ScoreKind:
    """The score that counts: its name in the log, its direction, its unit ("%" or "")."""

    name: str = "score"
    maximize: bool = True
    unit: str = ""


@dataclass(frozen=True, eq=False)
class CellResults:
    """A cell with its finished runs, one a seed, and with those that failed.

    A run fails where its loss is not finite; the mean over the others is then too good.

    ``runs`` and ``failed`` are rows of ``load_runs``, indexed by seed in ascending order.
    """

    cell: CellSpec
    identity: dict[str, Any]
    fingerprint: str
    frames: RunFrames

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Raises ValueError, in one line, where the runs are not of one data set and one score."""
        runs = self.frames.select(self.fingerprint, "finished")
        for column, what in (("data_manifest", "trained on"), ("score", "scored by")):
            if mixed := describe_mixture(runs[column]):
                raise ValueError(
                    f"{_cell_name(self.cell)}: runs cannot be pooled, {what} {mixed}: keep one "
                    "kind in this runs directory"
                )
        return runs

    @cached_property
    def failed(self) -> pd.DataFrame:
        return self.frames.select(self.fingerprint, "failed")

    @property
    def n(self) -> int:
        return len(self.runs)

    @property
    def records(self) -> list[Run]:
        """The runs with their records, in the order of their seeds."""
        return [self.frames.run(folder) for folder in self.runs.folder]

    @cached_property
    def score(self) -> ScoreKind:
        """As the runs record it; the default where there is none."""
        if not self.n:
            return ScoreKind()
        name, maximize, unit = self.runs[["score", "maximize", "unit"]].iloc[0]
        return ScoreKind(name, bool(maximize), unit) if isinstance(name, str) else ScoreKind()

    @cached_property
    def scores(self) -> pd.Series:
        """Final score by seed. Raises ValueError, in one line, where a run has none."""
        for problem in self.runs.problem:
            if problem:
                raise ValueError(problem)
        return self.runs.final

    def curves(self, key: str) -> dict[int, pd.Series]:
        """Return, by seed, a metric by epoch, at the epochs that log it. Raises ValueError, in one
        line, where a metrics.jsonl is damaged."""
        runs = self.runs
        for done, problem in zip(runs.epochs_done, runs.problem, strict=True):
            if math.isnan(done):
                raise ValueError(problem)
        seeds = zip(runs.index, runs.folder, strict=True)
        return {seed: self.frames.metric(folder, key) for seed, folder in seeds}

    @property
    def mean(self) -> float | None:
        return float(np.mean(self.scores.to_numpy())) if self.n else None

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds (n - 1 in the denominator); None below two runs."""
        return float(np.std(self.scores.to_numpy(), ddof=1)) if self.n > 1 else None

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % t interval of the mean over seeds; None below two runs."""
        return float(half_width(self.scores)) if self.n > 1 else None


def collect_results(
    cells: Iterable[CellSpec], frames: RunFrames, overrides: Sequence[str] = ()
) -> dict[CellSpec, CellResults]:
    """Match every cell, under further overrides, with its runs. Raises ValueError in one line."""
    found = {}
    cells = list(cells)
    resolve_cells((cell, overrides) for cell in cells)
    for cell in cells:
        asked = resolve_cell(cell, overrides)
        found[cell] = CellResults(cell, asked.identity, asked.fingerprint, frames)
        for column in ("precision", "batch_norm"):
            if mixed := describe_mixture(found[cell].runs[column]):
                log.warning("note: %s: runs differ in %s: %s", _cell_name(cell), column, mixed)
    return found


def _cell_name(cell: CellSpec) -> str:
    return " ".join([f"+experiment={cell.experiment}", *cell.overrides])


def describe_mixture(values: Any) -> str:
    """Return which seeds have which value, ``bf16 (seed 0), fp32 (seeds 1, 2)``; empty where all
    are equal. ``values`` is indexed by seed."""
    if len(values) < 2:
        return ""
    texts = values.astype(object).where(values.notna(), None).map(str)
    if texts.nunique() < 2:
        return ""
    kinds = texts.groupby(texts).groups.items()
    return ", ".join(
        f"{kind} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"
        for kind, seeds in kinds
    )


def require_distinct(
    what: str, results: Iterable[CellResults | Resolved], given: Sequence[str]
) -> None:
    """Raise ValueError where the overrides ``given`` make two of ``what`` the same."""
    marks = [each.fingerprint for each in results]
    if len(set(marks)) < len(marks):
        raise ValueError(
            f"{what} must be different configurations, got {' '.join(given)}: two are the same"
        )


def differing_settings(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return what ``other`` has where it differs from ``first``; an absent setting is at its
    default."""
    keys = sorted(first.keys() | other.keys())
    return [(k, other.get(k, DEFAULTS.get(k))) for k in keys if other.get(k) != first.get(k)]


def explain_mismatches(results: Sequence[CellResults]) -> list[str]:
    """Return finished runs of the same tasks and data that match no configuration, with the
    settings in which each differs from the closest one, and how many runs are of others."""
    asked = [each.identity for each in results]
    lines: Counter[str] = Counter()
    others = 0
    for run in results[0].frames.index.with_status("finished"):
        alike = [a for a in asked if all(a.get(k) == run.identity.get(k) for k in SAME_TASK)]
        if not alike:
            others += 1
        elif run.identity not in alike:
            nearest = min((diff_identities(a, run.identity) for a in alike), key=len)
            lines[", ".join(nearest)] += 1
    found = [f"{count} finished with {how}" for how, count in lines.most_common()]
    return [*found, *([f"{others} of other tasks or data"] if others else [])]


def title_with_overrides(title: str, overrides: Sequence[str]) -> str:
    """Return a title with the settings under which its runs were made."""
    return f"{title} [{' '.join(map(_describe, overrides))}]" if overrides else title


def _describe(override: str) -> str:
    name, _, value = override.partition("=")
    return f"{override} ({100 * float(value):g} % of the epochs)" if name == "scale" else override


def with_run_dir(root: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides of runs in this directory."""
    return [*overrides, *([] if root == "runs" else [f"run.dir={root}"])]


def run_commands(cells: Iterable[CellSpec], overrides: Sequence[str] = ()) -> list[str]:
    """Return the commands that run exactly these cells, with the seeds of their experiments."""
    by_experiment: dict[str, list[CellSpec]] = {}
    for cell in cells:
        by_experiment.setdefault(cell.experiment, []).append(cell)
    lines = []
    for experiment, members in by_experiment.items():
        swept = {n: set(sweep_values(n, text)) for n, text in sweep_parameters(experiment).items()}
        for block in _group(members):
            words = [f"{n}={','.join(v)}" for n, v in block.items() if swept.get(n) != set(v)]
            words = [f"+experiment={experiment}", *words, *overrides]
            lines.append(run_line(words))
    return lines


def _group(cells: Iterable[CellSpec]) -> list[Block]:
    """Return the cells as few products: those that differ in one setting become one."""
    found: list[Block] = []
    for cell in cells:
        parts = (override.partition("=") for override in cell.overrides)
        found.append({name: (value,) for name, _, value in parts})
    for name in dict.fromkeys(name for block in reversed(found) for name in reversed(block)):
        merged: dict[Any, Block] = {}
        for block in found:
            rest = name in block, *(item for item in block.items() if item[0] != name)
            before = merged.get(rest, {}).get(name, ())
            merged[rest] = block | ({name: before + block[name]} if before else {})
        found = list(merged.values())
    return found
