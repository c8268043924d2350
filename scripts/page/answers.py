"""Verdicts as the page shows them: counted, and as text beside what is drawn of them."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from judgement import Part
from verdicts import Verdict

from page.intervals import Ruler, ruler

ORDER = ("confirmed", "contradicted", "not confirmed", "not enough data")


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
    pooled: bool = False

    @property
    def told(self) -> str:
        return "" if self.mean is None else f"{self.mean:+.{self.digits}f}"

    @property
    def interval(self) -> str:
        if self.low is None or self.high is None:
            return ""
        return f"{self.low:+.{self.digits}f} to {self.high:+.{self.digits}f}"


@dataclass(frozen=True)
class Answer:
    """A part of a claim."""

    rule: str
    status: str
    unit: str
    estimates: tuple[Estimate, ...]
    ruler: Ruler

    @property
    def pairs(self) -> int:
        return sum(one.n or 0 for one in self.estimates)


def tally(verdicts: Sequence[Verdict]) -> list[tuple[str, int]]:
    counts = Counter(v.status for v in verdicts)
    return [(status, counts[status]) for status in ORDER]


def told(verdict: Verdict) -> bool:
    """Whether any comparison has a pair of runs."""
    return any(c.n for part in verdict.parts for c in part.comparisons)


def answer(part: Part) -> Answer:
    """Two digits of the smallest effect that counts are shown, which is drawn on the side on which
    the rule expects it. Intervals of few pairs, which decide nothing, do not set the ruler."""
    smallest = part.of.smallest
    aim = smallest if part.of.must in ("rise", "no_rise") else -smallest
    digits = max(0, 1 - math.floor(math.log10(smallest)))
    found = part.comparisons
    estimates = [Estimate(c.label, c.n, c.mean, c.low, c.high, digits, c.status) for c in found]
    ends = [end for c in found if c.enough for end in (c.low, c.high)]
    if part.pooled is not None:
        estimates.append(Estimate("pooled", None, *part.pooled, digits, part.status, pooled=True))
        ends += part.pooled
    drawn = ruler([c.mean for c in found], ends, aim)
    return Answer(part.rule, part.status, part.unit, tuple(estimates), drawn)
