"""What a capture of a CUDA graph forbids, and that training survives it."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lrd.optim import LRDropout
from lrd.task import Batch, Step
from tasks.classification import Classification
from tests.simulated_gpu.plugin import gpu
from tests.simulated_gpu.runs import Command, assert_equal, train

pytestmark = pytest.mark.simulated

DIGITS = ("task=digits", "model.hidden=[16]", "train.max_steps=8", "train.device=cuda")
GRAPH = "train.cuda_graph=true"

FORBIDDEN: dict[str, Callable[[Tensor], Any]] = {
    "a number read on the host": lambda x: x.sum().item(),
    "a copy to the host": lambda x: x.cpu(),
    "a copy of a list": lambda x: torch.tensor([1.0, 2.0], device="cuda"),
    "a selection by a mask": lambda x: x[x > 0],
    "positions of what is not 0": lambda x: x.nonzero(),
    "a synchronization": lambda x: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_capture_forbids_what_waits(name: str):
    x = torch.arange(4.0, device="cuda")
    FORBIDDEN[name](x)  # outside it is allowed
    with pytest.raises(RuntimeError, match="captur"):
        with torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"):
            FORBIDDEN[name](x)


def test_a_replay_computes_on_the_same_memory_with_frozen_numbers():
    x, step = torch.arange(3.0, device="cuda"), 2
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x * step
        x += y.sum()
    assert x.tolist() == [0, 1, 2]  # a capture computes nothing
    step = 5
    graph.replay()
    assert y.tolist() == [0, 2, 4] and x.tolist() == [6, 7, 8]
    graph.replay()
    assert y.tolist() == [12, 14, 16] and x.tolist() == [48, 49, 50]


class Pinning:
    """A thread that pins memory during a capture, as a DataLoader's does."""

    def __init__(self) -> None:
        self.begin, self.done, self.error = threading.Event(), threading.Event(), ""
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.begin.wait()
        try:
            torch.empty(1 << 24).pin_memory()
        except RuntimeError as error:
            self.error = str(error)
        self.done.set()

    def act(self) -> None:
        self.begin.set()
        self.done.wait()


def test_a_pinning_thread_and_a_capture_in_the_default_mode_end_each_other():
    """Why training captures in another mode."""
    pinning, x = Pinning(), torch.zeros(3, device="cuda")
    with pytest.raises(RuntimeError, match="captur"):
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            x += 1
            pinning.act()
    pinning.thread.join()
    assert "captur" in pinning.error


def test_a_run_captures_while_a_thread_pins_memory(cli: Command, monkeypatch: pytest.MonkeyPatch):
    plain, pinning, step = train(cli, "plain", *DIGITS), Pinning(), Classification.step

    def pins(self: Classification, model: Any, batch: Batch) -> Step:
        if torch.cuda.is_current_stream_capturing():
            pinning.act()
        return step(self, model, batch)

    monkeypatch.setattr(Classification, "step", pins)
    with gpu.watch() as events:
        graphed = train(cli, "graphed", *DIGITS, GRAPH)
    pinning.thread.join()
    assert pinning.begin.is_set() and not pinning.error
    assert sum(n for (kind, _), n in events.items() if kind == "REPLAY") == 5
    assert_equal(plain, graphed)


def test_a_run_whose_step_waits_trains_without_a_graph_and_says_so(
    cli: Command, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    step = Classification.step

    def waits(self: Classification, model: Any, batch: Batch) -> Step:
        assert batch.targets.max().item() < 10
        return step(self, model, batch)

    monkeypatch.setattr(Classification, "step", waits)
    plain = train(cli, "plain", *DIGITS)
    caplog.clear()
    with gpu.watch() as events:
        graphed = train(cli, "graphed", *DIGITS, GRAPH)
    (warning,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert warning.startswith("train.cuda_graph: the step cannot be captured (")
    assert not any(kind == "REPLAY" for kind, _ in events)
    assert_equal(plain, graphed)


def test_the_optimizers_step_refuses_a_capture():
    """Its seed and step would be frozen: each replay would drop the same elements."""
    x = torch.ones(3, device="cuda", requires_grad=True)
    optimizer = LRDropout(torch.optim.SGD([x], lr=0.1), p=0.5)
    x.grad = torch.ones_like(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), pytest.raises(ValueError, match="outside torch.cuda.graph"):
        optimizer.step()
    optimizer.step()
    assert optimizer.t == 1
