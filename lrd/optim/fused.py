"""Update and mask in one compiled kernel over flat buffers, without a copy of the old weights.

The kernel reads gradient, weight and moments once and writes weight and moments once, as a fused
optimizer does; the mask costs arithmetic and no memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrd.optim import flat_params, kernels
from lrd.optim.flat_params import IndexedParam
from lrd.optim.update_rules import UpdateRule, update_rule_for


@dataclass(slots=True)
class FlatBuffer:
    """Consecutive parameters of one group with their gradients and moments, each (rows, LANES)."""

    group: dict[str, Any]
    high: int
    rule: UpdateRule
    weights: Tensor
    grads: Tensor
    moments: tuple[Tensor, ...]
    base: Tensor
    scalars: Tensor
    word: Tensor
    steps: Tensor | None
    t: int


class FusedStep:
    """Take steps of a base optimizer with a known update rule and flat parameters.

    From its second step on the base's state lies in flat buffers, as views under the same names, so
    the base's state_dict stays the same and the base could continue alone.
    """

    def __init__(
        self, base: Optimizer, buffers: list[FlatBuffer], members: Sequence[IndexedParam]
    ) -> None:
        self.base, self.buffers = base, buffers
        self._grads = [(m.param, m.param.grad) for m in members]
        self._state, self._groups = base.state, base.param_groups
        self._size = len(base.state)
        self.device = buffers[0].weights.device
        self.captured = False
        self._launches = 0
        self._graph: Any = None

    def valid(self) -> bool:
        """Return whether gradients and state are the ones that this step was bound to."""
        base = self.base
        return (
            base.state is self._state
            and base.param_groups is self._groups
            and len(base.state) == self._size
            and all(param.grad is grad for param, grad in self._grads)
        )

    def prepare(self, seed: int, step: int, p: float, rescale: bool = False) -> None:
        """Write the kernels' inputs for LRD's step ``step``, without synchronizing.

        ``p`` is for groups without their own. ``rescale`` multiplies the learning rate by 1/p:
        every rule's update is proportional to it, and no moment depends on it.
        """
        for b in self.buffers:
            b.t += 1
            own = b.group.get("p", p)
            group = {**b.group, "lr": b.group["lr"] / own} if rescale else b.group
            _put(b.scalars, b.rule.scalars(group, b.t), torch.float32)
            _put(b.word, kernels.key_words(seed, step, b.high, own), torch.int32)

    def launch(self) -> None:
        """Update weights, moments and step counts; if ``captured``, as one CUDA graph."""
        if self.captured and self.device.type == "cuda":
            self._replay()
        else:
            self._kernels()
        for b in self.buffers:
            if b.steps is not None and b.steps.device != self.device:
                b.steps += 1  # on the host, outside the graph

    def _kernels(self) -> None:
        lane = kernels.lanes(self.device)
        for b in self.buffers:
            kernel = _kernel(b.rule)
            kernel(b.weights, b.grads, b.moments, b.base, lane, b.scalars, b.word)
            if b.steps is not None and b.steps.device == self.device:
                b.steps += 1

    def _replay(self, cuda: Any = torch.cuda) -> None:
        """Run the kernels eagerly at first, which compiles them, then capture once and replay.

        Everything that changes from step to step lies in memory that the kernels read.
        """
        self._launches += 1
        if self._launches <= kernels.WARM_UP:
            return self._kernels()
        if self._graph is None:
            self._graph = cuda.CUDAGraph()
            with cuda.graph(self._graph):
                self._kernels()
        self._graph.replay()


def _put(static: Tensor, values: Sequence[float], dtype: torch.dtype) -> None:
    """Copy ``values`` to a small tensor that a kernel or a captured graph reads."""
    news = torch.tensor(values, dtype=dtype, pin_memory=static.is_cuda)
    static.copy_(news, non_blocking=True)


_compiled: dict[str, Callable[..., None]] = {}


def _kernel(rule: UpdateRule) -> Callable[..., None]:
    """Return the kernel of one rule: W_t = W_{t-1} - alpha D_t * dW_t (Algorithm 1)."""
    if rule.name not in _compiled:
        update = rule.update

        def step(
            w: Tensor,
            g: Tensor,
            moments: tuple[Tensor, ...],
            base: Tensor,
            lane: Tensor,
            scalars: Tensor,
            word: Tensor,
        ) -> None:
            move, news = update(w, g, moments, scalars)
            w.copy_(torch.where(kernels.dropped(base, lane, word), w, w - move))
            for moment, new in zip(moments, news, strict=True):
                moment.copy_(new)

        _compiled[rule.name] = kernels.compiled(step, f"lrd_{rule.name}")
    return _compiled[rule.name]


def precompile_fused(rule: UpdateRule, device: torch.device) -> None:
    """Compile the kernel of ``rule`` for any number of rows."""
    rows = [
        kernels.mark_dynamic_rows(torch.zeros(2, kernels.LANES, device=device)) for _ in range(5)
    ]
    base = kernels.mark_dynamic_rows(kernels.row_offsets(0, 2, device))
    scalars = torch.ones(rule.count, device=device)
    word = torch.zeros(3, dtype=torch.int32, device=device)
    moments = tuple(rows[2 : 2 + len(rule.states)])
    _kernel(rule)(rows[0], rows[1], moments, base, kernels.lanes(device), scalars, word)


def bind_fused(base: Optimizer) -> FusedStep | None:
    """Return a :class:`FusedStep` for the base's next step, or None if there cannot be one.

    There is none if a group has no update rule, before the base's first step has made its state, if
    the parameters with a gradient, or the gradients, do not fill flat buffers, or if the parameters
    of one buffer have made different numbers of steps. Synchronizes once.
    """
    if base._optimizer_step_pre_hooks or base._optimizer_step_post_hooks:
        return None
    members, buffers = list(flat_params.indexed_params(base.param_groups)), []
    for _, run in groupby(members, lambda m: (id(m.group), m.param.untyped_storage().data_ptr())):
        part = [m for m in run if m.param.grad is not None]
        if not part:
            continue
        if (buffer := _bind(base, part)) is None:
            return None
        buffers.append(buffer)
    return FusedStep(base, buffers, members) if buffers else None


def _bind(base: Optimizer, part: list[IndexedParam]) -> FlatBuffer | None:
    """Return the buffer that the parameters fill, and move their state to flat buffers."""
    group, start, params = part[0].group, part[0].start, [m.param for m in part]
    count = sum(q.numel() for q in params)
    rule, own = update_rule_for(base, group), [base.state.get(param, {}) for param in params]
    weights = flat_params.buffer_of(params)
    grads = flat_params.as_lanes([q.grad for q in params if q.grad is not None])
    if rule is None or weights is None or grads is None or start >> 32 != start + count - 1 >> 32:
        return None
    if not all(isinstance(s.get(name), Tensor) for s in own for name in rule.states):
        return None
    steps, t = _steps(own)
    if t is None:
        return None
    moments = []
    for name in rule.states:
        whole, views = flat_params.flatten_state([s[name] for s in own])
        moments.append(whole)
        for s, view in zip(own, views, strict=True):
            s[name] = view
    device = weights.device
    return FlatBuffer(
        group=group,
        high=start >> 32,
        rule=rule,
        weights=weights,
        grads=grads,
        moments=tuple(moments),
        base=kernels.mark_dynamic_rows(kernels.row_offsets(start, len(weights), device)),
        scalars=torch.zeros(rule.count, device=device),
        word=torch.zeros(3, dtype=torch.int32, device=device),
        steps=steps,
        t=t,
    )


def _steps(own: list[dict[str, Any]]) -> tuple[Tensor | None, int | None]:
    """Make the base's step counts views of one tensor; return it and the count, None if they
    differ."""
    if not any("step" in s for s in own):
        return None, 0  # this base does not count steps
    together = torch.stack([s["step"].reshape(()) for s in own])
    if not bool((together == together[0]).all()):
        return None, None
    for s, view in zip(own, together.unbind(), strict=True):
        s["step"] = view
    return together, int(together[0])
