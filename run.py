"""The one entry: ``python run.py KEY=VALUE ...`` composes a configuration, builds it, trains.

Exit status: 0 done (or found done), 1 a run failed, 2 the command is wrong, 130 interrupted.
"""

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from lrd import config as settings
from lrd.runs import Run

failures: list[tuple[str, str, int]] = []


def one(cfg: DictConfig) -> None:
    """One run, or one cell of a sweep; a failing cell does not stop the others."""
    now = HydraConfig.get()
    cell = " ".join(now.overrides.task) or "python run.py"
    try:
        config = settings.read(cfg)
        from lrd import build  # torch is loaded once the settings are known to be sound

        done = build.run(config, dict(now.runtime.choices), print)
        tell(done)
    except ValueError as error:
        failures.append((cell, str(error), 2))
    except (FloatingPointError, OSError) as error:
        failures.append((cell, str(error), 1))


def tell(run: Run) -> None:
    """The last lines of a run: the score, the place, what to do next."""
    score, final, best = (run.record[k] for k in ("score", "final", "best"))
    unit = f" {score['unit']}" if score["unit"] else ""
    print(
        f"{score['name'].replace('_', ' ')} {final['value']:.2f}{unit} after epoch "
        f"{final['epoch']} (best {best['value']:.2f}{unit}, epoch {best['epoch']}; choosing the "
        "best on the test set is optimistic)"
    )
    print(f"run: {run.folder}")


def main() -> int:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through, so that they become one line here
    failures.clear()
    try:
        hydra.main(version_base="1.3", config_path="configs", config_name="config")(one)()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    except (HydraException, settings.OmegaConfBaseException) as error:
        failures.append(("", settings.explain(error), 2))
    for cell, line, _ in failures:
        print(f"error: {line}" if len(failures) == 1 else f"error: {cell}: {line}", file=sys.stderr)
    return max((status for *_, status in failures), default=0)


if __name__ == "__main__":
    sys.exit(main())
