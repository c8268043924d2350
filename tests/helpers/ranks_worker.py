"""What each of several ranks does for tests/integration/test_distributed.py.

    python tests/helpers/ranks_worker.py COUNTS OUT [TRAINING...]

Each of COUNTS, such as 2,1,3, ranks in turn, forks of this process; one rank is what to compare
with. Results go to ``OUT/<world>-<rank>.pt``; with the names of trainings, of those alone.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lrd.config.compose import compose, to_config  # noqa: E402
from lrd.loggers.base import Logger  # noqa: E402
from lrd.runs.signals import Interrupted  # noqa: E402
from lrd.training import builder, runner  # noqa: E402
from lrd.training.distributed import DistributedContext, init_distributed  # noqa: E402
from lrd.training.trainer import Trainer  # noqa: E402
from tests.helpers.forked_ranks import fork_ranks  # noqa: E402

SMALL = ["model.hidden=[32]", "train.epochs=2", "eval.batch_size=50"]
SHORT = ["optim=sgdm", "optim.lr=0.001", "train.epochs=1", "train.max_steps=2"]
TRAINED = {  # all but "rows" by the fused step
    "adam": [*SMALL, "optim=adam"],
    "sgdm": [*SMALL, "optim=sgdm", "lrd.p=0.3", "regularizer=[sd,nl,ng,dg]"],
    # 1437 = 2 x 718 + 1: the last batch has fewer samples than ranks
    "odd": [*SMALL, "optim=sgdm", "train.batch_size=718", "regularizer=nl"],
    # two micro-batches, of which the last batch fills one
    "micro": [*SMALL, "optim=sgdm", "train.batch_size=718", "regularizer=nl", "train.accumulate=2"],
    "rows": [*SMALL, "optim=adam", "lrd.granularity=row"],
    "toy": ["task=toy", "optim=adam", "train.epochs=2", "task.steps=5", "dataset.drawn=20"],
}
SLOW = {  # by name alone
    "seg": ["task=shapes_seg", *SHORT, "eval.final_mode=whole", "model.dropout=0"],
    "det": ["task=shapes_det", *SHORT],
}


class Trace(Logger):
    """All parameters before the first step and after every one, and what an epoch logs."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.steps, self.epochs = model, [], []

    def on_step(self, epoch: int, step: int) -> None:
        flat = [p.detach().flatten() for p in self.model.parameters()]
        self.steps.append(torch.cat(flat))

    def on_epoch(self, metrics: dict[str, Any]) -> None:
        self.epochs.append(metrics)


def made(overrides: list[str], ranks: DistributedContext) -> Trainer:
    config = to_config(compose(overrides))
    parts = builder.build(config, ranks)
    trainer, _ = builder.build_trainer(config, parts, None, ranks)
    for module in trainer.model.modules():
        if isinstance(module, nn.BatchNorm2d):  # it alone would tell a share from the whole batch
            module.eval().train = lambda mode=True, module=module: module
    return trainer


def trained(overrides: list[str], ranks: DistributedContext) -> dict[str, Any]:
    trainer = made(overrides, ranks)
    trace = Trace(trainer.model)
    trace.on_step(0, 0)
    trainer.loggers = [trace]
    trainer.run()
    return {"steps": torch.stack(trace.steps), "epochs": trace.epochs}


def stopped(folder: Path, ranks: DistributedContext, step: int) -> None:
    """Begin a run whose last rank alone is asked to stop, after ``step`` steps."""
    config = to_config(compose([*TRAINED["adam"], f"run.dir={folder}"]))
    original = runner._RunSession._on_step_end

    def asked(self: Any, trainer: Trainer) -> None:
        if trainer.state.total == step and ranks.rank == ranks.world - 1:
            self.signals.signal = 10
        original(self, trainer)

    runner._RunSession._on_step_end = asked
    try:
        runner.execute(config, {})
        raise AssertionError("was not stopped")
    except Interrupted:
        pass
    finally:
        runner._RunSession._on_step_end = original


def whole(folder: Path) -> None:
    """Do a run, or go on with it."""
    runner.execute(to_config(compose([*TRAINED["adam"], f"run.dir={folder}"])), {})


def main(out: Path, *asked: str) -> None:
    torch.set_num_threads(1)
    ranks = init_distributed(gpus=False)
    found = {n: trained((TRAINED | SLOW)[n], ranks) for n in asked or TRAINED}
    torch.save(found, out / f"{ranks.world}-{ranks.rank}.pt")
    if asked:
        return
    whole(out / f"whole{ranks.world}")
    if ranks.world == 2:
        stopped(out / "same", ranks, 17)
        whole(out / "same")  # on as many
        stopped(out / "fewer", ranks, 17)  # goes on alone, below
        stopped(out / "more", ranks, 17)  # goes on with three
    else:
        whole(out / ("fewer" if ranks.world == 1 else "more"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    counts, out, *trainings = sys.argv[1:]
    made(TRAINED["adam"], DistributedContext())  # imports what a run needs, once
    for number in counts.split(","):
        fork_ranks(int(number), partial(main, Path(out), *trainings))
