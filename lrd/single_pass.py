"""The single pass: update and mask in one compiled kernel over flat buffers, no old values kept.

Reads gradient, weight and moments once and writes weight and moments once, as a fused optimizer
does; the mask costs arithmetic and no memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrd import flat, kernels
from lrd.rules import Rule, rule_for

_WARM_UP = 3


@dataclass(slots=True)
class _Buffer:
    """Consecutive parameters of one group with their gradients and moments, each (rows, LANES)."""

    group: dict[str, Any]
    high: int
    rule: Rule
    weights: Tensor
    grads: Tensor
    moments: tuple[Tensor, ...]
    base: Tensor
    scalars: Tensor
    word: Tensor
    steps: Tensor | None
    t: int


@dataclass(slots=True)
class _Member:
    """A parameter, the group it is in and the global index of its first element."""

    index: int
    group: dict[str, Any]
    param: Tensor


class SinglePass:
    """One step for a base optimizer whose rule is known and whose parameters lie flat.

    Takes over the base's state from its second step on, as views of flat buffers under the same
    names, so that the base's state_dict stays what it is and the base could go on alone.
    """

    def __init__(self, base: Optimizer, buffers: list[_Buffer], members: list[_Member]) -> None:
        self.base, self.buffers = base, buffers
        self._grads = [(m.param, m.param.grad) for m in members]
        self._state, self._groups = base.state, base.param_groups
        self._size = len(base.state)
        self.device = buffers[0].weights.device
        self.captured = False
        self._launches = 0
        self._graph: Any = None

    def valid(self) -> bool:
        """Whether gradients and state are still those that were there."""
        base = self.base
        return (
            base.state is self._state
            and base.param_groups is self._groups
            and len(base.state) == self._size
            and all(param.grad is grad for param, grad in self._grads)
        )

    def prepare(self, seed: int, step: int, p: float) -> None:
        """Write what the kernels must know of LRD's step ``step``; nothing waits for the device.

        ``p`` is that of the groups which have none of their own.
        """
        for b in self.buffers:
            b.t += 1
            _put(b.scalars, b.rule.scalars(b.group, b.t), torch.float32)
            word = kernels.words(seed, step, b.high, b.group.get("p", p))
            _put(b.word, word, torch.int32)

    def launch(self) -> None:
        """Move weights, moments and the base's step counts; ``captured``, as one CUDA graph."""
        if self.captured and self.device.type == "cuda":
            self._replay()
        else:
            self._kernels()
        for b in self.buffers:
            if b.steps is not None and b.steps.device != self.device:
                b.steps += 1  # counted on the host, where a graph does not reach

    def _kernels(self) -> None:
        lane = kernels.lanes(self.device)
        for b in self.buffers:
            kernel = _kernel(b.rule)
            kernel(b.weights, b.grads, b.moments, b.base, lane, b.scalars, b.word)
            if b.steps is not None and b.steps.device == self.device:
                b.steps += 1

    def _replay(self, cuda: Any = torch.cuda) -> None:
        """The kernels as they are at first, which compiles them; then captured, once, and replayed.

        All that changes from step to step lies in memory that they read.
        """
        self._launches += 1
        if self._launches <= _WARM_UP:
            return self._kernels()
        if self._graph is None:
            self._graph = cuda.CUDAGraph()
            with cuda.graph(self._graph):
                self._kernels()
        self._graph.replay()


def bind(base: Optimizer) -> SinglePass | None:
    """A :class:`SinglePass` for the base's next step, or None where there cannot be one.

    That is where a rule is not known, before the base has made its state in a first step, where
    the parameters that have a gradient, or the gradients, do not fill flat buffers, and where those
    of one buffer have made different numbers of steps. Waits for the device once.
    """
    if base._optimizer_step_pre_hooks or base._optimizer_step_post_hooks:
        return None
    members, buffers = _members(base), []
    for _, run in groupby(members, lambda m: (id(m.group), m.param.untyped_storage().data_ptr())):
        part = [m for m in run if m.param.grad is not None]
        if not part:
            continue
        if (buffer := _bind(base, part)) is None:
            return None
        buffers.append(buffer)
    return SinglePass(base, buffers, members) if buffers else None


def _members(base: Optimizer) -> list[_Member]:
    members, index = [], 0
    for group in base.param_groups:
        for param in group["params"]:
            members.append(_Member(index, group, param))
            index += param.numel()
    return members


def _bind(base: Optimizer, part: list[_Member]) -> _Buffer | None:
    """The buffer that the members fill, with their state moved into flat buffers too."""
    group, start, params = part[0].group, part[0].index, [m.param for m in part]
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
    return _Buffer(
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


def _put(static: Tensor, values: Sequence[float], dtype: torch.dtype) -> None:
    """``values`` into a small tensor that a kernel, or a captured graph, reads."""
    news = torch.tensor(values, dtype=dtype, pin_memory=static.is_cuda)
    static.copy_(news, non_blocking=True)


_compiled: dict[str, Callable[..., None]] = {}


def _kernel(rule: Rule) -> Callable[..., None]:
    """Algorithm 1 for one rule: W_t = W_{t-1} - alpha D_t * dW_t; moments see every gradient."""
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


def warm(rule: Rule, device: torch.device) -> None:
    """Compile the kernel of ``rule``, for any number of rows."""
    rows = [kernels.any_rows(torch.zeros(2, kernels.LANES, device=device)) for _ in range(5)]
    base = kernels.any_rows(kernels.bases(0, 2, device))
    scalars = torch.ones(rule.count, device=device)
    word = torch.zeros(3, dtype=torch.int32, device=device)
    moments = tuple(rows[2 : 2 + len(rule.states)])
    _kernel(rule)(rows[0], rows[1], moments, base, kernels.lanes(device), scalars, word)
