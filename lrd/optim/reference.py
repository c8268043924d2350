"""The specification: the complete mask and ``torch.where``, parameter by parameter.

Every other implementation is tested against this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrd.optim.masks import keep_mask


@dataclass(frozen=True, slots=True)
class Span:
    """A parameter to restore: the global index of its first element, its p and its granularity."""

    index: int
    p: float
    tensor: Tensor
    granularity: str = "element"


def keep_probabilities(spans: Sequence[Span]) -> list[float]:
    """Return the distinct keep probabilities of ``spans``, in their order."""
    return list(dict.fromkeys(span.p for span in spans))


class ReferenceSnapshot:
    """Save the parameters, and restore what the mask drops (Algorithm 1, lines 10 and 11)."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = spans
        self.olds: list[Tensor] = []

    def save(self) -> None:
        """Copy the current values."""
        self.olds = [span.tensor.clone() for span in self.spans]

    def restore(self, seed: int, step: int, compile: bool = False, rescale: bool = False) -> None:
        """Set W_t to W_{t-1} where D_t is 0. ``compile`` has no effect here.

        With ``rescale``, which the paper does not have, W_t is W_{t-1} + (the base's update) / p
        where D_t is 1.
        """
        for span, old in zip(self.spans, self.olds, strict=True):
            new = span.tensor
            updated = old + (new - old) * (1 / span.p) if rescale else new
            new.copy_(torch.where(_mask(span, seed, step), updated, old))


def _mask(span: Span, seed: int, step: int) -> Tensor:
    """Return D_t of a parameter as bool, of size 1 in the dimensions that share a bit."""
    shape, device = span.tensor.shape, span.tensor.device
    keep = keep_mask(seed, step, span.p, start=span.index, count=shape.numel(), device=device)
    free = min({"element": len(shape), "row": 1, "tensor": 0}[span.granularity], len(shape))
    first = (slice(None),) * free + (slice(1),) * (len(shape) - free)
    return keep.view(shape)[first]
