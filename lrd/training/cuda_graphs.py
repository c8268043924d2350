"""CUDA graphs of a training step, and batches prefetched to the GPU."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lrd.task import Batch

log = logging.getLogger(__name__)

# Eager calls before a capture, in which libraries choose algorithms and compile.
WARM_UP = 3


class GraphedStep:
    """``compute(batch)`` as a CUDA graph: captured once, then replayed on the same memory.

    The first calls run eagerly. A batch of another size or other shapes, or that holds anything but
    tensors, always runs eagerly, and so does everything after a capture that fails, which a warning
    says. The next call overwrites what ``compute`` returned.

    Args:
        compute: The computation. Its results must be detached: with them a graph would keep the
            autograd nodes of the capture's stream.
        params: The parameters whose gradients it computes.
        batch_size: Samples of a batch that is worth a graph; None: as many as the first has.
        cuda: The module with ``CUDAGraph``, ``graph``, ``Stream``, ``stream``, ``current_stream``.
    """

    def __init__(
        self,
        compute: Callable[[Batch], Any],
        params: Sequence[Tensor],
        batch_size: int | None = None,
        cuda: Any = torch.cuda,
    ) -> None:
        self.compute, self.params, self.cuda = compute, params, cuda
        self.batch_size = batch_size
        self.calls = 0
        self.failed = False
        self.shapes: Any = None
        self.graph: Any = None
        self.stream = cuda.Stream()

    def __call__(self, batch: Batch) -> Any:
        tensors = _batch_tensors(batch)
        if self.failed or tensors is None or len(batch) != (self.batch_size or len(batch)):
            return self.compute(batch)
        shapes = [(t.shape, t.dtype, t.stride()) for t in tensors]
        self.shapes = self.shapes or shapes
        if shapes != self.shapes:
            return self.compute(batch)
        self.calls += 1
        if self.calls <= WARM_UP:
            with self._side_stream():
                return self.compute(batch)
        if self.graph is None and not self._capture(batch):
            return self.compute(batch)
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

    def _capture(self, batch: Batch) -> bool:
        """Record the graph; return whether it could be recorded."""
        inputs, targets, index = (t.clone() for t in _batch_tensors(batch) or ())
        self.batch = Batch(inputs, targets, index)
        self.graph = self.cuda.CUDAGraph()
        # thread_local: in the default mode a call of any thread ends the capture, and a loader's
        # pinning thread allocates and queries at any time
        capture = self.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local")
        try:
            with self._side_stream(), capture:
                self.result = self.compute(self.batch)
        except RuntimeError as error:
            self.graph, self.failed = None, True
            log.warning(
                "train.cuda_graph: the step cannot be captured (%s); training continues without "
                "a graph",
                _first_cause(error),
            )
            return False
        self.grads = [param.grad for param in self.params]
        return True


def _first_cause(error: BaseException) -> str:
    """Return the first line of what a capture failed of; ending the capture raises another error.

    The caller must not keep the error: its frames hold the failed step's autograd nodes.
    """
    while error.__context__ is not None:
        error = error.__context__
    return str(error).strip().splitlines()[0]


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
