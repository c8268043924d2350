"""The two arms of an experiment, cell by cell, with their runs. Needs no torch.

What an experiment sweeps beside the arms' settings and the seed are its cells.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from cells import Filled, fill, pairs
from layout import TABLES
from sweep import setting, swept, values
from tabular import Cell

from lrd.runs.store import Run

Arms = tuple[str, str]


@dataclass(frozen=True)
class Study:
    """The two arms of one cell with their runs, and the seeds that were asked for.

    ``at``: what sets this cell apart from the experiment's others, such as ``optim=adam``.
    """

    experiment: str
    overrides: tuple[str, ...]
    arms: Arms
    filled: tuple[Filled, Filled]
    seeds: tuple[int, ...]
    at: tuple[str, ...] = ()

    def pairs(self) -> tuple[tuple[Run, Run], ...]:
        return pairs(*self.filled, self.seeds)


def study(experiment: str, arms: Arms, overrides: Sequence[str], root: str) -> Study:
    """The one cell of an experiment. Raises ValueError, in one line, for what is no such study."""
    for name, options in beside(experiment, arms, overrides).items():
        if len(options) > 1:
            raise ValueError(
                f"{name} must be one value here, got {','.join(options)} from the experiment: add "
                f"{name}={options[0]}"
            )
    (found,) = studies(experiment, arms, overrides, root)
    return found


def studies(experiment: str, arms: Arms, overrides: Sequence[str], root: str) -> list[Study]:
    """Every cell of an experiment, in the order of its sweep, with the runs of both arms under
    ``root``. Raises ValueError, in one line, for what is no such study."""
    sweep = beside(experiment, arms, overrides)
    settings = tuple(o for o in overrides if setting(o) != "seed")
    kept = [o for o in settings if setting(o) not in map(setting, sweep)]
    seeds = asked_seeds(experiment, overrides)
    cells: dict[tuple[str, ...], list[Cell]] = {}
    for chosen in product(*sweep.values()):
        at = tuple(f"{name}={value}" for name, value in zip(sweep, chosen, strict=True))
        words = [(*at, *kept, *shlex.split(arm)) for arm in arms]
        cells[at] = [Cell(experiment, w, printed(experiment, w)) for w in words]
    filled = fill([cell for pair in cells.values() for cell in pair], root, ())
    made = []
    for at, (first, second) in cells.items():
        base, other = filled[first], filled[second]
        if base.identity == other.identity:
            raise ValueError(
                f"the arms must be different configurations, got {arms[0]} and {arms[1]}, which "
                "resolve to the same one"
            )
        apart = tuple(a for a, v in zip(at, sweep.values(), strict=True) if len(v) > 1)
        made.append(Study(experiment, settings, arms, (base, other), seeds, apart))
    return made


def missing(found: Sequence[Study]) -> list[str]:
    """The commands that fill the pairs of all cells, one for each arm that lacks runs; what is done
    already they skip."""
    commands = []
    for place, arm in enumerate(found[0].arms):
        lacks = set()
        for each in found:
            lacks |= set(each.seeds) - {run.seed for run in each.filled[place].runs}
        if seeds := [str(seed) for seed in found[0].seeds if seed in lacks]:
            words = [f"+experiment={found[0].experiment}", *found[0].overrides, arm]
            commands.append(" ".join(["python run.py -m", *words, f"seed={','.join(seeds)}"]))
    return commands


def printed(experiment: str, overrides: Sequence[str]) -> float | None:
    """What a table of the paper has for this cell, if it has one."""
    for cell in (cell for table in TABLES.values() for cell in table.cells()):
        if cell.experiment == experiment and set(cell.overrides) <= set(overrides):
            return cell.paper
    return None


def asked_seeds(experiment: str, overrides: Sequence[str]) -> tuple[int, ...]:
    """Those of the command line, else the experiment's, else 0 to 9."""
    asked = [o.partition("=")[2] for o in overrides if setting(o) == "seed"]
    text = [swept(experiment).get("seed", "range(0,10)"), *asked][-1]
    return tuple(dict.fromkeys(whole(seed) for seed in values("seed", text)))


def beside(experiment: str, arms: Arms, overrides: Sequence[str]) -> dict[str, list[str]]:
    """What is swept beside the arms' settings and the seed: by ``overrides``, and by the experiment
    where they say nothing else."""
    given = {setting(o): o.partition("=") for o in overrides}
    apart = {"seed"} | {setting(word) for arm in arms for word in shlex.split(arm)}
    sweep = {name: text for name, text in swept(experiment).items() if setting(name) not in given}
    sweep |= {name: text for name, _, text in given.values() if len(values(name, text)) > 1}
    return {n: values(n, text) for n, text in sweep.items() if setting(n) not in apart}


def whole(seed: str) -> int:
    try:
        return int(seed)
    except ValueError:
        raise ValueError(f"seed must be whole numbers, got {seed}") from None
