"""What the toy example's drawn starts came to, counted; and LRD against its base."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cells import Filled
from paired import Paired
from scipy import stats

# How a start may end; the four shares add up to 100 %.
ENDS = {
    "good_basin": "good basin",
    "bad_basin": "bad basin",
    "outside": "outside the domain",
    "elsewhere": "elsewhere",
}
# Also counted: ever near the bad minimum, and of those near the good one at the end.
REACHED, ESCAPED = "reached_bad", "escaped"


@dataclass(frozen=True)
class Count:
    """``k`` of ``n`` starts."""

    k: int
    n: int

    @property
    def percent(self) -> float:
        return 100 * self.k / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the share, in %."""
        found = stats.binomtest(self.k, self.n).proportion_ci(0.95, "wilson")
        return 100 * float(found.low), 100 * float(found.high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.percent:.1f} % [{low:.1f}, {high:.1f}]"


@dataclass(frozen=True)
class Outcome:
    """A cell's runs at their end: by seed, the shares in % of ``drawn`` starts."""

    drawn: int
    steps: int
    shares: Mapping[int, Mapping[str, float]]

    def count(self, key: str) -> Count:
        """The starts of all seeds together."""
        parts = [round(shares[key] * self.drawn / 100) for shares in self.shares.values()]
        return Count(sum(parts), self.drawn * len(parts))

    def escapes(self) -> Count | None:
        """Of the starts that were ever near the bad minimum, those that ended near the good one;
        None where there are none."""
        reached = self.count(REACHED).k
        return Count(self.count(ESCAPED).k, reached) if reached else None

    def lines(self) -> list[str]:
        """All of it as text."""
        ends = [f"{label} {self.count(key)}" for key, label in ENDS.items()]
        head = f"{self.drawn:,} drawn starts x {len(self.shares)} seeds after {self.steps:,} steps:"
        text = [head, ", ".join(ends[:2]), ", ".join(ends[2:])]
        if found := self.escapes():
            text += [
                f"of the {found.n:,} that reached the bad minimum,",
                f"{found.k:,} ended in the good basin",
            ]
        return text


def outcome(filled: Filled) -> Outcome | None:
    """None without a run. Raises ValueError, in one line, where a last epoch lacks a share."""
    last: dict[int, Mapping[str, Any]] = {}
    for run in filled.runs:
        line = (run.metrics or [{}])[-1]
        for key in (*ENDS, REACHED, ESCAPED, "step"):
            if not isinstance(line, dict) or not isinstance(line.get(key), int | float):
                raise ValueError(f"{run.folder}: the last epoch has no {key}")
        last[run.seed] = line
    if not last:
        return None
    steps = max(line["step"] for line in last.values())
    return Outcome(filled.identity["dataset.drawn"], steps, last)


def paired(base: Outcome, lrd: Outcome, key: str) -> Paired | None:
    """LRD minus base in points of %, a pair for each seed that both have, which draws the same
    starts for both. None below two pairs."""
    seeds = sorted(base.shares.keys() & lrd.shares.keys())
    pairs = tuple(lrd.shares[seed][key] - base.shares[seed][key] for seed in seeds)
    return Paired(pairs) if len(pairs) > 1 else None


def compared(base: Outcome | None, lrd: Outcome | None) -> list[str]:
    """The paired difference in the good basin as a line of text; no line below two pairs."""
    if base is None or lrd is None or (found := paired(base, lrd, "good_basin")) is None:
        return []
    low, high = found.interval(0.95)
    return [
        f"LRD minus Adam in the good basin, on the same starts: {found.mean:+.1f} points "
        f"[{low:+.1f}, {high:+.1f}] (t interval over n = {found.n} seeds)"
    ]
