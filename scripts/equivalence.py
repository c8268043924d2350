"""Does a setting change nothing but speed: a paired equivalence test of an experiment's two arms.

    python scripts/equivalence.py fast_digits                   train=fast against train=paper
    python scripts/equivalence.py fast_cifar10 --margin 0.5 train.epochs=20
    python scripts/equivalence.py quickstart optim=adam --arms lrd.p=1 lrd.p=0.5

Pairs the finished runs by seed and tests their final scores; trains nothing. The seeds are those
of seed=0,1,2, else the experiment's, else 0 to 9. Equivalent where the 90 % t interval of the mean
difference lies within the margin, that is, where both one-sided t tests reject at 5 %.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cells import Filled, fill, tell
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from layout import Cell
from omegaconf import OmegaConf
from paired import Paired

from lrd.compose import CONFIGS, explain
from lrd.identity import differences
from lrd.runs import Run


@dataclass(frozen=True)
class Study:
    """The two arms of an experiment with their runs, and the seeds that were asked for."""

    experiment: str
    overrides: tuple[str, ...]
    arms: tuple[str, str]
    filled: tuple[Filled, Filled]
    seeds: tuple[int, ...]

    def pairs(self) -> list[tuple[Run, Run]]:
        first, second = ({run.seed: run for run in arm.runs} for arm in self.filled)
        return [(first[s], second[s]) for s in self.seeds if s in first and s in second]

    def missing(self) -> list[str]:
        """The commands that fill the pairs, one for each arm that lacks runs."""
        commands = []
        for arm, filled in zip(self.arms, self.filled, strict=True):
            there = {run.seed for run in filled.runs}
            if seeds := [str(seed) for seed in self.seeds if seed not in there]:
                words = [f"+experiment={self.experiment}", *self.overrides, arm]
                commands.append(" ".join(["python run.py -m", *words, f"seed={','.join(seeds)}"]))
        return commands


def study(experiment: str, arms: tuple[str, str], overrides: Sequence[str], root: str) -> Study:
    """Find the runs of both arms. Raises ValueError, in one line, for what is no such study."""
    sweep = swept(experiment)
    asked = [o.partition("=")[2] for o in overrides if setting(o) == "seed"]
    text = [sweep.pop("seed", "range(0,10)"), *asked][-1]
    seeds = tuple(dict.fromkeys(whole(seed) for seed in values("seed", text)))
    settings = tuple(o for o in overrides if setting(o) != "seed")
    cells = []
    for arm in arms:
        given = (*settings, *shlex.split(arm))
        cells.append(Cell(experiment, (*fixed(sweep, given), *given)))
    filled = fill(cells, root, ())
    first, second = (filled[cell] for cell in cells)
    if first.identity == second.identity:
        raise ValueError(
            f"the arms must be different configurations, got {arms[0]} and {arms[1]}, which "
            "resolve to the same one"
        )
    return Study(experiment, settings, arms, (first, second), seeds)


def setting(override: str) -> str:
    """The setting that an override of the command line names."""
    return override.partition("=")[0].lstrip("+~")


def swept(experiment: str) -> dict[str, str]:
    """What an experiment's file sweeps, as on the command line; nothing where there is none."""
    path = CONFIGS / "experiment" / f"{experiment}.yaml"
    params = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.params") if path.exists() else {}
    return {str(name): str(value) for name, value in (params or {}).items()}


def values(name: str, text: str) -> list[str]:
    """The values of a sweep in Hydra's grammar: ``0,1,2`` or ``range(0,10)``."""
    try:
        (override,) = OverridesParser.create().parse_overrides([f"{name}={text}"])
    except OverrideParseException as error:
        raise ValueError(explain(error)) from error
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else [text]


def whole(seed: str) -> int:
    try:
        return int(seed)
    except ValueError:
        raise ValueError(f"seed must be whole numbers, got {seed}") from None


def fixed(sweep: dict[str, str], given: Sequence[str]) -> list[str]:
    """What the experiment sweeps over one value; a sweep over several has to be given one."""
    named = {setting(override) for override in given}
    rest = {name: text for name, text in sweep.items() if name not in named}
    for name, text in rest.items():
        if len(options := values(name, text)) > 1:
            raise ValueError(
                f"{name} must be one value here, got {text} from the experiment: add "
                f"{name}={options[0]}"
            )
    return [f"{name}={text}" for name, text in rest.items()]


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
    lines += [f"{found.arms[1]} has {', '.join(differences(asked, other))}", ""]
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment")
    parser.add_argument("overrides", nargs="*", help="settings that differ from the experiment's")
    parser.add_argument(
        "--arms",
        nargs=2,
        metavar="SETTING=VALUE",
        default=("train=paper", "train=fast"),
        help="what the second changes of the first (default: train=paper train=fast)",
    )
    parser.add_argument("--margin", type=float, default=0.3, help="in points (default: 0.3)")
    parser.add_argument("--runs", default="runs", help="folder of the runs (default: runs)")
    args = parser.parse_intermixed_args(arguments)
    try:
        if not 0 < args.margin < float("inf"):
            raise ValueError(f"--margin must be above 0, got {args.margin:g}")
        found = study(args.experiment, tuple(args.arms), args.overrides, args.runs)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(found, args.margin))
    tell(found.filled, found.missing(), "missing runs are filled by", args.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
