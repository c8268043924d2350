"""LRDropout against Algorithm 1 of the paper, written out naively in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lrd import LRDropout
from lrd.optim.masks import keep_mask
from lrd.rmsprop import RMSpropDecayInMoment
from lrd.schedules import PSchedule

Rule = Callable[[Tensor, Tensor, dict[str, Any], int], Tensor]


def sgdm(g: Tensor, w: Tensor, s: dict[str, Any], t: int) -> Tensor:
    """Line 3 with momentum 0.9; weight decay 0.01 is part of the gradient."""
    g = g + 0.01 * w
    s["m"] = g if t == 1 else 0.9 * s["m"] + g
    return s["m"]


def adam(g: Tensor, w: Tensor, s: dict[str, Any], t: int) -> Tensor:
    """Lines 3 to 6 with bias correction (Kingma and Ba, 2015)."""
    g = g + 0.01 * w
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * g * g
    return s["m"] / (1 - 0.9**t) / ((s["v"] / (1 - 0.999**t)).sqrt() + 1e-8)


def rmsprop(g: Tensor, w: Tensor, s: dict[str, Any], t: int) -> Tensor:
    g = g + 0.01 * w
    s["v"] = 0.99 * s.get("v", 0) + 0.01 * g * g
    return g / (s["v"].sqrt() + 1e-8)


def rmsprop_authors(g: Tensor, w: Tensor, s: dict[str, Any], t: int) -> Tensor:
    """The published arm: the decayed gradient enters V_t, the bare one moves the weights."""
    s["v"] = 0.99 * s.get("v", 0) + 0.01 * (g + 0.01 * w) ** 2
    return g / (s["v"].sqrt() + 1e-8)


CASES: dict[str, tuple[Rule, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
    "sgdm": (sgdm, lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.01)),
    "adam": (adam, lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01)),
    "rmsprop": (rmsprop, lambda p: torch.optim.RMSprop(p, lr=0.01, weight_decay=0.01)),
    "rmsprop_authors": (
        rmsprop_authors,
        lambda p: RMSpropDecayInMoment(p, lr=0.01, weight_decay=0.01),
    ),
}


def gradient(w: Tensor, t: int) -> Tensor:
    aim = torch.randn(w.shape, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
    return (w - aim.to(w.dtype)) * torch.linspace(0.1, 2, w.numel()).to(w.dtype).view(w.shape)


def naive(
    rule: Rule,
    p: Callable[[int], float],
    steps: int,
    shapes: list[tuple[int, ...]],
    granularity: str = "element",
    rescale: bool = False,
) -> list[Tensor]:
    """Algorithm 1: W_t = W_{t-1} - alpha D_t * dW_t, every moment from every gradient.

    Beyond it, p may depend on the step, a row or tensor has the bit of its first element, and D_t
    is 1/p where it was 1.
    """
    weights = [torch.ones(s, dtype=torch.float64) for s in shapes]
    states: list[dict[str, Any]] = [{} for _ in shapes]
    for t in range(1, steps + 1):
        start = 0
        for k, w in enumerate(weights):
            keep = keep_mask(7, t - 1, p(t), start=start, count=w.numel()).view(w.shape)
            if granularity == "row":
                keep = torch.stack([torch.full_like(row, bool(row.flatten()[0])) for row in keep])
            elif granularity == "tensor":
                keep = torch.full_like(keep, bool(keep.flatten()[0]))
            d = keep.double() / p(t) if rescale else keep.double()
            weights[k] = w - 0.01 * d * rule(gradient(w, t), w, states[k], t)
            start += w.numel()
    return weights


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_fifty_steps_follow_algorithm_1(name: str, p: float):
    rule, make = CASES[name]
    shapes = [(20, 10), (30,), (2, 3, 4, 5)]
    params = [torch.ones(s).requires_grad_() for s in shapes]
    lrd = LRDropout(make(params), p=p, seed=7)
    for t in range(1, 51):
        for param in params:
            param.grad = gradient(param.detach(), t)
        lrd.step()
    for param, reference in zip(params, naive(rule, lambda t: p, 50, shapes), strict=True):
        torch.testing.assert_close(param.double(), reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("granularity", ["element", "row", "tensor"])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_fifty_steps_follow_what_goes_beyond_it(name: str, rescale: bool, granularity: str):
    """With p from 0.4 at the first of 50 steps to 1 after the last."""
    rule, make = CASES[name]
    shapes = [(20, 10), (30,), (2, 3, 4, 5)]
    params = [torch.ones(s).requires_grad_() for s in shapes]
    lrd = LRDropout(make(params), seed=7, granularity=granularity, rescale=rescale)
    for t in range(1, 51):
        lrd.p = PSchedule(0.4, 1.0, "linear")(t - 1, 50)
        for param in params:
            param.grad = gradient(param.detach(), t)
        lrd.step()

    def p(t: int) -> float:
        return 0.4 + 0.6 * (t - 1) / 50

    for param, twin in zip(params, naive(rule, p, 50, shapes, granularity, rescale), strict=True):
        torch.testing.assert_close(param.double(), twin, rtol=1e-4, atol=1e-5)


def test_the_authors_arm_differs_from_rmsprop_only_by_the_decay_in_the_move():
    def after(kind: Any, decay: float) -> Tensor:
        param = torch.ones(50).requires_grad_()
        lrd = LRDropout(kind([param], lr=0.01, alpha=0.99, weight_decay=decay), p=0.5)
        for t in range(1, 11):
            param.grad = gradient(param.detach(), t)
            lrd.step()
        return param.detach()

    torch.testing.assert_close(after(RMSpropDecayInMoment, 0), after(torch.optim.RMSprop, 0))
    gap = after(RMSpropDecayInMoment, 0.5) - after(torch.optim.RMSprop, 0.5)
    assert gap.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (dict(lr=-1), "lr must be at least 0, got -1"),
        (dict(alpha=1.0), r"alpha must be in \[0, 1\), got 1.0"),
        (dict(weight_decay=-0.1), "weight_decay must be at least 0"),
    ],
)
def test_rmsprop_refuses_wrong_settings(setting: dict[str, float], text: str):
    with pytest.raises(ValueError, match=text):
        RMSpropDecayInMoment([torch.ones(1)], **setting)
