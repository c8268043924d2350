"""What comparisons say at a rule of paper/claims.yaml: confirmed, contradicted, or neither."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from claims import Rule
from effect import Effect
from pooled import pool
from tabular import Cell

Status = Literal["confirmed", "not confirmed", "contradicted", "not enough data"]
Interval = tuple[float, float]
LEVEL, MOST = 0.95, 0.8


@dataclass(frozen=True)
class Comparison:
    """Differences of a pair of cells, by seed, and what they say at the rule's smallest effect.

    ``seeds``: how many it takes. ``level`` is that of the interval which may contradict: of one
    comparison among several. ``failed``: runs of the second cell that ended in a loss that is not
    finite, beside which it confirms nothing.
    """

    rule: Rule
    base: Cell
    other: Cell
    by_seed: Mapping[int, float]
    seeds: int
    level: float
    failed: int = 0

    @property
    def label(self) -> str:
        """Where and between what: ``table2 optim=adam: lrd.p=1 to lrd.p=0.5``."""
        sides = (self.base.overrides, self.other.overrides)
        common = [o for o in sides[0] if o in sides[1]]
        first, second = (" ".join(o for o in side if o not in common) for side in sides)
        return f"{' '.join([self.base.experiment, *common])}: {first} to {second}"

    @cached_property
    def effect(self) -> Effect:
        return Effect(tuple(self.by_seed.values()))

    @property
    def n(self) -> int:
        return self.effect.n

    @property
    def mean(self) -> float | None:
        return self.effect.mean

    @property
    def low(self) -> float | None:
        return self.effect.interval[0] if self.effect.interval else None

    @property
    def high(self) -> float | None:
        return self.effect.interval[1] if self.effect.interval else None

    @property
    def enough(self) -> bool:
        return self.n >= self.seeds and self.effect.interval is not None

    @property
    def status(self) -> Status:
        if not self.enough or self.effect.paired is None or self.effect.interval is None:
            return "not enough data"
        among = self.effect.paired.interval(self.level)
        status = decide(self.rule, self.effect.paired.mean, self.effect.interval, among)
        return "not confirmed" if status == "confirmed" and self.failed else status

    @property
    def opposite(self) -> bool:
        """Whether the mean moves against the rule beyond chance."""
        if not self.enough or self.effect.paired is None:
            return False
        low, high = self.effect.paired.interval(self.level)
        return high < 0 if self.rule.must in ("rise", "no_fall") else low > 0


def decide(rule: Rule, mean: float, one: Interval, among: Interval) -> Status:
    """By an estimate with its interval, and by the wider interval that may contradict."""
    up = rule.must in ("rise", "no_rise")  # what must fall is what rises with the other sign
    mean, one, among = (mean, one, among) if up else (-mean, _flip(one), _flip(among))

    def moves(interval: Interval) -> bool:
        return interval[0] > 0 and mean >= rule.smallest

    def stays(interval: Interval) -> bool:
        return interval[1] < rule.smallest

    holds, fails = (moves, stays) if rule.must in ("rise", "fall") else (stays, moves)
    if holds(one):
        return "confirmed"
    return "contradicted" if fails(among) else "not confirmed"


def _flip(interval: Interval) -> Interval:
    return -interval[1], -interval[0]


@dataclass(frozen=True)
class Part:
    """One rule of a claim with its comparisons."""

    of: Rule
    comparisons: tuple[Comparison, ...]

    @property
    def rule(self) -> str:
        return str(self.of)

    @property
    def unit(self) -> str:
        return self.of.measure.unit

    @property
    def told(self) -> list[Comparison]:
        """The comparisons that have enough data."""
        return [c for c in self.comparisons if c.enough]

    @cached_property
    def pooled(self) -> tuple[float, float, float] | None:
        """Mean and 95 % interval over the comparisons that have data, if there are two or more."""
        effect = pool([c.by_seed for c in self.told]).effect
        if len(self.told) < 2 or effect.mean is None or effect.interval is None:
            return None
        if effect.n < self.told[0].seeds:
            return None  # those that all of them have are too few
        return effect.mean, *effect.interval

    @cached_property
    def status(self) -> Status:
        return self._pooled() if self.of.together == "pooled" else self._counted()

    def _pooled(self) -> Status:
        """By the pooled estimate, unless one comparison moves the other way."""
        if any(c.opposite for c in self.comparisons):
            return "contradicted"
        if len(self.comparisons) == 1:
            return self.comparisons[0].status
        if len(self.told) < len(self.comparisons) or self.pooled is None:
            return "not enough data"
        mean, low, high = self.pooled
        status = decide(self.of, mean, (low, high), (low, high))
        failed = any(c.failed for c in self.comparisons)
        return "not confirmed" if status == "confirmed" and failed else status

    def _counted(self) -> Status:
        """By how many comparisons are confirmed and contradicted."""
        statuses: list[Status] = [c.status for c in self.comparisons]
        least = 1.0 if self.of.together == "each" else MOST
        if statuses.count("contradicted") > (1 - least) * len(statuses) + 1e-9:
            return "contradicted"
        if "not enough data" in statuses:
            return "not enough data"
        held = statuses.count("confirmed") >= least * len(statuses) - 1e-9
        return "confirmed" if held else "not confirmed"

    @property
    def why(self) -> str:
        """The numbers behind the status, in a phrase."""
        told, count = self.told, len(self.comparisons)
        what = f"{self.of.measure}: "
        if not told:
            return f"{what}no comparison of {count} has {self.comparisons[0].seeds} seeds"
        some = "" if len(told) == count else f"of {count} comparisons "
        seeds = sorted({c.n for c in told})
        n = f"n = {seeds[0]}" + (f" to {seeds[-1]}" if len(seeds) > 1 else "")
        if self.pooled is not None:
            mean, low, high = self.pooled
            what += f"{some}{len(told)} pooled "
        else:  # one alone, or several that share too few seeds to be pooled
            one = told[0]
            assert one.mean is not None and one.low is not None and one.high is not None
            mean, low, high = one.mean, one.low, one.high
            what += some + ("1 " if some or len(told) > 1 else "")
        text = f"{what}{mean:+.3g} ({low:+.3g} to {high:+.3g}) {self.unit}".rstrip()
        up = sum(c.status == "confirmed" for c in told)
        each = f"; {up} of {len(told)} confirmed by themselves" if len(told) > 1 else ""
        return f"{text}, {n}{each}"
