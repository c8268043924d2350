"""What the training benchmarks train, and the training loops, each for a child process."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from hydra.utils import get_class
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lrd.config.compose import compose, to_config
from lrd.config.schema import Config
from lrd.loggers.base import Logger, Metrics
from lrd.training import builder
from scripts.benchmarks import optimizers as opt
from scripts.benchmarks.datasets import IMAGE_SETS, is_on_disk, torchvision_dataset
from scripts.benchmarks.measure import ChildProcess, Clock, Options

WARMUP_STEPS = 4  # of a first turn, which loads the data and compiles


@dataclass(frozen=True)
class Workload:
    """A model on a data set, by the names of the configuration.

    Args:
        title: what the tables call it.
        data: ``dataset=``.
        model: ``model=``.
        device: ``train.device=``.
        threads: ``train.threads=``.
        root: ``data.root=``.
        batch: ``train.batch_size=``.
        hidden: ``model.hidden=``.
        images: numbers of (training, test) random images that replace the real data.
        steps: number of steps after which an epoch ends early.
        extra: further settings.
    """

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
    extra: tuple[str, ...] = ()

    @staticmethod
    def of(options: Options, data: str, model: str, steps: int | None = None) -> "Workload":
        """Return a workload of toy size if ``options.quick``, else of the paper's batch size.

        Random images replace a data set that is not on disk.
        """
        title, device = f"{model} on {data}", options.device.type
        made = Workload(title, data, model, device, options.threads, options.root, steps=steps)
        if options.quick:
            hidden = (32,) if model == "fcnet" else None
            extra = ("train.compile=false", "eval.batch_size=64")
            return replace(made, batch=32, hidden=hidden, images=(256, 64), steps=4, extra=extra)
        if not is_on_disk(data, options.root):
            return replace(made, images=IMAGE_SETS[data].counts)
        return made

    def overrides(self) -> list[str]:
        """Return the arguments of run.py."""
        lines = [
            f"task={'cifar10' if self.data.startswith('cifar') else self.data}",
            f"dataset={self.data}",
            f"model={self.model}",
            f"data.root={self.root}",
            f"train.device={self.device}",
            f"train.threads={self.threads}",
            f"train.batch_size={self.batch}",
        ]
        if self.hidden is not None:
            lines.append(f"model.hidden=[{','.join(map(str, self.hidden))}]")
        if self.images is not None:
            lines += [
                "dataset._target_=scripts.benchmarks.datasets.RandomImages",
                "run.allow=[scripts]",
            ]
            lines += [f"+dataset.like={self.data}", f"+dataset.train={self.images[0]}"]
            lines.append(f"+dataset.test={self.images[1]}")
        return [*lines, *self.extra]

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """Return the checked configuration, with further ``overrides``."""
        return to_config(compose([*self.overrides(), *overrides]))

    def describe(self) -> str:
        """Return the title with batch size and kind of images."""
        return f"{self.title}, batch {self.batch}, {self.describe_images()}"

    def describe_images(self) -> str:
        return "random images" if self.images else "real images"


@dataclass(frozen=True)
class TurnResult:
    """What one turn of a loop did.

    Args:
        images: number of images, in ``seconds``.
        seconds: duration of training, or of loading.
        total_seconds: duration with evaluation.
        record: how a run computes, as in its run.json.
        cpu_seconds: CPU time of this process in ``seconds``, where a turn measures it.
    """

    images: float
    seconds: float
    total_seconds: float
    record: dict[str, str] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


LoopTurn = Callable[[int | None], TurnResult]


class _LatestEpoch(Logger):
    """Keep the metrics of the latest epoch."""

    metrics: Metrics

    def on_epoch(self, metrics: Metrics) -> None:
        self.metrics = metrics


def lrd_loop(workload: Workload, overrides: Sequence[str], evaluates: bool = True) -> LoopTurn:
    """Return a function that trains and evaluates for an epoch, or ``steps``, as run.py does."""
    config, latest = workload.config(overrides), _LatestEpoch()
    parts = builder.build(config)
    trainer, implementation = builder.build_trainer(config, parts)
    trainer.loggers = [latest]
    if not evaluates:
        trainer.evaluate = lambda last=False: {}
    record = {"precision": parts.precision, "implementation": implementation}

    def turn(steps: int | None) -> TurnResult:
        progress = trainer.state
        trainer.epochs = progress.epoch + 1
        trainer.max_steps = None if steps is None else progress.total + steps
        trainer.run()
        seconds = float(latest.metrics["train_seconds"])
        images = float(latest.metrics["images_per_second"]) * seconds
        return TurnResult(images, seconds, float(latest.metrics["seconds"]), record)

    return turn


def make_model(workload: Workload) -> nn.Module:
    """Return the workload's model alone: lrd.build would also set switches of torch."""
    node = dict(workload.config().model)
    kind = IMAGE_SETS[workload.data].ours
    return get_class(node.pop("_target_"))(shape=kind.shape, classes=kind.classes, **node)


def plain_loop(workload: Workload, naive: bool, workers: int, exact: bool = False) -> LoopTurn:
    """Return a function that trains for an epoch, or ``steps``, in a plain PyTorch loop.

    It trains the same model on the same data by Adam, in torch's default variant or with naive
    LRD. An epoch includes the start of the ``workers``.

    On a GPU its convolutions take TF32, by torch's default, and the fastest algorithms, as in most
    PyTorch loops; with ``exact`` it has the switches of train=paper, which computes in float32.
    """
    torch.set_num_threads(workload.threads)
    device = torch.device(workload.device)
    torch.manual_seed(0)
    model = make_model(workload).to(device)
    default = opt.TORCH_FOREACH if device.type == "cuda" else opt.TORCH_LOOP
    optimizer = opt.make_optimizer("adam", opt.NAIVE if naive else default, [*model.parameters()])
    count = None if workload.images is None else workload.images[0]
    data = torchvision_dataset(workload.data, workload.root, count)
    loader = DataLoader(data, workload.batch, shuffle=True, num_workers=workers)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = not exact, not exact

    def turn(steps: int | None) -> TurnResult:
        clock = Clock()  # the loop itself synchronizes at every step
        clock.start()
        images = train_plain_epoch(model, optimizer, loader, device, steps)["images"]
        seconds = clock.stop()
        return TurnResult(images, seconds, seconds)

    return turn


def train_plain_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    loader: DataLoader[Any],
    device: torch.device,
    steps: int | None = None,
) -> dict[str, float]:
    """Train for an epoch, or its first ``steps`` steps, as a typical PyTorch loop does.

    It computes in float32 and reads loss and accuracy after every step. Returns the mean loss, the
    accuracy in % and the number of images.
    """
    model.train()
    loss_sum, correct, images, done = 0.0, 0, 0, 0
    for inputs, targets in loader:
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = F.cross_entropy(outputs, targets)
        loss.backward()
        optimizer.step()

        loss_sum += loss.item()
        correct += outputs.argmax(1).eq(targets).sum().item()
        images += len(targets)
        done += 1
        if done == steps:
            break
    return {"loss": loss_sum / done, "accuracy": 100 * correct / images, "images": images}


def alternate(
    loops: Mapping[str, tuple[Any, ...]], rounds: int, steps: int | None
) -> tuple[dict[str, list[TurnResult]], dict[str, float]]:
    """Run each loop in a child process, A B A B ..., after a short turn of each.

    Args:
        loops: a function that returns a :data:`LoopTurn`, and its arguments, by label.
        rounds: turns of every loop.
        steps: length of a turn; None is an epoch.

    Returns:
        Results of the turns and peak memory in MB, by label.
    """
    with ExitStack() as stack:
        children = {k: stack.enter_context(ChildProcess(*loop)) for k, loop in loops.items()}
        for child in children.values():
            child.turn(WARMUP_STEPS)
        turns: dict[str, list[TurnResult]] = {label: [] for label in children}
        for _ in range(rounds):
            for label, child in children.items():
                turns[label].append(child.turn(steps))
        return turns, {label: child.peak_memory() for label, child in children.items()}


def image_rates(turns: Mapping[str, Sequence[TurnResult]]) -> dict[str, list[float]]:
    """Return images per second, by label and turn."""
    return {label: [turn.images_per_second for turn in own] for label, own in turns.items()}
