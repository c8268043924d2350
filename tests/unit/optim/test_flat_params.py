"""Flat buffers: where parameters and gradients lie, and that nothing else changes."""

import pytest
import torch
from torch import nn

from lrd.optim import flat_params
from lrd.optim.kernels import LANES


def model() -> nn.Sequential:
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.Linear(8 * 4 * 4, 12), nn.Linear(12, 3)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *head)


def losses(
    network: nn.Module, steps: int = 3, laid: bool = False, keep: bool = False
) -> list[float]:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    if laid:
        flat_params.flatten_parameters(optimizer.param_groups)
    inputs = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    seen = []
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=not keep)
        loss = network(inputs).square().sum()
        loss.backward()
        loss2 = network(inputs * 0.5).square().sum()
        loss2.backward()  # a second backward adds
        optimizer.step()
        seen.append(loss.item())
    return seen


@pytest.mark.parametrize("keep", [False, True])
def test_training_is_the_same_to_the_bit(keep: bool):
    assert losses(model(), laid=True, keep=keep) == losses(model(), keep=keep)


def test_values_stay_and_lie_in_order_row_major_in_rows_of_their_own():
    network = model().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    values = [p.detach().clone() for p in network.parameters()]
    params = list(network.parameters())
    flat_params.flatten_parameters([{"params": params}])
    assert all(torch.equal(p, v) for p, v in zip(params, values, strict=True))
    whole = flat_params.buffer_of(params)
    assert whole is not None and whole.shape[1] == LANES
    count = sum(p.numel() for p in params)
    expected = torch.cat([v.reshape(-1) for v in values])
    assert torch.equal(whole.view(-1)[:count], expected)
    assert not whole.view(-1)[count:].any()
    assert params[0].is_contiguous()


def test_gradients_come_to_lie_behind_one_another():
    network = model()
    params = list(network.parameters())
    flat_params.flatten_parameters([{"params": params}])
    network(torch.ones(2, 3, 6, 6)).sum().backward()
    grads = [p.grad for p in params if p.grad is not None]
    whole = flat_params.as_lanes(grads)
    assert whole is not None and len(grads) == len(params)
    before = whole.clone()
    network.zero_grad()
    assert all(p.grad is None for p in params)
    network(2 * torch.ones(2, 3, 6, 6)).sum().backward()
    assert not torch.equal(whole, before)  # the same memory, new values
    assert all(p.grad is g for p, g in zip(params, grads, strict=True))


def test_buffers_end_where_groups_do_and_where_alignment_would():
    sizes = [(4, 4), (3,), (8, 8), (5,), (2,)]
    params = [nn.Parameter(torch.ones(s)) for s in sizes]
    frozen = nn.Parameter(torch.ones(7), requires_grad=False)
    double = nn.Parameter(torch.ones(7, dtype=torch.float64))
    where = [p.data_ptr() for p in (frozen, double)]
    flat_params.flatten_parameters(
        [{"params": params[:3]}, {"params": [*params[3:], frozen, double]}]
    )
    storages = [p.untyped_storage().data_ptr() for p in params]
    assert storages[0] == storages[1] != storages[2]  # 19 elements in, the address is odd
    assert len({*storages}) == 4
    assert all(p.data_ptr() % flat_params.ALIGNMENT == 0 for p in (params[0], params[2], params[3]))
    assert [p.data_ptr() for p in (frozen, double)] == where


def test_as_rows_takes_whole_buffers_alone():
    """A kernel writes every row, so a part of a buffer is none."""
    params = [nn.Parameter(torch.ones(4, 4)) for _ in range(3)]
    flat_params.flatten_parameters([{"params": params}])
    assert flat_params.buffer_of(params) is not None
    assert flat_params.buffer_of(params[:2]) is None  # as many rows, but those of a third one too
    assert flat_params.buffer_of(params[1:]) is None
    assert flat_params.buffer_of([params[0], params[2], params[1]]) is None
    assert flat_params.buffer_of([nn.Parameter(torch.ones(512))]) is None
    assert flat_params.as_lanes([torch.ones(600)]) is None
    assert flat_params.as_lanes([torch.ones(512)]) is not None
    assert flat_params.as_lanes([torch.ones(512).double()]) is None
