"""The one training loop: Algorithm 1 of the paper around a task, on CPU or GPU.

Inside an epoch nothing waits for the device: losses and scores are summed there and read once.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from lrd.progress import Progress
from lrd.regularizers import Regularizer
from lrd.schedules import KeepProbability, Schedule
from lrd.task import Batch, Step, Task


@dataclass
class Trainer:
    """Everything a run consists of; :meth:`run` is the loop.

    ``safe_point`` is called where :meth:`state` is whole: after each step and, since evaluation
    changes nothing that counts, before each of its batches; ``after_epoch`` once the epoch is
    logged. Either may raise to end the run. ``keep`` is p over the run, by default the optimizer's
    own throughout.
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
    keep: KeepProbability | None = None
    bf16: bool = False
    eval_every: int = 1
    pictures_every: int = 0
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
        keep = self.keep or KeepProbability(self.optimizer.p)
        self.keep_probability = lambda step: keep(step, total)
        self.scheduler = LambdaLR(self.optimizer, lambda step: self.schedule(step, total))
        self.metrics, self.final_metrics = (
            {name: metric.to(self.device) for name, metric in metrics.items()}
            for metrics in (self.task.metrics(), self.task.final_metrics())
        )
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
            batches = self.task.train_batches(at.epoch, start=at.step)
            for batch in at.waiting(ahead(batches, self.device)):
                if at.total == self.max_steps:
                    break
                seed_generators(self.device, self.seed, at.total)
                for regularizer in self.regularizers:
                    batch = regularizer.on_batch(batch, at.total)
                step, loss = self.gradients(batch)  # f_t(W_{t-1}) and G_t
                for regularizer in self.regularizers:
                    regularizer.on_gradients(self.optimizer, at.total)
                self.optimizer.p = self.keep_probability(at.total)
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
        last = at.epoch + 1 == self.epochs or at.total == self.max_steps
        if last or (at.epoch + 1) % self.eval_every == 0:
            numbers |= self.evaluate(last)
            self._require_finite(numbers)
        numbers |= {
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "fraction_kept": self.optimizer.fraction_kept(),
            "seconds": time.perf_counter() - began,
            "train_seconds": trained,
            "images_per_second": at.samples / trained,
            "data_wait": at.waited / trained,
        }
        if self.pictures_every and (last or (at.epoch + 1) % self.pictures_every == 0):
            self._draw(at.epoch + 1)
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
    def evaluate(self, last: bool = False) -> Numbers:
        """The task's scores over its evaluation data; after the ``last`` epoch its final ones
        too."""
        self.model.eval()
        numbers = self._scores(self.metrics, self.task.eval_step)
        if last and self.final_metrics:
            numbers |= self._scores(self.final_metrics, self.task.final_step)
        return numbers

    def _scores(self, metrics: dict[str, Any], step: Callable[..., None]) -> Numbers:
        for metric in metrics.values():
            metric.reset()
        for batch in self.task.eval_batches():
            self.safe_point(self)
            with self._evaluating():
                step(self.model, batch, metrics)
        numbers: Numbers = {}
        for name, metric in metrics.items():
            value = metric.compute()
            several = value if isinstance(value, dict) else {name: value}
            numbers |= {n: float(v) for n, v in several.items()}
        return numbers

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Images of evaluation come in sizes that are worth no compilation."""
        with (
            self._compiling(False),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16),
        ):
            yield

    @torch.inference_mode()
    def _draw(self, epoch: int) -> None:
        self.model.eval()
        with self._evaluating():
            pictures = self.task.pictures(self.model)
        for sink in self.sinks if pictures else ():
            sink.pictures(epoch, pictures)

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
