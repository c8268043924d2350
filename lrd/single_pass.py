"""The single pass: update and mask in one compiled kernel over flat buffers, no old values kept.

Reads gradient, weight and moments once and writes weight and moments once, as a fused optimizer
does; the mask costs arithmetic and no memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrd import kernels
from lrd.flat import Member
from lrd.rules import Rule


@dataclass(slots=True)
class Buffer:
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


class SinglePass:
    """One step for a base optimizer whose rule is known and whose parameters lie flat.

    Takes over the base's state from its second step on, as views of flat buffers under the same
    names, so that the base's state_dict stays what it is and the base could go on alone.
    """

    def __init__(self, base: Optimizer, buffers: list[Buffer], members: Sequence[Member]) -> None:
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

    def prepare(self, seed: int, step: int, p: float, rescale: bool = False) -> None:
        """Write what the kernels must know of LRD's step ``step``; nothing waits for the device.

        ``p`` is that of the groups which have none of their own. To ``rescale`` is to take the rate
        1/p times as large: an update of any rule is proportional to it, and no moment knows it.
        """
        for b in self.buffers:
            b.t += 1
            own = b.group.get("p", p)
            group = {**b.group, "lr": b.group["lr"] / own} if rescale else b.group
            _put(b.scalars, b.rule.scalars(group, b.t), torch.float32)
            _put(b.word, kernels.words(seed, step, b.high, own), torch.int32)

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
        if self._launches <= kernels.WARM_UP:
            return self._kernels()
        if self._graph is None:
            self._graph = cuda.CUDAGraph()
            with cuda.graph(self._graph):
                self._kernels()
        self._graph.replay()


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
