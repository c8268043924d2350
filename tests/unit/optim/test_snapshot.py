"""The snapshot around parameters of every kind: the bits of the reference."""

import copy
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from lrd import LRDropout
from lrd.optim import kernels
from lrd.optim.kernels.eager import EagerKernels
from lrd.optim.masks import keep_mask
from tests.helpers.lrd_options import OPTIONS
from tests.helpers.masks import mask

P, SEED = 0.6, 5


def after(implementation: str, **options: Any) -> list[Tensor]:
    """Weights after five steps, each with a p of its own, of many kinds of parameters."""
    torch.manual_seed(0)
    shapes = ((300, 70), (70,), (5, 3, 3, 3), (), (0, 4), (3, 0), (1, 5))
    params = [torch.randn(s, requires_grad=True) for s in shapes]
    params += [torch.randn(30, 40).t().requires_grad_(), torch.randn(9, 8)[:, ::2].requires_grad_()]
    params += [torch.randn(7, 6, dtype=torch.complex64).requires_grad_()]
    params += [torch.randn(50, 3).to(torch.bfloat16).requires_grad_()]
    params += [torch.randn(50, 3, dtype=torch.float64).requires_grad_()]
    groups = [{"params": params[:3]}, {"params": params[3:], "keep_p": 0.3}]
    base = torch.optim.RMSprop(groups, lr=0.01, momentum=0.9, foreach=False)
    lrd = LRDropout(base, p=P, seed=SEED, implementation=implementation, **options)
    for step in range(5):
        lrd.p = P + 0.05 * step
        lrd.zero_grad()
        torch.stack([(q - 1).abs().square().sum().float() for q in params]).sum().backward()
        lrd.step()
    assert lrd.path == implementation
    return [p.detach() for p in params]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_snapshot_is_the_reference_to_the_bit(
    options: dict[str, Any], compiled: bool, monkeypatch: pytest.MonkeyPatch
):
    if not compiled:
        monkeypatch.setattr(kernels, "_prepare", lambda device, rule: EagerKernels())
        monkeypatch.setattr(kernels, "_ready", {})
    for ours, theirs in zip(
        after("snapshot", **options), after("reference", **options), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("implementation", ["snapshot", "reference", "auto"])
def test_a_default_dtype_changes_no_element(default: torch.dtype, implementation: str):
    """Each element is its old bits or exactly what the base makes of it."""
    params = [torch.full((100,), 0.1234567), torch.full((70_000,), 0.1234567)]
    params += [torch.full((9, 5), 0.1234567, dtype=torch.bfloat16)]
    torch.set_default_dtype(default)
    try:
        for param in params:
            param.requires_grad_().grad = torch.ones_like(param)
        base = torch.optim.SGD(params, lr=0.5)
        LRDropout(base, P, SEED, implementation=implementation).step()
    finally:
        torch.set_default_dtype(torch.float32)
    start = 0
    for param in params:
        old = torch.full_like(param, 0.1234567)
        keep = torch.from_numpy(mask(SEED, 0, P, start, tuple(param.shape)))
        assert torch.equal(param.detach(), torch.where(keep, old - 0.5, old))
        start += param.numel()


@pytest.mark.parametrize("implementation", ["fused", "snapshot", "reference"])
@pytest.mark.parametrize("options", [{}, {"granularity": "row"}])
def test_a_default_device_changes_nothing(implementation: str, options: dict[str, Any]):
    """Parameters on a CPU while new tensors are on another device, by torch's eager kernels too."""
    if options and implementation == "fused":
        pytest.skip("the fused step draws a bit for each element")
    params = [torch.zeros(40, 30), torch.zeros(30, 40).t()][: 1 if implementation == "fused" else 2]
    lrd = LRDropout(
        torch.optim.SGD(params, lr=1.0), P, SEED, implementation=implementation, **options
    )
    for param in params:
        param.grad = torch.ones_like(param)
    with torch.device("meta"):
        lrd.step()
        assert 0.5 < lrd.fraction_kept() < 0.7
    assert lrd.path == implementation
    start = 0
    for param in params:
        keep = mask(SEED, 0, P, start, (40, 30), options.get("granularity", "element"))
        assert torch.equal(param == -1, torch.from_numpy(keep))
        start += 1200


def test_parameters_that_move_are_followed():
    """A parameter given new memory, as model.to() does, and an optimizer that is copied."""
    param = torch.ones(5000, requires_grad=True)
    lrd = LRDropout(torch.optim.SGD([param], lr=0.1), P, SEED, implementation="snapshot")
    for step in range(3):
        param.data = param.data.clone() if step == 1 else param.data
        param.grad = torch.ones_like(param)
        before = param.detach().clone()
        lrd.step()
        assert torch.equal(param.detach() != before, keep_mask(SEED, step, P, start=0, count=5000))
    twin = copy.deepcopy(lrd)
    twin.param_groups[0]["params"][0].grad = torch.ones(5000)
    before = param.detach().clone()
    twin.step()
    assert torch.equal(param.detach(), before)


@pytest.mark.parametrize("granularity", ["element", "row", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_channels_last_weights_have_the_bits_of_the_reference(granularity: str, dtype: torch.dtype):
    """Filters of one pixel and of one channel are in both orders at once."""
    shapes, results = [(40, 30, 3, 3), (8, 4, 1, 1), (8, 1, 3, 3), (7, 6, 2, 3, 2), (5,)], []
    for implementation in ("snapshot", "reference"):
        generator = torch.Generator().manual_seed(1)
        orders = {4: torch.channels_last, 5: torch.channels_last_3d}
        params = [
            torch.randn(s, generator=generator, dtype=torch.float32)
            .to(dtype)
            .contiguous(memory_format=orders.get(len(s), torch.contiguous_format))
            .requires_grad_()
            for s in shapes
        ]
        settings: Any = {"implementation": implementation, "granularity": granularity}
        lrd = LRDropout(torch.optim.SGD(params, lr=0.1), P, SEED, **settings)
        for _ in range(3):
            for param in params:
                param.grad = torch.ones_like(param)
            lrd.step()
        assert lrd.path == implementation
        results.append(params)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class Replacing(torch.optim.Optimizer):
    """A base that gives its parameters new memory, in another layout."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for param in self.param_groups[0]["params"]:
            param.data = (param - 1).t().contiguous().t()


@pytest.mark.parametrize("implementation", ["snapshot", "reference"])
def test_a_base_may_replace_the_memory_in_its_step(implementation: str):
    param = torch.zeros(30, 20, requires_grad=True)
    param.grad = torch.ones_like(param)
    LRDropout(Replacing([param]), P, SEED, implementation=implementation).step()
    keep = torch.from_numpy(mask(SEED, 0, P, 0, (30, 20)))
    assert torch.equal(param.detach(), torch.where(keep, -torch.ones(30, 20), torch.zeros(30, 20)))


def test_the_copy_is_kept_on_a_cpu_and_follows_the_parameters_that_move():
    params = [torch.ones(n, requires_grad=True) for n in (10, 20)]
    lrd = LRDropout(torch.optim.SGD(params, lr=0.1), implementation="snapshot")
    places: list[dict[Tensor, int]] = []
    for moving in (params, params, params[:1], []):
        for param in params:
            param.grad = torch.ones_like(param) if any(param is q for q in moving) else None
        lrd.step()
        places.append({k: v.data_ptr() for k, v in lrd._snapshot._olds.items()})
    assert places[0] == places[1] and places[2] == {params[0]: places[0][params[0]]}
    lrd.implementation, params[0].grad = "fused", torch.ones(10)
    lrd.step()
    assert lrd.path == "fused" and not lrd._snapshot._olds  # the fused step needs no copy


def test_the_constructor_keeps_nothing_of_its_callers_alive():
    class Data:
        pass

    data = Data()
    seen = weakref.ref(data)
    LRDropout(torch.optim.SGD([torch.zeros(1, requires_grad=True)]))
    del data
    assert seen() is None
