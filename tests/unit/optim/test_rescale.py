"""Rescaled by 1/p the mean of a step is the base's, and without it that of p times the rate."""

import math

import pytest
import torch
from torch import Tensor

from lrd import LRDropout

RATE, STEPS, P = 0.2, 8, 0.4


def after(granularity: str, rescale: bool, units: int, p: float = P, seed: int = 0) -> Tensor:
    """W_t of every unit after gradient descent on W^2 / 2 from 1: as many draws of one process."""
    shape = {"element": (units,), "row": (units, 3), "tensor": (2, 2)}[granularity]
    count = units if granularity == "tensor" else 1
    params = [torch.ones(shape, dtype=torch.float64, requires_grad=True) for _ in range(count)]
    base = torch.optim.SGD(params, lr=RATE)
    lrd = LRDropout(base, p, seed, granularity=granularity, rescale=rescale)
    for _ in range(STEPS):
        for param in params:
            param.grad = param.detach().clone()
        lrd.step()
    if granularity == "tensor":
        return torch.stack([param.detach()[0, 0] for param in params])
    return params[0].detach().view(units, -1)[:, 0]


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize(
    ("granularity", "units", "seeds"),
    [("element", 100_000, 1), ("row", 50_000, 1), ("tensor", 250, 6), ("element", 50, 100)],
)
def test_the_mean_over_masks_is_the_closed_form(
    granularity: str, units: int, seeds: int, rescale: bool
):
    """W_t = (1 - rate D_t / p) W_{t-1}, or with D_t alone, D_t ~ Bernoulli(p) independent: mean and
    variance are products over the steps. Rescaled, the mean is the base's own W_t."""
    w = torch.cat([after(granularity, rescale, units, seed=seed) for seed in range(seeds)])
    move = RATE / P if rescale else RATE
    mean = (1 - P * move) ** STEPS
    square = (1 - 2 * P * move + P * move**2) ** STEPS
    assert abs(float(w.mean()) - mean) < 5 * math.sqrt((square - mean**2) / len(w))
    base = torch.tensor(1 - RATE, dtype=torch.float64) ** STEPS
    assert (mean == pytest.approx(float(base))) == rescale


def test_each_move_is_the_bases_over_p_or_none():
    w = after("element", True, 1000)
    ways = torch.tensor([(1 - RATE / P) ** k for k in range(STEPS + 1)], dtype=torch.float64)
    assert torch.allclose((w[:, None] - ways).abs().min(1).values, torch.zeros(1).double())


def test_a_half_is_exact():
    """1/p and the sums are exact in binary here, so that the weights are, to the bit."""
    param = torch.full((1000,), 8.0, requires_grad=True)
    lrd = LRDropout(torch.optim.SGD([param], lr=1.0), p=0.5, rescale=True)
    param.grad = torch.ones(1000)
    lrd.step()
    assert set(param.detach().tolist()) == {8.0, 6.0}
