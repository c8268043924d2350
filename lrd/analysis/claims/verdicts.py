"""What runs say about claims: each rule judged at its planned number of seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lrd.analysis.claims.measures import Measured, measure_cost, measure_pair
from lrd.analysis.claims.printed import judge_printed, judge_replications, printed_values
from lrd.analysis.claims.rules import (
    ALPHA,
    STATUSES,
    Array,
    Decision,
    Estimates,
    Status,
    deciding_seeds,
    heterogeneity_p,
    judge_differences,
)
from lrd.analysis.claims.specs import Claim, Rule
from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import collect_results, run_commands
from lrd.analysis.studies import CellSpec, Study, all_studies

# What one rule says of a claim outweighs what another does, in this order.
WORST: tuple[Status, ...] = (
    "opposite found",
    "no effect of a size that counts",
    "not enough runs",
    "undecided",
    "supported",
)


MAX_SPREADS = 3  # standard deviations that are pooled, the largest over the smallest


@dataclass(frozen=True)
class RuleComparison:
    """One comparison of a rule: n pairs, their mean with its 95 % interval, its own status.

    ``failed``: the failed runs of each arm among the planned seeds.
    """

    label: str
    n: int
    mean: float | None
    low: float | None
    high: float | None
    status: Status
    failed: tuple[int, int] = (0, 0)

    @property
    def text(self) -> str:
        if self.mean is None:
            return "no pair"
        if self.low is None or self.high is None:
            return f"{self.mean:+.3g} (no interval)"
        return f"{self.mean:+.3g} ({self.low:+.3g} to {self.high:+.3g})"


@dataclass(frozen=True)
class RuleResult:
    """A rule with what the runs say.

    Attributes:
        mean: the mean over the comparisons, as one; None for a single one.
        status: at the planned n.
        heterogeneity: p that all comparisons have one mean.
        spreads: the largest standard deviation over the smallest, where the rule pools them.
        printed: what the rule says of the paper's printed numbers; None where it prints none.
        replicated: what it says of each difference that others published of its pairs.
        extension: what the runs say with seeds beyond the planned ones; None without those.
        more: how many seeds would decide an undecided rule if mean and spread stayed.
    """

    rule: Rule
    comparisons: tuple[RuleComparison, ...]
    mean: RuleComparison | None
    status: Status
    heterogeneity: float | None = None
    spreads: float | None = None
    printed: str | None = None
    replicated: tuple[str, ...] = ()
    extension: str | None = None
    more: int | None = None

    @property
    def unit(self) -> str:
        return self.rule.measure.unit

    @property
    def pooled(self) -> tuple[float, float, float] | None:
        """Mean and 95 % interval over the comparisons, if there are two or more with data."""
        m = self.mean
        if m is None or m.mean is None or m.low is None or m.high is None:
            return None
        return m.mean, m.low, m.high

    @property
    def worst(self) -> RuleComparison | None:
        """The comparison that speaks most against the rule."""
        known = [c for c in self.comparisons if c.mean is not None]
        must = self.rule.criterion.must
        sign = -1 if must in ("fall", "no_rise") else 1

        def support(one: RuleComparison) -> float:
            assert one.mean is not None
            return -abs(one.mean) if must == "no_change" else sign * one.mean

        opposite = [c for c in known if c.status == "opposite found"]
        return min(opposite or known, key=support, default=None)

    @property
    def deciding(self) -> RuleComparison | None:
        """The estimate that decides: the mean, or the worst comparison."""
        if self.rule.criterion.together == "mean" and self.mean and self.mean.mean is not None:
            return self.mean
        return self.worst

    @property
    def failed(self) -> tuple[int, int]:
        """Failed runs of each arm, over the comparisons."""
        return sum(c.failed[0] for c in self.comparisons), sum(
            c.failed[1] for c in self.comparisons
        )

    @property
    def explanation(self) -> str:
        """The numbers behind the status, in a sentence."""
        count, rule = len(self.comparisons), self.rule
        parts = []
        one = self.deciding
        lacking = [c for c in self.comparisons if c.status == "not enough runs"]
        if one is None:
            have = f"no comparison of {count} has a pair" if count else "there is no record"
            parts.append(f"{have}; it needs n = {rule.n} seeds")
        else:
            unit = f" {self.unit}".rstrip()
            of = f"mean of {count} comparisons " if one is self.mean else ""
            name = "" if one is self.mean or count == 1 else f"worst of {count}: {one.label} "
            parts.append(f"{of}{name}{one.text}{unit}, n = {one.n}")
            if lacking:
                have = min(c.n for c in lacking)
                some = f"{len(lacking)} of {count} comparisons have" if count > 1 else "has"
                parts.append(f"{some} fewer than {rule.n} seeds (as few as {have})")
            if one.low is None and one.n > 1:
                parts.append(f"no spread: {one.n} equal differences, so that they decide nothing")
        if count > 1 and one is not None:
            parts += self._about_comparisons(one)
        if any(self.failed):
            parts.append(f"failed runs: {self.failed[1]}, of the base {self.failed[0]}")
        if self.status == "undecided" and self.more:
            parts.append(f"about n = {self.more} would decide if mean and spread stayed")
        if self.printed:
            parts.append(f"the published numbers: {self.printed}")
        parts += [f"replication: {text}" for text in self.replicated]
        if self.extension:
            parts.append(f"extension, not planned: {self.extension}")
        return f"{rule.measure}: " + "; ".join(parts)

    def _about_comparisons(self, one: RuleComparison) -> list[str]:
        statuses = [c.status for c in self.comparisons]
        parts = [f"{statuses.count('supported')} of {len(statuses)} supported individually"]
        against = [c.label for c in self.comparisons if c.status == "opposite found"]
        if against:
            parts.append(f"opposite in {', '.join(against)}")
        if one is self.mean and self.worst is not None:
            parts.append(f"worst {self.worst.label} {self.worst.text}")
        if self.heterogeneity is not None and self.heterogeneity < ALPHA:
            parts.append(f"the comparisons differ among themselves (p = {self.heterogeneity:.1g})")
        if self.spreads is not None and self.spreads > MAX_SPREADS:
            parts.append(f"spreads differ {self.spreads:.2g} times, too much to be pooled well")
        return parts


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
        return next(status for status in WORST if status in statuses)

    @property
    def explanation(self) -> str:
        if len(self.parts) == 1:
            return self.parts[0].explanation
        return "; ".join(f"{part.status}: {part.explanation}" for part in self.parts)

    @property
    def missing(self) -> dict[CellSpec, int]:
        """The configurations that lack seeds, and how many they need."""
        found: dict[CellSpec, int] = {}
        for part in self.parts:
            for pair, one in zip(part.rule.pairs, part.comparisons, strict=False):
                if one.status == "not enough runs":
                    for cell in pair.cells:
                        found[cell] = max(found.get(cell, 0), part.rule.n)
        return found


def missing_seed_commands(verdicts: Sequence[Verdict], given: Sequence[str] = ()) -> list[str]:
    """Return the commands that run the seeds that verdicts lack; they skip what is done."""
    needed: dict[CellSpec, int] = {}
    for verdict in verdicts:
        for cell, n in verdict.missing.items():
            needed[cell] = max(needed.get(cell, 0), n)
    commands = []
    for n in sorted(set(needed.values())):
        cells = [cell for cell, seeds in needed.items() if seeds == n]
        commands += run_commands(cells, [f"seed=range(0,{n})", *given])
    return commands


def judge_claims(study: Study, frames: RunFrames, overrides: Sequence[str] = ()) -> list[Verdict]:
    """Judge every claim of a study."""
    rules = [rule for claim in study.claims for rule in claim.rules]
    cells = dict.fromkeys(cell for rule in rules for pair in rule.pairs for cell in pair.cells)
    results = collect_results(cells, frames, overrides)
    studies = [*all_studies(), study]
    printed = printed_values(studies)

    def judge(rule: Rule) -> RuleResult:
        if rule.measure.name == "cost":
            return judge_cost(rule)
        measured = [measure_pair(rule.measure, pair, results) for pair in rule.pairs]
        return judge_rule(rule, measured, judge_printed(rule, printed))

    verdicts = []
    for claim in study.claims:
        first, *others = map(judge, claim.rules)
        replicated = tuple(judge_replications(first.rule, studies))  # once, of several rules
        verdicts.append(Verdict(claim, (replace(first, replicated=replicated), *others)))
    return verdicts


def judge_rule(rule: Rule, measured: Sequence[Measured], printed: str | None = None) -> RuleResult:
    """Judge the differences of a rule's pairs at its planned seeds, 0 to n - 1."""
    planned = range(rule.n)
    differences = _as_array(measured, planned)
    failures = [
        [sum(seed < rule.n for seed in side) for side in sides]
        for sides in ([m.base_failed for m in measured], [m.other_failed for m in measured])
    ]
    decision = judge_differences(rule.criterion, differences, rule.n, failures)
    labels = [pair.label for pair in rule.pairs]
    result = _result(rule, labels, differences, decision, failures, printed)
    seeds = sorted({*planned, *(seed for m in measured for seed in m.by_seed)})
    if len(seeds) == rule.n or result.status == "not enough runs":
        return result
    more = _as_array(measured, seeds)
    again = judge_differences(rule.criterion, more, rule.n, failures)
    found = _result(rule, labels, more, again, failures)
    one = found.deciding
    text = None if one is None else f"{found.status}, {one.text}, n = {one.n}"
    return replace(result, extension=text)


def judge_cost(rule: Rule) -> RuleResult:
    """Judge the benchmark's records: a comparison a table, a difference a repetition."""
    found = measure_cost(rule.measure)
    if not found:
        return RuleResult(rule, (), None, "not enough runs")
    differences = _as_array(
        [Measured(dict(enumerate(values))) for values in found.values()],
        range(max(map(len, found.values()))),
    )
    decision = judge_differences(rule.criterion, differences, rule.n)
    failures = [[0] * len(found)] * 2
    return _result(rule, list(found), differences, decision, failures)


def _as_array(measured: Sequence[Measured], seeds: Sequence[int]) -> Array:
    return np.array([[m.by_seed.get(seed, np.nan) for seed in seeds] for m in measured])


def _result(
    rule: Rule,
    labels: Sequence[str],
    differences: Array,
    decision: Decision,
    failures: Sequence[Sequence[int]],
    printed: str | None = None,
) -> RuleResult:
    known = ~np.isnan(differences)
    counts = known.sum(-1)
    made = []
    for i, label in enumerate(labels):
        place = Estimates(*(part[i] for part in vars(decision.cells).values()))
        status = STATUSES[int(decision.each[i])]
        failed = failures[0][i], failures[1][i]
        made.append(_comparison(rule, label, int(counts[i]), place, status, failed))
    status, together = STATUSES[int(decision.status)], None
    if len(labels) > 1:
        n = int(known.all(0).sum())
        together = _comparison(rule, "mean", n, decision.mean, status, (0, 0))
    result = RuleResult(
        rule,
        tuple(made),
        together,
        status,
        heterogeneity_p(differences) if len(labels) > 1 else None,
        _spread_ratio(differences) if rule.criterion.together == "ordered" else None,
        printed,
    )
    one = result.deciding
    if status != "undecided" or one is None or one.status == "supported":  # runs that failed
        return result
    estimate = decision.mean
    if one is not together:
        at = made.index(one)
        estimate = Estimates(*(part[at] for part in vars(decision.cells).values()))
    more = deciding_seeds(rule.criterion, estimate, one.n)
    return replace(result, more=more)


def _spread_ratio(differences: Array) -> float | None:
    sds = [row[~np.isnan(row)].std(ddof=1) for row in differences if (~np.isnan(row)).sum() > 1]
    return float(max(sds) / min(sds)) if sds and min(sds) > 0 else None


def _comparison(
    rule: Rule, label: str, n: int, found: Estimates, status: Status, failed: tuple[int, int]
) -> RuleComparison:
    """Return an estimate in the unit of its measure."""
    if not n:
        return RuleComparison(label, n, None, None, None, status, failed)
    mean = rule.measure.in_unit(float(found.mean))
    if not np.isfinite(found.error):
        return RuleComparison(label, n, mean, None, None, status, failed)
    low, high = (rule.measure.in_unit(float(end)) for end in found.bounds(ALPHA))
    return RuleComparison(label, n, mean, low, high, status, failed)
