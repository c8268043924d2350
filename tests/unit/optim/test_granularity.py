"""Rows and tensors kept or dropped as one: their shares, their bits, and where they may be had."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrd import LRDropout
from lrd.config.compose import compose, to_config
from lrd.optim.masks import keep_mask
from lrd.runs.store import find_runs
from lrd.training import builder
from tests.helpers.masks import mask


def moved(params: list[Tensor], p: float = 0.5, steps: int = 1, **options: Any) -> list[Tensor]:
    """How often each element moved in ``steps`` steps of SGD at rate 1 on gradient 1."""
    lrd = LRDropout(torch.optim.SGD(params, lr=1.0), p=p, seed=3, **options)
    for _ in range(steps):
        for param in params:
            param.grad = torch.ones_like(param)
        lrd.step()
    kept = torch.cat([-param.detach().flatten() for param in params])
    if steps == 1:
        assert lrd.fraction_kept() == float(kept.double().mean())
    return [-param.detach() for param in params]


def zeros(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.zeros(s, requires_grad=True) for s in shapes]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_of_rows_kept_is_p(p: float):
    (counts,) = moved(zeros((4000, 3, 2)), p, steps=5, granularity="row")
    rows = counts.view(4000, 6)
    assert torch.equal(rows, rows[:, :1].expand(-1, 6))
    kept, total = float(rows[:, 0].sum()), 5 * 4000
    assert abs(kept - total * p) < 5 * math.sqrt(total * p * (1 - p))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_of_tensors_kept_is_p(p: float):
    counts = moved(zeros(*[(2, 3)] * 100), p, steps=40, granularity="tensor")
    assert all((c == c[0, 0]).all() for c in counts)
    kept, total = sum(float(c[0, 0]) for c in counts), 40 * 100
    assert abs(kept - total * p) < 5 * math.sqrt(total * p * (1 - p))


def test_neighbouring_rows_and_steps_are_independent():
    first, second = (
        2 * moved(zeros((20_000, 7)), granularity="row", steps=s)[0][:, 0] - s for s in (1, 2)
    )
    second = second - first  # the second step's alone, as +1 and -1
    for a, b in ((first[1:], first[:-1]), (first, second), (second[1:], first[:-1])):
        assert abs(float((a * b).mean())) * math.sqrt(len(a)) < 5


def test_a_unit_has_the_bit_of_its_first_element():
    """Filters of a convolution, its bias, neurons of a layer; frozen ones count in the index."""
    frozen = torch.zeros(11)
    model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.Flatten(), nn.Linear(40, 30))
    params = [q.detach().zero_().requires_grad_() for q in model.parameters()]
    rows = moved([frozen, *params], granularity="row")[1:]
    start = 11
    for unit in rows:
        for number, row in enumerate(unit):
            first = start + number * row.numel()
            assert bool((row == keep_mask(3, 0, 0.5, start=first, count=1)).all())
        start += unit.numel()


def test_vectors_and_scalars_are_as_by_elements():
    shapes = [(500,), (), (300,)]
    by_rows, by_elements = (moved(zeros(*shapes), granularity=g) for g in ("row", "element"))
    assert all(torch.equal(a, b) for a, b in zip(by_rows, by_elements, strict=True))
    assert torch.equal(by_elements[0] == 1, keep_mask(3, 0, 0.5, start=0, count=500))


@pytest.mark.parametrize("granularity", ["element", "row", "tensor"])
def test_strides_do_not_matter(granularity: str):
    plain = zeros((4, 6, 5, 7), (30, 20))
    odd = [
        torch.zeros(4, 6, 5, 7).to(memory_format=torch.channels_last).requires_grad_(),
        torch.zeros(20, 60)[:, ::2].t().requires_grad_(),
    ]
    for a, b in zip(
        moved(plain, granularity=granularity), moved(odd, granularity=granularity), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("granularity", ["element", "row", "tensor"])
def test_groups_move_by_their_own_p_rescaled(granularity: str):
    params = zeros((50, 20), (50, 20), (50, 20))
    groups: list[dict[str, Any]] = [
        {"params": [params[0]]},
        {"params": [params[1]], "keep_p": 1.0},
        {"params": [params[2]], "keep_p": 0.9},
    ]
    lrd = LRDropout(
        torch.optim.SGD(groups, lr=1.0), p=0.25, seed=5, granularity=granularity, rescale=True
    )
    for param in params:
        param.grad = torch.ones_like(param)
    lrd.step()
    for param, start, p in zip(params, (0, 1000, 2000), (0.25, 1.0, 0.9), strict=True):
        values = param.detach().view(-1, {"element": 1, "row": 20, "tensor": 1000}[granularity])
        assert torch.equal(values, values[:, :1].expand_as(values))
        size = values.shape[1]
        bits = keep_mask(5, 0, p, start=start, count=1000)[::size]
        torch.testing.assert_close(values[:, 0], -bits.float() / p)


def test_a_layer_goes_on_with_its_moments_while_it_is_dropped():
    """Momentum sees every gradient, whatever is dropped of a tensor's moves."""
    (param,) = zeros((3, 4))
    base = torch.optim.SGD([param], lr=1.0, momentum=0.5)
    lrd, before = LRDropout(base, p=0.5, seed=3, granularity="tensor"), param.detach().clone()
    momentum = 0.0
    for step in range(12):
        param.grad = torch.ones_like(param)
        lrd.step()
        momentum = 0.5 * momentum + 1
        kept = bool(keep_mask(3, step, 0.5, start=0, count=1))
        torch.testing.assert_close(before - param.detach(), torch.full((3, 4), kept * momentum))
        before = param.detach().clone()


def parts(*overrides: str) -> builder.Components:
    return builder.build(to_config(compose(overrides)))


def test_settings_reach_the_optimizer_and_the_loop():
    built = parts("lrd.granularity=row", "lrd.rescale=true", "lrd.schedule=cosine", "lrd.p_end=0.8")
    assert (built.optimizer.granularity, built.optimizer.rescale) == ("row", True)
    keep = built.p_schedule
    assert (keep.p, keep.p_end, keep.schedule) == (0.5, 0.8, "cosine")
    paper = parts()
    assert (paper.optimizer.granularity, paper.optimizer.rescale) == ("element", False)
    assert {paper.p_schedule(step, 10) for step in range(10)} == {0.5}


@pytest.mark.parametrize("p", [0.5, 0.8])
def test_skip_update_is_tensors_rescaled(p: float):
    """SkipUpdate (arXiv 2602.15322): a coin for each block; RMSprop's update is divided by p."""
    params = [torch.linspace(-1, 1, n).view(shape).requires_grad_() for n, shape in BLOCKS]
    base = torch.optim.RMSprop(params, lr=0.01, alpha=0.99, eps=1e-8)
    lrd = LRDropout(base, p, seed=4, granularity="tensor", rescale=True)
    theta = [param.detach().double() for param in params]
    second = [torch.zeros_like(block) for block in theta]
    skipped = 0
    for t in range(20):
        start = 0
        for b, param in enumerate(params):
            param.grad = torch.sin(torch.arange(param.numel()) + t + b).view(param.shape)
            g = param.grad.double()
            second[b] = 0.99 * second[b] + 0.01 * g * g
            s = bool(mask(4, t, p, start, (1,))[0])
            theta[b] = theta[b] - s / p * 0.01 * g / (second[b].sqrt() + 1e-8)
            skipped, start = skipped + (not s), start + param.numel()
        lrd.step()
        for block, param in zip(theta, params, strict=True):
            torch.testing.assert_close(param.double(), block, rtol=1e-5, atol=1e-6)
    assert 0 < skipped < 60


BLOCKS = [(12, (3, 4)), (5, (5,)), (24, (2, 3, 2, 2))]


def test_the_arm_of_skip_update():
    built = parts("+arm=skipupdate")
    optimizer = built.optimizer
    assert (optimizer.p, optimizer.granularity, optimizer.rescale) == (0.5, "tensor", True)


def test_a_state_of_rows_is_not_for_the_fused_step():
    (param,) = zeros((10, 10))
    rows = LRDropout(torch.optim.Adam([param]), granularity="row").state_dict()
    fused = LRDropout(torch.optim.Adam([param]), p=0.3, implementation="fused")
    with pytest.raises(ValueError, match="fused: granularity must be element.*got row; use snap"):
        fused.load_state_dict(rows)
    assert (fused.p, fused.granularity) == (0.3, "element")


def test_from_the_command_line_a_run_is_another_than_the_papers(cli: Callable[..., Any]):
    quick = ["model.hidden=[8]", "train.threads=1", "train.epochs=2"]
    settings = ("p=0.5", "granularity=row", "rescale=true", "schedule=linear")
    for number, setting in enumerate(settings):
        assert cli(*quick, f"lrd.{setting}", f"run.dir={number}").status == 0
    paper, row, rescaled, linear = (next(find_runs(str(k))) for k in range(4))
    assert len({run.fingerprint for run in (paper, row, rescaled, linear)}) == 4
    kept, loss = (
        [[line[name] for line in run.metrics] for run in (paper, row, rescaled, linear)]
        for name in ("fraction_kept", "train_loss")
    )
    assert kept[1] != kept[0] == kept[2] and len({tuple(line) for line in loss}) == 4
    assert kept[3] == pytest.approx([0.75, 1.0], abs=0.05)  # each epoch's last step
