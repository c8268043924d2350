"""The slow twin of every path: the mask whole, and old values where it is 0, as the paper reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrd.masks import keep_mask


@dataclass(frozen=True, slots=True)
class Span:
    """A parameter to restore, and its mask.

    That is: its first element's global index, its keep probability, and what of it is kept or
    dropped together (``lrd.masks.GRANULARITIES``).
    """

    index: int
    p: float
    tensor: Tensor
    granularity: str = "element"


def keep_probabilities(spans: Sequence[Span]) -> list[float]:
    """The different p of ``spans``, in their order."""
    return list(dict.fromkeys(span.p for span in spans))


class NaiveSnapshot:
    """What :class:`lrd.restore.Snapshot` does, parameter by parameter with ``torch.where``."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = spans
        self.olds: list[Tensor] = []

    def take(self) -> None:
        self.olds = [span.tensor.clone() for span in self.spans]

    def restore(self, seed: int, step: int, compile: bool = False, rescale: bool = False) -> None:
        """Algorithm 1, line 11: W_t is W_{t-1} where D_t is 0. Nothing here is ever compiled.

        With ``rescale``, and beyond the paper, W_t is W_{t-1} + (the base's move) / p elsewhere.
        """
        for span, old in zip(self.spans, self.olds, strict=True):
            new = span.tensor
            moved = old + (new - old) * (1 / span.p) if rescale else new
            new.copy_(torch.where(_mask(span, seed, step), moved, old))


def _mask(span: Span, seed: int, step: int) -> Tensor:
    """D_t of a parameter, drawn for every element, of which a row's or a tensor's first one counts.

    bool; in the dimensions in which all elements go together its size is 1.
    """
    shape, device = span.tensor.shape, span.tensor.device
    keep = keep_mask(seed, step, span.p, start=span.index, count=shape.numel(), device=device)
    free = min({"element": len(shape), "row": 1, "tensor": 0}[span.granularity], len(shape))
    first = (slice(None),) * free + (slice(1),) * (len(shape) - free)
    return keep.view(shape)[first]
