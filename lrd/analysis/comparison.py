"""Two configurations compared in pairs of runs with the same seed, and the arms of an experiment.

    frames = RunFrames("runs")
    pairs = pair_arms("quickstart", ("lrd.p=1", "lrd.p=0.5"), frames)
    score_table({" ".join(pair.at): pair.compare() for pair in pairs})

Which arm converges faster is answered in epochs, so that a faster kernel flatters neither arm:

- ``time_to_target``: the first epoch whose score is at least what the base run of the same seed has
  at its end. The base reaches that by its last epoch, whatever happens; the other arm need not, and
  then counts as later than every epoch. So this one leans towards the base. Against the worse of
  the two final scores both arms reach the target, and to exchange them changes the sign alone.
- ``mean_level``: the mean height of a curve, the area under it by the trapezoid rule over the
  epochs that it spans, in the metric's unit. It needs no target.
"""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import (
    SAME_TASK,
    CellResults,
    ScoreKind,
    collect_results,
    require_distinct,
    run_commands,
)
from lrd.analysis.resolve import requested_seeds, setting_name, swept_settings
from lrd.analysis.statistics import PairedDifferences, Pooled, SampleSize, holm, pool
from lrd.analysis.studies import CellSpec, ContrastSpec, Study
from lrd.analysis.studies.find import published_value, tables_of

NOT_REACHED = math.inf
LENGTH = ("train.epochs", "train.max_steps", "task.steps")  # settings of how long a run trains
Arms = tuple[str, str]
Curve = pd.Series  # a metric, indexed by epoch in ascending order


@dataclass(frozen=True)
class TimeToTarget:
    """The first epoch at which each run of a pair reached a target; NOT_REACHED if it never did.

    The difference between never and an epoch is unknown, but not who was first: the sign test
    holds, and means and t intervals (``effect``) are None then.
    """

    seeds: tuple[int, ...]
    base: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.seeds)

    @property
    def reached(self) -> tuple[int, int]:
        """How many runs of each arm reached the target at all."""
        return sum(map(math.isfinite, self.base)), sum(map(math.isfinite, self.other))

    @property
    def medians(self) -> tuple[float, float] | None:
        """The median epoch of each arm; NOT_REACHED where half of the runs did not reach it."""
        return (median(self.base), median(self.other)) if self.n else None

    @property
    def signs(self) -> dict[int, int]:
        """By seed: -1 where the other arm was first, 1 where the base was, 0 for the same epoch."""
        pairs = zip(self.seeds, self.base, self.other, strict=True)
        return {seed: (other > base) - (other < base) for seed, base, other in pairs}

    @property
    def counts(self) -> tuple[int, int, int]:
        """Pairs in which the other arm was sooner, as soon, later."""
        signs = list(self.signs.values())
        return signs.count(-1), signs.count(0), signs.count(1)

    @property
    def p_sign(self) -> float | None:
        """Two-sided p of the exact sign test; pairs of the same epoch do not count."""
        from scipy import stats

        sooner, _, later = self.counts
        if not sooner + later:
            return 1.0 if self.n else None
        return float(stats.binomtest(sooner, sooner + later).pvalue)

    @property
    def effect(self) -> PairedDifferences:
        """Epochs more that the other arm needs (below 0: it is faster)."""
        pairs = zip(self.base, self.other, strict=True)
        return PairedDifferences(tuple(other - base for base, other in pairs))

    @property
    def median_interval(self) -> tuple[float, float] | None:
        """The distribution-free 95 % interval of the median difference, even with NOT_REACHED.

        None below six pairs, which determine none, and where neither run of a pair got there.
        """
        from scipy import stats

        differences = self.effect.values
        if self.n < 6 or any(map(math.isnan, differences)):
            return None
        found = stats.quantile_test(differences, p=0.5).confidence_interval(0.95)
        return float(found.low), float(found.high)


def first_reached(curve: Curve, target: float, maximize: bool) -> float:
    """Return the first epoch whose value is at least ``target`` (at most, if not ``maximize``), or
    NOT_REACHED. NaN reaches nothing and is reached by nothing."""
    values = curve.to_numpy()
    epochs = curve.index.to_numpy()[values >= target if maximize else values <= target]
    return float(epochs[0]) if len(epochs) else NOT_REACHED


def mean_level(curve: Curve) -> float:
    """Return the area under a curve divided by its span of epochs; NaN without a point."""
    if curve.empty:
        return math.nan
    if len(curve) == 1:
        return float(curve.iloc[0])
    epochs = curve.index.to_numpy()
    return float(np.trapezoid(curve.to_numpy(), epochs)) / float(epochs[-1] - epochs[0])


@dataclass(frozen=True, eq=False)
class Comparison:
    """``other`` against ``base``: every number is the other's minus the base's, a pair a seed."""

    base: CellResults
    other: CellResults
    seeds: tuple[int, ...]

    @property
    def n(self) -> int:
        return len(self.seeds)

    @property
    def score(self) -> ScoreKind:
        """As the runs record it; the default where there is no pair."""
        return self.base.score if self.seeds else ScoreKind()

    @property
    def means(self) -> tuple[float, float] | None:
        """Of the paired runs of each arm, the base first."""
        if not self.seeds:
            return None
        base, other = (arm.scores.loc[list(self.seeds)] for arm in (self.base, self.other))
        return float(base.mean(skipna=False)), float(other.mean(skipna=False))

    @cached_property
    def differences(self) -> dict[int, float]:
        """Of the final scores, by seed, in the score's unit."""
        if not self.seeds:
            return {}
        return (self.other.scores - self.base.scores).loc[list(self.seeds)].to_dict()

    @cached_property
    def effect(self) -> PairedDifferences:
        """Mean, interval, p of the differences. Above 0 the other arm's score is higher, which is
        better where the score says ``maximize``."""
        return PairedDifferences(tuple(self.differences.values()))

    @property
    def better(self) -> int | None:
        """Which arm has the better score, 0 or 1, where the 95 % interval excludes 0; else None."""
        low, high = self.effect.interval or (0.0, 0.0)
        return int((low > 0) == self.score.maximize) if low > 0 or high < 0 else None

    @property
    def correlation(self) -> float | None:
        """Pearson's r of the arms' scores over the seeds; None below three pairs or without spread.

        Pairing by seed shortens the interval only where it is well above 0.
        """
        base, other = (arm.scores.loc[list(self.seeds)] for arm in (self.base, self.other))
        if self.n < 3 or not self.effect.is_finite or base.nunique() < 2 or other.nunique() < 2:
            return None
        return float(np.corrcoef(base, other)[0, 1])

    @property
    def published(self) -> float | None:
        """The published difference; None where none is."""
        base, other = self.base.cell.published, self.other.cell.published
        return None if base is None or other is None else round(other - base, 6)

    @property
    def failed(self) -> tuple[int, ...]:
        """The seeds of runs that failed in either arm, so that no pair has them."""
        return tuple(sorted({*self.base.failed.index, *self.other.failed.index}))

    def plan(self, gap: float | None = None) -> SampleSize | None:
        """Return how many seeds would show ``gap``, the published one if none is given."""
        gap = self.published if gap is None else gap
        return None if gap is None else self.effect.plan(gap)

    def time_to_target(self, even: bool = False) -> TimeToTarget:
        """Count the epochs to the base run's final score, or, if ``even``, to the worse of the
        pair's two."""
        name, maximize = self.score.name, self.score.maximize
        base, other = self.base.curves(name), self.other.curves(name)
        firsts = []
        for seed in self.seeds:
            target, final = (float(arm.runs.at[seed, "final"]) for arm in (self.base, self.other))
            if even and (math.isnan(final) or (final < target) == maximize):
                target = final
            firsts.append([first_reached(c[seed], target, maximize) for c in (base, other)])
        return TimeToTarget(self.seeds, tuple(f for f, _ in firsts), tuple(s for _, s in firsts))

    def level_differences(self, key: str) -> dict[int, float]:
        """Return by seed how much higher the other arm's curve of a metric lies."""
        base, other = self.base.curves(key), self.other.curves(key)
        return {seed: mean_level(other[seed]) - mean_level(base[seed]) for seed in self.seeds}


def compare(
    base: CellResults, other: CellResults, seeds: Iterable[int] | None = None
) -> Comparison:
    """Pair the finished runs of two configurations by seed.

    Args:
        seeds: the seeds to take, in this order; all that both have if None.
    """
    both = base.runs.index.intersection(other.runs.index)
    asked = sorted(both) if seeds is None else seeds
    return Comparison(base, other, tuple(int(seed) for seed in asked if seed in both))


def why_not_pooled(table: Sequence[Comparison]) -> str:
    """Return why the differences of a table have no common mean; empty if they have one."""
    known = [found for found in table if found.n]
    if len({found.score for found in known}) > 1:
        return "the configurations have several scores"
    lengths: dict[tuple[Any, ...], set[str]] = {}
    for identity in (found.base.identity for found in known):
        kind = tuple(identity.get(name) for name in (*SAME_TASK, "model._target_"))
        lengths.setdefault(kind, set()).add(str([identity.get(name) for name in LENGTH]))
    if any(len(found) > 1 for found in lengths.values()):
        return "configurations of one task train for several lengths"
    return ""


def pool_comparisons(table: Sequence[Comparison]) -> Pooled | None:
    """Pool the differences of a table; None where they have no common mean."""
    return None if why_not_pooled(table) else pool([found.differences for found in table])


def score_table(table: Mapping[str, Comparison]) -> pd.DataFrame:
    """Return a row a comparison: the final scores, their difference, and its tests.

    Columns: those of ``level_table``, then base, other (means), p_permutation, smallest_p,
    p_permutation_holm, published.
    """
    effects = [found.effect for found in table.values()]
    means = [found.means or (None, None) for found in table.values()]
    p_values = [effect.p_permutation for effect in effects]
    return _effect_table(
        table,
        effects,
        base=[base for base, _ in means],
        other=[other for _, other in means],
        p_permutation=p_values,
        smallest_p=[effect.smallest_p for effect in effects],
        p_permutation_holm=holm(p_values),
        published=[found.published for found in table.values()],
    )


def level_table(key: str, table: Mapping[str, Comparison]) -> pd.DataFrame:
    """Return a row a comparison: the difference of the mean levels of a metric, and its test.

    Columns: n, difference, low, high (95 % t interval), sd, p_t, p_t_holm.
    """
    differences = [found.level_differences(key) for found in table.values()]
    return _effect_table(table, [PairedDifferences(tuple(d.values())) for d in differences])


def _effect_table(
    names: Iterable[str], effects: Sequence[PairedDifferences], **more: Sequence[float | None]
) -> pd.DataFrame:
    """Return a row an effect, and ``more`` columns."""
    columns = ("n", "difference", "low", "high", "sd", "p_t")
    rows = [(e.n, e.mean, *(e.interval or (None, None)), e.sd, e.p_t) for e in effects]
    frame = pd.DataFrame(rows, list(names), columns, dtype=float).astype({"n": int})
    adjusted = {"p_t_holm": holm([effect.p_t for effect in effects])}
    return frame.join(pd.DataFrame(adjusted | more, frame.index, dtype=float))


@dataclass(frozen=True)
class ArmPair:
    """Two configurations with their runs, and the seeds asked for.

    Args:
        title: the experiment or the table that has them.
        name: what distinguishes this pair from the others of its title.
        overrides: settings that differ from the experiment's.
        arms: the names of the two.
        results: their runs.
        seeds: those that are to be compared.
    """

    title: str
    name: str
    overrides: tuple[str, ...]
    arms: Arms
    results: tuple[CellResults, CellResults]
    seeds: tuple[int, ...]

    def compare(self) -> Comparison:
        return compare(*self.results, self.seeds)


def study_pairs(
    study: Study,
    frames: RunFrames,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
) -> list[list[ArmPair]]:
    """Return the pairs of every contrast of a study's tables.

    Args:
        study: from ``find_study``.
        frames: the runs.
        overrides: settings that differ from the experiments'.
        seeds: those to compare; the experiments' if None.

    Raises:
        ValueError: in one line, for wrong overrides, and where the study compares nothing.
    """
    found: dict[tuple[str, ContrastSpec], list[ArmPair]] = {}
    for table in tables_of(study).values():
        pairs = table.pairs()
        cells = (cell for pair in pairs for cell in (pair.base, pair.other))
        results = collect_results(cells, frames, overrides)
        require_distinct("cells", results.values(), overrides)
        for pair in pairs:
            base, other = results[pair.base], results[pair.other]
            asked = requested_seeds(pair.base.experiment, ()) if seeds is None else tuple(seeds)
            ends = (", ".join(pair.contrast.base), ", ".join(pair.contrast.other))
            found.setdefault((table.name, pair.contrast), []).append(
                ArmPair(table.name, pair.label, tuple(overrides), ends, (base, other), asked)
            )
    if not found:
        raise ValueError(f"{study.name} compares nothing: give two settings, --arms BASE OTHER")
    return list(found.values())


def pair_arms(
    experiment: str, arms: Arms, frames: RunFrames, overrides: Sequence[str] = ()
) -> list[ArmPair]:
    """Return every configuration of an experiment, in the order of its sweep, with both arms.

    What an experiment sweeps besides the arms' settings and the seed are its configurations.
    Raises ValueError, in one line, for arms or overrides that make no pair.
    """
    sweep = swept_settings(experiment, arms, overrides)
    settings = tuple(o for o in overrides if setting_name(o) != "seed")
    kept = [o for o in settings if setting_name(o) not in map(setting_name, sweep)]
    seeds = requested_seeds(experiment, overrides)
    pairs = []
    for chosen in product(*sweep.values()):
        at = tuple(f"{name}={value}" for name, value in zip(sweep, chosen, strict=True))
        words = [(*at, *kept, *shlex.split(arm)) for arm in arms]
        cells = [CellSpec(experiment, w, published_value(experiment, w)) for w in words]
        found = collect_results(cells, frames)
        base, other = (found[cell] for cell in cells)
        require_distinct("the arms", (base, other), arms)
        own = " ".join(a for a, v in zip(at, sweep.values(), strict=True) if len(v) > 1)
        pair = ArmPair(experiment, own or experiment, settings, arms, (base, other), seeds)
        pairs.append(pair)
    return pairs


def missing_commands(pairs: Sequence[ArmPair], overrides: Sequence[str] = ()) -> list[str]:
    """Return the commands that complete the pairs.

    Args:
        pairs: those that are compared.
        overrides: settings that differ from those of the pairs' cells, such as ``run.dir``.
    """
    lacking: dict[CellSpec, list[int]] = {}
    for pair in pairs:
        for results in pair.results:
            if missing := [seed for seed in pair.seeds if seed not in results.runs.index]:
                lacking[results.cell] = missing
    commands = []
    for seeds in dict.fromkeys(map(tuple, lacking.values())):
        cells = [cell for cell, missing in lacking.items() if tuple(missing) == seeds]
        commands += run_commands(cells, [*overrides, f"seed={','.join(map(str, seeds))}"])
    return commands
