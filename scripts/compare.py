"""What two arms of an experiment differ by, pair by pair: scores, convergence, power.

    python scripts/compare.py quickstart                      with LRD against without
    python scripts/compare.py table3 --arms +arm=base +arm=dg
    python scripts/compare.py table1_cifar10 scale=0.15 seed=0,1,2,3,4 --gap 0.3

Pairs the finished runs of every cell by seed; every difference is the second arm's less the
first's. The primary answer is the 95 % t interval. Trains nothing. The seeds are those of
seed=0,1,2, else the experiment's, else 0 to 9.
"""

import sys
from collections.abc import Sequence
from itertools import chain

from cells import tell
from command import reader
from comparison import Comparison, compare
from sections import convergence, planned, scores
from study import Arms, Study, missing, studies
from sweep import swept
from tabular import titled

from lrd.config.fingerprint import diff_identities


def arms_of(experiment: str, asked: Sequence[str] | None) -> Arms:
    """As asked for; else the named arms base and lrd where the experiment sweeps arms."""
    if asked:
        return asked[0], asked[1]
    named = any(name.lstrip("+") == "arm" for name in swept(experiment))
    return ("+arm=base", "+arm=lrd") if named else ("lrd.p=1", "lrd.p=0.5")


def report(found: Sequence[Study], gap: float | None) -> str:
    table = {" ".join(s.at) or s.experiment: compare(*s.filled, s.seeds) for s in found}
    first = found[0]
    changed = dict.fromkeys(
        chain.from_iterable(diff_identities(*(f.identity for f in s.filled)) for s in found)
    )
    lines = [
        titled(f"{first.experiment}: {first.arms[1]} against {first.arms[0]}", first.overrides),
        f"pairs by seed; {first.arms[1]} has {', '.join(changed)}",
        *warnings(table),
    ]
    if not any(c.n for c in table.values()):
        return "\n".join([*lines, "", "no pair of finished runs yet"])
    sections = (scores(table, first.arms), convergence(table), planned(table, gap))
    return "\n".join([*lines, *chain.from_iterable(["", *section] for section in sections)])


def warnings(table: dict[str, Comparison]) -> list[str]:
    """What makes the numbers below less than they seem."""
    lines = []
    for name, found in table.items():
        if found.failed:
            seeds = ", ".join(map(str, found.failed))
            lines += [f"note: {name}: seed {seeds} failed in an arm, and no pair has it"]
        if not found.effect.finite:
            lines += [f"note: {name}: a score is not finite, so that nothing follows"]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = reader(__doc__, "experiment")
    parser.add_argument(
        "--arms",
        nargs=2,
        metavar="SETTING=VALUE",
        help="the base and what is set against it (default: without LRD and with it)",
    )
    parser.add_argument(
        "--gap", type=float, help="the difference to plan for (default: the paper's)"
    )
    args = parser.parse_intermixed_args(arguments)
    try:
        if args.gap is not None and not 0 < abs(args.gap) < float("inf"):
            raise ValueError(f"--gap must be a number other than 0, got {args.gap:g}")
        arms = arms_of(args.experiment, args.arms)
        found = studies(args.experiment, arms, args.overrides, args.runs)
        print(report(found, args.gap))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    cells = [cell for each in found for cell in each.filled]
    tell(cells, missing(found), "missing runs are made by", args.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
