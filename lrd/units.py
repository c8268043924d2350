"""The generic path where rows or whole tensors are kept or dropped: one bit of the mask a unit.

So the mask is small, all of a step's units are hashed at once, and there is nothing to compile.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lrd import kernels
from lrd.masks import keep_below, keep_words, key, mix, unit_size
from lrd.reference import Span, keep_probabilities


@dataclass(slots=True)
class _Part:
    """Parameters that have one p and lie on one device.

    ``number`` is that of their p; ``counts`` are the units of each, and ``lows`` the low words of
    those units' global indices (the first elements' ones), cut where the ``highs`` change.
    """

    number: int
    news: list[Tensor]
    counts: list[int]
    highs: list[int]
    lows: tuple[Tensor, ...]
    olds: list[Tensor] = field(default_factory=list)

    @staticmethod
    def of(number: int, spans: Sequence[Span]) -> "_Part":
        units = [unit_size(s.tensor.shape, s.granularity) for s in spans]
        counts = [s.tensor.numel() // u for s, u in zip(spans, units, strict=True)]
        index = torch.cat(
            [
                torch.arange(n, dtype=torch.int64) * u + s.index
                for s, u, n in zip(spans, units, counts, strict=True)
            ]
        )
        highs, lengths = torch.unique_consecutive(index >> 32, return_counts=True)
        low = index.to(torch.int32).to(spans[0].tensor.device)  # wraps, as the hash does
        cut = low.split(lengths.tolist())
        return _Part(number, [s.tensor for s in spans], counts, highs.tolist(), cut)

    def masks(self, seed: int, step: int, p: float) -> list[Tensor]:
        """D_t of each parameter, bool, to be broadcast over it."""
        keep = torch.cat(
            [
                keep_words(mix(low.clone(), key(seed, step, high)), keep_below(p))
                for high, low in zip(self.highs, self.lows, strict=True)
            ]
        )
        each = keep.bool().split(self.counts)
        return [
            bit.view((-1, *(1,) * (new.dim() - 1))[: new.dim()])
            for bit, new in zip(each, self.news, strict=True)
        ]


class UnitSnapshot:
    """What :class:`lrd.restore.Snapshot` does, for rows or tensors of any dtype and any strides."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.ps = keep_probabilities(spans)
        parts: dict[tuple[int, torch.device], list[Span]] = {}
        for span in spans:
            if span.tensor.numel():
                place = (self.ps.index(span.p), span.tensor.device)
                parts.setdefault(place, []).append(span)
        self.parts = [_Part.of(number, those) for (number, _), those in parts.items()]

    def take(self) -> None:
        """Copy the values that are there now."""
        for part in self.parts:
            part.olds = part.olds or [torch.empty_like(new) for new in part.news]
            torch._foreach_copy_(part.olds, part.news)

    def restore(self, seed: int, step: int, compile: bool = False, rescale: bool = False) -> None:
        """Undo step ``step`` where its mask is 0, and with ``rescale`` divide by p elsewhere."""
        for part in self.parts:
            p = self.ps[part.number]
            if rescale:
                kernels.stretch(part.news, part.olds, p)
            masks = part.masks(seed, step, p)
            for new, old, keep in zip(part.news, part.olds, masks, strict=True):
                torch.where(keep, new, old, out=new)
            if part.news[0].is_cuda:
                part.olds = []  # a CPU would get its pages anew, which costs more than the copy
