"""What the runs there are say of each claim of the paper, by the rules of paper/claims.yaml.

    python scripts/verdicts.py
    python scripts/verdicts.py scale=0.1          from runs of a tenth of the paper's epochs

Trains nothing. Each claim is confirmed, not confirmed, contradicted, or has not enough data.
"""

import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cells import Filled, fill, pairs
from claims import FILE, Claim, Rule, read_claims
from command import reader
from judgement import LEVEL, Comparison, Part, Status
from layout import Cell
from measures import difference
from sweep import into

# What one part says of a claim outweighs what another does, in this order.
WORST: tuple[Status, ...] = ("contradicted", "not enough data", "not confirmed")


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
        return "; ".join(dict.fromkeys(part.why for part in self.parts))

    @property
    def missing(self) -> list[str]:
        """The experiments that lack seeds."""
        lacking = (c for part in self.parts for c in part.comparisons if c not in part.told)
        return list(dict.fromkeys(c.base.experiment for c in lacking))


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
    parser = reader(__doc__)
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
        given = " ".join(into(args.runs, args.overrides))
        lines = [f"python run.py -m +experiment={name} {given}".rstrip() for name in commands]
        print("\nseeds are missing in:", *lines, sep="\n  ", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
