"""A step around any base optimizer: save the parameters, call the base, restore what D_t drops."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from lrd.optim import kernels
from lrd.optim.kernels import LANES
from lrd.optim.masks import is_kept, keep_bits, keep_threshold, unit_size
from lrd.optim.reference import ReferenceSnapshot, Span, keep_probabilities
from lrd.optim.validation import check_dense, checked_closure
from lrd.rng import fold_key, mix

# A smaller parameter shares one kernel call with others: on a CPU a call costs about as much as
# copying this many elements there and back.
MIN_ELEMENTS = 1 << 16


class SnapshotStep:
    """Take steps of ``base`` and undo them where D_t is 0; all forms give the same bits."""

    def __init__(self, base: Optimizer) -> None:
        self.base = base
        self.snapshot: ElementSnapshot | GroupedSnapshot | None = None
        self._layout: list[Any] = []
        self._work = 0

    def step(
        self,
        spans: Sequence[Span],
        closure: Callable[[], Any] | None,
        *,
        seed: int,
        t: int,
        implementation: str,
        rescale: bool,
    ) -> Any:
        """Take step ``t`` of the base; ``spans`` are the parameters that have a mask.

        Returns the closure's loss. Raises ValueError for a sparse gradient, before any update.
        """
        if closure is None:
            check_dense(self.base.param_groups)
        else:
            closure = checked_closure(closure, self.base.param_groups)
        is_reference = implementation == "reference"
        snapshot = ReferenceSnapshot(spans) if is_reference else self._snapshot_of(spans)
        snapshot.save()
        with _global_hooks_disabled():
            loss = self.base.step() if closure is None else self.base.step(closure)
        snapshot.restore(seed, t, self._compiles(spans, implementation), rescale)
        return loss

    def _snapshot_of(self, spans: Sequence[Span]) -> "ElementSnapshot | GroupedSnapshot":
        """Return the previous snapshot if the spans have the same layout, else a new one."""
        ps = keep_probabilities(spans)
        layout = [
            (s.index, ps.index(s.p), s.granularity, s.tensor.data_ptr(), s.tensor.stride())
            for s in spans
        ]
        if self.snapshot is None or self._layout != layout:
            by_element = all(span.granularity == "element" for span in spans)
            self._layout = layout
            self.snapshot = (ElementSnapshot if by_element else GroupedSnapshot)(spans)
        self.snapshot.ps = ps
        return self.snapshot

    def _compiles(self, spans: Sequence[Span], implementation: str) -> bool:
        """Return whether this step's restore is compiled; the bits are the same either way."""
        device = spans[0].tensor.device.type if spans else "cpu"
        if implementation == "auto":
            self._work += sum(s.tensor.numel() for s in spans)
            if self._work < kernels.COMPILE_THRESHOLD.get(device, math.inf):
                return False
        return kernels.can_compile(device)


@contextmanager
def _global_hooks_disabled() -> Iterator[None]:
    """Disable torch's global step hooks: they fire around LRDropout's step, once."""
    tables: tuple[dict[int, Any], ...] = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
    saved: list[dict[int, Any]] = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, hooks in zip(tables, saved, strict=True):
            table.update(hooks)


@dataclass(slots=True)
class ContiguousChunk:
    """Consecutive elements (rows, LANES) in a parameter's own memory."""

    new: Tensor
    base: Tensor
    old: Tensor | None = None

    def save(self) -> None:
        if self.old is None:
            self.old = kernels.mark_dynamic_rows(self.new.clone())
        else:
            self.old.copy_(self.new)

    def rescale(self, p: float) -> None:
        assert self.old is not None
        kernels.rescale_update([self.new], [self.old], p)

    def restore(self, kernel: Callable[..., None], lane: Tensor, word: Any) -> None:
        kernel(self.new, self.old, self.base, lane, word)
        if self.new.is_cuda:
            self.old = None  # on a CPU, mapping fresh pages costs more than the copy


@dataclass(slots=True)
class PackedChunk:
    """Small parameters, and the remainders of large ones, copied into rows of a shared buffer."""

    pieces: list[Tensor]
    base: Tensor
    new: Tensor
    old: Tensor
    new_views: list[Tensor]
    old_views: list[Tensor]

    @staticmethod
    def of(pieces: Sequence[tuple[int, Tensor]]) -> "PackedChunk":
        """Pack flat tensors, each given with the global index of its first element."""
        device = pieces[0][1].device
        counts = [-(-piece.numel() // LANES) for _, piece in pieces]
        base = torch.cat(
            [kernels.row_offsets(i, c, device) for (i, _), c in zip(pieces, counts, strict=True)]
        )
        if len(base) < 2:
            base = base.repeat(2, 1)
        new, old = (torch.zeros(len(base), LANES, device=device) for _ in range(2))
        starts = [LANES * sum(counts[:k]) for k in range(len(counts))]

        def views(buffer: Tensor) -> list[Tensor]:
            placed = zip(starts, pieces, strict=True)
            return [buffer.view(-1)[s : s + piece.numel()] for s, (_, piece) in placed]

        base, new, old = (kernels.mark_dynamic_rows(t) for t in (base, new, old))
        return PackedChunk([piece for _, piece in pieces], base, new, old, views(new), views(old))

    def save(self) -> None:
        torch._foreach_copy_(self.old_views, self.pieces)

    def rescale(self, p: float) -> None:
        kernels.rescale_update(self.pieces, self.old_views, p)

    def restore(self, kernel: Callable[..., None], lane: Tensor, word: Any) -> None:
        torch._foreach_copy_(self.new_views, self.pieces)
        kernel(self.new, self.old, self.base, lane, word)
        torch._foreach_copy_(self.pieces, self.new_views)


@dataclass(slots=True)
class TensorChunk:
    """A parameter of any dtype and strides, whose mask is materialized for the restore.

    ``number`` is the position of its p in the snapshot, ``index`` its first global index.
    """

    number: int
    index: int
    new: Tensor
    old: Tensor | None = None

    def save(self) -> None:
        self.old = self.new.clone()

    def rescale(self, p: float) -> None:
        assert self.old is not None
        kernels.rescale_update([self.new], [self.old], p)

    def restore(self, seed: int, step: int, p: float) -> None:
        """Restore in pieces if the parameter is contiguous, else at once."""
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


@dataclass(slots=True)
class _ChunkGroup:
    """Chunks on one device that share a key and a p (``number`` is its position)."""

    number: int
    high: int
    device: torch.device
    chunks: list[ContiguousChunk | PackedChunk] = field(default_factory=list)
    small: list[tuple[int, Tensor]] = field(default_factory=list)

    def add(self, index: int, flat: Tensor) -> None:
        """Add a flat float32 tensor: full rows in place, the remainder to the packed chunk."""
        full = flat.numel() // LANES if flat.numel() >= MIN_ELEMENTS else 0
        if full:
            rows = kernels.mark_dynamic_rows(flat[: full * LANES].view(full, LANES))
            base = kernels.mark_dynamic_rows(kernels.row_offsets(index, full, flat.device))
            self.chunks.append(ContiguousChunk(rows, base))
        if flat.numel() > full * LANES:
            self.small.append((index + full * LANES, flat[full * LANES :]))


class ElementSnapshot:
    """Save and restore ``spans`` of granularity ``element``.

    Contiguous float32 parameters pass through one kernel, which draws the mask as it goes if it is
    compiled; neighbors in memory and in index count as one. Other parameters get their complete
    mask. One object serves every step that has the same spans; set ``ps`` to the step's p values.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self.ps = keep_probabilities(spans)
        groups: dict[tuple[int, int, torch.device], _ChunkGroup] = {}
        self.others: list[TensorChunk] = []
        for span in _joined(spans):
            tensor, high, number = span.tensor, span.index >> 32, self.ps.index(span.p)
            crosses = (span.index + tensor.numel() - 1) >> 32 != high
            if tensor.dtype != torch.float32 or not tensor.is_contiguous() or crosses:
                self.others.append(TensorChunk(number, span.index, tensor))
                continue
            key = (number, high, tensor.device)
            groups.setdefault(key, _ChunkGroup(*key)).add(span.index, tensor.view(-1))
        self.groups = list(groups.values())
        for group in self.groups:
            if group.small:
                group.chunks.append(PackedChunk.of(group.small))

    def save(self) -> None:
        """Copy the current values."""
        for chunk in self.others:
            chunk.save()
        for group in self.groups:
            for chunk in group.chunks:
                chunk.save()

    def restore(self, seed: int, step: int, compile: bool = False, rescale: bool = False) -> None:
        """Undo step ``step`` where its mask is 0. With ``rescale``, divide the other updates by p.

        The compiled and the eager kernel give the same bits.
        """
        for group in self.groups:
            p = self.ps[group.number]
            word: Any = kernels.key_words(seed, step, group.high, p)
            kernel: Callable[..., None] = kernels.restore_eagerly
            if compile:
                kernel = kernels.compiled_restore()
                word = torch.tensor(word, dtype=torch.int32).to(group.device, non_blocking=True)
            for chunk in group.chunks:
                if rescale:
                    chunk.rescale(p)
                chunk.restore(kernel, kernels.lanes(group.device), word)
        for chunk in self.others:
            p = self.ps[chunk.number]
            if rescale:
                chunk.rescale(p)
            chunk.restore(seed, step, p)


def precompile_restore(device: torch.device) -> None:
    """Compile the restore kernel, for any number of rows."""
    rows = [kernels.mark_dynamic_rows(torch.zeros(2, LANES, device=device)) for _ in range(2)]
    base = kernels.mark_dynamic_rows(kernels.row_offsets(0, 2, device))
    word = torch.zeros(3, dtype=torch.int32, device=device)
    kernels.compiled_restore()(*rows, base, kernels.lanes(device), word)


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Join spans that are neighbors in memory and in index, as in a flat buffer."""
    joined: list[Span] = []
    for span in spans:
        if joined and _is_next(joined[-1], span):
            last = joined.pop()
            count = last.tensor.numel() + span.tensor.numel()
            joined.append(Span(last.index, last.p, last.tensor.as_strided((count,), (1,))))
        else:
            joined.append(span)
    return joined


def _is_next(a: Span, b: Span) -> bool:
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


@dataclass(slots=True)
class _UnitGroup:
    """Parameters on one device that share a p (``number`` is its position), with their units.

    ``counts``: units of each parameter. ``lows``: low words of the units' first global indices,
    split where the high word changes. ``highs``: those high words.
    """

    number: int
    news: list[Tensor]
    counts: list[int]
    highs: list[int]
    lows: tuple[Tensor, ...]
    olds: list[Tensor] = field(default_factory=list)

    @staticmethod
    def of(number: int, spans: Sequence[Span]) -> "_UnitGroup":
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
        split = low.split(lengths.tolist())
        return _UnitGroup(number, [s.tensor for s in spans], counts, highs.tolist(), split)

    def masks(self, seed: int, step: int, p: float) -> list[Tensor]:
        """Return D_t of each parameter as bool, to be broadcast over the parameter."""
        keep = torch.cat(
            [
                is_kept(mix(low.clone(), fold_key(seed, step, high)), keep_threshold(p))
                for high, low in zip(self.highs, self.lows, strict=True)
            ]
        )
        return [
            bit.view((-1, *(1,) * (new.dim() - 1))[: new.dim()])
            for bit, new in zip(keep.bool().split(self.counts), self.news, strict=True)
        ]


class GroupedSnapshot:
    """Save and restore ``spans`` of rows or tensors, of any dtype and strides.

    A unit has one bit, so the mask is small: one hash per device and p, nothing to compile.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self.ps = keep_probabilities(spans)
        groups: dict[tuple[int, torch.device], list[Span]] = {}
        for span in spans:
            if span.tensor.numel():
                key = (self.ps.index(span.p), span.tensor.device)
                groups.setdefault(key, []).append(span)
        self.groups = [_UnitGroup.of(number, spans) for (number, _), spans in groups.items()]

    def save(self) -> None:
        """Copy the current values."""
        for group in self.groups:
            group.olds = group.olds or [torch.empty_like(new) for new in group.news]
            torch._foreach_copy_(group.olds, group.news)

    def restore(self, seed: int, step: int, compile: bool = False, rescale: bool = False) -> None:
        """Undo step ``step`` where its mask is 0; ``rescale`` divides the other updates by p."""
        for group in self.groups:
            p = self.ps[group.number]
            if rescale:
                kernels.rescale_update(group.news, group.olds, p)
            masks = group.masks(seed, step, p)
            for new, old, keep in zip(group.news, group.olds, masks, strict=True):
                torch.where(keep, new, old, out=new)
            if group.news[0].is_cuda:
                group.olds = []  # on a CPU, mapping fresh pages costs more than the copy
