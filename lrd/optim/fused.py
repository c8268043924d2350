"""Update and mask in one multi-tensor kernel, for optimizers with a known update rule.

The kernel reads gradient, weight and moments once and writes weight and moments once, as a fused
optimizer does; the mask costs arithmetic and no memory. The base's state is used where it lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrd.optim.kernels import kernels_for
from lrd.optim.kernels.tables import piece_addresses
from lrd.optim.params import PLAIN, Piece, Span, layout_of, local_part, pieces_of
from lrd.optim.update_rules import UpdateRule, update_rule_for

NO_STATE = "the base has no state yet, which its own step makes"
UNSUITABLE = (
    "parameters, gradients and moments must be float32 tensors on one device, contiguous or in "
    "channels-last order"
)


@dataclass(slots=True)
class _Group:
    """What a kernel processes at once: the parameters of one group on one device."""

    group: dict[str, Any]
    rule: UpdateRule
    p: float
    device: torch.device
    pieces: list[Piece] = field(default_factory=list)
    written: list[Tensor] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)  # the different counts of steps on the host
    on_host: bool = True


def wrong_granularity(granularity: str) -> str:
    """Return why masks of rows or tensors cannot be fused."""
    return f"granularity must be element (the kernel draws a bit for each), got {granularity}"


def why_not_fused(base: Optimizer, granularity: str) -> str | None:
    """Return why no step of ``base`` can be fused, in one line, or None."""
    if granularity != "element":
        return wrong_granularity(granularity)
    for group in base.param_groups:
        if update_rule_for(base, group) is None:
            return (
                "the base must be one of SGD, RMSprop, Adam, AdamW, RAdam with plain numbers as "
                f"settings, got {type(base).__name__}"
            )
    return None


def is_patched(base: Optimizer) -> bool:
    """Return whether ``base.step`` was replaced on this object.

    The wrapper of a learning rate scheduler does not count: it only notes the call.
    """
    step = vars(base).get("step")
    by_scheduler = getattr(step, "_wrapped_by_lr_sched", False)
    own = by_scheduler and getattr(step, "__wrapped__", None) is type(base).step
    return step is not None and not own


def fused_step(
    base: Optimizer, spans: Sequence[Span], seed: int, t: int, rescale: bool
) -> str | None:
    """Take step ``t`` for ``spans``, all parameters with a gradient.

    Everything is read again: parameters, gradients, groups, moments and step counts. ``rescale``
    multiplies the learning rate by 1/p: every rule's update is proportional to it, and no moment
    depends on it.

    Returns:
        Why this step cannot be fused, in which case nothing has changed; else None.
    """
    if base._optimizer_step_pre_hooks or base._optimizer_step_post_hooks or is_patched(base):
        return "the base has step hooks, or a step of its own"
    groups: list[_Group] = []
    for _, members in groupby(spans, lambda span: id(span.group)):
        found = _gather(base, list(members))
        if isinstance(found, str):
            return found
        groups.append(found)
    if _overlap(groups):
        return "two weights, gradients or moments share memory"
    kernels = [kernels_for(group.device, group.rule) for group in groups]
    scalars = [_scalars(group, rescale) for group in groups]
    for kernel, group, values in zip(kernels, groups, scalars, strict=True):
        kernel.update(group.rule, group.pieces, values, seed, t)
        if group.steps:
            torch._foreach_add_(group.steps, 1)
        torch.autograd.graph.increment_version(group.written)
    return None


def _gather(base: Optimizer, spans: list[Span]) -> _Group | str:
    """Return what the kernel needs of one group's parameters, or why it cannot process them.

    It works on lists, a property of all tensors at once: on a GPU the host must not take longer
    than the kernel.
    """
    rule = update_rule_for(base, spans[0].group)
    if rule is None:
        return f"{type(base).__name__} with these settings has no update rule"
    params = [span.param for span in spans]
    states = [base.state.get(param, {}) for param in params]
    try:
        moments = [[state[name] for state in states] for name in rule.moments]
        steps = [state["step"] for state in states] if rule.counts_steps else []
    except KeyError:
        return NO_STATE
    tensors: list[list[Any]] = [params, [param.grad for param in params], *moments]
    is_sharded = not _are_plain(params)
    if is_sharded:
        tensors = [[local_part(x) for x in column] for column in tensors]
    every = [x for column in tensors for x in column]
    if not _are_plain(every):
        return NO_STATE if any(x is None for x in every) else UNSUITABLE
    device, sizes = tensors[0][0].device, [x.numel() for x in tensors[0]]
    if (
        any([x.dtype is not torch.float32 for x in every])
        or not (all([x.is_cpu for x in every]) or {x.device for x in every} == {device})
        or any([x.numel() for x in column] != sizes for column in tensors[1:])
    ):
        return UNSUITABLE
    layouts = _layouts(tensors, is_sharded)
    if layouts is None:
        return UNSUITABLE
    group = _Group(spans[0].group, rule, spans[0].p, device, steps=steps)
    rows = _rows_of_scalars(group, len(spans))
    if isinstance(rows, str):
        return rows
    columns = zip(*tensors, strict=True)
    if is_sharded:
        for span, own, row in zip(spans, columns, rows, strict=True):
            group.pieces += pieces_of(span, own, row)
    else:
        group.pieces = [
            Piece(own, 0, size, span.start, span.threshold, 1, span.start, row, layout)
            for span, own, size, row, layout in zip(
                spans, columns, sizes, rows, layouts, strict=True
            )
        ]
    group.written = [*params, *(x for column in tensors[2:] for x in column)]
    return group


def _layouts(tensors: list[list[Any]], is_sharded: bool) -> list[int] | None:
    """Return the layout in memory that each parameter shares with its gradient and moments, or None
    if one has no layout, or they differ. Shards must be row-major."""
    if all([x.is_contiguous() for column in tensors for x in column]):
        return [0] * len(tensors[0])
    found = [set(map(layout_of, own)) for own in zip(*tensors, strict=True)]
    if is_sharded or any([len(own) > 1 or None in own for own in found]):
        return None
    return [own.pop() or 0 for own in found]


def _are_plain(tensors: list[Any]) -> bool:
    return set(map(type, tensors)) <= set(PLAIN)


def _rows_of_scalars(group: _Group, count: int) -> list[int] | str:
    """Return the row of the step's scalars of each of ``count`` parameters, and set what the rows
    are computed from.

    Counts of steps on the host are read, and parameters with the same count share a row.
    """
    steps = group.steps
    if not steps:
        group.counts = [0.0]
        return [0] * count
    if set(map(type, steps)) != {Tensor} or any([step.dim() for step in steps]):
        return "the base's step counts are no tensors"
    if len({step.device for step in steps}) > 1:
        return "the base's step counts lie on several devices"
    group.on_host = steps[0].is_cpu
    if not group.on_host:
        return list(range(len(steps)))
    counts = [step.item() for step in steps]
    group.counts = list(dict.fromkeys(counts))
    row = {count: number for number, count in enumerate(group.counts)}
    return [row[count] for count in counts]


def _overlap(groups: Sequence[_Group]) -> bool:
    """Return whether memory that the kernels write is used twice. Gradients may share theirs."""
    return _arrays_overlap(
        tuple(
            (tuple(map(tuple, piece_addresses(g.pieces))), tuple([x.length for x in g.pieces]))
            for g in groups
        )
    )


@lru_cache(16)
def _arrays_overlap(
    groups: tuple[tuple[tuple[tuple[int, ...], ...], tuple[int, ...]], ...],
) -> bool:
    """Return whether written float32 arrays share memory with others.

    A group holds the addresses of weights, gradients and each moment, and the number of elements,
    which all of these have. The result depends on the numbers alone.
    """
    used = [
        (at, 4 * size, position != 1)
        for columns, sizes in groups
        for position, addresses in enumerate(columns)
        for at, size in zip(addresses, sizes, strict=True)
        if size
    ]
    end = written_end = 0
    for start, size, is_written in sorted(used):
        if start < (end if is_written else written_end):
            return True
        end = max(end, start + size)
        if is_written:
            written_end = max(written_end, start + size)
    return False


def _scalars(group: _Group, rescale: bool) -> Tensor:
    """Return the step's scalars, float32 (rows, scalars), on the parameters' device.

    They are computed in float64 where the base keeps its step counts, without waiting for a device.
    """
    lr = group.group["lr"] / group.p if rescale else group.group["lr"]
    if group.on_host:
        rows = [group.rule.scalars_at(group.group, lr, t + 1) for t in group.counts]
        scalars = torch.tensor(rows, dtype=torch.float32, device="cpu")
        if group.device.type == "cuda":
            return scalars.pin_memory().to(group.device, non_blocking=True)
        return scalars.to(group.device)
    t = torch.stack(group.steps).to(torch.float64).add_(1)
    values = group.rule.scalars_at(group.group, lr, t)
    numbers = [0.0 if isinstance(v, Tensor) else v for v in values]
    constant = torch.tensor(numbers, dtype=torch.float32, device="cpu")
    if group.device.type == "cuda":
        constant = constant.pin_memory()
    scalars = constant.to(group.device, non_blocking=True).repeat(len(t), 1)
    for column, value in enumerate(values):
        if isinstance(value, Tensor):
            scalars[:, column] = value
    return scalars
