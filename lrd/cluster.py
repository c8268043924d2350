"""Sweeps whose cells run in other processes: side by side on this machine, or as jobs of SLURM.

Hydra's launchers start those processes; what stands around them here reads every cell first, leaves
out what is done, and brings back what became of the others. Imports no torch.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict

from lrd.config.compose import to_config
from lrd.config.schema import Config
from lrd.runs.store import Run, open_run

Failure = tuple[str, str, int]  # the cell, why in one line, and the exit status
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a cell brings back from its process: its score, or why it has none."""

    score: float | None = None
    failures: Sequence[Failure] = ()
    stopped: int | None = None  # by this signal, saved or not begun


Task = Callable[[DictConfig], Outcome]


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep, read and checked."""

    overrides: tuple[str, ...]
    text: str
    config: Config
    choices: dict[str, str]
    run: Run


def choices(chosen: Mapping[Any, Any]) -> dict[str, str]:
    """The names picked in each group, less Hydra's own groups."""
    return {str(k): v for k, v in chosen.items() if not str(k).startswith("hydra/")}


class Elsewhere(Launcher):
    """Around a ``launcher`` of Hydra's, whose cells end as an :class:`Outcome` each.

    ``failures`` takes what fails; ``say`` takes a line of text.
    """

    careful = False  # whether one wrong cell keeps all others from being started

    def __init__(self, launcher: Any, failures: list[Failure], say: Say) -> None:
        self.launcher, self.failures, self.say = launcher, failures, say

    def setup(self, **kwargs: Any) -> None:
        self.launcher.setup(**kwargs)

    @abstractmethod
    def start(self, cells: Sequence[Cell], done: int) -> Iterable[tuple[Path, Outcome]]:
        """Run the cells, ``done`` others being finished already; each run's folder as it ends."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        cells = self._cells(job_overrides)
        if self.careful and None in cells:
            return [_returned(None) for _ in cells]
        scores: dict[Path, float | None] = {}
        missing: dict[Path, Cell] = {}  # cells that come to the same run are one
        for cell in filter(None, cells):
            if _finished(cell):
                scores[cell.run.folder] = cell.run.final
            else:
                missing.setdefault(cell.run.folder, cell)
        try:
            for path, outcome in self.start(list(missing.values()), len(scores)):
                self._collect(missing[path], outcome)
                scores[path] = outcome.score
        except ValueError as error:
            self.failures.append(("", str(error), 2))
        return [_returned(scores.get(c.run.folder) if c else None) for c in cells]

    def _cells(self, overrides: Sequence[Sequence[str]]) -> list[Cell | None]:
        """Every cell, None for a wrong one; a mistake that all share is told once."""
        cells: list[Cell | None] = []
        wrong: list[Failure] = []
        for own in overrides:
            cfg = self.launcher.hydra_context.config_loader.load_sweep_config(
                self.launcher.config, list(own)
            )
            text = " ".join(cfg.hydra.overrides.task)
            chosen = choices(cfg.hydra.runtime.choices)
            with open_dict(cfg):
                del cfg["hydra"]
            try:
                config = to_config(cfg)
                cells.append(Cell(tuple(own), text, config, chosen, open_run(config)))
            except ValueError as error:
                cells.append(None)
                wrong.append((text, str(error), 2))
        shared = len(wrong) == len(cells) and len({line for _, line, _ in wrong}) == 1
        self.failures += [("", wrong[0][1], 2)] if shared else wrong
        return cells

    def _collect(self, cell: Cell, outcome: Outcome) -> None:
        self.failures += [(t or cell.text, line, status) for t, line, status in outcome.failures]


def _finished(cell: Cell) -> bool:
    return cell.run.status == "finished" and not cell.config.run.force


def _returned(score: float | None) -> JobReturn:
    """As Hydra's sweepers want it."""
    return JobReturn(status=JobStatus.COMPLETED, _return_value=score)


def outcome_of(returned: JobReturn) -> Outcome:
    """Of a cell that Hydra has run; also where its own function raised."""
    value = returned._return_value
    if isinstance(value, Outcome):
        return value
    return Outcome(failures=[("", f"{type(value).__name__}: {value}", 1)])


@contextmanager
def launching(task: Task, failures: list[Failure], say: Say) -> Iterator[None]:
    """While entered, a launcher of other processes gives them ``task`` to run, and stands in an
    :class:`Elsewhere`. Hydra's own launcher stays as it is."""
    instantiate = Plugins.instantiate_launcher

    def ours(
        plugins: Plugins, hydra_context: Any, task_function: Any, config: DictConfig
    ) -> Launcher:
        _require_holdout(config)
        name = config.hydra.launcher._target_.rpartition(".")[2]
        if name not in ("JoblibLauncher", "SlurmLauncher"):
            return instantiate(plugins, hydra_context, task_function, config)
        from lrd.beside import Beside
        from lrd.slurm import Slurm

        kind = Beside if name == "JoblibLauncher" else Slurm
        launcher = instantiate(plugins, hydra_context, kind.task(task), config)
        return kind(launcher, failures, say)

    # Hydra takes launchers from its plugin packages alone: ours can only stand around those.
    setattr(Plugins, "instantiate_launcher", ours)  # noqa: B010
    try:
        yield
    finally:
        setattr(Plugins, "instantiate_launcher", instantiate)  # noqa: B010


def _require_holdout(config: DictConfig) -> None:
    """A sweeper that chooses by the score of its runs must not choose by the test set."""
    chooses = not config.hydra.sweeper._target_.endswith(".BasicSweeper")
    if chooses and config.dataset.get("holdout") == 0:
        raise HydraException(
            "dataset.holdout must be above 0 where a search chooses by the score, got 0: the test "
            "set is for what it has chosen"
        )


def lacking(error: BaseException) -> str | None:
    """The line for a cluster whose package is not installed; None for any other error."""
    for launcher, name, package in (
        ("submitit_slurm", "slurm", "hydra-submitit-launcher"),
        ("joblib", "local", "hydra-joblib-launcher"),
    ):
        if f"hydra/launcher/{launcher}'" in str(error):
            return f"cluster={name} needs {package}: pip install -e '.[cluster]'"
    return None
