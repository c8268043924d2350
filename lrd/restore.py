"""The generic path: what the base moved and D_t drops gets its old value back (any optimizer)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lrd import kernels
from lrd.blocks import Block, Packed, Whole
from lrd.kernels import LANES
from lrd.reference import Span, keep_probabilities

# A parameter of fewer elements shares one kernel call with others like it: on a CPU a call costs
# about as much as copying so many there and back.
SMALL = 1 << 16


@dataclass(slots=True)
class _Group:
    """What one key and one p (``number`` of the snapshot's) serve, on one device."""

    number: int
    high: int
    device: torch.device
    blocks: list[Block | Packed] = field(default_factory=list)
    small: list[tuple[int, Tensor]] = field(default_factory=list)


class Snapshot:
    """Old values of ``spans`` of single elements, and the way back to them.

    float32 parameters that are contiguous go through one kernel, whose mask is not materialised
    where it is compiled; neighbours in memory and in index count as one. Others take their mask
    whole. One object serves every step in which the spans are the same, or differ in their p alone:
    then ``ps`` is to be set to those of the step, in their order.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self.ps = keep_probabilities(spans)
        groups: dict[tuple[int, int, torch.device], _Group] = {}
        self.others: list[Whole] = []
        for span in _joined(spans):
            tensor, high, number = span.tensor, span.index >> 32, self.ps.index(span.p)
            edge = (span.index + tensor.numel() - 1) >> 32 != high
            if tensor.dtype != torch.float32 or not tensor.is_contiguous() or edge:
                self.others.append(Whole(number, span.index, tensor))
                continue
            place = (number, high, tensor.device)
            _add(groups.setdefault(place, _Group(*place)), span.index, tensor.view(-1))
        self.groups = list(groups.values())
        for group in self.groups:
            if group.small:
                group.blocks.append(Packed.of(group.small))

    def take(self) -> None:
        """Copy the values that are there now."""
        for whole in self.others:
            whole.snapshot()
        for group in self.groups:
            for block in group.blocks:
                block.snapshot()

    def restore(self, seed: int, step: int, compile: bool = False, rescale: bool = False) -> None:
        """Undo step ``step`` where its mask is 0; with a compiled kernel or to the same bits.

        With ``rescale``, the move is divided by p where the mask is 1.
        """
        for group in self.groups:
            p = self.ps[group.number]
            word: Any = kernels.words(seed, step, group.high, p)
            kernel: Callable[..., None] = kernels.restore_eagerly
            if compile:
                kernel = kernels.compiled_restore()
                word = torch.tensor(word, dtype=torch.int32).to(group.device, non_blocking=True)
            for block in group.blocks:
                if rescale:
                    block.stretch(p)
                block.restore(kernel, kernels.lanes(group.device), word)
        for whole in self.others:
            p = self.ps[whole.number]
            if rescale:
                whole.stretch(p)
            whole.restore(seed, step, p)


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
        group.blocks.append(Block(rows, base))
    if flat.numel() > whole * LANES:
        group.small.append((index + whole * LANES, flat[whole * LANES :]))
