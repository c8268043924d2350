"""What the runs there are say of each claim of the paper, by the rules of paper/claims.yaml.

    python scripts/verdicts.py
    python scripts/verdicts.py scale=0.1          from runs of a tenth of the paper's epochs

Trains nothing. Each claim is confirmed, not confirmed, contradicted, or has not enough data.
"""

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from cells import Filled, fill, pairs
from claims import FILE, Claim, Rule, read_claims
from effect import Effect
from layout import Cell
from measures import difference
from pooled import pool

Status = Literal["confirmed", "not confirmed", "contradicted", "not enough data"]
Interval = tuple[float, float]
LEVEL, MOST = 0.95, 0.8
# What one part says of a claim outweighs what another does, in this order.
WORST: tuple[Status, ...] = ("contradicted", "not enough data", "not confirmed")


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
        return effect.mean, *effect.interval

    @cached_property
    def status(self) -> Status:
        statuses: list[Status] = [c.status for c in self.comparisons]
        against = statuses.count("contradicted")
        enough = len(self.told) == len(statuses)
        if self.of.together == "pooled":
            if any(c.opposite for c in self.comparisons):
                return "contradicted"
            if enough and len(statuses) == 1:
                return statuses[0]
            if not enough or self.pooled is None:
                return "not enough data"
            mean, low, high = self.pooled
            status = decide(self.of, mean, (low, high), (low, high))
            failed = any(c.failed for c in self.comparisons)
            return "not confirmed" if status == "confirmed" and failed else status
        least = 1.0 if self.of.together == "each" else MOST
        if against > (1 - least) * len(statuses) + 1e-9:
            return "contradicted"
        if not enough:
            return "not enough data"
        held = statuses.count("confirmed") >= least * len(statuses) - 1e-9
        return "confirmed" if held else "not confirmed"


@dataclass(frozen=True)
class Verdict:
    """A claim, and what the runs say of it; ``missing`` are the experiments that lack seeds."""

    claim: Claim
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        return self.claim.name

    @property
    def says(self) -> str:
        return self.claim.says

    @property
    def where(self) -> str:
        return self.claim.where

    @property
    def status(self) -> Status:
        statuses = {part.status for part in self.parts}
        worst: list[Status] = [status for status in WORST if status in statuses]
        return worst[0] if worst else "confirmed"

    @property
    def why(self) -> str:
        return "; ".join(dict.fromkeys(map(_why, self.parts)))

    @property
    def missing(self) -> list[str]:
        """The experiments that lack seeds."""
        lacking = (c for part in self.parts for c in part.comparisons if c not in part.told)
        return list(dict.fromkeys(c.base.experiment for c in lacking))


def _why(part: Part) -> str:
    told, count = part.told, len(part.comparisons)
    what = f"{part.of.measure}: "
    if not told:
        return f"{what}no comparison of {count} has {part.comparisons[0].seeds} seeds"
    some = "" if len(told) == count else f"of {count} comparisons "
    seeds = sorted({c.n for c in told})
    n = f"n = {seeds[0]}" + (f" to {seeds[-1]}" if len(seeds) > 1 else "")
    if part.pooled is not None:
        mean, low, high = part.pooled
        what += f"{some}{len(told)} pooled "
    else:  # one alone, or several that share too few seeds to be pooled
        one = told[0]
        assert one.mean is not None and one.low is not None and one.high is not None
        mean, low, high = one.mean, one.low, one.high
        what += some + ("1 " if some or len(told) > 1 else "")
    text = f"{what}{mean:+.3g} ({low:+.3g} to {high:+.3g}) {part.unit}".rstrip()
    up = sum(c.status == "confirmed" for c in told)
    each = f"; {up} of {len(told)} confirmed by themselves" if len(told) > 1 else ""
    return f"{text}, {n}{each}"


def judged(root: str | Path, overrides: Sequence[str] = (), file: Path = FILE) -> list[Verdict]:
    """Every claim. Raises ValueError, in one line, for a file of claims that is not sound."""
    seeds, claims = read_claims(file)
    asked = (c for claim in claims for rule in claim.rules for pair in rule.pairs for c in pair)
    filled = fill(list(dict.fromkeys(asked)), str(root), overrides)
    return [
        Verdict(claim, tuple(_part(rule, filled, seeds) for rule in claim.rules))
        for claim in claims
    ]


def _part(rule: Rule, filled: Mapping[Cell, Filled], seeds: int) -> Part:
    level = 1 - (1 - LEVEL) / len(rule.pairs)
    made = []
    for base, other in rule.pairs:
        first, second = filled[base], filled[other]
        found = {a.seed: difference(rule.measure, a, b) for a, b in pairs(first, second)}
        by_seed = {seed: d for seed, d in found.items() if d is not None}
        made.append(Comparison(rule, base, other, by_seed, seeds, level, len(second.failed)))
    return Part(rule, tuple(made))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="settings that differ from the experiments'")
    parser.add_argument("--runs", default="runs", help="folder of the runs (default: runs)")
    parser.add_argument("--claims", type=Path, default=FILE, help="rules instead of the paper's")
    args = parser.parse_intermixed_args(arguments)
    try:
        found = judged(args.runs, args.overrides, args.claims)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.overrides:
        print(f"[{' '.join(args.overrides)}]\n")
    for verdict in found:
        print(f"{verdict.name:4}{verdict.status.upper()}: {verdict.says} ({verdict.where})")
        print(textwrap.indent(textwrap.fill(verdict.why, 95), "    "))
    commands = dict.fromkeys(name for verdict in found for name in verdict.missing)
    if commands:
        lines = [" ".join([f"python run.py -m +experiment={n}", *args.overrides]) for n in commands]
        print("\nseeds are missing in:", *lines, sep="\n  ", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
