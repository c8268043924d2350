"""CUDA graphs of a training step, and batches prefetched to the GPU."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lrd.task import Batch

# Eager calls before a capture, in which libraries choose algorithms and compile.
WARM_UP = 3


class GraphedStep:
    """``compute(batch)`` as a CUDA graph: captured once, then replayed on the same memory.

    The first calls run eagerly. A batch whose shapes differ from the first one's, or that holds
    anything but tensors, always runs eagerly. The next call overwrites what ``compute`` returned.

    Args:
        compute: The computation.
        params: The parameters whose gradients it computes.
        cuda: The module with ``CUDAGraph``, ``graph``, ``Stream``, ``stream``, ``current_stream``.
    """

    def __init__(
        self,
        compute: Callable[[Batch], Any],
        params: Sequence[Tensor],
        cuda: Any = torch.cuda,
    ) -> None:
        self.compute, self.params, self.cuda = compute, params, cuda
        self.calls = 0
        self.graph: Any = None
        self.stream = cuda.Stream()

    def __call__(self, batch: Batch) -> Any:
        tensors = _batch_tensors(batch)
        shapes = None if tensors is None else [(t.shape, t.dtype, t.stride()) for t in tensors]
        if self.calls == 0:
            self.shapes = shapes
        if shapes is None or shapes != self.shapes:
            return self.compute(batch)
        self.calls += 1
        if self.calls <= WARM_UP:
            with self._side_stream():
                return self.compute(batch)
        if self.graph is None:
            self._capture(batch)
        assert self.graph is not None
        for static, new in zip(_batch_tensors(self.batch) or (), tensors or (), strict=True):
            static.copy_(new, non_blocking=True)
        self.graph.replay()
        for param, grad in zip(self.params, self.grads, strict=True):
            if param.grad is not grad:  # an eager batch came in between
                param.grad = grad
        return self.result

    @contextmanager
    def _side_stream(self) -> Iterator[None]:
        """Run on the capture's stream, as autograd requires of the calls before a capture."""
        current = self.cuda.current_stream()
        self.stream.wait_stream(current)
        with self.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def _capture(self, batch: Batch) -> None:
        inputs, targets, index = (t.clone() for t in _batch_tensors(batch) or ())
        self.batch = Batch(inputs, targets, index)
        self.graph = self.cuda.CUDAGraph()
        with self._side_stream(), self.cuda.graph(self.graph, stream=self.stream):
            self.result = self.compute(self.batch)
        self.grads = [param.grad for param in self.params]


def _batch_tensors(batch: Batch) -> tuple[Tensor, Tensor, Tensor] | None:
    parts = (batch.inputs, batch.targets, batch.index)
    return parts if all(isinstance(part, Tensor) for part in parts) else None


def prefetch_to_device(
    batches: Iterable[Batch], device: torch.device, cuda: Any = torch.cuda
) -> Iterator[Batch]:
    """Yield ``batches``, on a GPU each prepared on a side stream while the previous one trains."""
    if device.type != "cuda":
        yield from batches
        return
    side, rest = cuda.Stream(), iter(batches)
    side.wait_stream(cuda.current_stream())

    def following() -> Batch | None:
        with cuda.stream(side):
            return next(rest, None)

    batch = following()
    while batch is not None:
        current = cuda.current_stream()
        current.wait_stream(side)
        for tensor in _all_tensors((batch.inputs, batch.targets, batch.index)):
            tensor.record_stream(current)  # or a later batch could reuse its memory
        upcoming = following()
        yield batch
        batch = upcoming


def _all_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _all_tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _all_tensors(part)
