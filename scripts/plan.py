"""How much of an experiment is done, and how long the rest takes. Trains nothing; needs no torch.

    python scripts/plan.py table2
    python scripts/plan.py table1_mnist scale=0.15 seed=0,1

Hours are for one run at a time, from the epochs that runs have logged: the median of the cell's
own, else (~) of runs of the same data, task, model and optimizer. A run that failed is not counted.
"""

import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from command import reader
from sections import aligned
from sweep import cells, setting
from tabular import titled

from lrd.config.compose import compose, to_config
from lrd.config.fingerprint import fingerprint, identity
from lrd.runs.store import Run, find_runs

STATES = ("finished", "running", "partial", "failed", "not begun")
# What the time of an epoch depends on, beside the machine.
KIND = (
    "task.",
    "dataset.",
    "model.",
    "optim._target_",
    "train.batch_size",
    "train.precision",
    "train.compile",
)
HEADS = ("", "runs", *STATES, "epochs to go", "s/epoch", "hours")


@dataclass(frozen=True)
class Planned:
    """A cell of an experiment: the runs that it takes, by seed, and those that are there."""

    overrides: tuple[str, ...]
    identity: Mapping[str, Any]
    epochs: int
    runs: Mapping[int, Run | None]

    @cached_property
    def states(self) -> Counter[str]:
        return Counter(_state(run) for run in self.runs.values())

    @cached_property
    def to_go(self) -> int:
        """Epochs that no run has logged yet, those of runs that failed left out."""
        left = (r for r in self.runs.values() if _state(r) not in ("finished", "failed"))
        return sum(max(0, self.epochs - (len(r.metrics) if r else 0)) for r in left)


@dataclass(frozen=True)
class Pace:
    """Seconds of an epoch; ``own`` if the cell's own runs say so. ``hardware`` that they ran on."""

    seconds: float
    own: bool
    hardware: tuple[str, ...]


def _state(run: Run | None) -> str:
    state = run.state if run else "new"
    return state if state in STATES else "partial" if state == "unreadable" else "not begun"


def planned(experiment: str, overrides: Sequence[str], found: Iterable[Run]) -> list[Planned]:
    """The cells of ``python run.py -m +experiment=EXPERIMENT OVERRIDES``, each once. Raises
    ValueError, in one line, for a command that would not run."""
    there = {(run.folder.parent.name, run.folder.name): run for run in found}
    seeds: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for run in cells(experiment, overrides):
        seed = [o.partition("=")[2] for o in run if setting(o) == "seed"]
        seeds[tuple(o for o in run if setting(o) != "seed")] += seed
    made: dict[str, Planned] = {}
    for settings, chosen in seeds.items():
        config = to_config(compose([*settings, f"seed={chosen[0]}"] if chosen else settings))
        mark = fingerprint(what := identity(config))
        numbers = map(int, chosen) if chosen else [config.seed]
        runs = {seed: there.get((mark, f"seed{seed}")) for seed in numbers}
        if mark in made:
            runs = {**made[mark].runs, **runs}
        made[mark] = Planned(settings, what, config.train.epochs, runs)
    return list(made.values())


def paces(plan: Sequence[Planned], found: Iterable[Run]) -> list[Pace | None]:
    """How fast each cell trains; None where no run says so."""
    kinds = {_kind(cell.identity) for cell in plan}
    by_cell: dict[str, list[Run]] = defaultdict(list)
    by_kind: dict[Any, list[Run]] = defaultdict(list)
    for run in found:
        what = run.record.get("identity", {})
        if (kind := _kind(what)) in kinds and "train.max_steps" not in what:
            by_cell[run.fingerprint].append(run)
            by_kind[kind].append(run)
    return [
        _pace(by_cell[fingerprint(dict(cell.identity))], own=True)
        or _pace(by_kind[_kind(cell.identity)], own=False)
        for cell in plan
    ]


def _kind(what: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(value)) for name, value in what.items() if name.startswith(KIND))


def _pace(runs: Sequence[Run], own: bool) -> Pace | None:
    seconds = [line["seconds"] for run in runs for line in run.metrics if "seconds" in line]
    return (
        Pace(median(seconds), own, tuple(dict.fromkeys(map(_hardware, runs)))) if seconds else None
    )


def _hardware(run: Run) -> str:
    there = run.record.get("hardware", {})
    return there.get("gpu") or f"{there.get('cpu')}, {there.get('cores')} cores"


def report(title: str, plan: Sequence[Planned], found: Sequence[Pace | None]) -> str:
    lines: list[list[str]] = [list(HEADS)]
    hours = 0.0
    for cell, pace in zip(plan, found, strict=True):
        counts = [str(cell.states[state] or "-") for state in STATES]
        took = "?" if pace is None else f"{'' if pace.own else '~'}{pace.seconds:.3g}"
        own = cell.to_go * pace.seconds / 3600 if pace else None
        hours += own or 0.0
        last = [str(cell.to_go), took, "?" if own is None and cell.to_go else f"{own or 0:.2f}"]
        lines.append([_label(cell, plan), str(len(cell.runs)), *counts, *last])
    states = sum((cell.states for cell in plan), Counter())
    total = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    to_go = f"to go: {hours:.2f} hours, one run at a time"
    if dark := sum(_open(cell) for cell, pace in zip(plan, found, strict=True) if pace is None):
        to_go += f"; unknown for {dark} runs"
    where = dict.fromkeys(name for pace in found if pace for name in pace.hardware)
    measured = [f"epochs measured on {'; '.join(where)}"] if where else []
    runs = f"{states.total()} runs: {total}"
    return "\n".join([title, "", *aligned(lines), "", runs, to_go, *measured])


def _label(cell: Planned, plan: Sequence[Planned]) -> str:
    """What sets a cell apart from the others."""
    shared = set.intersection(*(set(other.overrides) for other in plan))
    return " ".join(o for o in cell.overrides if o not in shared) or "all"


def _open(cell: Planned) -> int:
    """Runs that have epochs to go."""
    return len(cell.runs) - cell.states["finished"] - cell.states["failed"]


def measure(plan: Sequence[Planned], found: Sequence[Pace | None]) -> list[str]:
    """The commands that time an epoch of what no run has timed, one a kind."""
    lines = {}
    for cell, pace in zip(plan, found, strict=True):
        if pace is None and _open(cell):
            kept = [o for o in cell.overrides if setting(o) not in ("scale", "train.epochs")]
            words = sorted(kept, key=lambda o: setting(o) != "experiment")
            words += [f"seed={next(iter(cell.runs))}", "train.epochs=1"]
            lines.setdefault(_kind(cell.identity), shlex.join(["python", "run.py", "-m", *words]))
    return list(lines.values())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = reader(__doc__, "experiment")
    args = parser.parse_intermixed_args(arguments)
    try:
        there = list(find_runs(args.runs))
        plan = planned(args.experiment, args.overrides, there)
        found = paces(plan, there)
        print(report(titled(args.experiment, args.overrides), plan, found))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if commands := measure(plan, found):
        print("\nan epoch of the others is timed by:", *commands, sep="\n  ", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
