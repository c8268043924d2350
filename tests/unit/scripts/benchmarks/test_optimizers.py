"""The optimizers that the benchmarks compare take the steps that they should."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import Parameter

from lrd.optim import kernels, masks
from lrd.optim.lr_dropout import LRDropout
from scripts.benchmarks import optimizers as opt
from scripts.benchmarks.optimizer_step import step_memory

CPU = torch.device("cpu")


def parameters(*shapes: tuple[int, ...], variant: str = opt.NAIVE) -> list[Parameter]:
    return opt.make_parameters(variant, shapes, CPU)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_naive_adam_at_p_1_is_torchs_adam(decay: float):
    sides = [parameters((5, 7), (11,)) for _ in range(2)]
    optimizers = (
        opt.NaiveAdam(sides[0], lr=0.01, weight_decay=decay, p=1.0),
        torch.optim.Adam(sides[1], lr=0.01, weight_decay=decay),
    )
    for step in range(20):
        for params, optimizer in zip(sides, optimizers, strict=True):
            torch.manual_seed(step)
            for param in params:
                param.grad = torch.randn_like(param)
            optimizer.step()
    for a, b in zip(*sides, strict=True):
        torch.testing.assert_close(a, b)


def test_naive_adam_drops_updates_but_no_moments():
    (dropped,), (full,) = parameters((4000,)), parameters((4000,))
    for param, p in ((dropped, 0.25), (full, 1.0)):
        before = param.detach().clone()
        optimizer = opt.NaiveAdam([param], p=p)
        optimizer.step()
        kept = (param.detach() != before).float().mean().item()
        assert kept == pytest.approx(p, abs=0.04)
        param.grad, state = None, optimizer.state[param]
        param.moments = state["m"], state["v"]  # type: ignore[attr-defined]
    assert all(map(torch.equal, dropped.moments, full.moments))  # type: ignore[attr-defined]


def test_the_settings_are_those_of_the_papers_runs():
    kind, settings = opt.paper_settings("sgdm")
    assert kind is torch.optim.SGD
    assert settings == {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    assert opt.paper_settings("amsgrad")[1]["amsgrad"] is True


@pytest.mark.parametrize("name", opt.OPTIMIZER_NAMES)
def test_every_variant_of_torchs_takes_the_same_step(name: str):
    ends = []
    for variant in opt.torch_variants(name):
        params = parameters((5, 7))
        optimizer = opt.make_optimizer(name, variant, params)
        optimizer.step()
        ends.append(params[0].detach())
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0])


def test_the_eager_variant_compiles_nothing_and_keeps_the_mask(monkeypatch: pytest.MonkeyPatch):
    def refuse() -> Callable[..., None]:
        raise AssertionError("compiled")

    monkeypatch.setattr(kernels, "compiled_restore", refuse)
    params = parameters((3000,))
    before = params[0].detach().clone()
    optimizer = opt.make_optimizer("adam", opt.LRD_EAGER, params, p=0.3)
    optimizer.step()
    mask = masks.keep_mask(0, 0, 0.3, start=0, count=3000, device=CPU)
    assert torch.equal(params[0].detach() != before, mask.view(-1))
    assert kernels.COMPILE


def test_without_a_compiler_only_the_eager_variant_exists(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "COMPILE", False)
    assert opt.lrd_variants(CPU) == [opt.LRD_EAGER]


def test_torchs_fused_adam_has_two_moments_and_no_scratch():
    steady, first = step_memory("adam", opt.TORCH_FUSED, [torch.Size([50, 100])], CPU)
    assert steady == pytest.approx(8, abs=0.1) and first == pytest.approx(8, abs=0.1)


@pytest.mark.slow
def test_the_fused_variant_takes_fused_steps():
    params = parameters((40, 50), (60,), variant=opt.LRD_FUSED)
    optimizer = opt.make_optimizer("adam", opt.LRD_FUSED, params)
    for _ in range(2):
        optimizer.step()
    assert isinstance(optimizer, LRDropout) and optimizer.path == "single_pass"
