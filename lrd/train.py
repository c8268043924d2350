"""The one training loop: Algorithm 1 of the paper around a task, on CPU or GPU.

Inside an epoch nothing waits for the device: losses and scores are summed there and read once.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from lrd.evaluation import Evaluation, eagerly
from lrd.graph import Captured, ahead
from lrd.log import Numbers, Sink
from lrd.masks import key
from lrd.optim import LRDropout
from lrd.progress import Progress
from lrd.ranks import ALONE, Ranks
from lrd.regularizers import Regularizer
from lrd.schedules import KeepProbability, Schedule
from lrd.task import Batch, Step, Task


@dataclass
class Trainer:
    """Everything a run consists of; :meth:`run` is the loop.

    ``safe_point`` is called where :meth:`state` is whole: after each step and, since evaluation
    changes nothing that counts, before each of its batches; ``after_epoch`` once the epoch is
    logged. Either may raise to end the run. ``keep`` is p over the run, by default the optimizer's
    own throughout. Each of several ``ranks`` has a Trainer of the same run, and of its methods all
    are to be called by all of them.
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
    ranks: Ranks = ALONE
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
        self.evaluation = Evaluation(
            self.task, self.model, self.device, self.ranks, self.bf16, self.compiled
        )
        self.network = self.model
        self.gradients = self._gradients
        if self.cuda_graph and self.device.type == "cuda":
            params = [p for group in self.optimizer.param_groups for p in group["params"]]
            self.gradients = Captured(self._gradients, params)
            self.optimizer.captured = True

    def run(self) -> None:
        """Train from where ``progress`` stands to the end. Raises FloatingPointError on
        a non-finite loss."""
        at = self.progress
        self.network = self.ranks.wrap(self.model)
        while not self.finished:
            began = time.perf_counter() - at.seconds
            self.model.train()
            batches = self.task.train_batches(at.epoch, at.step, self.ranks.rank, self.ranks.world)
            for batch in at.waiting(ahead(batches, self.device)):
                if at.total == self.max_steps:
                    break
                seed_generators(self.device, self.seed, at.total, self.ranks.rank)
                for regularizer in self.regularizers:
                    batch = regularizer.on_batch(batch, at.total)
                step, loss = self.gradients(batch)  # f_t(W_{t-1}) and G_t
                for regularizer in self.regularizers:
                    regularizer.on_gradients(self.optimizer, at.total)
                self.optimizer.p = self.keep_probability(at.total)
                self.optimizer.step()  # M_t, V_t, D_t and W_t = W_{t-1} - alpha D_t dW_t
                self.scheduler.step()
                at.add(step, loss, self.ranks.counted(batch))
                at.seconds = time.perf_counter() - began
                for sink in self.sinks:
                    sink.step(at.epoch, at.step)
                self.safe_point(self)
            self._end_epoch(began)

    def _gradients(self, batch: Batch) -> tuple[Step, Tensor]:
        """Forward and backward pass; a compiled model is compiled for whole batches alone."""
        self.optimizer.zero_grad()
        rare = len(batch) < (self.batch_size or 0) // self.ranks.world
        with eagerly(self.compiled and rare):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                step = self.task.step(self.network, batch)
            step = self.ranks.weigh(step, batch)
            loss = reduce(add, step.losses.values())
            self.ranks.backward(loss)
        return step, loss

    def _end_epoch(self, began: float) -> None:
        """Read the sums (the epoch's one wait for the device), evaluate and log."""
        at = self.progress.over(self.ranks)
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
        wanted = self.pictures_every and (last or (at.epoch + 1) % self.pictures_every == 0)
        if wanted and self.ranks.first:
            self._draw(at.epoch + 1)
        self.progress.next_epoch()
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

    def evaluate(self, last: bool = False) -> Numbers:
        """The scores of now; after the ``last`` epoch the task's final ones too."""
        return self.evaluation.scores(last, lambda: self.safe_point(self))

    def _draw(self, epoch: int) -> None:
        pictures = self.evaluation.pictures()
        for sink in self.sinks if pictures else ():
            sink.pictures(epoch, pictures)

    @property
    def finished(self) -> bool:
        """Whether the last epoch, or the one that ``max_steps`` ends, is evaluated and logged."""
        at = self.progress
        return at.epoch == self.epochs or (at.total == self.max_steps and at.step == 0)

    def state(self) -> dict[str, Any]:
        """All that a resume needs, as tensors and plain values; of a finished run the weights."""
        progress = self.progress.over(self.ranks)
        state = {"model": self.model.state_dict(), "progress": dict(vars(progress))}
        if not self.finished:
            state["optimizer"] = self.optimizer.state_dict()
            state["scheduler"] = self.scheduler.state_dict()
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.model.load_state_dict(state["model"])
        self.progress = Progress(**state["progress"])
        if not self.ranks.first:
            self.progress.forget()  # the first rank goes on with the sums of all
        if not self.finished:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])


def seed_generators(device: torch.device, seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's global generators from (seed, step, rank), for what still draws from them."""
    word = key("torch", seed, step, rank)
    torch.default_generator.manual_seed(word)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(word)
