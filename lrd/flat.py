"""Parameters and gradients as views of flat buffers, so that one kernel can run over them all."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrd.kernels import LANES, any_rows, rows

# What tensor cores and vector loads want a tensor's address to be a multiple of.
ALIGNMENT = 16
# The attribute in which a parameter notes how many elements share its buffer: what looks like
# padding to a few of them is the memory of the others.
_ELEMENTS = "_lrd_flat_elements"


class Member(NamedTuple):
    """A parameter, the group it is in and the global index of its first element."""

    start: int
    group: dict[str, Any]
    param: Tensor


def members(groups: Sequence[dict[str, Any]]) -> Iterator[Member]:
    """All parameters in ``param_groups`` order, by which the global index counts elements."""
    index = 0
    for group in groups:
        for param in group["params"]:
            yield Member(index, group, param)
            index += param.numel()


@torch.no_grad()
def lay_out(groups: Sequence[dict[str, Any]], gradients: bool = True) -> None:
    """Move the float32 parameters of each group into flat buffers, of which they become views.

    A buffer holds consecutive trainable parameters in their order, each in the row-major order of
    its shape, and is padded to whole rows of kernels.LANES. A new one begins where a parameter
    would lie at an address that is no multiple of 16 bytes. With ``gradients``, each parameter's
    gradient is copied into its place in a second buffer as soon as backward has made it, and
    ``param.grad`` is that view from then on; ``zero_grad`` in either form stays what it is.

    Costs 4 bytes a parameter of memory for the gradients' buffer, which stays.
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
    """``params`` divided so that each one's first byte is aligned."""
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
    """A hook that puts a gradient into its place in the buffer; a second backward adds to it."""

    def gather(param: Tensor) -> None:
        if param.grad is not view:
            view.copy_(param.grad)  # type: ignore[arg-type]
            param.grad = view

    return gather


def buffer_of(params: Sequence[Tensor]) -> Tensor | None:
    """The (rows, LANES) buffer of which ``params`` are all the members; None if they are not."""
    if getattr(params[0], _ELEMENTS, None) != sum(p.numel() for p in params):
        return None
    return as_rows([p.detach() for p in params])


def as_rows(tensors: Sequence[Tensor]) -> Tensor | None:
    """The (rows, LANES) buffer that ``tensors`` fill one after the other; None if they do not.

    It must be theirs alone, as :func:`lay_out` makes it: a kernel writes all of its rows.
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
    return any_rows(whole)


def gather_state(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """A new (rows, LANES) buffer with the values of ``tensors``, and the views that hold each."""
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
    return any_rows(whole), views
