"""The one entry: ``python run.py KEY=VALUE ...`` composes a configuration, builds it, trains.

Exit status: 0 done (or found done), 1 a run failed, 2 the command is wrong, 3 another process has
the run, 4 another rank of it is gone, 128 + n stopped by signal n (INT 130, USR1 138, USR2 140,
TERM 143) with its state saved. Of a sweep with several such cells the largest counts.
"""

import os
import sys
import time
import traceback
from contextlib import nullcontext, redirect_stdout

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from lrd.cluster import Outcome, choices, lacking, launching
from lrd.config.compose import CONFIGS, OmegaConfBaseException, format_error, to_config
from lrd.config.schema import Config
from lrd.runs.lock import RunLocked
from lrd.runs.signals import Interrupted, RankLost
from lrd.runs.store import Run, open_run

LOST = 4  # every rank says so of itself, whichever is left
failures: list[tuple[str, str, int]] = []


def one(cfg: DictConfig) -> float | None:
    """One run, or one cell of a sweep; a failing cell does not stop the others.

    Returns the score at the last epoch, which Hydra's sweepers may choose by; None of a failure.
    """
    now = HydraConfig.get()
    sweep = now.mode is RunMode.MULTIRUN
    cell = " ".join(now.overrides.task) if sweep else ""
    config = None
    try:
        config = to_config(cfg)
        from lrd.training import runner  # torch is loaded once the settings are known to be sound

        if sweep:
            print(f"\n[{now.job.num}] {cell}")
        run = runner.execute(config, choices(now.runtime.choices))
        tell(run, sweep)
        return run.final
    except ValueError as error:
        failures.append((cell, str(error), 2))
    except RunLocked as error:
        failures.append((cell, f"{error}; left to it", 3))
    except RankLost as error:
        failures.append((cell, str(error), LOST))
    except (FloatingPointError, OSError) as error:
        failures.append((cell, f"{error}{_log(config)}", 1))
    except Exception as error:
        traceback.print_exc()
        failures.append((cell, f"{type(error).__name__}: {error}{_log(config)}", 1))


def apart(cfg: DictConfig) -> Outcome:
    """``one`` in a process of its own, with the failures, which would stay there."""
    failures.clear()
    score = one(cfg)
    return Outcome(score, list(failures))


def _log(config: Config | None) -> str:
    """Where a failed run left its traceback."""
    path = open_run(config).folder / "error.txt" if config else None
    return f" [{path}]" if path and path.is_file() else ""


def tell(run: Run, sweep: bool) -> None:
    """The last lines of a run: the score, the place and, outside a sweep, what to do next."""
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
        lrd = run.metadata["config"]["lrd"]
        with_lrd = lrd["p"] < 1 or lrd.get("schedule", "constant") != "constant"
        other = "lrd.p=1 (without LRD)" if with_lrd else "lrd.p=0.5 (with LRD)"
        print(f"next: the same command with {other}, with seed=1 and on; then every optimizer:")
        print("      python run.py -m +experiment=quickstart && python scripts/table.py quickstart")


def main() -> int:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through, so that they become one line here
    first = os.environ.get("RANK", "0") == "0"  # of several ranks one speaks for all
    with (
        nullcontext() if first else open(os.devnull, "w") as out,
        redirect_stdout(out or sys.stdout),
    ):
        return _main(first)


def _main(first: bool) -> int:
    failures.clear()
    status = 0
    compose = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
    try:
        with launching(apart, failures, print):
            compose(one)()
    except Interrupted as error:
        if first:
            print(f"\nstopped by {error}, saved; the same command goes on", file=sys.stderr)
        status = error.status
    except KeyboardInterrupt:
        print("\nstopped at once; the same command goes on from the last save", file=sys.stderr)
        status = 130
    except (HydraException, OmegaConfBaseException) as error:
        failures.append(("", lacking(error) or format_error(error), 2))
    for cell, line, kind in failures:
        if not first and kind != LOST:
            continue
        print(f"error: {cell}: {line}" if cell else f"error: {line}", file=sys.stderr)
    status = max([status, *(s for *_, s in failures)])
    if failures and not first:
        time.sleep(10)  # torchrun ends all when one has ended: first the one that speaks
    return status


if __name__ == "__main__":
    sys.exit(main())
