"""Scores and pictures of a model on its task's evaluation data, by one rank or several."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrd.log import Numbers
from lrd.ranks import Ranks
from lrd.task import Task


@dataclass
class Evaluation:
    """``bf16`` and ``compiled`` are how the model is trained; see :class:`lrd.train.Trainer`."""

    task: Task
    model: nn.Module
    device: torch.device
    ranks: Ranks
    bf16: bool = False
    compiled: bool = False

    def __post_init__(self) -> None:
        self.metrics, self.final_metrics = (
            {name: metric.to(self.device) for name, metric in metrics.items()}
            for metrics in (self.task.metrics(), self.task.final_metrics())
        )

    @torch.inference_mode()
    def scores(self, last: bool, safe_point: Callable[[], None]) -> Numbers:
        """The task's scores, of several ranks the same for each; after the ``last`` epoch its final
        ones too. ``safe_point`` is called before every batch."""
        self.model.eval()
        self.ranks.align(self.model)
        numbers = self._scores(self.metrics, self.task.eval_step, safe_point)
        if last and self.final_metrics:
            numbers |= self._scores(self.final_metrics, self.task.final_step, safe_point)
        return numbers

    def _scores(
        self, metrics: dict[str, Any], step: Callable[..., None], safe_point: Callable[[], None]
    ) -> Numbers:
        for metric in metrics.values():
            metric.reset()
        batches = self.task.eval_batches(self.ranks.rank, self.ranks.world)
        for batch in self.ranks.in_step(batches):
            safe_point()
            if batch is not None:
                with self._computing():
                    step(self.model, batch, metrics)
        numbers: Numbers = {}
        for name, metric in metrics.items():
            value = metric.compute()
            several = value if isinstance(value, dict) else {name: value}
            numbers |= {n: float(v) for n, v in several.items()}
        return numbers

    @torch.inference_mode()
    def pictures(self) -> dict[str, Tensor]:
        self.model.eval()
        with self._computing():
            return self.task.pictures(self.model)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Images of evaluation come in sizes that are worth no compilation."""
        with (
            eagerly(self.compiled),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16),
        ):
            yield


def eagerly(wanted: bool) -> AbstractContextManager[Any]:
    """While entered, a compiled model runs as if it were not, for shapes that are rare."""
    return torch.compiler.set_stance("force_eager") if wanted else nullcontext()
