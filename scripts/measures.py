"""What is compared of a pair of runs of the same seed: one number, the second run's less the
first's."""

from collections.abc import Sequence
from math import isfinite
from statistics import median

from claims import Measure
from convergence import curve, first_reached, height

from lrd.runs.store import Run

# What must agree for two runs' times to be comparable.
SAME = ("device", "threads", "ranks", "versions", "hardware", "precision", "matmul")
# Steps that are the base's own, with what LRD adds to them.
OWN = ("generic", "reference")


def difference(measure: Measure, base: Run, other: Run) -> float | None:
    """``measure`` of the pair, or None where the runs do not have it or cannot be compared."""
    if measure.name == "seconds":
        return _seconds(base, other)
    if measure.name == "reach":
        return _reach(measure.keys[0], base, other)
    of = {"final": _final, "mean": _mean, "gap": _gap}[measure.name]
    first, second = (of(run, measure.keys) for run in (base, other))
    return None if first is None or second is None else second - first


def _final(run: Run, keys: Sequence[str]) -> float | None:
    if keys == ("score",):
        return run.final
    points = curve(run, keys[0])
    return points[-1][1] if points else None


def _mean(run: Run, keys: Sequence[str]) -> float | None:
    points = curve(run, keys[0])
    return height(points) if points else None


def _gap(run: Run, keys: Sequence[str]) -> float | None:
    first, second = (_final(run, (key,)) for key in keys)
    return None if first is None or second is None else first - second


def _reach(key: str, base: Run, other: Run) -> float | None:
    """In % of the run; never is twice as long."""
    points = [curve(run, key) for run in (base, other)]
    if not all(points):
        return None
    last, mark = points[0][-1]
    maximize = base.record.get("score", {}).get("maximize", True)
    reached = [first_reached(part, mark, maximize) for part in points]
    first, second = (epoch if isfinite(epoch) else 2 * last for epoch in reached)
    return 100 * (second - first) / last


def _seconds(base: Run, other: Run) -> float | None:
    """In % of the base's."""
    if any(base.record.get(name) != other.record.get(name) for name in SAME):
        return None
    if other.record.get("implementation") not in OWN:
        return None
    times = [[value for _, value in curve(run, "train_seconds")] for run in (base, other)]
    if not all(times):
        return None
    first, second = map(median, times)
    return 100 * (second / first - 1)
