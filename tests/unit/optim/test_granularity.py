"""Rows and tensors kept or dropped as one: their shares, their bits, and where they may be had."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrd import LRDropout
from lrd.config.compose import compose, to_config
from lrd.optim import kernels
from lrd.optim.masks import keep_mask
from lrd.optim.select import select_implementation
from lrd.runs.store import find_runs
from lrd.training import builder


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
        {"params": [params[1]], "p": 1.0},
        {"params": [params[2]], "p": 0.9},
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


def test_a_run_whose_p_falls_from_one_gets_a_step_that_can_drop(monkeypatch: pytest.MonkeyPatch):
    if not kernels.can_compile("cpu"):
        pytest.skip("needs a C++ compiler")
    monkeypatch.setitem(kernels.COMPILE_THRESHOLD, "cpu", 1)
    falls = ["lrd.p=1", "lrd.schedule=linear", "lrd.p_end=0.5"]
    for settings, implementation in ((falls, "single_pass"), (["lrd.p=1"], "generic")):
        config = to_config(compose(["model.hidden=[8]", *settings]))
        assert builder.build_trainer(config, builder.build(config))[1] == implementation


def test_the_single_pass_is_rejected_by_name_and_auto_does_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    text = (
        r"^lrd.implementation=single_pass must have granularity=element .*got tensor: use generic"
    )
    with pytest.raises(ValueError, match=text):
        parts("lrd.granularity=tensor", "lrd.implementation=single_pass")
    monkeypatch.setitem(kernels.COMPILE_THRESHOLD, "cpu", 1)
    caplog.set_level("INFO", "lrd")
    for wanted in ("auto", "generic"):
        (param,) = zeros((10, 10))
        lrd = LRDropout(torch.optim.Adam([param]), granularity="row")
        assert select_implementation(lrd, wanted, None, 100) == "generic"
        param.grad = torch.ones_like(param)
        lrd.step()
        assert lrd.path == "generic" and not caplog.messages


def test_a_state_of_rows_is_not_for_a_single_pass():
    if not kernels.can_compile("cpu"):
        pytest.skip("needs a C++ compiler")
    (param,) = zeros((10, 10))
    rows = LRDropout(torch.optim.Adam([param]), granularity="row").state_dict()
    single = LRDropout(torch.optim.Adam([param]), p=0.3, implementation="single_pass")
    with pytest.raises(ValueError, match="single_pass must have granularity=element"):
        single.load_state_dict(rows)
    assert (single.p, single.granularity) == (0.3, "element")


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
