"""Count where the random starts of the toy example end, and compare LRD with its baseline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy import stats

from lrd.analysis.matching import CellResults
from lrd.analysis.statistics import PairedDifferences

# Where a start may end; the four shares add up to 100 %.
OUTCOMES = {
    "good_basin": "good basin",
    "bad_basin": "bad basin",
    "outside": "outside the domain",
    "elsewhere": "elsewhere",
}
# Starts that were ever near the bad minimum, and those of them that end near the good one.
REACHED_BAD_MINIMUM, ESCAPED = "reached_bad", "escaped"


@dataclass(frozen=True)
class Proportion:
    """``k`` of ``n`` starts."""

    k: int
    n: int

    @property
    def percent(self) -> float:
        return 100 * self.k / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval, in %."""
        found = stats.binomtest(self.k, self.n).proportion_ci(0.95, "wilson")
        return 100 * float(found.low), 100 * float(found.high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.percent:.1f} % [{low:.1f}, {high:.1f}]"


@dataclass(frozen=True)
class StartOutcomes:
    """Where the starts of a configuration end: by seed, the shares in % of ``drawn`` starts."""

    drawn: int
    steps: int
    shares: Mapping[int, Mapping[str, float]]

    def proportion(self, key: str) -> Proportion:
        """Count an outcome over the starts of all seeds."""
        counts = [round(shares[key] * self.drawn / 100) for shares in self.shares.values()]
        return Proportion(sum(counts), self.drawn * len(counts))

    def escape_rate(self) -> Proportion | None:
        """Count the starts that were ever near the bad minimum and end near the good one.

        Returns:
            None if no start was near the bad minimum.
        """
        reached = self.proportion(REACHED_BAD_MINIMUM).k
        return Proportion(self.proportion(ESCAPED).k, reached) if reached else None

    def lines(self) -> list[str]:
        """Return all counts as text."""
        ends = [f"{label} {self.proportion(key)}" for key, label in OUTCOMES.items()]
        head = (
            f"{self.drawn:,} sampled starts x {len(self.shares)} seeds after {self.steps:,} steps:"
        )
        text = [head, ", ".join(ends[:2]), ", ".join(ends[2:])]
        if found := self.escape_rate():
            text += [
                f"of the {found.n:,} that reached the bad minimum,",
                f"{found.k:,} ended in the good basin",
            ]
        return text


def count_outcomes(results: CellResults) -> StartOutcomes | None:
    """Return the outcomes of a configuration's runs; None without a run.

    Raises:
        ValueError: in one line, if the last epoch of a run lacks a share.
    """
    last: dict[int, Mapping[str, Any]] = {}
    for run in results.records:
        line = (run.metrics or [{}])[-1]
        for key in (*OUTCOMES, REACHED_BAD_MINIMUM, ESCAPED, "step"):
            if not isinstance(line, dict) or not isinstance(line.get(key), int | float):
                raise ValueError(f"{run.folder}: the last epoch has no {key}")
        last[run.seed] = line
    if not last:
        return None
    steps = max(line["step"] for line in last.values())
    return StartOutcomes(results.identity["dataset.drawn"], steps, last)


def pair_outcomes(base: StartOutcomes, lrd: StartOutcomes, key: str) -> PairedDifferences:
    """Return LRD minus its baseline in percentage points, a pair for each seed that both have.

    A seed draws the same starts for both.
    """
    seeds = sorted(base.shares.keys() & lrd.shares.keys())
    return PairedDifferences(
        tuple(lrd.shares[seed][key] - base.shares[seed][key] for seed in seeds)
    )


def describe_difference(base: StartOutcomes | None, lrd: StartOutcomes | None) -> list[str]:
    """Return a line on the paired difference in the good basin; none below two pairs."""
    if base is None or lrd is None:
        return []
    found = pair_outcomes(base, lrd, "good_basin")
    if (interval := found.t_interval(0.95)) is None:
        return []
    return [
        f"LRD minus Adam in the good basin, on the same starts: {found.mean:+.1f} points "
        f"[{interval[0]:+.1f}, {interval[1]:+.1f}] (t interval over n = {found.n} seeds)"
    ]
