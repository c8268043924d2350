"""MuonWithAdamW against torch's two optimizers, each over its own parameters."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon
from torch.optim.optimizer import register_optimizer_step_post_hook

from lrd import LRDropout
from lrd.muon import MuonWithAdamW
from tests.helpers.masks import mask

SHAPES = [(8, 5), (8,), (3, 8), (4, 2, 3, 3), ()]


def tensors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]


def step(params: list[Tensor], optimizers: list[Any], number: int) -> None:
    generator = torch.Generator().manual_seed(100 + number)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    for optimizer in optimizers:
        optimizer.step()


def test_each_parameter_moves_as_by_its_own_optimizer():
    ours, theirs = tensors(), tensors()
    both = MuonWithAdamW(ours, lr=0.02, weight_decay=0.1)
    muon = Muon(
        [q for q in theirs if q.dim() == 2],
        **{"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"},
    )
    adamw = AdamW([q for q in theirs if q.dim() != 2], lr=0.02, weight_decay=0.1)
    for number in range(5):
        step(ours, [both], number)
        step(theirs, [muon, adamw], number)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert [group["algorithm"] for group in both.param_groups] == ["muon", "adamw"]


def test_groups_keep_their_settings_and_schedules_rule_both():
    params = tensors()
    groups = [{"params": params[:2], "lr": 0.5, "keep_p": 0.9}, {"params": params[2:]}]
    optimizer = MuonWithAdamW(groups, lr=0.1)
    rates = [(g["algorithm"], g["lr"], g.get("keep_p")) for g in optimizer.param_groups]
    wanted = [("muon", 0.5, 0.9), ("adamw", 0.5, 0.9), ("muon", 0.1, None), ("adamw", 0.1, None)]
    assert rates == wanted
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25, 0.05, 0.05]


def test_named_parameters_and_groups_that_are_added_later_are_divided_too():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = MuonWithAdamW(model[0].named_parameters(), lr=0.1)
    optimizer.add_param_group({"params": model[1].named_parameters(), "lr": 0.2})
    sizes = [(g["algorithm"], len(g["params"]), g["lr"]) for g in optimizer.param_groups]
    assert sizes == [("muon", 1, 0.1), ("adamw", 1, 0.1), ("muon", 1, 0.2), ("adamw", 1, 0.2)]
    assert [g["param_names"] for g in optimizer.param_groups[:2]] == [["weight"], ["bias"]]
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    before = [param.detach().clone() for param in model.parameters()]
    optimizer.step()
    assert all((a != b).any() for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "state_dict"])
def test_it_continues_from_a_copy(way: str):
    params = tensors()
    optimizer = MuonWithAdamW(params, lr=0.02)
    step(params, [optimizer], 0)
    if way == "pickle":
        others, other = pickle.loads(pickle.dumps((params, optimizer)))
    elif way == "deepcopy":
        others, other = copy.deepcopy((params, optimizer))
    else:
        others = [q.detach().clone().requires_grad_() for q in params]
        other = MuonWithAdamW(others)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(params, [optimizer], 1)
    step(others, [other], 1)
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))


def test_lrd_is_around_both():
    params, plain = tensors(), tensors()
    lrd = LRDropout(MuonWithAdamW(params, lr=0.02), p=0.4, seed=3)
    before = [q.detach().clone() for q in params]
    seen: list[Any] = []
    handle = register_optimizer_step_post_hook(lambda o, a, k: seen.append(o))
    try:
        step(params, [lrd], 0)
    finally:
        handle.remove()
    step(plain, [MuonWithAdamW(plain, lr=0.02)], 0)
    assert seen == [lrd] and lrd.path == "snapshot"
    start = 0
    moved = {id(q): m for q, m in zip(params, plain, strict=True)}
    old = {id(q): b for q, b in zip(params, before, strict=True)}
    for param in (q for group in lrd.param_groups for q in group["params"]):
        keep = torch.from_numpy(mask(3, 0, 0.4, start, tuple(param.shape)))
        assert torch.equal(param, torch.where(keep, moved[id(param)], old[id(param)]))
        start += param.numel()


def test_a_closure_is_called_once_with_gradients():
    weight, calls = nn.Parameter(torch.ones(2, 2)), []
    optimizer = MuonWithAdamW([weight], lr=0.1)

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 4 and calls == [True]
