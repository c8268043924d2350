"""What a GPU does without waiting for Python: captured computations, batches made ahead."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lrd.kernels import WARM_UP
from lrd.task import Batch


class Captured:
    """``compute(batch)`` as a CUDA graph: captured once, then replayed on the same memory.

    The first calls run as they are and count as any other. A batch of other shapes than the first
    one's, or of anything but tensors, is always computed as it is. What ``compute`` returns is
    overwritten by the next call, so read it before. ``params`` are those whose gradients it makes.

    ``cuda`` is where ``CUDAGraph``, ``graph``, ``Stream``, ``stream`` and ``current_stream`` are.
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
        tensors = _tensors(batch)
        shapes = None if tensors is None else [(t.shape, t.dtype, t.stride()) for t in tensors]
        if self.calls == 0:
            self.shapes = shapes
        if shapes is None or shapes != self.shapes:
            return self.compute(batch)
        self.calls += 1
        if self.calls <= WARM_UP:
            with self._aside():
                return self.compute(batch)
        if self.graph is None:
            self._capture(batch)
        assert self.graph is not None
        for static, news in zip(_tensors(self.batch) or (), tensors or (), strict=True):
            static.copy_(news, non_blocking=True)
        self.graph.replay()
        for param, grad in zip(self.params, self.grads, strict=True):
            if param.grad is not grad:  # a batch of other shapes was in between
                param.grad = grad
        return self.result

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On the stream of the capture, as autograd wants what comes before one."""
        now = self.cuda.current_stream()
        self.stream.wait_stream(now)
        with self.cuda.stream(self.stream):
            yield
        now.wait_stream(self.stream)

    def _capture(self, batch: Batch) -> None:
        inputs, targets, index = (t.clone() for t in _tensors(batch) or ())
        self.batch = Batch(inputs, targets, index)
        self.graph = self.cuda.CUDAGraph()
        with self._aside(), self.cuda.graph(self.graph, stream=self.stream):
            self.result = self.compute(self.batch)
        self.grads = [param.grad for param in self.params]


def _tensors(batch: Batch) -> tuple[Tensor, Tensor, Tensor] | None:
    parts = (batch.inputs, batch.targets, batch.index)
    return parts if all(isinstance(part, Tensor) for part in parts) else None


def ahead(
    batches: Iterable[Batch], device: torch.device, cuda: Any = torch.cuda
) -> Iterator[Batch]:
    """``batches`` of a GPU, each prepared on a stream of its own while the one before trains."""
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
        now = cuda.current_stream()
        now.wait_stream(side)
        for tensor in _all_tensors((batch.inputs, batch.targets, batch.index)):
            tensor.record_stream(now)  # or its memory could be given to the batch after next
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
