"""Parameters and their global indices, whole or sharded."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from lrd.optim.masks import unit_size


class IndexedParam(NamedTuple):
    """A parameter, its group and the global index of its first element."""

    start: int
    group: dict[str, Any]
    param: Tensor


def indexed_params(groups: Sequence[dict[str, Any]]) -> Iterator[IndexedParam]:
    """Yield all parameters in ``param_groups`` order, the order of the global index."""
    index = 0
    for group in groups:
        for param in group["params"]:
            yield IndexedParam(index, group, param)
            index += param.numel()


@dataclass(slots=True)
class Span:
    """A parameter that the next step may change, with the rule of its mask.

    ``start`` is the global index of its first element, ``p`` its keep probability and ``threshold``
    the number that 31 random bits must be below to keep an update.
    """

    start: int
    group: dict[str, Any]
    param: Tensor
    p: float
    threshold: int
    granularity: str


class Piece(NamedTuple):
    """Consecutive elements of dense tensors of one shape, for a kernel.

    The elements ``begin`` to ``begin + length`` of each tensor have the global indices from
    ``first`` on. ``unit`` elements from ``origin`` on share a mask bit. ``row`` is the row of the
    step's scalars. ``layout``, of :func:`layout_of`, is how the tensors lie in memory.
    """

    tensors: tuple[Tensor, ...]
    begin: int
    length: int
    first: int
    threshold: int
    unit: int
    origin: int
    row: int
    layout: int = 0


PLAIN = (Parameter, Tensor)  # types whose memory is their elements


def is_sharded(tensor: Tensor) -> bool:
    """Return whether ``tensor`` is a DTensor."""
    return type(tensor) not in PLAIN and hasattr(tensor, "placements")


def local_part(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a DTensor, without a copy; any other tensor as it is."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def layout_of(tensor: Tensor) -> int | None:
    """Return how the elements of a tensor lie in memory, as a number for the kernels.

    0: in row-major order, which is that of the global index. In channels-last order, as
    convolutions want their weights (n, c, h, w): c * 2**32 + h * w, from which the kernels compute
    the global index. None: in another order.
    """
    if tensor.is_contiguous():
        return 0
    order = CHANNELS_LAST.get(tensor.dim())
    if order is None or not tensor.is_contiguous(memory_format=order) or tensor.numel() >= 2**31:
        return None
    _, channels, *plane = tensor.shape
    return channels << 32 | math.prod(plane)


def in_memory_order(tensor: Tensor) -> Tensor:
    """Return the elements of a tensor with a layout in the order of its memory, a view (n,)."""
    return (tensor if tensor.is_contiguous() else tensor.movedim(1, -1)).view(-1)


def pieces_of(span: Span, tensors: tuple[Tensor, ...], row: int = 0) -> list[Piece]:
    """Return the pieces of ``tensors``, which hold this rank's elements of the span's parameter."""
    param, threshold = span.param, span.threshold
    unit = 1 if span.granularity == "element" else unit_size(param.shape, span.granularity)
    if not is_sharded(param):
        length = param.numel()
        # The elements of a row, and of a tensor, are together in either order.
        layout = layout_of(tensors[0]) or 0 if unit == 1 else 0
        return [Piece(tensors, 0, length, span.start, threshold, unit, span.start, row, layout)]
    return [
        Piece(tensors, begin, length, span.start + first, threshold, unit, span.start, row)
        for begin, length, first in _ranges(param)
    ]


def _ranges(param: Any) -> Iterator[tuple[int, int, int]]:
    """Yield (local position, length, position in the whole parameter) of a DTensor's elements.

    A shard of the first dimension, as FSDP2 makes it, is one range, even or not.

    Raises:
        ValueError: The placement is neither ``Replicate`` nor a plain ``Shard``.
    """
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if any(type(placement) not in (Replicate, Shard) for placement in param.placements):
        raise ValueError(
            "parameters must be replicated, or sharded along whole dimensions, got placements "
            f"{param.placements}: shard each dimension by one mesh dimension"
        )
    full = tuple(param.shape)
    shape, offset = compute_local_shape_and_global_offset(full, param.device_mesh, param.placements)
    cut = max((d for d in range(len(full)) if shape[d] != full[d]), default=0)
    run = math.prod(shape[cut:])
    strides = [math.prod(full[d + 1 :]) for d in range(len(full))]
    for number in range(math.prod(shape[:cut]) if run else 0):
        first, rest = 0, number
        for d in reversed(range(cut)):
            first += (offset[d] + rest % shape[d]) * strides[d]
            rest //= shape[d]
        first += sum(o * s for o, s in zip(offset[cut:], strides[cut:], strict=True))
        yield number * run, run, first
