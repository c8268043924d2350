"""Command line: ``python run.py KEY=VALUE ...`` composes a configuration, builds it and trains.

Exit status: 0 finished (now or before), 1 a run failed, 2 the command is wrong, 3 another process
holds the run, 4 another rank is lost, 128 + n stopped by signal n (INT 130, USR1 138, USR2 140,
TERM 143) with its state saved. A sweep exits with the largest status of its jobs.
"""

import logging
import os
import shlex
import sys
import time
import traceback
from contextlib import nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import Any

try:
    import hydra
except ModuleNotFoundError as error:
    print(f"error: {error.name} is missing: pip install -e '.[experiments]'", file=sys.stderr)
    raise SystemExit(2) from error
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from lrd.config.compose import (
    CONFIGS,
    OmegaConfBaseException,
    format_error,
    require_checkout,
    to_config,
)
from lrd.config.schema import Config
from lrd.launchers.base import CLUSTERS, Failure, group_choices, missing_plugin_message
from lrd.runs.labels import is_lrd_enabled
from lrd.runs.lock import RunLocked
from lrd.runs.signals import Interrupted, RankLost
from lrd.runs.store import Run, RunStore

RANK_LOST_STATUS = 4  # reported by every rank, because any of them may be the only one left


class StdoutHandler(logging.Handler):
    """Print log messages to the current ``sys.stdout``, which a launcher may redirect."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record))


_HANDLER = StdoutHandler()


class InvalidCommand(BaseException):
    """The command cannot run as given.

    Not an Exception, because Hydra turns a callback's Exception into a warning.
    """


class CheckCommand(Callback):
    """Reject a command that Hydra accepts, before any job starts (``hydra.callbacks``)."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        _check_launcher(config)
        swept = ", ".join(config.hydra.sweeper.params or ())
        sweeps = {"search": "runs a sweep", "cluster": "runs a sweep"}
        sweeps |= {"experiment": f"sweeps {swept}"} if swept else {}
        for group, what in sweeps.items():
            if option := config.hydra.runtime.choices.get(group):
                command = shlex.join(["python", "run.py", "-m", *sys.argv[1:]])
                raise InvalidCommand(f"+{group}={option} {what} and needs -m: {command}")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _check_launcher(config)
        searches = not config.hydra.sweeper._target_.endswith(".BasicSweeper")
        if searches and config.dataset.get("holdout") == 0:
            raise InvalidCommand(
                "dataset.holdout must be above 0 where a search chooses by the score, got 0: "
                "the test set must not choose"
            )

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Remove the file in which Hydra keeps a sweep's configuration, and a folder without runs:
        each run has its own record."""
        folder = Path(config.hydra.sweep.dir)
        (folder / "multirun.yaml").unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def _check_launcher(config: DictConfig) -> None:
    """Reject Hydra's own launchers of processes, which do not collect failures."""
    launcher = config.hydra.runtime.choices["hydra/launcher"]
    if launcher in CLUSTERS and config.hydra.launcher._target_.endswith(".SequentialLauncher"):
        cluster = CLUSTERS[launcher]
        raise InvalidCommand(f"hydra/launcher={launcher} is not supported: use +cluster={cluster}")


class RunFunction:
    """Run one configuration, alone or as a job of a sweep; a failed job does not stop the others.

    Returns the last epoch's score, by which a search may choose, or None if the run failed.
    """

    def __init__(self) -> None:
        self.failures: list[Failure] = []

    def __call__(self, cfg: DictConfig) -> float | None:
        _configure_logging()
        hydra_config = HydraConfig.get()
        sweep = hydra_config.mode is RunMode.MULTIRUN
        job = " ".join(hydra_config.overrides.task) if sweep else ""
        config = None
        try:
            config = to_config(cfg)
            from lrd.training import runner  # imports torch, only after the settings are checked

            if sweep:
                print(f"\n[{hydra_config.job.num}] {job}")
            command = shlex.join(["python", "run.py", *hydra_config.overrides.task])
            run = runner.execute(config, group_choices(hydra_config.runtime.choices), command)
            _print_result(run, sweep)
            return run.final
        except Exception as error:
            self.failures.append(Failure(job, *_describe_failure(error, config)))


def _configure_logging() -> None:
    """Print INFO messages of ``lrd`` to stdout as plain lines."""
    logger = logging.getLogger("lrd")
    logger.setLevel(logging.INFO)
    logger.addHandler(_HANDLER)


def _describe_failure(error: Exception, config: Config | None) -> tuple[str, int]:
    """Return the reason in one line and the exit status; print the traceback of a bug."""
    for expected, status in ((ValueError, 2), (RunLocked, 3), (RankLost, RANK_LOST_STATUS)):
        if isinstance(error, expected):
            return str(error), status
    reason = str(error)
    if not isinstance(error, FloatingPointError | OSError):
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
    path = RunStore(config).folder / "error.txt" if config else None
    return f"{reason} [{path}]" if path and path.is_file() else reason, 1


def _print_result(run: Run, sweep: bool) -> None:
    """Print the score, the run directory and, outside a sweep, what to run next."""
    score, final, best = (run.metadata[k] for k in ("score", "final", "best"))
    unit = f" {score['unit']}" if score["unit"] else ""
    part = score["name"].partition("_")[0]
    caution = f"; chosen on the {part} set, so optimistic" if part in ("test", "val") else ""
    print(
        f"{score['name'].replace('_', ' ')} {final['value']:.2f}{unit} after epoch "
        f"{final['epoch']} (best {best['value']:.2f}{unit}, epoch {best['epoch']}{caution})"
    )
    print(f"run: {run.folder}")
    if not sweep:
        has_lrd = is_lrd_enabled(run.metadata["config"]["lrd"])
        other = "the baseline with lrd.p=1" if has_lrd else "LRD with lrd.p=0.5"
        print(f"Next: run {other}, repeat with seed=1,2, or all optimizers:")
        print("      python run.py -m +experiment=quickstart && python scripts/table.py quickstart")


def main() -> int:
    """Run the command in ``sys.argv`` and return the exit status."""
    try:
        require_checkout()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, which become one line here
    is_rank_zero = os.environ.get("RANK", "0") == "0"
    with (
        nullcontext() if is_rank_zero else open(os.devnull, "w") as out,
        redirect_stdout(out or sys.stdout),
    ):
        return _main(is_rank_zero)


def _main(is_rank_zero: bool) -> int:
    _configure_logging()
    function, status = RunFunction(), 0
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(function)()
    except Interrupted as error:
        if is_rank_zero:
            print(f"\nstopped by {error}, state saved; the same command resumes", file=sys.stderr)
        status = error.status
    except KeyboardInterrupt:
        print(
            "\nstopped at once; the same command resumes from the last checkpoint", file=sys.stderr
        )
        status = 130
    except InvalidCommand as error:
        function.failures.append(Failure("", str(error), 2))
    except (HydraException, OmegaConfBaseException) as error:
        reason = missing_plugin_message(error) or format_error(error)
        function.failures.append(Failure("", reason, 2))
    for job, reason, failed in function.failures:
        if is_rank_zero or failed == RANK_LOST_STATUS:
            print(f"error: {job}: {reason}" if job else f"error: {reason}", file=sys.stderr)
    status = max([status, *(failure.status for failure in function.failures)])
    if function.failures and not is_rank_zero:
        time.sleep(10)  # torchrun stops all ranks when one ends: rank zero must print first
    return status
