"""The generic path: what the base moved and D_t drops gets its old value back (any optimizer)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lrd import kernels
from lrd.kernels import LANES
from lrd.masks import keep_bits
from lrd.reference import Span

# A parameter of fewer elements shares one kernel call with others like it: on a CPU a call costs
# about as much as copying so many there and back.
SMALL = 1 << 16


@dataclass(slots=True)
class _Block:
    """Consecutive elements (rows, LANES) in a parameter's own memory."""

    new: Tensor
    base: Tensor
    old: Tensor | None = None

    def snapshot(self) -> None:
        if self.old is None:
            self.old = kernels.any_rows(self.new.clone())
        else:
            self.old.copy_(self.new)

    def restore(self, kernel: Callable[..., None], lane: Tensor, word: Any) -> None:
        kernel(self.new, self.old, self.base, lane, word)
        if self.new.is_cuda:
            self.old = None  # a CPU would get its pages anew, which costs more than the copy


@dataclass(slots=True)
class _Packed:
    """Small parameters, and what is left of large ones, side by side in rows of their own."""

    pieces: list[Tensor]
    base: Tensor
    new: Tensor
    old: Tensor
    new_views: list[Tensor]
    old_views: list[Tensor]

    @staticmethod
    def of(pieces: Sequence[tuple[int, Tensor]]) -> "_Packed":
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
        return _Packed([piece for _, piece in pieces], base, new, old, views(new), views(old))

    def snapshot(self) -> None:
        torch._foreach_copy_(self.old_views, self.pieces)

    def restore(self, kernel: Callable[..., None], lane: Tensor, word: Any) -> None:
        torch._foreach_copy_(self.new_views, self.pieces)
        kernel(self.new, self.old, self.base, lane, word)
        torch._foreach_copy_(self.pieces, self.new_views)


@dataclass(slots=True)
class _Group:
    """What one key and one p serve, on one device."""

    p: float
    high: int
    device: torch.device
    blocks: list[_Block | _Packed] = field(default_factory=list)
    small: list[tuple[int, Tensor]] = field(default_factory=list)


class Snapshot:
    """Old values of ``spans``, and the way back to them.

    float32 parameters that are contiguous go through one kernel, whose mask is not materialised
    where it is compiled; neighbours in memory and in index count as one. Others take their mask
    whole. One object serves every step in which the spans are the same.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        groups: dict[tuple[float, int, torch.device], _Group] = {}
        self.others: list[tuple[Span, Tensor | None]] = []
        for span in _joined(spans):
            tensor, high = span.tensor, span.index >> 32
            edge = (span.index + tensor.numel() - 1) >> 32 != high
            if tensor.dtype != torch.float32 or not tensor.is_contiguous() or edge:
                self.others.append((span, None))
                continue
            place = (span.p, high, tensor.device)
            _add(groups.setdefault(place, _Group(*place)), span.index, tensor.view(-1))
        self.groups = list(groups.values())
        for group in self.groups:
            if group.small:
                group.blocks.append(_Packed.of(group.small))

    def take(self) -> None:
        """Copy the values that are there now."""
        self.others = [(span, span.tensor.clone()) for span, _ in self.others]
        for group in self.groups:
            for block in group.blocks:
                block.snapshot()

    def restore(self, seed: int, step: int, compile: bool = False) -> None:
        """Undo step ``step`` where its mask is 0; with a compiled kernel or to the same bits."""
        for group in self.groups:
            word: Any = kernels.words(seed, step, group.high, group.p)
            kernel: Callable[..., None] = kernels.restore_eagerly
            if compile:
                kernel = kernels.compiled_restore()
                word = torch.tensor(word, dtype=torch.int32).to(group.device, non_blocking=True)
            for block in group.blocks:
                block.restore(kernel, kernels.lanes(group.device), word)
        for number, (span, old) in enumerate(self.others):
            assert old is not None
            _restore_whole(span, old, seed, step)
            self.others[number] = (span, None)


def warm(device: torch.device) -> None:
    """Compile the restore, for any number of rows."""
    rows = [kernels.any_rows(torch.zeros(2, LANES, device=device)) for _ in range(2)]
    base = kernels.any_rows(kernels.bases(0, 2, device))
    word = torch.zeros(3, dtype=torch.int32, device=device)
    kernels.compiled_restore()(*rows, base, kernels.lanes(device), word)


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Spans whose memory and indices follow one another, as in a flat buffer, made one."""
    joined: list[Span] = []
    for span in spans:
        if joined and _follows(joined[-1], span):
            last = joined.pop()
            count = last.tensor.numel() + span.tensor.numel()
            whole = last.tensor.as_strided((count,), (1,))
            joined.append(Span(last.index, last.p, whole))
        else:
            joined.append(span)
    return joined


def _follows(a: Span, b: Span) -> bool:
    one, two = a.tensor, b.tensor
    return (
        a.p == b.p
        and a.index + one.numel() == b.index
        and one.dtype == two.dtype
        and one.is_contiguous()
        and two.is_contiguous()
        and one.data_ptr() + one.numel() * one.element_size() == two.data_ptr()
        and one.untyped_storage().data_ptr() == two.untyped_storage().data_ptr()
    )


def _add(group: _Group, index: int, flat: Tensor) -> None:
    whole = flat.numel() // LANES if flat.numel() >= SMALL else 0
    if whole:
        rows = kernels.any_rows(flat[: whole * LANES].view(whole, LANES))
        base = kernels.any_rows(kernels.bases(index, whole, flat.device))
        group.blocks.append(_Block(rows, base))
    if flat.numel() > whole * LANES:
        group.small.append((index + whole * LANES, flat[whole * LANES :]))


def _restore_whole(span: Span, old: Tensor, seed: int, step: int) -> None:
    """Any dtype and any strides, with the mask in memory."""
    new, size = span.tensor, kernels.CHUNK.get(span.tensor.device.type, 1 << 20)
    parts, index = [(new, old)], span.index
    if new.is_contiguous() and old.is_contiguous():
        parts = zip(new.view(-1).split(size), old.view(-1).split(size), strict=True)
    for to, back in parts:
        keep = keep_bits(seed, step, span.p, start=index, count=to.numel(), device=to.device).view(
            to.shape
        )
        index += to.numel()
        if to.is_complex():
            to, back, keep = torch.view_as_real(to), torch.view_as_real(back), keep[..., None]
        kernels.select(to, back, keep)
