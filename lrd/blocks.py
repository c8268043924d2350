"""Pieces of parameters with room for their old values, as the generic path goes through them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrd import kernels
from lrd.kernels import LANES
from lrd.masks import keep_bits


@dataclass(slots=True)
class Block:
    """Consecutive elements (rows, LANES) in a parameter's own memory."""

    new: Tensor
    base: Tensor
    old: Tensor | None = None

    def snapshot(self) -> None:
        if self.old is None:
            self.old = kernels.any_rows(self.new.clone())
        else:
            self.old.copy_(self.new)

    def stretch(self, p: float) -> None:
        assert self.old is not None
        kernels.stretch([self.new], [self.old], p)

    def restore(self, kernel: Callable[..., None], lane: Tensor, word: Any) -> None:
        kernel(self.new, self.old, self.base, lane, word)
        if self.new.is_cuda:
            self.old = None  # a CPU would get its pages anew, which costs more than the copy


@dataclass(slots=True)
class Packed:
    """Small parameters, and what is left of large ones, side by side in rows of their own."""

    pieces: list[Tensor]
    base: Tensor
    new: Tensor
    old: Tensor
    new_views: list[Tensor]
    old_views: list[Tensor]

    @staticmethod
    def of(pieces: Sequence[tuple[int, Tensor]]) -> "Packed":
        """Of flat tensors, each with its first element's global index."""
        device = pieces[0][1].device
        counts = [-(-piece.numel() // LANES) for _, piece in pieces]
        base = torch.cat(
            [kernels.bases(i, c, device) for (i, _), c in zip(pieces, counts, strict=True)]
        )
        if len(base) < 2:
            base = base.repeat(2, 1)
        new, old = (torch.zeros(len(base), LANES, device=device) for _ in range(2))
        starts = [LANES * sum(counts[:k]) for k in range(len(counts))]

        def views(whole: Tensor) -> list[Tensor]:
            places = zip(starts, pieces, strict=True)
            return [whole.view(-1)[s : s + piece.numel()] for s, (_, piece) in places]

        base, new, old = (kernels.any_rows(t) for t in (base, new, old))
        return Packed([piece for _, piece in pieces], base, new, old, views(new), views(old))

    def snapshot(self) -> None:
        torch._foreach_copy_(self.old_views, self.pieces)

    def stretch(self, p: float) -> None:
        kernels.stretch(self.pieces, self.old_views, p)

    def restore(self, kernel: Callable[..., None], lane: Tensor, word: Any) -> None:
        torch._foreach_copy_(self.new_views, self.pieces)
        kernel(self.new, self.old, self.base, lane, word)
        torch._foreach_copy_(self.pieces, self.new_views)


@dataclass(slots=True)
class Whole:
    """A parameter of any dtype and any strides, with its mask in memory while it is restored.

    ``number`` is that of its p in the snapshot, ``index`` its first element's.
    """

    number: int
    index: int
    new: Tensor
    old: Tensor | None = None

    def snapshot(self) -> None:
        self.old = self.new.clone()

    def stretch(self, p: float) -> None:
        assert self.old is not None
        kernels.stretch([self.new], [self.old], p)

    def restore(self, seed: int, step: int, p: float) -> None:
        """Chunk by chunk where the elements lie in the order of their index."""
        new, old, index = self.new, self.old, self.index
        assert old is not None
        size, parts = kernels.CHUNK.get(new.device.type, 1 << 20), [(new, old)]
        if new.is_contiguous() and old.is_contiguous():
            parts = zip(new.view(-1).split(size), old.view(-1).split(size), strict=True)
        for to, back in parts:
            keep = keep_bits(seed, step, p, start=index, count=to.numel(), device=to.device)
            keep, index = keep.view(to.shape), index + to.numel()
            if to.is_complex():
                to, back, keep = torch.view_as_real(to), torch.view_as_real(back), keep[..., None]
            kernels.select(to, back, keep)
        self.old = None
