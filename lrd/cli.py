"""Command line: ``python run.py KEY=VALUE ...`` composes a configuration, builds it and trains.

Exit status: 0 finished (now or before), 1 a run failed, 2 the command is wrong, 3 another process
holds the run, 4 a rank is lost, 128 + n stopped by signal n (INT 130, USR1 138, USR2 140,
TERM 143) with its state saved. A sweep exits with the largest status of its jobs.
"""

import logging
import os
import re
import shlex
import sys
import textwrap
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import hydra
except ModuleNotFoundError as error:
    print(f"error: {error.name} is missing: pip install -e '.[experiments]'", file=sys.stderr)
    raise SystemExit(2) from error
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from lrd.config.compose import CONFIGS, explain, require_checkout, to_config
from lrd.config.messages import AUTOMATIC, GROUP_MEANINGS, READ_ELSEWHERE, escape_unprintable
from lrd.config.schema import Config
from lrd.launchers.base import CLUSTERS, Failure, group_choices, missing_plugin_message
from lrd.runs.labels import is_lrd_enabled
from lrd.runs.lock import RunLocked
from lrd.runs.ranks import ProcessRank
from lrd.runs.signals import Interrupted, RankFailed, RankLost, TrainingFailed
from lrd.runs.store import Run, RunStore


class StdoutHandler(logging.Handler):
    """Print log messages to the current ``sys.stdout``, which a launcher may redirect, above a
    progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stdout)


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
        if config.hydra.sweeper._target_.endswith(".BasicSweeper"):
            return
        if config.dataset.get("holdout") == 0:
            raise InvalidCommand(
                "dataset.holdout must be above 0 where a search chooses by the score, got 0: "
                "the test set must not choose"
            )
        with open_dict(config), read_write(config):
            config.hydra.sweeper.direction = _search_direction(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Remove the file in which Hydra keeps a sweep's configuration, and a folder without runs:
        each run has its own record."""
        folder = Path(config.hydra.sweep.dir)
        (folder / "multirun.yaml").unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def _search_direction(config: DictConfig) -> str:
    """Return ``maximize`` or ``minimize``, as the score of the task says."""
    from lrd.training.builder import build_task

    own = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    try:
        return "maximize" if build_task(to_config(own)).score.maximize else "minimize"
    except ValueError as error:
        raise InvalidCommand(str(error)) from error


def _check_launcher(config: DictConfig) -> None:
    """Reject Hydra's own launchers of processes, which do not collect failures, and a launcher of
    processes that itself runs on several ranks."""
    launcher = config.hydra.runtime.choices.get("hydra/launcher")
    if launcher in CLUSTERS and (world := ProcessRank.from_environment().world) > 1:
        raise InvalidCommand(
            f"+cluster={CLUSTERS[launcher]} starts its jobs itself and must run without torchrun, "
            f"got {world} ranks (cluster.ranks_per_cell=N of +cluster=slurm gives each job N)"
        )
    if launcher in CLUSTERS and config.hydra.launcher._target_.endswith(".SequentialLauncher"):
        cluster = CLUSTERS[launcher]
        raise InvalidCommand(f"hydra/launcher={launcher} is not supported: use +cluster={cluster}")


class RunFunction:
    """Run one configuration, alone or as a job of a sweep; a failed job does not stop the others.

    Returns the last epoch's score, by which a search may choose, or None if the run failed.
    """

    def __init__(self) -> None:
        self.failures: list[Failure] = []

    def check(self, config: Config) -> None:
        """Raise ValueError if a class, a setting of a class, or data are missing here."""
        from lrd.training.builder import check_components

        check_components(config)

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
    for expected, status in ((ValueError, 2), (RunLocked, 3)):
        if isinstance(error, expected):
            return str(error), status
    reason = str(error)
    if not isinstance(error, FloatingPointError | OSError | RankFailed | TrainingFailed):
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
    path = RunStore(config).folder / "error.txt" if config else ""
    return f"{reason} [{path}]" if os.path.isfile(path) else reason, 1


def _print_result(run: Run, sweep: bool) -> None:
    """Print the score, the run directory and, outside a sweep, what to run next."""
    score, final, best = (run.metadata[k] for k in ("score", "final", "best"))
    unit = f" {score['unit']}" if score["unit"] else ""
    print(
        f"{score['name'].replace('_', ' ')} {final['value']:.2f}{unit} after epoch {final['epoch']}"
    )
    if sum(score["name"] in epoch for epoch in run.metrics) > 1:
        part = score["name"].partition("_")[0]
        caution = f"; chosen on the {part} set, so optimistic" if part in ("test", "val") else ""
        print(f"best: {best['value']:.2f}{unit} after epoch {best['epoch']}{caution}")
    print(f"run: {run.folder}")
    if not sweep:
        print("Next: " + "\n      ".join(_next_commands(run, sys.argv[1:])))


def _next_commands(run: Run, arguments: Sequence[str]) -> list[str]:
    """Return commands for the other arm and other seeds of the run that ``arguments`` asked for."""

    def command(without: str, new: str, *options: str) -> str:
        kept = [a for a in arguments if not re.match(rf"\+*({without}|run\.force)=", a)]
        return shlex.join(["python", "run.py", *options, *kept, new])

    has_lrd = is_lrd_enabled(run.metadata["config"]["lrd"])
    other, p = ("without LRD", 1) if has_lrd else ("with LRD", 0.5)
    seeds = f"seed={run.seed + 1},{run.seed + 2}"
    return [
        command(r"lrd\.\w+", f"lrd.p={p}") + f"  # {other}",
        command("seed", seeds, "-m") + "  # other seeds",
        "python scripts/runs.py  # all runs",
    ]


def _group_help(kind: str) -> str:
    """Return the groups of a ``kind`` for ``--help``: ``choose``, ``add`` or ``automatic``."""
    loader, chosen = GlobalHydra.instance().config_loader(), HydraConfig.get().runtime.choices
    lines: list[str] = []
    for group in sorted(loader.list_groups("")):
        options = loader.get_group_options(group)
        how = "automatic" if group in AUTOMATIC else "choose" if group in chosen else "add"
        if how == kind and options and group not in ("hydra", *READ_ELSEWHERE):
            lines.append(f"{group}: {', '.join(options)}")
            lines.append(f"    {GROUP_MEANINGS.get(group, 'a group of your own')}")
    wrapped = (textwrap.wrap(line, 100, subsequent_indent="    ") for line in lines)
    return "\n".join(line for part in wrapped for line in part)


OmegaConf.register_new_resolver("lrd.groups", _group_help, replace=True)


def _arrange_arguments() -> None:
    """Put Hydra's options before the settings, the only order that Hydra takes, and expand ``~/``
    at the start of a value, which the shell leaves as it is.

    Raises:
        InvalidCommand: An option is unknown or needs a value.
    """

    def reject(message: str) -> None:
        is_unknown = message.startswith("unrecognized")
        hint = "; a setting has no dashes: KEY=VALUE" if is_unknown else ""
        raise InvalidCommand(message + hint)

    parser = get_args_parser()
    parser.allow_abbrev = False
    parser.error = reject  # type: ignore[method-assign]
    options, settings = sys.argv[1:], parser.parse_intermixed_args().overrides
    for setting in settings:
        options.remove(setting)
    home = os.path.expanduser("~")
    expanded = [re.sub(r"^([^=]+=[\"']?)~(?=/)", rf"\g<1>{home}", s) for s in settings]
    sys.argv[1:] = [*options, *expanded]


def main() -> int:
    """Run the command in ``sys.argv`` and return the exit status."""
    try:
        require_checkout()
        process = ProcessRank.from_environment()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, which become one line here
    # Read when torch is imported, also by the processes of a sweep: idle threads that spin take the
    # cores of other runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with process.output():
        return _main(process.is_rank_zero)


def _main(is_rank_zero: bool) -> int:
    _configure_logging()
    function, status = RunFunction(), 0
    try:
        _arrange_arguments()
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
    except RankLost as error:
        function.failures.append(Failure("", str(error), RankLost.status))
    except InvalidCommand as error:
        function.failures.append(Failure("", str(error), 2))
    except (HydraException, OmegaConfBaseException, ValueError, AssertionError) as error:
        settings = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        reason = missing_plugin_message(error) or explain(error, settings)
        function.failures.append(Failure("", reason, 2))
    for job, reason, failed in function.failures:
        if is_rank_zero or failed == RankLost.status:
            line = f"error: {job}: {reason}" if job else f"error: {reason}"
            print(escape_unprintable(line), file=sys.stderr)
    status = max([status, *(failure.status for failure in function.failures)])
    if function.failures and not is_rank_zero and status != RankLost.status:
        time.sleep(10)  # torchrun stops all ranks when one ends: rank zero must print first
    return status
