"""Update and mask in one multi-tensor kernel, for optimizers with a known update rule.

The kernel reads gradient, weight and moments once and writes weight and moments once, as a fused
optimizer does; the mask costs arithmetic and no memory. The base's state is used where it lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrd.optim.kernels import kernels_for
from lrd.optim.params import PLAIN, Piece, Span, local_part, pieces_of
from lrd.optim.update_rules import UpdateRule, update_rule_for

NO_STATE = "the base has no state yet, which its own step makes"
UNSUITABLE = "parameters, gradients and moments must be contiguous float32 tensors on one device"


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
    """Return what the kernel needs of one group's parameters, or why it cannot process them."""
    rule = update_rule_for(base, spans[0].group)
    if rule is None:
        return f"{type(base).__name__} with these settings has no update rule"
    device = local_part(spans[0].param).device
    group = _Group(spans[0].group, rule, spans[0].p, device)
    states, names, counts = base.state, rule.moments, rule.counts_steps
    on_cpu, is_plain = device.type == "cpu", set(PLAIN).__contains__
    for span in spans:
        param = span.param
        state = states.get(param, {})
        try:
            tensors: tuple[Any, ...] = (param, param.grad, *[state[name] for name in names])
            step = state["step"] if counts else None
        except KeyError:
            return NO_STATE
        if not is_plain(type(param)):
            tensors = tuple(map(local_part, tensors))
        count = tensors[0].numel()
        for x in tensors:
            if (
                not is_plain(type(x))
                or x.dtype is not torch.float32
                or not x.is_contiguous()
                or x.numel() != count
                or not (x.is_cpu if on_cpu else x.device == device)
            ):
                return NO_STATE if x is None else UNSUITABLE
        row = 0
        if step is not None:
            if type(step) is not Tensor or step.dim():
                return "the base's step counts are no tensors"
            group.on_host = step.is_cpu
            row = _row_of(step.item(), group.counts) if group.on_host else len(group.steps)
            group.steps.append(step)
        group.pieces += pieces_of(span, tensors, row)
        group.written += (param, *tensors[2:])
    if any(step.is_cpu != group.on_host for step in group.steps):
        return "the base's step counts lie on several devices"
    group.counts = group.counts or [0.0]
    return group


def _row_of(count: float, counts: list[float]) -> int:
    """Return the position of ``count`` in ``counts``, where it is appended if it is new."""
    if count not in counts:
        counts.append(count)
    return counts.index(count)


def _overlap(groups: Sequence[_Group]) -> bool:
    """Return whether memory that the kernels write is used twice. Gradients may share theirs."""
    used = [
        (x.data_ptr() + 4 * piece.begin, 4 * piece.length, position != 1)
        for group in groups
        for piece in group.pieces
        for position, x in enumerate(piece.tensors)
        if piece.length
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
    columns = [v if isinstance(v, Tensor) else torch.full_like(t, v) for v in values]
    return torch.stack(columns, dim=1).to(group.device, torch.float32)
