"""The regularizers that the paper compares LRD with (sections 4.5, 4.6), as hooks of the loop.

They combine freely. A run applies them in the order of their names, which is also their order in
the fingerprint; of these four only dg and ng depend on the order.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrd.optim.masks import keep_bits
from lrd.optim.options import is_keep_probability
from lrd.optim.params import indexed_params
from lrd.rng import CHUNK, fold_key, mix, randint, random_bits
from lrd.task import Batch, Task
from lrd.unit_dropout import UnitDropout


class Regularizer:
    """Base of all regularizers (paper, section 4.5). A subclass overrides the hooks it needs.

    It draws random numbers from :mod:`lrd.rng` under a word of its own and the run's ``seed``, so
    adding one changes neither the initialization nor the data order nor any other stream. It has no
    state that a checkpoint would need. At strength zero a run is bitwise the run without it.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_model(self, model: nn.Module, task: Task) -> None:
        """Change the network once, after initialization. Raises ValueError if this regularizer does
        not apply to the task or the model."""

    def on_batch(self, batch: Batch, step: int) -> Batch:
        """Return the batch that step ``step`` of the run (from 0) trains on."""
        return batch

    def on_gradients(self, optimizer: Optimizer, step: int) -> None:
        """Change the gradients in place before the optimizer's step ``step``."""


class StandardDropout(Regularizer):
    """SD: keep each hidden unit in training with probability ``p_sd`` and divide it by that, else
    0.

    The model's method ``units()`` returns where the units are: pairs of a module and "input" or
    "output". The masks come from :mod:`lrd.unit_dropout`: a sample's mask does not depend on the
    rest of its batch. The model's state gets no new entries.
    """

    def __init__(self, p_sd: float = 0.9, seed: int = 0) -> None:
        super().__init__(seed)
        rule = "in (0, 1] (the probability to KEEP a unit)"
        self.p = _checked("sd.p_sd", p_sd, is_keep_probability(p_sd), rule)
        self.dropout = UnitDropout(self.p, seed)

    def on_model(self, model: nn.Module, task: Task) -> None:
        units: Callable[[], Iterable[tuple[nn.Module, str]]] | None = getattr(model, "units", None)
        if units is None:
            raise ValueError(
                "regularizer=sd must have a model with a method units(), got "
                f"{type(model).__name__}: add the method, or choose another model"
            )
        for module, side in units():
            self.dropout.hook(module, side)

    def on_batch(self, batch: Batch, step: int) -> Batch:
        self.dropout.prepare(batch.index, step)
        return batch


class NoisyLabel(Regularizer):
    """NL: at every presentation, with probability ``rate``, replace a sample's label by one drawn
    uniformly from the others (Xie et al., 2016, draw from all labels).

    For tasks with one label per sample. The change depends on (seed, step, sample) alone. The
    logged training loss and accuracy are against the changed labels.
    """

    def __init__(self, rate: float = 0.05, seed: int = 0) -> None:
        super().__init__(seed)
        self.rate = _checked("nl.rate", rate, 0 <= _number(rate) <= 1, "in [0, 1]")

    def on_model(self, model: nn.Module, task: Task) -> None:
        self.labels = task.labels or 0
        if self.labels < 2:
            raise ValueError(
                "regularizer=nl must have a task with one of several labels a sample "
                f"(classification), got {type(task).__name__}: leave nl out"
            )

    def on_batch(self, batch: Batch, step: int) -> Batch:
        if self.rate == 0:
            return batch
        index = batch.index.to(torch.int32, copy=True)
        u = mix(index, fold_key("nl", self.seed, step)).bitwise_and_(0x7FFFFFFF)
        others = 1 + randint(batch.index, self.labels - 1, "nl label", self.seed, step)
        moved = (batch.targets + others) % self.labels
        changes = u.to(torch.int64) < round(self.rate * 2**31)
        return replace(batch, targets=torch.where(changes, moved, batch.targets))


class NoisyGradient(Regularizer):
    """NG: add Gaussian noise of variance ``eta / (1 + t)^gamma`` to every gradient element in step
    t, counted from 0 (Neelakantan et al., 2015; the paper's N(0, 0.1) read as eta = 0.1).

    The noise of an element depends on (seed, step, global index) alone; on another device it agrees
    up to floating-point error. It is within 5.42 standard deviations, as all but one in 17 million
    normal numbers are. A gradient that is None stays None. Allocates 12 bytes per element of a
    chunk.
    """

    def __init__(self, eta: float = 0.1, gamma: float = 0.55, seed: int = 0) -> None:
        super().__init__(seed)
        self.eta = _checked("ng.eta", eta, 0 <= _number(eta) < math.inf, "at least 0")
        self.gamma = _checked("ng.gamma", gamma, 0 <= _number(gamma) < math.inf, "at least 0")

    @torch.no_grad()
    def on_gradients(self, optimizer: Optimizer, step: int) -> None:
        if self.eta == 0:
            return
        deviation = math.sqrt(self.eta * (1 + step) ** -self.gamma)
        for start, count, grads in _gradient_chunks(optimizer):
            words = random_bits(
                "ng", self.seed, step, start=start, count=count, device=grads[0].device
            )
            _for_each(grads, normal(words), lambda g, noise: g.add_(noise, alpha=deviation))


class GradientDropout(Regularizer):
    """DG: keep each gradient element with probability ``p``, else set it to 0, before the optimizer
    sees it (section 4.6); not rescaled.

    Unlike with LRD, momentum and second moments see only what is kept; weight decay inside the
    optimizer acts on every weight. The mask is LRD's function under the seed ``mask_seed``, so with
    plain SGD without decay it is bitwise LRD with that seed. A gradient that is None stays None.
    Allocates 8 bytes per element of a chunk.
    """

    def __init__(self, p: float = 0.5, seed: int = 0) -> None:
        super().__init__(seed)
        rule = "in (0, 1] (the probability to KEEP a gradient)"
        self.p = _checked("dg.p", p, is_keep_probability(p), rule)
        self.mask_seed = fold_key("dg", seed)

    @torch.no_grad()
    def on_gradients(self, optimizer: Optimizer, step: int) -> None:
        for start, count, grads in _gradient_chunks(optimizer) if self.p < 1 else ():
            place = dict(start=start, count=count, device=grads[0].device)
            dropped = keep_bits(self.mask_seed, step, self.p, **place) == 0  # type: ignore[arg-type]
            _for_each(grads, dropped, lambda g, at: g.masked_fill_(at, 0))


def normal(words: Tensor) -> Tensor:
    """Return standard normal float32 of ``words``' shape: the inverse distribution function at the
    middle of one of 2**24 equal intervals, selected by the upper 24 of 32 random bits."""
    middle = (words >> 8).to(torch.float32).add_(0.5).mul_(2.0**-23)
    return middle.erfinv_().mul_(math.sqrt(2))


def _gradient_chunks(optimizer: Optimizer) -> Iterator[tuple[int, int, list[Tensor]]]:
    """Yield the gradients as (start, count, views): consecutive global indices on one device, at
    most kernels.CHUNK elements; a gradient that is not contiguous is one view."""
    start, count, views = 0, 0, []
    for at, size, view in _views(optimizer):
        fits = at == start + count and count + view.numel() <= size
        if not (views and fits and view.device == views[0].device):
            if views:
                yield start, count, views
            start, count, views = at, 0, []
        views.append(view)
        count += view.numel()
    if views:
        yield start, count, views


def _views(optimizer: Optimizer) -> Iterator[tuple[int, int, Tensor]]:
    """Yield each gradient's views with their first global index and the device's chunk size."""
    for start, _, param in indexed_params(optimizer.param_groups):
        grad = param.grad
        if grad is None or grad.layout != torch.strided:  # LRDropout rejects a sparse one
            continue
        size = CHUNK.get(grad.device.type, 1 << 20)
        for view in grad.view(-1).split(size) if grad.is_contiguous() else [grad]:
            yield start, size, view
            start += view.numel()


def _for_each(views: list[Tensor], values: Tensor, change: Callable[[Tensor, Tensor], Any]) -> None:
    """Call ``change`` with each view and its part of ``values``."""
    parts = values.split([view.numel() for view in views])
    for view, part in zip(views, parts, strict=True):
        change(view, part.view(view.shape))


def _number(value: Any) -> float:
    """Return ``value`` if it is a number, else nan, which satisfies no rule."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _checked(setting: str, value: float, holds: bool, rule: str) -> float:
    if not holds:
        raise ValueError(f"regularizer.{setting} must be {rule}, got {value}")
    return value
