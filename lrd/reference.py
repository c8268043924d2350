"""The slow twin of every path: the mask whole, and old values where it is 0, as the paper reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrd.masks import keep_mask


@dataclass(frozen=True, slots=True)
class Span:
    """A parameter to restore: its first element's global index and its keep probability."""

    index: int
    p: float
    tensor: Tensor


class NaiveSnapshot:
    """What :class:`lrd.restore.Snapshot` does, parameter by parameter with ``torch.where``."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = spans
        self.olds: list[Tensor] = []

    def take(self) -> None:
        self.olds = [span.tensor.clone() for span in self.spans]

    def restore(self, seed: int, step: int, compile: bool = False) -> None:
        """Algorithm 1, line 11: W_t is W_{t-1} where D_t is 0. Nothing here is ever compiled."""
        for span, old in zip(self.spans, self.olds, strict=True):
            new = span.tensor
            keep = keep_mask(
                seed, step, span.p, start=span.index, count=new.numel(), device=new.device
            )
            new.copy_(torch.where(keep.view(new.shape), new, old))
