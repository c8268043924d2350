"""The kernels of a step as torch operations: for any device, and where nothing compiles."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from lrd.optim.masks import is_kept
from lrd.optim.params import Piece, in_memory_order
from lrd.optim.update_rules import UpdateRule
from lrd.rng import CHUNK, random_bits


class EagerKernels:
    def prepare(self, device: torch.device, rule: UpdateRule | None = None) -> None:
        pass

    def save(self, pieces: Sequence[Piece]) -> None:
        save_pieces(pieces)

    def restore(self, pieces: Sequence[Piece], seed: int, t: int) -> None:
        for piece in pieces:
            for (new, old), keep in _chunks(piece, seed, t):
                new.copy_(torch.where(keep, new, old))

    def update(
        self, rule: UpdateRule, pieces: Sequence[Piece], scalars: Tensor, seed: int, t: int
    ) -> None:
        for piece in pieces:
            s = SimpleNamespace(**dict(zip(rule.scalars, scalars[piece.row], strict=True)))
            for (weight, grad, *moments), keep in _chunks(piece, seed, t):
                m = dict(zip(rule.moments, moments, strict=True))
                moved, news = rule.update(weight, grad, SimpleNamespace(**m), s)
                weight.copy_(torch.where(keep, moved, weight))
                for name, new in news.items():
                    m[name].copy_(new)


def save_pieces(pieces: Sequence[Piece]) -> None:
    """Copy the new tensors to the old ones; several pieces may be of the same tensors."""
    pairs = {id(piece.tensors[1]): piece.tensors for piece in pieces}
    if pairs:
        news, olds = zip(*pairs.values(), strict=True)
        torch._foreach_copy_(list(olds), list(news))


def _chunks(piece: Piece, seed: int, t: int) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield the piece's tensors and mask, chunk by chunk."""
    device = piece.tensors[0].device
    size = CHUNK.get(device.type, 1 << 20)
    flat = [in_memory_order(x)[piece.begin : piece.begin + piece.length] for x in piece.tensors]
    if piece.layout:
        order = torch.arange(piece.length, device=device).view_as(piece.tensors[0])
        keep = piece_mask(piece, 0, piece.length, seed, t)
        yield flat, keep[order.movedim(1, -1).flatten()]
        return
    for at in range(0, piece.length, size):
        part = [x[at : at + size] for x in flat]
        yield part, piece_mask(piece, at, len(part[0]), seed, t)


def piece_mask(piece: Piece, at: int, count: int, seed: int, t: int) -> Tensor:
    """Return D_t of ``count`` elements of a piece from its element ``at`` on, as bool, in the order
    of the global index."""
    device, unit = piece.tensors[0].device, piece.unit
    first = piece.first + at
    inside = (first - piece.origin) % unit
    units = -(-(inside + count) // unit)
    bits = random_bits(seed, t, start=first - inside, count=units, device=device, every=unit)
    keep = is_kept(bits, piece.threshold).bool()
    if unit == 1:
        return keep
    return keep[(torch.arange(count, device=device, dtype=torch.int64) + inside) // unit]
