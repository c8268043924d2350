"""How much of an experiment is done, how long the rest takes, and the seeds that claims need.

Times are for one run at a time, from the epochs that runs have logged: the median of the
configuration's own epochs, else of runs of the same data, task, model and optimizer. Failed runs
are not counted.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from lrd.analysis.claims.printed import planned_power, printed_values
from lrd.analysis.claims.specs import Claim, Rule
from lrd.analysis.frames import RunFrames
from lrd.analysis.render import DASH, Report, ReportBlock, TextTable
from lrd.analysis.resolve import Resolved, expand_sweep, resolve, run_line, setting_name
from lrd.analysis.studies import Study, all_studies

STATES = ("finished", "running", "partial", "failed", "not begun")
# What the time of an epoch depends on, besides the machine.
KIND = (
    *("task.", "dataset.", "model.", "optim._target_"),
    *("train.batch_size", "train.precision", "train.compile"),
)
HEADS = ("", "runs", *STATES, "epochs to go", "s/epoch", "time to go")
Kind = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class EpochTime:
    """Seconds of an epoch; ``own`` if the configuration's own runs say so, and their hardware."""

    seconds: float
    own: bool
    hardware: tuple[str, ...]


@dataclass(frozen=True)
class PlannedCell:
    """A configuration of an experiment with the state of its run of each seed.

    ``epochs_left``: epochs that no run has logged yet, those of failed runs left out.
    """

    overrides: tuple[str, ...]
    identity: Mapping[str, Any]
    seeds: Mapping[int, str]
    epochs_left: int
    time: EpochTime | None

    @cached_property
    def states(self) -> Counter[str]:
        return Counter(self.seeds.values())

    @property
    def runs_left(self) -> int:
        return len(self.seeds) - self.states["finished"] - self.states["failed"]

    @property
    def seconds_left(self) -> float | None:
        """None where no run says how fast this configuration trains."""
        if not self.epochs_left:
            return 0.0
        return self.epochs_left * self.time.seconds if self.time else None


def plan_experiment(
    experiment: str, frames: RunFrames, overrides: Sequence[str] = ()
) -> list[PlannedCell]:
    """Return the configurations of ``run.py -m +experiment=EXPERIMENT OVERRIDES``, each once.

    Raises ValueError, in one line, for a command that would not run.
    """
    jobs: dict[tuple[str, ...], list[str]] = {}
    for job in expand_sweep(experiment, overrides):
        settings = tuple(o for o in job if setting_name(o) != "seed")
        seeds = jobs.setdefault(settings, [])
        seeds += [o.partition("=")[2] for o in job if setting_name(o) == "seed"]
    members: dict[str, tuple[tuple[str, ...], Resolved, dict[int, None]]] = {}
    for settings, seeds in jobs.items():
        found = resolve((*settings, f"seed={seeds[0]}") if seeds else settings)
        asked = map(int, seeds) if seeds else [found.config.seed]
        members.setdefault(found.fingerprint, (settings, found, {}))[2].update(dict.fromkeys(asked))
    known = frames.runs.set_index(["fingerprint", "seed"])
    times = _EpochTimes(frames, [found.identity for _, found, _ in members.values()])
    cells = []
    for mark, (settings, found, asked) in members.items():
        states, left = {}, 0
        for seed in asked:
            states[seed], done = _progress(known, mark, seed)
            if states[seed] not in ("finished", "failed"):
                left += max(0, found.config.train.epochs - done)
        time = times.of(mark, found.identity)
        cells.append(PlannedCell(settings, found.identity, states, left, time))
    return cells


def _progress(known: pd.DataFrame, mark: str, seed: int) -> tuple[str, int]:
    """Return the state of a run and the epochs that it has logged."""
    if (mark, seed) not in known.index:
        return "not begun", 0
    run = known.loc[[(mark, seed)]].iloc[-1]
    if run.epochs_done != run.epochs_done:
        raise ValueError(run.problem)
    state = run.state if run.state in STATES else "not begun"
    return ("partial" if run.state == "unreadable" else state), int(run.epochs_done)


class _EpochTimes:
    """The seconds of all epochs, by configuration and by kind."""

    def __init__(self, frames: RunFrames, identities: Sequence[Mapping[str, Any]]) -> None:
        kinds = {_kind(identity) for identity in identities}
        own: dict[str, Kind] = {}
        for run in frames.index.runs:
            identity = run.metadata.get("identity", {})
            if (kind := _kind(identity)) in kinds and "train.max_steps" not in identity:
                own[str(run.folder)] = kind
        epochs: Any = frames.curves[frames.curves.folder.isin(list(own))]
        epochs = epochs.reindex(["folder", "fingerprint", "seconds"], axis=1).dropna()
        self.own = dict(iter(epochs.groupby("fingerprint")))
        self.alike = dict(iter(epochs.groupby(epochs.folder.map(own))))
        self.hardware = frames.runs.set_index("folder").hardware

    def of(self, mark: str, identity: Mapping[str, Any]) -> EpochTime | None:
        epochs = self.own.get(mark, self.alike.get(_kind(identity)))
        if epochs is None:
            return None
        where = self.hardware[epochs.folder.unique()].unique()
        return EpochTime(float(epochs.seconds.median()), mark in self.own, tuple(where))


def _kind(identity: Mapping[str, Any]) -> Kind:
    return tuple((n, str(value)) for n, value in identity.items() if n.startswith(KIND))


def plan_report(experiment: str, title: str, plan: Sequence[PlannedCell]) -> Report:
    """Return what plan.py prints: states, epochs left and time, and the seeds that claims need; a
    row a configuration."""
    rows: list[list[str]] = []
    for cell in plan:
        counts = [str(cell.states[state] or DASH) for state in STATES]
        time = (
            "?" if cell.time is None else f"{'' if cell.time.own else '~'}{cell.time.seconds:.3g}"
        )
        left = "?" if cell.seconds_left is None else format_duration(cell.seconds_left)
        rows.append([_label(cell, plan), str(len(cell.seeds)), *counts])
        rows[-1] += [str(cell.epochs_left), time, left]
    states = sum((cell.states for cell in plan), Counter())
    total = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    where = dict.fromkeys(name for cell in plan if cell.time for name in cell.time.hardware)
    measured = [f"epochs measured on {'; '.join(where)}"] if where else []
    lines = [f"{states.total()} runs: {total}", _to_go(plan), *measured]
    blocks = [title, TextTable("", "", list(HEADS), 1, rows, 0), "\n".join(lines)]
    return Report([*blocks, *_claim_blocks(experiment, plan)], plan_frame(experiment, plan))


def plan_frame(experiment: str, plan: Sequence[PlannedCell]) -> pd.DataFrame:
    """Return a row a configuration: its runs by state, epochs left and seconds.

    ``own_time``: whether its own runs say how long an epoch takes, and not those of its kind.
    ``seeds_C1``: how many seeds claim C1 needs, for every claim that reads the experiment.
    """
    rows = []
    seeds: dict[str, int] = {}
    for claim, rule in _rules_reading(experiment, all_studies()):
        seeds[claim.name] = max(seeds.get(claim.name, 0), rule.n)
    for cell in plan:
        words = [o for o in cell.overrides if setting_name(o) != "experiment"]
        row: dict[str, Any] = {"experiment": experiment, "overrides": " ".join(words)}
        row |= {"runs": len(cell.seeds)}
        row |= {state.replace(" ", "_"): cell.states[state] for state in STATES}
        row |= {"epochs_to_go": cell.epochs_left}
        row |= {"seconds_per_epoch": cell.time and cell.time.seconds}
        row |= {"own_time": cell.time and cell.time.own, "seconds_to_go": cell.seconds_left}
        row |= {f"seeds_{name}": n for name, n in seeds.items()}
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def format_duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours, as it is long; a dash for none."""
    if not seconds:
        return DASH
    unit, size = "h", 3600
    if seconds < 100 * 60:
        unit, size = ("s", 1) if seconds < 100 else ("min", 60)
    number = seconds / size
    return f"{number:.2g} {unit}" if number < 10 else f"{number:.0f} {unit}"


def _to_go(plan: Sequence[PlannedCell]) -> str:
    """Return how long the runs that are left take, and for how many that is unknown."""
    known = sum(cell.seconds_left or 0 for cell in plan)
    unknown = sum(cell.runs_left for cell in plan if cell.seconds_left is None)
    if not known:
        return f"to go: unknown for {unknown} runs" if unknown else "to go: nothing"
    time = f"{format_duration(known)}, one run at a time"
    return f"to go: at least {time}; unknown for {unknown} runs" if unknown else f"to go: {time}"


def _claim_blocks(experiment: str, plan: Sequence[PlannedCell]) -> list[ReportBlock]:
    """Return how many seeds the claims that read an experiment need; empty if no claim reads it.

    The chance is that of the rule at its n if the effect is the one it is planned for.
    """
    studies = all_studies()
    printed = printed_values(studies)
    asked = set.intersection(*(set(cell.seeds) for cell in plan))
    rows, most = [], 0
    for claim, rule in _rules_reading(experiment, studies):
        chance = f"{planned_power(rule, printed):.2f}"
        effect = "the published numbers" if rule.expect is None else f"{rule.expect:+g}"
        rows.append([claim.name, str(rule), str(rule.n), chance, f"{effect}, sd {rule.sd:g}"])
        if not set(range(rule.n)) <= asked:
            most = max(most, rule.n)
    if not rows:
        return []
    title = (
        "Seeds that the claims need (0 to n - 1), and the chance that these support a claim\n"
        "whose true effect is as given, with that standard deviation of paired differences"
    )
    head = ["claim", "rule", "n", "chance", "for"]
    blocks: list[ReportBlock] = [TextTable(title, "", head, 2, rows, 0)]
    if most:
        command = run_line([f"+experiment={experiment}", f"seed=range(0,{most})"])
        said = f"{len(asked)} seeds are asked for here; all that the claims need:"
        blocks.append(f"{said}\n{command}")
    return blocks


def _rules_reading(experiment: str, studies: Sequence[Study]) -> Iterator[tuple[Claim, Rule]]:
    """Yield the rules of claims that compare configurations of an experiment."""
    for claim in (claim for study in studies for claim in study.claims):
        for rule in claim.rules:
            if experiment in {cell.experiment for pair in rule.pairs for cell in pair.cells}:
                yield claim, rule


def _label(cell: PlannedCell, plan: Sequence[PlannedCell]) -> str:
    """Return what distinguishes a configuration from the others."""
    shared = set.intersection(*(set(other.overrides) for other in plan))
    return " ".join(o for o in cell.overrides if o not in shared) or "all"


def timing_commands(plan: Sequence[PlannedCell]) -> list[str]:
    """Return the commands that time an epoch of what no run has timed, one a kind."""
    lines = {}
    for cell in plan:
        if cell.time is None and cell.runs_left:
            kept = [o for o in cell.overrides if setting_name(o) not in ("scale", "train.epochs")]
            words = sorted(kept, key=lambda o: setting_name(o) != "experiment")
            words += [f"seed={next(iter(cell.seeds))}", "train.epochs=1"]
            lines.setdefault(_kind(cell.identity), run_line(words))
    return list(lines.values())
