"""Where a base optimizer's step can be a single pass: its parameters, gradients and state."""

from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrd import flat, kernels
from lrd.flat import Member
from lrd.rules import rule_for
from lrd.single_pass import Buffer, SinglePass


def bind(base: Optimizer) -> SinglePass | None:
    """A :class:`SinglePass` for the base's next step, or None where there cannot be one.

    That is where a rule is not known, before the base has made its state in a first step, where
    the parameters that have a gradient, or the gradients, do not fill flat buffers, and where those
    of one buffer have made different numbers of steps. Waits for the device once.
    """
    if base._optimizer_step_pre_hooks or base._optimizer_step_post_hooks:
        return None
    members, buffers = list(flat.members(base.param_groups)), []
    for _, run in groupby(members, lambda m: (id(m.group), m.param.untyped_storage().data_ptr())):
        part = [m for m in run if m.param.grad is not None]
        if not part:
            continue
        if (buffer := _bind(base, part)) is None:
            return None
        buffers.append(buffer)
    return SinglePass(base, buffers, members) if buffers else None


def _bind(base: Optimizer, part: list[Member]) -> Buffer | None:
    """The buffer that the members fill, with their state moved into flat buffers too."""
    group, start, params = part[0].group, part[0].start, [m.param for m in part]
    count = sum(q.numel() for q in params)
    rule, own = rule_for(base, group), [base.state.get(param, {}) for param in params]
    weights = flat.buffer_of(params)
    grads = flat.as_rows([q.grad for q in params if q.grad is not None])
    if rule is None or weights is None or grads is None or start >> 32 != start + count - 1 >> 32:
        return None
    if not all(isinstance(s.get(name), Tensor) for s in own for name in rule.states):
        return None
    steps, t = _steps(own)
    if t is None:
        return None
    moments = []
    for name in rule.states:
        whole, views = flat.gather_state([s[name] for s in own])
        moments.append(whole)
        for s, view in zip(own, views, strict=True):
            s[name] = view
    device = weights.device
    return Buffer(
        group=group,
        high=start >> 32,
        rule=rule,
        weights=weights,
        grads=grads,
        moments=tuple(moments),
        base=kernels.any_rows(kernels.bases(start, len(weights), device)),
        scalars=torch.zeros(rule.count, device=device),
        word=torch.zeros(3, dtype=torch.int32, device=device),
        steps=steps,
        t=t,
    )


def _steps(own: list[dict[str, Any]]) -> tuple[Tensor | None, int | None]:
    """The base's step counts made views of one tensor, and their value; None if they differ."""
    if not any("step" in s for s in own):
        return None, 0  # this base counts no steps
    together = torch.stack([s["step"].reshape(()) for s in own])
    if not bool((together == together[0]).all()):
        return None, None
    for s, view in zip(own, together.unbind(), strict=True):
        s["step"] = view
    return together, int(together[0])
