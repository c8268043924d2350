"""What all launchers do: check every job of a sweep before the first one starts, and collect
results. Imports no torch."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict

from lrd.config.compose import to_config
from lrd.config.schema import LRD, Config, RunDirectory
from lrd.runs.store import Run, RunStore

# Hydra's launchers, each with the option of `+cluster=` that uses it.
CLUSTERS = {"joblib": "local", "submitit_slurm": "slurm"}


class Failure(NamedTuple):
    """A job that failed: its overrides, the reason in one line, and the exit status."""

    job: str
    reason: str
    status: int


class JobFunction(Protocol):
    """Run one configuration and return its score; append to ``failures`` if it fails."""

    failures: list[Failure]

    def check(self, config: Config) -> None:
        """Raise ValueError if a class, a setting of a class, or data are missing here."""

    def __call__(self, cfg: DictConfig) -> float | None: ...


@dataclass(frozen=True)
class JobResult:
    """What a job returns from its process: a score or failures, and the signal that stopped it."""

    score: float | None = None
    failures: Sequence[Failure] = ()
    stopped_by: int | None = None

    @classmethod
    def of(cls, function: JobFunction, cfg: DictConfig) -> "JobResult":
        """Call ``function`` in the process of a job; return its failures with its score."""
        function.failures.clear()
        return cls(function(cfg), list(function.failures))

    @classmethod
    def failed(cls, reason: str, status: int = 1) -> "JobResult":
        return cls(failures=[Failure("", reason, status)])

    @classmethod
    def from_hydra(cls, returned: JobReturn) -> "JobResult":
        """Return the result of a job that Hydra ran; an exception becomes a failure."""
        value = returned._return_value
        return value if isinstance(value, cls) else cls.failed(f"{type(value).__name__}: {value}")


Results = Iterator[tuple[Path, JobResult]]  # a run directory with the result of its job


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep: its overrides, as a list and as text, and its checked configuration."""

    overrides: tuple[str, ...]
    text: str
    config: Config
    choices: dict[str, str]
    store: RunStore

    @property
    def run(self) -> Run:
        return self.store.run


def group_choices(choices: Mapping[Any, Any]) -> dict[str, str]:
    """Return the option chosen in each configuration group, without Hydra's own groups."""
    return {str(k): v for k, v in choices.items() if not str(k).startswith("hydra/")}


class SweepLauncher(Launcher):
    """Check every job of a sweep, skip finished runs and collect the results of the others.

    Hydra instantiates a launcher with the settings under ``hydra.launcher``. The function that
    :meth:`setup` receives is a :class:`JobFunction`; the launcher appends to its ``failures``.
    """

    # whether classes and data are looked for here, where the jobs will run
    checks_components = True

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, task_function: Any, **context: Any) -> None:
        self.function: JobFunction = task_function
        self.failures = self.function.failures
        self.context = context  # Hydra's arguments hydra_context and config

    @abstractmethod
    def start(self, jobs: Sequence[SweepJob], num_finished: int) -> Results:
        """Run ``jobs`` and yield each run directory with its result when the job ends.

        Args:
            jobs: the jobs whose runs are not finished, each run once.
            num_finished: number of other jobs, whose runs are finished.
        """

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        check = self.function.check if self.checks_components else None
        jobs, invalid = check_jobs(self.context, job_overrides, check)
        if invalid:
            self.failures += invalid
            return [job_return(None) for _ in job_overrides]
        scores: dict[Path, float | None] = {}
        missing: dict[Path, SweepJob] = {}  # jobs of the same run are one
        for job in jobs:
            if job.store.is_finished:
                scores[job.run.folder] = job.run.final
            else:
                missing.setdefault(job.run.folder, job)
        try:
            for path, result in self.start(list(missing.values()), len(scores)):
                scores[path] = result.score
                text = missing[path].text
                self.failures += [f if f.job else f._replace(job=text) for f in result.failures]
        except ValueError as error:
            self.failures.append(Failure("", str(error), 2))
        return [job_return(scores.get(job.run.folder)) for job in jobs]


def check_jobs(
    context: Mapping[str, Any],
    job_overrides: Sequence[Sequence[str]],
    check: Callable[[Config], None] | None,
) -> tuple[list[SweepJob], list[Failure]]:
    """Compose every job of a sweep; return the valid ones and what is wrong with the others.

    A mistake that several jobs share is one failure. ``check`` looks for classes and data; jobs
    that differ in nothing that it reads are checked once.
    """
    checked: dict[str, str | None] = {}
    jobs: list[SweepJob] = []
    mistakes: dict[str, list[str]] = {}
    loader = context["hydra_context"].config_loader
    for overrides in job_overrides:
        cfg = loader.load_sweep_config(context["config"], list(overrides))
        text = " ".join(cfg.hydra.overrides.task)
        choices = group_choices(cfg.hydra.runtime.choices)
        with open_dict(cfg):
            del cfg["hydra"]
        try:
            config = to_config(cfg)
            store = RunStore(config)
            if check is not None and not store.is_finished:
                key = repr([config.run.allow, replace(config, **_UNCHECKED)])
                if key not in checked:
                    checked[key] = _reason(check, config)
                if (reason := checked[key]) is not None:
                    raise ValueError(reason)
            jobs.append(SweepJob(tuple(overrides), text, config, choices, store))
        except ValueError as error:
            mistakes.setdefault(str(error), []).append(text)
    count = len(job_overrides)
    return jobs, [
        Failure(_name_jobs(texts, count), reason, 2) for reason, texts in mistakes.items()
    ]


# Groups of settings in which many jobs of a sweep differ, and of which no class or data depend.
_UNCHECKED = {"seed": 0, "lrd": LRD(), "run": RunDirectory(), "scale": 1.0, "lr_factor": 1.0}


def _reason(check: Callable[[Config], None], config: Config) -> str | None:
    try:
        check(config)
    except ValueError as error:
        return str(error)
    return None


def _name_jobs(texts: Sequence[str], count: int) -> str:
    """Return which jobs of a sweep a mistake concerns; nothing if all."""
    if len(texts) == count > 1:
        return ""
    return texts[0] + (f" and {len(texts) - 1} more" if len(texts) > 1 else "")


def job_return(score: float | None) -> JobReturn:
    """Return a score in the form that Hydra's sweepers expect."""
    return JobReturn(status=JobStatus.COMPLETED, _return_value=score)


def missing_plugin_message(error: BaseException) -> str | None:
    """Return the line for a launcher whose package is not installed, None for other errors."""
    for launcher, cluster in CLUSTERS.items():
        if f"hydra/launcher/{launcher}'" in str(error):
            package = f"hydra-{launcher.partition('_')[0]}-launcher"
            return f"cluster={cluster} needs {package}: pip install -e '.[cluster]'"
    return None
