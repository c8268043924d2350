"""What is trained in a measurement of loops, and the loops themselves, each for a child process."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from hydra.utils import get_class
from torch import nn

from benchmarks import optimizers as opt
from benchmarks import stand_in
from benchmarks.baselines import OrdinaryLoop
from benchmarks.children import Turn
from benchmarks.options import Options
from benchmarks.timing import Clock
from lrd.config import compose
from lrd.config.schema import Config
from lrd.loggers.base import Logger, Metrics
from lrd.training import builder
from lrd.training.trainer import Trainer

Turned = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """A network on a data set, as the configuration names them. ``images`` are (training, test)
    random ones instead of the real data; ``steps`` end an epoch early."""

    title: str
    data: str
    model: str
    device: str
    threads: int
    root: str
    batch: int = 128
    hidden: tuple[int, ...] | None = None
    images: tuple[int, int] | None = None
    steps: int | None = None
    extra: tuple[str, ...] = field(default=())

    @staticmethod
    def of(options: Options, data: str, model: str, steps: int | None = None) -> "Workload":
        """Toy sizes if the options are quick, random images where the data set is not at hand."""
        made = Workload(
            f"{model} on {data}",
            data,
            model,
            options.device.type,
            options.threads,
            options.root,
            steps=steps,
        )
        if options.quick:
            hidden = (32,) if model == "fcnet" else None
            extra = ("train.compile=false", "eval.batch_size=64")
            return replace(made, batch=32, hidden=hidden, images=(256, 64), steps=4, extra=extra)
        if not stand_in.at_hand(data, options.root):
            return replace(made, images=stand_in.COUNTS[data])
        return made

    def overrides(self) -> list[str]:
        """The command line of run.py for it."""
        task = "cifar10" if self.data.startswith("cifar") else self.data
        lines = [
            *(
                f"task={task}",
                f"dataset={self.data}",
                f"model={self.model}",
                f"data.root={self.root}",
            ),
            *(f"train.device={self.device}", f"train.threads={self.threads}"),
            f"train.batch_size={self.batch}",
        ]
        if self.hidden is not None:
            lines.append(f"model.hidden=[{','.join(map(str, self.hidden))}]")
        if self.images is not None:
            train, test = self.images
            lines += [
                *("dataset._target_=benchmarks.stand_in.RandomImages", "run.allow=[benchmarks]"),
                *(f"+dataset.like={self.data}", f"+dataset.train={train}", f"+dataset.test={test}"),
            ]
        return [*lines, *self.extra]

    def describe(self) -> str:
        images = "random images" if self.images else "real images"
        return f"{self.title}, batch {self.batch}, {images}"


class Latest(Logger):
    """Keeps the latest epoch's numbers."""

    numbers: Metrics

    def epoch(self, numbers: Metrics) -> None:
        self.numbers = numbers


def built(settings: Config) -> tuple[Trainer, dict[str, str]]:
    """What run.py trains with, and how it computes."""
    parts, computed = builder.build(settings)
    trainer, implementation = builder.build_trainer(settings, parts)
    return trainer, {**computed, "implementation": implementation}


def ours(workload: Workload, overrides: Sequence[str]) -> Turn:
    """The very loop of run.py; a turn trains one epoch and evaluates.

    ``images`` per ``seconds`` is training alone, ``whole`` the seconds with evaluation, ``how``
    what the run would have in its record.
    """
    settings = compose.to_config(compose.compose([*workload.overrides(), *overrides]))
    (trainer, how), latest = built(settings), Latest()
    trainer.sinks = [latest]

    def turn(steps: int | None) -> Turned:
        at = trainer.progress
        trainer.epochs = at.epoch + 1
        trainer.max_steps = None if steps is None else at.total + steps
        trainer.run()
        numbers = latest.numbers
        seconds = float(numbers["train_seconds"])
        images = float(numbers["images_per_second"]) * seconds
        return {
            "images": images,
            "seconds": seconds,
            "whole": float(numbers["seconds"]),
            "how": how,
        }

    return turn


def network(workload: Workload) -> nn.Module:
    """Its network by itself: lrd.build would set switches of torch too, which only ours has."""
    node = dict(compose.to_config(compose.compose(workload.overrides())).model)
    kind = stand_in.KINDS[workload.data]
    return get_class(node.pop("_target_"))(shape=kind.shape, classes=kind.classes, **node)


def ordinary(workload: Workload, form: str, workers: int) -> Turn:
    """The loop as people write it, on the same network, data and Adam; ``form`` is torch's default
    or the authors' style of LRD. A turn trains one epoch, the start of its workers included."""
    torch.set_num_threads(workload.threads)
    device = torch.device(workload.device)
    torch.manual_seed(0)
    model = network(workload).to(device)
    default = opt.FOREACH if device.type == "cuda" else opt.FOR_LOOP
    optimizer: Any = opt.make(
        "adam", default if form != opt.AUTHORS else form, [*model.parameters()]
    )
    count = None if workload.images is None else workload.images[0]
    data = stand_in.ordinary(workload.data, workload.root, count)
    # In kuangliu's loop as in most; here it changes nothing on a CPU.
    torch.backends.cudnn.benchmark = True
    loop = OrdinaryLoop(model, optimizer, data, device, workload.batch, workers)

    def turn(steps: int | None) -> Turned:
        clock = Clock()  # the loop itself waits for the device at every step
        clock.start()
        done = loop.epoch(steps)
        seconds = clock.stop()
        return {"images": done["images"], "seconds": seconds, "whole": seconds}

    return turn
