"""The single pass against torch's own optimizers in float64 with the mask applied by hand."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.optim import Optimizer

from lrd import LRDropout
from lrd.optim import flat_params, kernels
from lrd.optim.fused import bind_fused
from lrd.optim.masks import keep_mask
from lrd.rmsprop import RMSpropDecayInMoment

P, SEED = 0.6, 3
SHAPES = [(40, 30), (50, 2), (3, 4, 5, 2), ()]
Make = Callable[..., Optimizer]

# What the suite compiles, and in SLOW what `pytest -m slow` does.
QUICK: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "SGD momentum": (torch.optim.SGD, dict(lr=0.01, momentum=0.9, weight_decay=0.01)),
    "RMSprop": (torch.optim.RMSprop, dict(lr=0.001, weight_decay=0.01)),
    "Adam": (torch.optim.Adam, dict(lr=0.01, weight_decay=0.01)),
    "AMSGrad": (torch.optim.Adam, dict(lr=0.01, amsgrad=True)),
    "RAdam": (torch.optim.RAdam, dict(lr=0.03, weight_decay=0.01)),
}
SLOW: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, dict(lr=0.01)),
    "Nesterov": (torch.optim.SGD, dict(lr=0.01, momentum=0.9, nesterov=True)),
    "dampening": (torch.optim.SGD, dict(lr=0.01, momentum=0.9, dampening=0.3)),
    "maximize": (torch.optim.SGD, dict(lr=1e-4, momentum=0.9, maximize=True)),
    "RMSprop centered": (torch.optim.RMSprop, dict(lr=0.001, centered=True)),
    "RMSprop momentum": (torch.optim.RMSprop, dict(lr=0.001, momentum=0.9)),
    "RMSprop authors": (RMSpropDecayInMoment, dict(lr=0.001, weight_decay=0.1)),
    "AdamW": (torch.optim.AdamW, dict(lr=0.01, weight_decay=0.1)),
    "AdamW AMSGrad": (torch.optim.AdamW, dict(lr=0.01, amsgrad=True)),
    "RAdam decoupled": (
        torch.optim.RAdam,
        dict(lr=0.03, weight_decay=0.1, decoupled_weight_decay=True),
    ),
}
BASES = QUICK | SLOW
CASES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]

pytestmark = pytest.mark.skipif(not kernels.can_compile("cpu"), reason="needs a C++ compiler")


def tensors(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(s, generator=generator) for s in SHAPES]
    return [t.to(dtype).requires_grad_() for t in made]


def backward(params: list[Tensor], t: int) -> None:
    """A convex loss that differs from step to step."""
    for number, param in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * t + number)
        aim = torch.randn(param.shape, generator=generator).to(param.dtype)
        scale = torch.linspace(0.1, 2, param.numel(), dtype=param.dtype).view(param.shape)
        (0.5 * scale * (param - aim) ** 2).sum().backward()


def laid(name: str, **extra: Any) -> tuple[list[Tensor], LRDropout]:
    params = tensors()
    kind, settings = BASES[name]
    base = kind(params, **settings)  # type: ignore[call-arg]
    flat_params.flatten_parameters(base.param_groups)
    return params, LRDropout(base, p=P, seed=SEED, implementation="single_pass", **extra)


def run(params: list[Tensor], optimizer: Optimizer, first: int, count: int) -> None:
    for t in range(first, first + count):
        optimizer.zero_grad()
        backward(params, t)
        optimizer.step()


def masks(step: int, p: float = P) -> list[Tensor]:
    counts = [torch.Size(s).numel() for s in SHAPES]
    starts = [sum(counts[:k]) for k in range(len(counts))]
    return [
        keep_mask(SEED, step, p, start=start, count=count).view(shape)
        for start, count, shape in zip(starts, counts, SHAPES, strict=True)
    ]


@pytest.mark.parametrize("name", CASES)
def test_two_hundred_steps_follow_algorithm_1(name: str):
    """In float64 with torch's plain loop over tensors, line 11 of Algorithm 1 by hand."""
    kind, settings = BASES[name]
    exact = tensors(torch.float64)
    torchs = kind(exact, **settings)  # type: ignore[call-arg]
    params, lrd = laid(name)
    for t in range(200):
        before = [param.detach().clone() for param in params]
        old = [param.detach().clone() for param in exact]
        run(params, lrd, t, 1)
        run(exact, torchs, t, 1)
        for param, was, ref, back, mask in zip(params, before, exact, old, masks(t), strict=True):
            ref.data.copy_(torch.where(mask, ref, back))
            assert torch.equal(param[~mask], was[~mask]), "a dropped element moved"
        moved = torch.cat([(a != b)[m] for a, b, m in zip(params, before, masks(t), strict=True)])
        assert moved.float().mean() > 0.95, "kept elements stood still"
        assert lrd.path == ("generic" if t == 0 and lrd.state else "single_pass")
    for param, ref in zip(params, exact, strict=True):
        torch.testing.assert_close(param.double(), ref, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_state_is_the_bases_own_and_goes_both_ways(name: str):
    """A checkpoint of the single pass goes on by the base alone, and by the generic path."""
    kind, settings = BASES[name]
    params, lrd = laid(name)
    run(params, lrd, 0, 10)
    saved, weights = copy.deepcopy(lrd.state_dict()), [p.detach().clone() for p in params]
    plain_params = [w.clone().requires_grad_() for w in weights]
    plain = kind(plain_params, **settings)  # type: ignore[call-arg]
    plain.load_state_dict({k: v for k, v in saved.items() if k != "lrd"})
    generic_params = [w.clone().requires_grad_() for w in weights]
    generic = LRDropout(kind(generic_params, **settings), implementation="reference")  # type: ignore[call-arg]
    generic.load_state_dict(saved)
    assert [s.keys() for s in saved["state"].values()] == [
        s.keys() for s in generic.state_dict()["state"].values()
    ]
    run(params, lrd, 10, 10)
    run(generic_params, generic, 10, 10)
    for ours, theirs in zip(params, generic_params, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    run(plain_params, plain, 10, 1)
    back_params, back = laid(name)
    back.load_state_dict(generic.state_dict())
    for param, weight in zip(back_params, generic_params, strict=True):
        param.data.copy_(weight)
    run(back_params, back, 20, 5)
    run(generic_params, generic, 20, 5)
    assert back.path == "single_pass"  # from its first step on: the state is there
    for ours, theirs in zip(back_params, generic_params, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_resume_is_bitwise_the_uninterrupted_run(tmp_path):
    straight, whole = laid("Adam")
    run(straight, whole, 0, 8)
    first, lrd = laid("Adam")
    run(first, lrd, 0, 4)
    torch.save({"params": first, "optimizer": lrd.state_dict()}, tmp_path / "c.pt")
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    second, resumed = laid("Adam")
    for param, value in zip(second, saved["params"], strict=True):
        param.data.copy_(value)
    resumed.load_state_dict(saved["optimizer"])
    run(second, resumed, 4, 4)
    for a, b in zip(straight, second, strict=True):
        assert torch.equal(a, b)


def test_no_schedule_no_scale_no_p_and_no_size_compiles_anew():
    params, lrd = laid("Adam")
    run(params, lrd, 0, 3)
    assert lrd._snapshot.snapshot is None  # no copy of the weights is kept
    counters.clear()
    scheduler = torch.optim.lr_scheduler.LambdaLR(lrd, lambda step: 0.9**step)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)  # type: ignore[attr-defined]
    for t in range(3, 9):
        lrd.zero_grad()
        loss = torch.stack([(p**2).sum() for p in params]).sum()
        scaler.scale(loss).backward()
        scaler.step(lrd)
        scaler.update()
        scheduler.step()
        lrd.p, lrd.rescale = 0.9 - 0.1 * (t - 3), t % 2 == 1
    for size in (3, 300, 70_000):
        others = [torch.ones(size, requires_grad=True)]
        base = torch.optim.Adam(others, lr=0.5, betas=(0.8, 0.9))
        flat_params.flatten_parameters(base.param_groups)
        other = LRDropout(base, implementation="single_pass")
        run(others, other, 0, 3)
        assert other.path == "single_pass"
    assert lrd.path == "single_pass"
    assert counters["stats"]["unique_graphs"] == 0


@pytest.mark.parametrize("name", CASES)
def test_rescaled_by_a_p_that_changes_it_follows_the_definition(name: str):
    """In float64: torch's own step, of which what is kept is divided by the step's p."""
    kind, settings = BASES[name]
    exact = tensors(torch.float64)
    torchs = kind(exact, **settings)  # type: ignore[call-arg]
    params, lrd = laid(name, rescale=True)
    for t in range(60):
        lrd.p = 0.9 - 0.6 * t / 60
        before = [param.detach().clone() for param in params]
        old = [param.detach().clone() for param in exact]
        run(params, lrd, t, 1)
        run(exact, torchs, t, 1)
        for param, was, ref, back, mask in zip(
            params, before, exact, old, masks(t, lrd.p), strict=True
        ):
            ref.data.copy_(torch.where(mask, back + (ref.data - back) / lrd.p, back))
            assert torch.equal(param[~mask], was[~mask]), "a dropped element moved"
        assert lrd.path == ("generic" if t == 0 and lrd.state else "single_pass")
    for param, ref in zip(params, exact, strict=True):
        torch.testing.assert_close(param.double(), ref, rtol=2e-4, atol=2e-5)


def test_groups_keep_their_own_settings():
    """A rate, a p, and p = 1, of each group; the mask counts on from group to group."""
    rates, ps = (0.1, 0.01, 0.001), (0.3, 1.0, P)
    params = tensors()[:3]
    groups = [{"params": [q], "lr": lr, "p": p} for q, lr, p in zip(params, rates, ps, strict=True)]
    base = torch.optim.SGD(groups, momentum=0.9)
    flat_params.flatten_parameters(base.param_groups)
    lrd = LRDropout(base, p=P, seed=SEED, implementation="single_pass")
    run(params, lrd, 0, 2)
    before = [q.detach().clone() for q in params]
    run(params, lrd, 2, 1)
    assert lrd.path == "single_pass"
    for k, (param, was, group) in enumerate(zip(params, before, base.param_groups, strict=True)):
        moved = masks(2, ps[k])[k]
        torch.testing.assert_close(
            param.detach(), was - moved * rates[k] * lrd.state[param]["momentum_buffer"]
        )
        assert group["p"] == ps[k]


def test_what_lies_flat_no_more_or_has_no_gradient_takes_the_generic_path():
    params, lrd = laid("Adam")
    run(params, lrd, 0, 2)
    assert lrd.path == "single_pass"
    lrd.zero_grad()
    backward(params[:2], 2)  # two without a gradient
    before = [p.detach().clone() for p in params]
    lrd.step()
    assert lrd.path == "generic"
    assert torch.equal(params[2], before[2]) and not torch.equal(params[0], before[0])
    run(params, lrd, 3, 1)  # now the parameters have made different numbers of steps
    assert lrd.path == "generic"
    other, again = laid("Adam")
    run(other, again, 0, 2)
    other[1].grad = torch.ones_like(other[1])  # not in the buffer
    again.step()
    assert again.path == "generic"
    run(other, again, 3, 1)
    assert again.path == "single_pass"
    again.base.register_step_pre_hook(lambda *a: None)  # which wants to see the base's step
    again._fused = None
    run(other, again, 4, 1)
    assert again.path == "generic"


def test_state_loaded_behind_its_back_is_noticed():
    params, lrd = laid("Adam")
    run(params, lrd, 0, 2)
    saved = copy.deepcopy(lrd.base.state_dict())
    run(params, lrd, 2, 3)
    lrd.base.load_state_dict(saved)
    assert lrd._fused is not None and not lrd._fused.valid()
    run(params, lrd, 5, 1)
    assert float(lrd.state[params[0]]["step"]) == 3


def test_only_what_is_exactly_known_is_taken():
    class Mine(torch.optim.Adam):
        pass

    params = tensors()
    rate = torch.optim.Adam(params, lr=torch.tensor(0.1))
    for base, name in ((Mine(params), "Mine"), (torch.optim.NAdam(params), "NAdam"), (rate, "")):
        with pytest.raises(ValueError, match=f"implementation=single_pass must have one.*{name}"):
            LRDropout(base, implementation="single_pass")
        assert bind_fused(base) is None
    with pytest.raises(ValueError, match="implementation must be one of auto.*got quick"):
        LRDropout(torch.optim.Adam(params), implementation="quick")


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "COMPILE", False)
    with pytest.raises(ValueError, match="must find a compiler for cpu .*: use generic"):
        LRDropout(torch.optim.Adam(tensors()), implementation="single_pass")
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert not kernels.can_compile("cpu")


class FakeGraph:
    """Does at each replay what was done while it was captured; the capture itself does nothing."""

    def __init__(self) -> None:
        self.replays = 0
        self.acts: Callable[[], None] | None = None

    def replay(self) -> None:
        self.replays += 1
        assert self.acts is not None
        self.acts()


def test_a_captured_step_reads_what_changes_from_memory(monkeypatch: pytest.MonkeyPatch):
    """With a stand-in for CUDA graphs: rate, corrections and mask go on, the host counts on."""
    plain_params, plain = laid("Adam")
    params, lrd = laid("Adam")
    run(plain_params, plain, 0, 12)
    run(params, lrd, 0, 2)
    single = lrd._fused
    assert single is not None
    captures: list[FakeGraph] = []

    @contextmanager
    def graph(made: FakeGraph) -> Iterator[None]:
        captures.append(made)
        made.acts = kernels_of
        monkeypatch.setattr(single, "_kernels", lambda: None)
        yield

    kernels_of = single._kernels
    fake = SimpleNamespace(CUDAGraph=FakeGraph, graph=graph)
    monkeypatch.setattr(single, "launch", lambda: single._replay(fake))
    run(params, lrd, 2, 10)
    assert len(captures) == 1 and captures[0].replays == 7
    assert float(lrd.state[params[0]]["step"]) == 12
    for a, b in zip(params, plain_params, strict=True):
        assert torch.equal(a, b)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("name", BASES)
def test_cpu_and_gpu_take_the_same_steps(name: str, captured: bool):
    here, ours = laid(name)
    kind, settings = BASES[name]
    there = [p.detach().cuda().requires_grad_() for p in tensors()]
    base = kind(there, **settings)  # type: ignore[call-arg]
    flat_params.flatten_parameters(base.param_groups)
    theirs = LRDropout(base, p=P, seed=SEED, implementation="single_pass")
    theirs.captured = captured
    for t in range(20):
        run(here, ours, t, 1)
        before = [p.detach().clone() for p in there]
        theirs.zero_grad()
        for a, b in zip(here, there, strict=True):
            assert a.grad is not None
            (b * a.grad.cuda()).sum().backward()
        theirs.step()
        for param, was, mask in zip(there, before, masks(t), strict=True):
            assert torch.equal((param == was)[~mask.cuda()], torch.ones_like(was)[~mask.cuda()] > 0)
    assert theirs.path == "single_pass"
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-4, atol=1e-5)
