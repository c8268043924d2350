"""Does a setting change nothing but speed: a paired equivalence test of an experiment's two arms.

    python scripts/equivalence.py fast_digits                   train=fast against train=paper
    python scripts/equivalence.py fast_cifar10 --margin 0.5 train.epochs=20
    python scripts/equivalence.py quickstart optim=adam --arms lrd.p=1 lrd.p=0.5

Pairs the finished runs by seed and tests their final scores; trains nothing. The seeds are those
of seed=0,1,2, else the experiment's, else 0 to 9. Equivalent where the 90 % t interval of the mean
difference lies within the margin, that is, where both one-sided t tests reject at 5 %.
"""

import sys
from collections.abc import Sequence

from cells import tell
from command import reader
from paired import Paired
from study import Study, missing, study

from lrd.config.fingerprint import diff_identities
from lrd.runs.store import Run


def made_with(runs: Sequence[Run]) -> str:
    """Precision, implementation and hardware, as recorded; all of them where the runs differ."""
    seen: dict[str, None] = {}
    for run in runs:
        record, hardware = run.record, run.record.get("hardware", {})
        asked = record["config"]["train"]["precision"]  # "fast" is what the device is fast in
        place = hardware.get("gpu") or f"{hardware.get('cpu')}, {hardware.get('cores')} cores"
        parts = [record.get("precision", asked), record.get("implementation"), place]
        parts += [f"threads {record.get('threads')}"]
        parts += [f"torch {record.get('versions', {}).get('torch')}"]
        seen[", ".join(map(str, parts))] = None
    return "; ".join(seen)


def report(found: Study, margin: float) -> str:
    pairs = found.pairs()
    name = pairs[0][0].record.get("score", {}).get("name", "score") if pairs else "score"
    width = max(map(len, found.arms))
    lines = [f"{found.experiment}: {name} at the final epoch, pairs by seed", ""]
    for arm, runs in zip(found.arms, zip(*pairs, strict=True), strict=False):
        mean = sum(run.final for run in runs) / len(runs)
        lines += [f"{arm:{width}}  n = {len(runs)}  mean {mean:.3f}  ({made_with(runs)})"]
    asked, other = (f.identity for f in found.filled)
    lines += [f"{found.arms[1]} has {', '.join(diff_identities(asked, other))}", ""]
    if len(pairs) < 2:
        return "\n".join([*lines, f"not shown: at least 2 pairs are needed, got {len(pairs)}"])
    return "\n".join([*lines, *verdict(pairs, margin)])


def verdict(pairs: Sequence[tuple[Run, Run]], margin: float) -> list[str]:
    differ = Paired(tuple(second.final - first.final for first, second in pairs))
    p = differ.p_value(margin)
    smallest, largest = min(differ.differences), max(differ.differences)
    lines = [
        f"mean difference  {differ.mean:+.3f} (standard deviation {differ.spread:.3f}, "
        f"{smallest:+.3f} to {largest:+.3f})"
    ]
    for level in (0.90, 0.95):
        low, high = differ.interval(level)
        lines += [f"{level:.0%} interval     {low:+.3f} to {high:+.3f}".replace("%", " %")]
    lines += [f"two one-sided t tests against +-{margin:g}: p = {p:.2g}"]
    if p < 0.05:
        return [*lines, f"equivalent within +-{margin:g} points"]
    lines += [f"not shown: equivalence within +-{margin:g} points"]
    low, high = differ.interval(0.95)
    if differ.spread and low < 0 < high:
        needed = differ.pairs_needed(margin) or "more than 1000"
        lines += [f"with this spread and equal means, {needed} pairs show it 4 times out of 5"]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = reader(__doc__, "experiment")
    parser.add_argument(
        "--arms",
        nargs=2,
        metavar="SETTING=VALUE",
        default=("train=paper", "train=fast"),
        help="what the second changes of the first (default: train=paper train=fast)",
    )
    parser.add_argument("--margin", type=float, default=0.3, help="in points (default: 0.3)")
    args = parser.parse_intermixed_args(arguments)
    try:
        if not 0 < args.margin < float("inf"):
            raise ValueError(f"--margin must be above 0, got {args.margin:g}")
        found = study(args.experiment, tuple(args.arms), args.overrides, args.runs)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(found, args.margin))
    tell(found.filled, missing([found]), "missing runs are filled by", args.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
