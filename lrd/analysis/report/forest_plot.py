"""Estimates with their intervals, and the axis that the rows of one table share to draw them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lrd.analysis.claims.verdicts import RuleComparison, RuleResult

WIDTH = 180  # of a drawing, in units of its SVG
MAX_RATIO = 8  # an interval is cut at this multiple of the largest mean
MARGIN = 0.06  # at both ends, as a share of the width


@dataclass(frozen=True)
class Estimate:
    """A difference with its 95 % interval, as numbers and as text."""

    label: str
    n: int | None
    mean: float | None
    low: float | None
    high: float | None
    digits: int
    status: str = ""
    is_pooled: bool = False

    @property
    def mean_text(self) -> str:
        return "" if self.mean is None else f"{self.mean:+z.{self.digits}f}"

    @property
    def interval_text(self) -> str:
        if self.low is None or self.high is None:
            return ""
        return f"{self.low:+z.{self.digits}f} to {self.high:+z.{self.digits}f}"


@dataclass(frozen=True)
class AxisScale:
    """A linear axis from ``low`` to ``high``; ``threshold`` is the smallest effect that counts."""

    low: float
    high: float
    threshold: float | None = None

    def position(self, value: float | None) -> float | None:
        """Return a value's position between 0 and WIDTH, clipped; None if it is not finite."""
        if value is None or not math.isfinite(value):
            return None
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(WIDTH * share, 1)

    def percent(self, value: float | None) -> str | None:
        """Return a value's position as a share of the width, clipped, as in an SVG."""
        position = self.position(value)
        return None if position is None else f"{100 * position / WIDTH:.1f}%"

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def fit_axis(
    means: Iterable[float | None], ends: Iterable[float | None], threshold: float | None = None
) -> AxisScale:
    """Return an axis that holds 0, all means, ``threshold`` and the ends of intervals.

    An interval that is many times wider than the largest mean is cut.
    """
    marks = [0.0, *_finite([*means, threshold])]
    limit = MAX_RATIO * max(map(abs, marks))
    values = [*marks, *(min(max(end, -limit), limit) for end in _finite(ends))]
    low, high = min(values), max(values)
    margin = MARGIN * (high - low) or 1.0
    return AxisScale(low - margin, high + margin, threshold)


def rule_estimates(result: RuleResult) -> tuple[list[Estimate], AxisScale]:
    """Return the comparisons of a claim's rule as estimates, with the axis that they share.

    They have two digits of the smallest effect that counts, which is the threshold, on the side
    where the rule expects the effect. Intervals of too few pairs, which decide nothing, do not
    extend the axis.
    """
    must, smallest = result.rule.criterion.must, result.rule.criterion.smallest
    threshold = -smallest if must in ("fall", "no_fall") else smallest
    digits = max(0, 1 - math.floor(math.log10(smallest)))
    found = result.comparisons
    estimates = [Estimate(_label(c), c.n, c.mean, c.low, c.high, digits, c.status) for c in found]
    ends = [end for c in found if c.status != "not enough runs" for end in (c.low, c.high)]
    if result.pooled is not None:
        pooled = Estimate("mean", None, *result.pooled, digits, result.status, is_pooled=True)
        estimates.append(pooled)
        ends += result.pooled
    return estimates, fit_axis([c.mean for c in found], ends, threshold)


def _label(one: RuleComparison) -> str:
    base, other = one.failed
    return f"{one.label} (failed runs: {other}, of the base {base})" if base or other else one.label


def _finite(values: Iterable[float | None]) -> list[float]:
    return [v for v in values if v is not None and math.isfinite(v)]
