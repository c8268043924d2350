"""What runs say about claims: measures, rules, and the status of each claim."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Literal

from lrd.analysis.comparison import compare, first_reached, mean_level
from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import CellResults, collect_results
from lrd.analysis.statistics import Interval, PairedDifferences, pool
from lrd.analysis.studies import CellSpec, Claim, Measure, Rule, Study

Status = Literal["confirmed", "not confirmed", "contradicted", "not enough data"]
LEVEL, MOST = 0.95, 0.8
# What one part says about a claim outweighs what another does, in this order.
WORST: tuple[Status, ...] = ("contradicted", "not enough data", "not confirmed")
# What must agree for the times of two runs to be comparable.
SAME = ("device", "threads", "ranks", "versions", "hardware", "precision", "matmul")
OWN_STEP = ("snapshot", "reference", "generic")  # the base's own step, with what LRD adds to it


@dataclass(frozen=True)
class RuleComparison:
    """Differences of a pair of configurations, by seed, and what they say at the rule's smallest
    effect.

    ``seeds``: how many it takes. ``level`` is that of the interval which may contradict, of one
    comparison among several. ``failed``: runs of the second configuration whose loss was not
    finite; with one, nothing is confirmed.
    """

    rule: Rule
    base: CellSpec
    other: CellSpec
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
    def effect(self) -> PairedDifferences:
        return PairedDifferences(tuple(self.by_seed.values()))

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

    @cached_property
    def _wide(self) -> Interval | None:
        """The interval that may contradict; None without enough data."""
        enough = self.n >= self.seeds and self.effect.interval
        return self.effect.t_interval(self.level) if enough else None

    @property
    def enough(self) -> bool:
        return self._wide is not None

    @cached_property
    def status(self) -> Status:
        if self._wide is None or self.mean is None or self.effect.interval is None:
            return "not enough data"
        return decide(self.rule, self.mean, self.effect.interval, self._wide, self.failed)

    @property
    def is_opposite(self) -> bool:
        """Whether the mean moves against the rule beyond chance."""
        if self._wide is None:
            return False
        low, high = self._wide
        return high < 0 if self.rule.must in ("rise", "no_fall") else low > 0


def decide(rule: Rule, mean: float, narrow: Interval, wide: Interval, failed: int = 0) -> Status:
    """Return the status of an estimate by its interval and by the wider one that may contradict;
    with a failed run, nothing is confirmed."""
    up = rule.must in ("rise", "no_rise")  # what must fall is what rises with the other sign
    if not up:
        mean, narrow, wide = -mean, (-narrow[1], -narrow[0]), (-wide[1], -wide[0])

    def moves(interval: Interval) -> bool:
        return interval[0] > 0 and mean >= rule.smallest

    def stays(interval: Interval) -> bool:
        return interval[1] < rule.smallest

    holds, fails = (moves, stays) if rule.must in ("rise", "fall") else (stays, moves)
    if holds(narrow):
        return "not confirmed" if failed else "confirmed"
    return "contradicted" if fails(wide) else "not confirmed"


@dataclass(frozen=True)
class RuleResult:
    """A rule of a claim with its comparisons."""

    rule: Rule
    comparisons: tuple[RuleComparison, ...]

    @property
    def unit(self) -> str:
        return self.rule.measure.unit

    @property
    def with_enough_seeds(self) -> list[RuleComparison]:
        return [c for c in self.comparisons if c.enough]

    @cached_property
    def pooled(self) -> tuple[float, float, float] | None:
        """Mean and 95 % interval over the comparisons that have data, if there are two or more."""
        members = self.with_enough_seeds
        effect = pool([c.by_seed for c in members]).effect
        if len(members) < 2 or effect.mean is None or effect.interval is None:
            return None
        if effect.n < members[0].seeds:
            return None  # too few seeds that all of them have
        return effect.mean, *effect.interval

    @cached_property
    def status(self) -> Status:
        return self._pooled() if self.rule.together == "pooled" else self._counted()

    def _pooled(self) -> Status:
        """By the pooled estimate, unless one comparison moves the other way."""
        if any(c.is_opposite for c in self.comparisons):
            return "contradicted"
        if len(self.comparisons) == 1:
            return self.comparisons[0].status
        if len(self.with_enough_seeds) < len(self.comparisons) or self.pooled is None:
            return "not enough data"
        mean, low, high = self.pooled
        failed = sum(c.failed for c in self.comparisons)
        return decide(self.rule, mean, (low, high), (low, high), failed)

    def _counted(self) -> Status:
        """By how many comparisons are confirmed and contradicted."""
        statuses: list[Status] = [c.status for c in self.comparisons]
        least = 1.0 if self.rule.together == "each" else MOST
        if statuses.count("contradicted") > (1 - least) * len(statuses) + 1e-9:
            return "contradicted"
        if "not enough data" in statuses:
            return "not enough data"
        held = statuses.count("confirmed") >= least * len(statuses) - 1e-9
        return "confirmed" if held else "not confirmed"

    @property
    def explanation(self) -> str:
        """The numbers behind the status, in a phrase."""
        members, count = self.with_enough_seeds, len(self.comparisons)
        what = f"{self.rule.measure}: "
        if not members:
            return f"{what}no comparison of {count} has {self.comparisons[0].seeds} seeds"
        seeds = sorted({c.n for c in members})
        n = f"n = {seeds[0]}" + (f" to {seeds[-1]}" if len(seeds) > 1 else "")
        if self.pooled is not None:
            mean, low, high = self.pooled
            some = "" if len(members) == count else f" of {count}"
            what += f"{len(members)}{some} comparisons, pooled: "
        else:  # one alone, or several that share too few seeds to be pooled
            one = members[0]
            assert one.mean is not None and one.low is not None and one.high is not None
            mean, low, high = one.mean, one.low, one.high
            what += f"1 of {count} comparisons: " if count > 1 else ""
        text = f"{what}{mean:+.3g} ({low:+.3g} to {high:+.3g}) {self.unit}".rstrip()
        up = sum(c.status == "confirmed" for c in members)
        each = f"; {up} of {len(members)} confirmed individually" if len(members) > 1 else ""
        return f"{text}, {n}{each}"


@dataclass(frozen=True)
class Verdict:
    """A claim, and what the runs say about it."""

    claim: Claim
    parts: tuple[RuleResult, ...]

    @property
    def name(self) -> str:
        return self.claim.name

    @cached_property
    def status(self) -> Status:
        statuses = {part.status for part in self.parts}
        worst: list[Status] = [status for status in WORST if status in statuses]
        return worst[0] if worst else "confirmed"

    @property
    def explanation(self) -> str:
        return "; ".join(dict.fromkeys(part.explanation for part in self.parts))

    @property
    def missing(self) -> list[str]:
        """The experiments that lack seeds."""
        lacking = (c for part in self.parts for c in part.comparisons if not c.enough)
        return list(dict.fromkeys(c.base.experiment for c in lacking))


def judge_claims(study: Study, frames: RunFrames, overrides: Sequence[str] = ()) -> list[Verdict]:
    """Judge every claim of a study."""
    pairs = [pair for claim in study.claims for rule in claim.rules for pair in rule.pairs]
    results = collect_results((cell for pair in pairs for cell in pair), frames, overrides)

    def judge(rule: Rule) -> RuleResult:
        level = 1 - (1 - LEVEL) / len(rule.pairs)
        made = []
        for base, other in rule.pairs:
            by_seed = measure_differences(rule.measure, results[base], results[other])
            failed = len(results[other].failed)
            made.append(RuleComparison(rule, base, other, by_seed, study.seeds, level, failed))
        return RuleResult(rule, tuple(made))

    return [Verdict(claim, tuple(map(judge, claim.rules))) for claim in study.claims]


def measure_differences(
    measure: Measure, base: CellResults, other: CellResults
) -> dict[int, float]:
    """Return the second configuration's measure minus the first's, by seed; a seed whose runs do
    not have it or cannot be compared is left out."""
    pairs = compare(base, other)
    if measure.keys == ("score",):
        return pairs.differences
    if measure.name == "seconds":
        return dict(_seconds(base, other, pairs.seeds))
    if measure.name == "reach":
        return dict(_reach(measure.keys[0], base, other, pairs.seeds))
    first, second = (_values(measure, results) for results in (base, other))
    return {
        seed: second[seed] - first[seed] for seed in pairs.seeds if seed in first.keys() & second
    }


def _values(measure: Measure, results: CellResults) -> dict[int, float]:
    """Return by seed the last value of a metric, its mean level, or the gap of two last values."""
    curves = [results.curves(key) for key in measure.keys]
    found = {}
    for seed in results.runs.index:
        own = [curve[seed] for curve in curves]
        if not any(curve.empty for curve in own):
            if measure.name == "mean":
                found[seed] = mean_level(own[0])
            else:
                last = [float(curve.iloc[-1]) for curve in own]
                found[seed] = last[0] - (last[1] if measure.name == "gap" else 0.0)
    return found


def _reach(
    key: str, base: CellResults, other: CellResults, seeds: Sequence[int]
) -> Iterator[tuple[int, float]]:
    """Yield, in % of the run, the epochs to the base run's last value; never is twice the run."""
    first, second = base.curves(key), other.curves(key)
    for seed in seeds:
        if first[seed].empty or second[seed].empty:
            continue
        last, target = first[seed].index[-1], float(first[seed].iloc[-1])
        start, end = (
            min(first_reached(curve[seed], target, base.score.maximize), 2 * last)
            for curve in (first, second)
        )
        yield seed, 100 * (end - start) / last


def _seconds(
    base: CellResults, other: CellResults, seeds: Sequence[int]
) -> Iterator[tuple[int, float]]:
    """Yield the median seconds of an epoch, in % of the base's."""
    first, second = base.curves("train_seconds"), other.curves("train_seconds")
    records = [{run.seed: run.metadata for run in side.records} for side in (base, other)]
    for seed in seeds:
        one, two = (side[seed] for side in records)
        # Earlier records name their matrix product; later ones have torch's default.
        comparable = all(one.get(name, "default") == two.get(name, "default") for name in SAME)
        if not comparable or two.get("implementation") not in OWN_STEP:
            continue
        if not first[seed].empty and not second[seed].empty:
            yield seed, 100 * (median(second[seed]) / median(first[seed]) - 1)
