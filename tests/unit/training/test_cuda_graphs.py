"""Captured computations and batches made ahead: on a GPU, and with a stand-in for CUDA here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from lrd.task import Batch
from lrd.training.cuda_graphs import WARM_UP, GraphedStep, prefetch_to_device


class FakeStream:
    def wait_stream(self, other: "FakeStream") -> None: ...


class FakeGraph:
    """Replays what was captured by running it again, as a GPU would, on the same memory."""

    def replay(self) -> None:
        self.again()

    again: Callable[[], None]


class FakeCuda:
    """The part of torch.cuda that lrd.graph uses, on a CPU: results go to the captured tensors."""

    Stream, CUDAGraph = FakeStream, FakeGraph

    def __init__(self, refuses: bool = False) -> None:
        self.captures, self.refuses = 0, refuses
        self.on: list[FakeStream] = []

    def current_stream(self) -> FakeStream:
        return self.on[-1] if self.on else FakeStream()

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        self.on.append(stream)
        yield
        self.on.pop()

    @contextmanager
    def graph(
        self, graph: FakeGraph, stream: FakeStream, capture_error_mode: str
    ) -> Iterator[None]:
        assert capture_error_mode == "thread_local"  # else a loader's thread ends the capture
        self.captures += 1
        yield
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing\ndetails")


def batch(number: int, count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(count, 3, generator=generator)
    return Batch(inputs, inputs.sum(1), torch.arange(count))


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def captured(model: nn.Module, fake: FakeCuda, batch_size: int | None = None) -> GraphedStep:
    """Like Trainer's forward and backward; a replay writes to the memory of the capture."""

    def compute(b: Batch) -> torch.Tensor:
        model.zero_grad()
        loss = ((model(b.inputs)[:, 0] - b.targets) ** 2).mean()
        loss.backward()
        return loss.detach()

    made = GraphedStep(compute, list(model.parameters()), batch_size, fake)
    capture = made._capture

    def with_replay(b: Batch) -> bool:
        if not capture(b):
            return False
        grads, result = made.grads, made.result

        def again() -> None:
            new = compute(made.batch)
            result.copy_(new)
            for param, grad in zip(made.params, grads, strict=True):
                assert param.grad is not None and grad is not None
                grad.copy_(param.grad)
                param.grad = torch.full_like(grad, float("nan"))  # replays set no attribute

        made.graph.again = again
        return True

    made._capture = with_replay  # type: ignore[method-assign]
    return made


def train(model: nn.Module, compute: Callable[[Batch], Any], sizes: list[int]) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for number, size in enumerate(sizes):
        losses.append(compute(batch(number, size)).item())
        optimizer.step()
    return losses


@pytest.mark.parametrize(
    "sizes", [[4] * 9, [4, 4, 4, 3, 4, 4, 4, 3, 4, 4, 3], [3, 4, 4, 4, 3, 3, 3, 3]]
)
def test_captured_training_is_the_same(sizes: list[int]):
    fake, graphed = FakeCuda(), network()
    assert train(graphed, captured(graphed, fake), sizes) == train_plainly(sizes)
    assert fake.captures == 1 and sizes.count(sizes[0]) > WARM_UP


def train_plainly(sizes: list[int]) -> list[float]:
    plain = network()

    def compute(b: Batch) -> torch.Tensor:
        plain.zero_grad()
        loss = ((plain(b.inputs)[:, 0] - b.targets) ** 2).mean()
        loss.backward()
        return loss.detach()

    return train(plain, compute, sizes)


def test_a_resume_on_the_small_batch_of_an_epochs_end_captures_the_whole_batches():
    fake, graphed = FakeCuda(), network()
    sizes = [3, 4, 4, 4, 4, 3, 4]
    assert train(graphed, captured(graphed, fake, 4), sizes) == train_plainly(sizes)
    assert fake.captures == 1


def test_a_capture_that_fails_is_one_warning_and_training_goes_on(
    caplog: pytest.LogCaptureFixture,
):
    fake, graphed = FakeCuda(refuses=True), network()
    sizes = [4] * 8
    assert train(graphed, captured(graphed, fake), sizes) == train_plainly(sizes)
    assert fake.captures == 1
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "train.cuda_graph" in record.message
    assert "not permitted when stream is capturing" in record.message
    assert "\n" not in record.message


def test_batches_of_other_things_than_tensors_are_never_captured():
    fake, seen = FakeCuda(), []
    compute = GraphedStep(lambda b: seen.append(b), [], None, fake)
    for number in range(WARM_UP + 3):
        one = batch(number)
        compute(Batch(list(one.inputs), one.targets, one.index))
    assert fake.captures == 0 and len(seen) == WARM_UP + 3


def test_ahead_gives_the_same_batches_in_order_and_prepares_one_more():
    made = []

    def batches() -> Iterator[Batch]:
        for number in range(5):
            made.append(number)
            one = batch(number)
            yield Batch([{"image": one.inputs}], (one.targets,), one.index)

    plain = list(prefetch_to_device(batches(), torch.device("cpu")))
    assert made == [0, 1, 2, 3, 4]
    made.clear()
    recorded: list[torch.Tensor] = []

    class Recording(torch.Tensor):
        def record_stream(self, s: Any) -> None:
            recorded.append(self)

    def recording() -> Iterator[Batch]:
        for b in batches():
            image = b.inputs[0]["image"].as_subclass(Recording)
            parts = (t.as_subclass(Recording) for t in (b.targets[0], b.index))
            yield Batch([{"image": image}], (next(parts),), next(parts))

    for number, b in enumerate(prefetch_to_device(recording(), torch.device("cuda"), FakeCuda())):
        assert len(made) == min(number + 2, 5)
        assert torch.equal(b.inputs[0]["image"], plain[number].inputs[0]["image"])
        assert len(recorded) == 3 * (number + 1)


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@gpu
def test_a_real_graph_trains_as_no_graph_does():
    sizes = [64] * 6 + [17] + [64] * 4
    results = []
    for graphed in (False, True):
        model = network().cuda()

        def compute(b: Batch, model: nn.Module = model) -> torch.Tensor:
            model.zero_grad()
            loss = ((model(b.inputs.cuda())[:, 0] - b.targets.cuda()) ** 2).mean()
            loss.backward()
            return loss.detach()

        def on_gpu(b: Batch) -> Batch:
            return Batch(b.inputs.cuda(), b.targets.cuda(), b.index.cuda())

        run = GraphedStep(compute, list(model.parameters())) if graphed else compute
        results.append(train(model, lambda b, run=run: run(on_gpu(b)), sizes))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


@pytest.mark.gpu
@gpu
def test_a_step_that_waits_for_the_device_trains_without_a_graph(caplog: pytest.LogCaptureFixture):
    model = network().cuda()

    def compute(b: Batch) -> torch.Tensor:
        model.zero_grad()
        loss = ((model(b.inputs)[:, 0] - b.targets) ** 2).mean()
        assert loss.item() >= 0  # a wait, which a capture forbids
        loss.backward()
        return loss.detach()

    run = GraphedStep(compute, list(model.parameters()))

    def on_gpu(b: Batch) -> torch.Tensor:
        return run(Batch(b.inputs.cuda(), b.targets.cuda(), b.index.cuda()))

    assert train(model, on_gpu, [4] * 9) == pytest.approx(train_plainly([4] * 9), rel=1e-4)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    graph, static = torch.cuda.CUDAGraph(), torch.zeros(3, device="cuda")
    with torch.cuda.graph(graph):  # the failure leaves nothing behind
        static += 1
    graph.replay()
    assert static.tolist() == [1, 1, 1]


@pytest.mark.gpu
@gpu
def test_batches_ahead_on_a_gpu_are_the_same():
    def batches() -> Iterator[Batch]:
        for number in range(20):
            one = batch(number, 4096)
            yield Batch(one.inputs.cuda() * 2, one.targets.cuda(), one.index.cuda())

    for ours, plain in zip(
        prefetch_to_device(batches(), torch.device("cuda")), batches(), strict=True
    ):
        noise = torch.randn(1 << 20, device="cuda")  # takes freed memory, if there is any
        assert torch.equal(ours.inputs, plain.inputs) and noise.numel()
