"""The fused step against torch's own optimizers in float64 with the mask applied by hand."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrd import LRDropout
from lrd.optim.fused import why_not_fused
from lrd.optim.masks import keep_mask
from lrd.rmsprop import RMSpropDecayInMoment

P, SEED = 0.6, 3
SHAPES = [(40, 30), (50, 2), (3, 4, 5, 2), ()]
Make = Callable[..., Optimizer]

BASES: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "SGD momentum": (torch.optim.SGD, dict(lr=0.01, momentum=0.9, weight_decay=0.01)),
    "RMSprop": (torch.optim.RMSprop, dict(lr=0.001, weight_decay=0.01)),
    "Adam": (torch.optim.Adam, dict(lr=0.01, weight_decay=0.01)),
    "AMSGrad": (torch.optim.Adam, dict(lr=0.01, amsgrad=True)),
    "RAdam": (torch.optim.RAdam, dict(lr=0.03, weight_decay=0.01)),
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


def fused(name: str, **extra: Any) -> tuple[list[Tensor], LRDropout]:
    params = tensors()
    kind, settings = BASES[name]
    base = kind(params, **settings)  # type: ignore[call-arg]
    return params, LRDropout(base, p=P, seed=SEED, implementation="fused", **extra)


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


@pytest.mark.parametrize("name", BASES)
def test_two_hundred_steps_follow_algorithm_1(name: str):
    """In float64 with torch's plain loop over tensors, line 11 of Algorithm 1 by hand."""
    kind, settings = BASES[name]
    exact = tensors(torch.float64)
    torchs = kind(exact, **settings)  # type: ignore[call-arg]
    params, lrd = fused(name)
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
        assert lrd.path == ("snapshot" if t == 0 and lrd.state else "fused")
    for param, ref in zip(params, exact, strict=True):
        torch.testing.assert_close(param.double(), ref, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", BASES)
def test_channels_last_weights_take_the_steps_of_row_major_ones(name: str):
    """Fused, with moments and gradients in the same order, and to the same bits."""
    kind, settings = BASES[name]
    row_major, lrd = fused(name)
    params = [
        t.detach().to(memory_format=torch.channels_last) if t.dim() == 4 else t.detach().clone()
        for t in tensors()
    ]
    params = [t.requires_grad_() for t in params]
    other = LRDropout(kind(params, **settings), p=P, seed=SEED, implementation="fused")  # type: ignore[call-arg]
    run(row_major, lrd, 0, 6)
    run(params, other, 0, 6)
    assert other.path == "fused" and not all(param.is_contiguous() for param in params)
    assert all(torch.equal(a, b) for a, b in zip(row_major, params, strict=True))


def test_a_gradient_in_another_order_than_its_weight_is_not_fused():
    params, lrd = fused("Adam")
    run(params, lrd, 0, 1)
    lrd.zero_grad()
    backward(params, 1)
    assert params[2].grad is not None
    params[2].grad = params[2].grad.to(memory_format=torch.channels_last)
    lrd.step()
    assert lrd.path == "snapshot" and "channels-last order" in str(lrd.why_not_fused)


@pytest.mark.parametrize("name", BASES)
def test_state_is_the_bases_own_and_goes_both_ways(name: str):
    """A checkpoint continues with the base alone, and with the reference."""
    kind, settings = BASES[name]
    params, lrd = fused(name)
    run(params, lrd, 0, 10)
    saved, weights = copy.deepcopy(lrd.state_dict()), [p.detach().clone() for p in params]
    plain_params = [w.clone().requires_grad_() for w in weights]
    plain = kind(plain_params, **settings)  # type: ignore[call-arg]
    plain.load_state_dict(saved)
    other_params = [w.clone().requires_grad_() for w in weights]
    other = LRDropout(kind(other_params, **settings), implementation="reference")  # type: ignore[call-arg]
    other.load_state_dict(saved)
    assert [s.keys() for s in saved["state"].values()] == [
        s.keys() for s in other.state_dict()["state"].values()
    ]
    run(params, lrd, 10, 10)
    run(other_params, other, 10, 10)
    for ours, theirs in zip(params, other_params, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    run(plain_params, plain, 10, 1)
    back_params, back = fused(name)
    back.load_state_dict(copy.deepcopy(other.state_dict()))
    for param, weight in zip(back_params, other_params, strict=True):
        param.data.copy_(weight)
    run(back_params, back, 20, 5)
    run(other_params, other, 20, 5)
    assert back.path == "fused"  # from its first step on: the state is there
    for ours, theirs in zip(back_params, other_params, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_resume_is_bitwise_the_uninterrupted_run(tmp_path):
    straight, whole = fused("Adam")
    run(straight, whole, 0, 8)
    first, lrd = fused("Adam")
    run(first, lrd, 0, 4)
    torch.save({"params": first, "optimizer": lrd.state_dict()}, tmp_path / "c.pt")
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    second, resumed = fused("Adam")
    for param, value in zip(second, saved["params"], strict=True):
        param.data.copy_(value)
    resumed.load_state_dict(saved["optimizer"])
    run(second, resumed, 4, 4)
    for a, b in zip(straight, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", BASES)
def test_rescaled_by_a_p_that_changes_it_follows_the_definition(name: str):
    """In float64: torch's own step, of which what is kept is divided by the step's p."""
    kind, settings = BASES[name]
    exact = tensors(torch.float64)
    torchs = kind(exact, **settings)  # type: ignore[call-arg]
    params, lrd = fused(name, rescale=True)
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
        assert lrd.path == ("snapshot" if t == 0 and lrd.state else "fused")
    for param, ref in zip(params, exact, strict=True):
        torch.testing.assert_close(param.double(), ref, rtol=2e-4, atol=2e-5)


def test_groups_keep_their_own_settings():
    """A rate, a p, and p = 1, of each group; the mask counts on from group to group."""
    rates, ps = (0.1, 0.01, 0.001), (0.3, 1.0, P)
    params = tensors()[:3]
    groups = [
        {"params": [q], "lr": lr, "keep_p": p} for q, lr, p in zip(params, rates, ps, strict=True)
    ]
    base = torch.optim.SGD(groups, momentum=0.9)
    lrd = LRDropout(base, p=P, seed=SEED, implementation="fused")
    run(params, lrd, 0, 2)
    before = [q.detach().clone() for q in params]
    run(params, lrd, 2, 1)
    assert lrd.path == "fused"
    for k, (param, was, group) in enumerate(zip(params, before, base.param_groups, strict=True)):
        moved = masks(2, ps[k])[k]
        torch.testing.assert_close(
            param.detach(), was - moved * rates[k] * lrd.state[param]["momentum_buffer"]
        )
        assert group["keep_p"] == ps[k]


def test_a_step_that_cannot_be_fused_says_why():
    params, lrd = fused("Adam")
    run(params, lrd, 0, 1)
    assert lrd.path == "snapshot" and "no state yet" in str(lrd.why_not_fused)
    run(params, lrd, 1, 1)
    assert lrd.path == "fused" and lrd.why_not_fused is None

    def after(change: Callable[[], Any]) -> str:
        change()
        run(params, lrd, 2, 1)
        return f"{lrd.path}: {lrd.why_not_fused}"

    def spread() -> None:
        params[0].data = torch.zeros(40, 30, 2)[..., 0].copy_(params[0].data)

    assert (
        "snapshot: parameters, gradients and moments must be float32 tensors on one device"
        in after(spread)
    )
    params[0].data = params[0].data.contiguous()
    same = nn.Parameter(torch.zeros(1))
    same.data = params[1].data.view(-1)[10:60]

    def share() -> None:
        lrd.add_param_group({"params": [same]})
        lrd.state[same].update(
            {
                k: v.new_zeros(v.shape if not v.dim() else 50)
                for k, v in lrd.state[params[1]].items()
            }
        )

    params.append(same)
    shared = "snapshot: two weights, gradients or moments share memory"
    assert after(share) == shared
    lrd.param_groups.pop()
    del params[-1], lrd.state[same]
    one, other = (lrd.state[q] for q in params[:2])
    one["exp_avg_sq"], saved = other["exp_avg_sq"].new_zeros(40, 30), one["exp_avg_sq"]
    other["exp_avg_sq"] = one["exp_avg_sq"].view(-1)[-100:].view(50, 2)
    assert after(lambda: None) == shared
    one["exp_avg_sq"], other["exp_avg_sq"] = saved, other["exp_avg_sq"].clone()
    assert after(lambda: None) == "fused: None"
    lrd.base.register_step_pre_hook(lambda *arguments: None)
    assert "snapshot: the base has step hooks" in after(lambda: None)
    lrd.zero_grad()
    backward(params, 3)
    lrd.step(lambda: torch.zeros(()))
    assert lrd.why_not_fused == "the step has a closure"


def test_parameters_of_different_step_counts_are_corrected_each_by_its_own():
    params, lrd = fused("Adam")
    run(params, lrd, 0, 2)
    for t in range(2, 6):
        lrd.zero_grad()
        backward(params[: 1 + t % 4], t)
        lrd.step()
    assert lrd.path == "fused"
    counts = [float(lrd.state[q]["step"]) for q in params]
    assert counts == [6, 5, 4, 3]
    plain_params, plain = copy.deepcopy((params, lrd.base))
    before = [q.detach().clone() for q in params]
    run(params, lrd, 6, 1)
    run(plain_params, plain, 6, 1)
    for param, moved, old, keep in zip(params, plain_params, before, masks(6), strict=True):
        torch.testing.assert_close(param, torch.where(keep, moved, old), rtol=1e-6, atol=1e-7)


def test_autograd_notices_that_weights_have_changed():
    """As after torch's own step: a graph kept from before must not see the new weights."""
    weight = torch.ones(3, requires_grad=True)
    lrd = LRDropout(torch.optim.SGD([weight], lr=0.1), implementation="fused")
    loss = (weight**3).sum()
    loss.backward(retain_graph=True)
    lrd.step()
    assert lrd.path == "fused"
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_only_what_is_exactly_known_is_taken():
    class Mine(torch.optim.Adam):
        pass

    params = tensors()
    rate = torch.optim.Adam(params, lr=torch.tensor(0.1))
    for base, name in ((Mine(params), "Mine"), (torch.optim.NAdam(params), "NAdam"), (rate, "")):
        text = f"implementation=fused: the base must be one of SGD.*{name}; use snapshot"
        with pytest.raises(ValueError, match=text):
            LRDropout(base, implementation="fused")
        assert why_not_fused(base, "element")
    with pytest.raises(ValueError, match="implementation must be one of auto.*got quick"):
        LRDropout(torch.optim.Adam(params), implementation="quick")
    with pytest.raises(ValueError, match="fused: granularity must be element.*got row"):
        LRDropout(torch.optim.Adam(params), implementation="fused", granularity="row")


def test_values_beyond_the_range_of_float32_are_what_torch_makes_of_them():
    odd = torch.tensor([float("inf"), -float("inf"), float("nan"), 3e38, 2e19, 1e-44, 0.0, -0.0])
    for kind, settings in BASES.values():
        plain_params = [torch.tensor([1.0, float("inf"), 3e38, 0.0]).repeat(2).requires_grad_()]
        params = [plain_params[0].detach().clone().requires_grad_()]
        plain = kind(plain_params, **settings)  # type: ignore[call-arg]
        lrd = LRDropout(kind(params, **settings), p=1 - 2**-31, implementation="fused")  # type: ignore[call-arg]
        for grad in (torch.ones(8), odd, torch.ones(8)):
            plain_params[0].grad, params[0].grad = grad.clone(), grad.clone()
            plain.step()
            lrd.step()
        assert lrd.path == "fused"
        count = 3 if settings.get("centered") else 8  # torch squares some 3e38 without overflow
        torch.testing.assert_close(params[0][:count], plain_params[0][:count], equal_nan=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("form", ["foreach", "fused"])
@pytest.mark.parametrize("name", BASES)
def test_cpu_and_gpu_take_the_same_steps(name: str, form: str):
    """Step counts on the host (foreach) and on the device (fused)."""
    here, ours = fused(name)
    kind, settings = BASES[name]
    there = [p.detach().cuda().requires_grad_() for p in tensors()]
    try:
        base = kind(there, **settings, **{form: True})  # type: ignore[call-arg]
    except (TypeError, RuntimeError):
        pytest.skip(f"{kind.__name__} has no {form} form")
    theirs = LRDropout(base, p=P, seed=SEED, implementation="fused")
    for t in range(20):
        run(here, ours, t, 1)
        before = [p.detach().clone() for p in there]
        theirs.zero_grad()
        for a, b in zip(here, there, strict=True):
            assert a.grad is not None
            (b * a.grad.cuda()).sum().backward()
        theirs.step()
        for param, was, keep in zip(there, before, masks(t), strict=True):
            assert torch.equal(param[~keep.cuda()], was[~keep.cuda()])
    assert theirs.path == "fused"
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-4, atol=1e-5)
