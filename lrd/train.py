"""The one training loop: Algorithm 1 of the paper around a task, on CPU or GPU.

Inside an epoch nothing waits for the device: losses and scores are summed there and read once.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from lrd.graph import Captured, ahead
from lrd.log import Numbers, Sink
from lrd.masks import key
from lrd.optim import LRDropout
from lrd.regularizers import Regularizer
from lrd.schedules import Schedule
from lrd.task import Batch, Step, Task


@dataclass
class Progress:
    """How far a run is: whole epochs, steps of the next one and of all, and the epoch's sums."""

    epoch: int = 0
    step: int = 0
    total: int = 0
    samples: int = 0
    seconds: float = 0.0
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)

    def add(self, step: Step, loss: Tensor, samples: int) -> None:
        """Count one step; float64 sums, kept on the device."""
        for sums, news in ((self.losses, {**step.losses, "loss": loss}), (self.stats, step.stats)):
            for name, value in news.items():
                if name not in sums:
                    sums[name] = torch.zeros((), dtype=torch.float64, device=value.device)
                sums[name] += value.detach()
        self.step += 1
        self.total += 1
        self.samples += samples

    def read(self) -> Numbers:
        """The epoch's numbers: losses per batch, their sum over batches, scores per sample."""
        losses = {name: float(total) for name, total in self.losses.items()}
        return {
            "train_loss_sum": losses["loss"],
            **{f"train_{name}": total / self.step for name, total in losses.items()},
            **{f"train_{name}": float(s) / self.samples for name, s in self.stats.items()},
        }

    def next_epoch(self) -> None:
        self.__init__(epoch=self.epoch + 1, total=self.total)


@dataclass
class Trainer:
    """Everything a run consists of; :meth:`run` is the loop.

    ``safe_point`` is called where :meth:`state` is whole: after each step and, since evaluation
    changes nothing that counts, before each of its batches; ``after_epoch`` once the epoch is
    logged. Either may raise to end the run.
    """

    task: Task
    model: nn.Module
    optimizer: LRDropout
    schedule: Schedule
    regularizers: Sequence[Regularizer]
    device: torch.device
    seed: int
    epochs: int
    max_steps: int | None = None
    bf16: bool = False
    batch_size: int | None = None
    compiled: bool = False
    cuda_graph: bool = False
    sinks: list[Sink] = field(default_factory=list)
    safe_point: Callable[["Trainer"], None] = lambda trainer: None
    after_epoch: Callable[["Trainer"], None] = lambda trainer: None
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        total = self.epochs * self.task.steps_per_epoch
        self.steps = min(total, self.max_steps or total)
        self.scheduler = LambdaLR(self.optimizer, lambda step: self.schedule(step, total))
        self.metrics = {n: m.to(self.device) for n, m in self.task.metrics().items()}
        self.gradients = self._gradients
        if self.cuda_graph and self.device.type == "cuda":
            params = [p for group in self.optimizer.param_groups for p in group["params"]]
            self.gradients = Captured(self._gradients, params)
            self.optimizer.captured = True

    def run(self) -> None:
        """Train from where ``progress`` stands to the end. Raises FloatingPointError on
        a non-finite loss."""
        at = self.progress
        while not self.finished:
            began = time.perf_counter() - at.seconds
            self.model.train()
            for batch in ahead(self.task.train_batches(at.epoch, start=at.step), self.device):
                if at.total == self.max_steps:
                    break
                seed_generators(self.device, self.seed, at.total)
                for regularizer in self.regularizers:
                    batch = regularizer.on_batch(batch, at.total)
                step, loss = self.gradients(batch)  # f_t(W_{t-1}) and G_t
                for regularizer in self.regularizers:
                    regularizer.on_gradients(self.optimizer, at.total)
                self.optimizer.step()  # M_t, V_t, D_t and W_t = W_{t-1} - alpha D_t dW_t
                self.scheduler.step()
                at.add(step, loss, len(batch))
                at.seconds = time.perf_counter() - began
                for sink in self.sinks:
                    sink.step(at.epoch, at.step)
                self.safe_point(self)
            self._end_epoch(began)

    def _gradients(self, batch: Batch) -> tuple[Step, Tensor]:
        """Forward and backward pass; a compiled model is compiled for whole batches alone."""
        self.optimizer.zero_grad()
        with self._compiling(self.batch_size in (None, len(batch))):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                step = self.task.step(self.model, batch)
            loss = reduce(add, step.losses.values())
            loss.backward()
        return step, loss

    def _compiling(self, wanted: bool) -> AbstractContextManager[Any]:
        """Whether a compiled model runs as such; a shape that is rare is worth no compilation."""
        if wanted or not self.compiled:
            return nullcontext()
        return torch.compiler.set_stance("force_eager")

    def _end_epoch(self, began: float) -> None:
        """Read the sums (the epoch's one wait for the device), evaluate and log."""
        at = self.progress
        numbers = {"epoch": at.epoch + 1, "step": at.total, **at.read()}
        trained = time.perf_counter() - began
        self._require_finite(numbers)
        numbers |= self.evaluate()
        self._require_finite(numbers)
        numbers |= {
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "fraction_kept": self.optimizer.fraction_kept(),
            "seconds": time.perf_counter() - began,
            "train_seconds": trained,
            "images_per_second": at.samples / trained,
        }
        at.next_epoch()
        for sink in self.sinks:
            sink.epoch(numbers)
        self.after_epoch(self)

    def _require_finite(self, numbers: Numbers) -> None:
        for name, value in numbers.items():
            if name.endswith("loss") and not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} in epoch {numbers['epoch']}: lower optim.lr; the "
                    f"{self.progress.epoch} epochs before it are kept"
                )

    @torch.inference_mode()
    def evaluate(self) -> Numbers:
        """The task's metrics over its evaluation data."""
        self.model.eval()
        for metric in self.metrics.values():
            metric.reset()
        for batch in self.task.eval_batches():
            self.safe_point(self)
            with (
                self._compiling(False),
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16),
            ):
                self.task.eval_step(self.model, batch, self.metrics)
        return {name: float(metric.compute()) for name, metric in self.metrics.items()}

    @property
    def finished(self) -> bool:
        """Whether the last epoch, or the one that ``max_steps`` ends, is evaluated and logged."""
        at = self.progress
        return at.epoch == self.epochs or (at.total == self.max_steps and at.step == 0)

    def state(self) -> dict[str, Any]:
        """All that a resume needs, as tensors and plain values; of a finished run the weights."""
        state = {"model": self.model.state_dict(), "progress": dict(vars(self.progress))}
        if not self.finished:
            state["optimizer"] = self.optimizer.state_dict()
            state["scheduler"] = self.scheduler.state_dict()
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.model.load_state_dict(state["model"])
        self.progress = Progress(**state["progress"])
        if not self.finished:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])


def seed_generators(device: torch.device, seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's global generators from (seed, step, rank), for what still draws from them."""
    word = key("torch", seed, step, rank)
    torch.default_generator.manual_seed(word)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(word)
