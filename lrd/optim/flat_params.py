"""Parameters and gradients as views of flat buffers, so that one kernel can process them all."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrd.optim.kernels import LANES, mark_dynamic_rows, rows

# Bytes: tensor cores and vector loads need addresses that are multiples of this.
ALIGNMENT = 16
# The attribute in which a parameter records how many elements share its buffer. What looks like
# padding to some of them is the memory of others.
_ELEMENTS = "_lrd_flat_elements"


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


@torch.no_grad()
def flatten_parameters(groups: Sequence[dict[str, Any]], gradients: bool = True) -> None:
    """Move the float32 parameters of each group to flat buffers and make them views of these.

    A buffer holds consecutive trainable parameters, each in row-major order, padded to full rows of
    ``kernels.LANES``. A new buffer starts where a parameter's address would not be a multiple of 16
    bytes. With ``gradients``, each gradient is copied to its place in a second buffer as soon as
    backward has computed it, and ``param.grad`` is that view from then on; both forms of
    ``zero_grad`` work as before.

    Memory: 4 bytes per parameter for the buffer of gradients, which stays allocated.
    """
    for group in groups:
        for movable, run in groupby(group["params"], _movable):
            if movable:
                for part in _aligned(list(run)):
                    _lay(part, gradients)


def _movable(param: Tensor) -> tuple[torch.device, torch.dtype] | None:
    wanted = param.requires_grad and param.dtype == torch.float32 and param.numel() > 0
    return (param.device, param.dtype) if wanted else None


def _aligned(params: list[Tensor]) -> list[list[Tensor]]:
    """Split ``params`` so that every parameter's first byte is aligned."""
    parts: list[list[Tensor]] = [[]]
    size = 0
    for param in params:
        if size % ALIGNMENT:
            parts.append([])
            size = 0
        parts[-1].append(param)
        size += param.numel() * param.element_size()
    return parts


def _lay(params: list[Tensor], gradients: bool) -> None:
    elements = sum(p.numel() for p in params)
    count = rows(elements) * LANES
    values = torch.zeros(count, device=params[0].device)
    grads = torch.zeros(count, device=params[0].device) if gradients else None
    at = 0
    for param in params:
        place = slice(at, at + param.numel())
        view = values[place].view(param.shape)
        view.copy_(param)
        param.data = view
        setattr(param, _ELEMENTS, elements)
        if grads is not None:
            param.register_post_accumulate_grad_hook(_gather(grads[place].view(param.shape)))
        at = place.stop


def _gather(view: Tensor) -> Callable[[Tensor], None]:
    """Return a hook that copies a gradient to the buffer; a second backward adds to it there."""

    def gather(param: Tensor) -> None:
        if param.grad is not view:
            view.copy_(param.grad)  # type: ignore[arg-type]
            param.grad = view

    return gather


def buffer_of(params: Sequence[Tensor]) -> Tensor | None:
    """Return the (rows, LANES) buffer that ``params`` fill completely, or None."""
    if getattr(params[0], _ELEMENTS, None) != sum(p.numel() for p in params):
        return None
    return as_lanes([p.detach() for p in params])


def as_lanes(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return the (rows, LANES) buffer that ``tensors`` fill one after the other, or None.

    It must hold nothing else (:func:`flatten_parameters` makes it so): a kernel writes all rows.
    """
    first = tensors[0]
    storage, size = first.untyped_storage(), first.element_size()
    at = first.data_ptr()
    for tensor in tensors:
        if (
            tensor.data_ptr() != at
            or tensor.dtype != torch.float32
            or not tensor.is_contiguous()
            or tensor.untyped_storage().data_ptr() != storage.data_ptr()
        ):
            return None
        at += tensor.numel() * size
    count = rows((at - first.data_ptr()) // size)
    if first.storage_offset() or count * LANES * size != storage.nbytes():
        return None
    whole = torch.empty(0, device=first.device).set_(storage, 0, (count, LANES))  # type: ignore[call-overload]
    return mark_dynamic_rows(whole)


def flatten_state(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Copy ``tensors`` to a new (rows, LANES) buffer; return it and a view for each tensor."""
    count = sum(t.numel() for t in tensors)
    whole = torch.zeros(rows(count), LANES, device=tensors[0].device)
    views = [
        part.view(t.shape)
        for part, t in zip(
            whole.view(-1)[:count].split([t.numel() for t in tensors]), tensors, strict=True
        )
    ]
    for view, tensor in zip(views, tensors, strict=True):
        view.copy_(tensor)
    return mark_dynamic_rows(whole), views
