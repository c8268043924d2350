"""Scores and sample predictions of a model on its task's evaluation data."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrd.loggers.base import Metrics
from lrd.task import Task
from lrd.training.distributed import DistributedContext


@dataclass
class Evaluator:
    """Evaluate ``model``; ``bf16`` and ``compiled`` say how it is trained."""

    task: Task
    model: nn.Module
    device: torch.device
    ranks: DistributedContext
    bf16: bool = False
    compiled: bool = False

    def __post_init__(self) -> None:
        self.metrics, self.final_metrics = (
            {name: metric.to(self.device) for name, metric in metrics.items()}
            for metrics in (self.task.metrics(), self.task.final_metrics())
        )

    @torch.inference_mode()
    def scores(self, last: bool, on_batch: Callable[[], None]) -> Metrics:
        """Return the task's scores, the same on every rank; after the ``last`` epoch its final ones
        too. ``on_batch`` is called before every batch and may raise."""
        self.model.eval()
        self.ranks.broadcast_buffers(self.model)
        scores = self._scores(self.metrics, self.task.eval_step, on_batch)
        if last and self.final_metrics:
            scores |= self._scores(self.final_metrics, self.task.final_step, on_batch)
        return scores

    def _scores(
        self, metrics: dict[str, Any], step: Callable[..., None], on_batch: Callable[[], None]
    ) -> Metrics:
        for metric in metrics.values():
            metric.reset()
        batches = self.task.eval_batches(self.ranks.rank, self.ranks.world)
        for batch in self.ranks.lockstep(batches):
            on_batch()
            if batch is not None:
                with self._precision():
                    step(self.model, batch, metrics)
        scores: Metrics = {}
        for name, metric in metrics.items():
            value = metric.compute()
            values = value if isinstance(value, dict) else {name: value}
            scores |= {n: float(v) for n, v in values.items()}
        return scores

    @torch.inference_mode()
    def sample_predictions(self) -> dict[str, Tensor]:
        """Return what the task draws of the model's predictions, by name: uint8 (3, h, w)."""
        self.model.eval()
        with self._precision():
            return self.task.visualize(self.model)

    @contextmanager
    def _precision(self) -> Iterator[None]:
        """Compute eagerly: evaluation's image sizes vary too much to compile for."""
        with (
            force_eager(self.compiled),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16),
        ):
            yield


def force_eager(enabled: bool) -> AbstractContextManager[Any]:
    """Return a context in which a compiled model runs eagerly, for shapes that are rare."""
    return torch.compiler.set_stance("force_eager") if enabled else nullcontext()
