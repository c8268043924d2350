"""The contract of LRDropout with every optimizer that this torch exports."""

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrd import LRDropout
from lrd.optim.masks import keep_mask
from lrd.rmsprop import RMSpropDecayInMoment
from tests.helpers.lrd_options import OPTIONS

P, SEED = 0.6, 3
Make = Callable[[list[Tensor]], Optimizer]

BASES: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, dict(lr=0.1)),
    "momentum": (torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.01)),
    "Nesterov": (torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True)),
    "Adam": (torch.optim.Adam, dict(lr=0.01, weight_decay=0.01)),
    "AMSGrad": (torch.optim.Adam, dict(lr=0.01, amsgrad=True)),
    "AdamW": (torch.optim.AdamW, dict(lr=0.01, weight_decay=0.1)),
    "RAdam": (torch.optim.RAdam, dict(lr=0.01)),
    "NAdam": (torch.optim.NAdam, dict(lr=0.01)),
    "Adamax": (torch.optim.Adamax, dict(lr=0.01)),
    "RMSprop": (torch.optim.RMSprop, dict(lr=0.01)),
    "RMSprop centered": (torch.optim.RMSprop, dict(lr=0.01, centered=True)),
    "RMSprop momentum": (torch.optim.RMSprop, dict(lr=0.01, momentum=0.9)),
    "RMSprop authors": (RMSpropDecayInMoment, dict(lr=0.01, weight_decay=0.1)),
    "Adagrad": (torch.optim.Adagrad, dict(lr=0.01)),
    "Adadelta": (torch.optim.Adadelta, dict(lr=1.0)),
    "ASGD": (torch.optim.ASGD, dict(lr=0.01)),
    "Rprop": (torch.optim.Rprop, dict(lr=0.01)),
    "Adafactor": (torch.optim.Adafactor, dict(lr=0.01)),
    "Muon": (getattr(torch.optim, "Muon", torch.optim.SGD), dict(lr=0.01)),
    "LBFGS": (torch.optim.LBFGS, dict(lr=0.1, max_iter=3)),
}
FORMS = [
    (name, form)
    for name, (kind, _) in BASES.items()
    for form in ("foreach", "fused")
    if form in inspect.signature(kind).parameters
]


def make(name: str, params: list[Tensor], **extra: Any) -> Optimizer:
    kind, settings = BASES[name]
    return kind(params, **settings, **extra)


def tensors(name: str) -> list[Tensor]:
    """Parameters of a small problem; matrices alone, where the optimizer takes nothing else."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(40, 30), (30, 20)] if name == "Muon" else [(40, 30), (50,), (3, 4, 5, 2), ()]
    return [torch.randn(s, generator=generator).requires_grad_() for s in shapes]


def closure_for(params: list[Tensor], number: int) -> Callable[[], Tensor]:
    """A convex loss whose gradient differs from step to step and is nowhere zero."""
    generator = torch.Generator().manual_seed(100 + number)
    aims = [torch.randn(p.shape, generator=generator) for p in params]

    def closure() -> Tensor:
        for param in params:
            param.grad = None
        loss = sum(
            (((p - a) ** 2).sum() for p, a in zip(params, aims, strict=True)), torch.zeros(())
        )
        loss.backward()
        return loss

    return closure


def advance(optimizer: Optimizer, params: list[Tensor], first: int, count: int) -> None:
    for number in range(first, first + count):
        closure = closure_for(params, number)
        if isinstance(getattr(optimizer, "base", optimizer), torch.optim.LBFGS):
            optimizer.step(closure)  # type: ignore[arg-type]
        else:
            closure()
            optimizer.step()


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, whatever the nesting."""
    if isinstance(a, Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def masks(params: list[Tensor], step: int, granularity: str = "element") -> list[Tensor]:
    """The masks by the definition of the global index, unit by unit: each as its first element."""
    made, start = [], 0
    for param in params:
        count = param.numel()
        if granularity == "element":
            mask = keep_mask(SEED, step, P, start=start, count=count)
        else:
            mask, size = torch.zeros(count, dtype=torch.bool), units(param, granularity)
            for first in range(0, count, size):
                bit = keep_mask(SEED, step, P, start=start + first, count=1)
                mask[first : first + size] = bit
        made.append(mask.view(param.shape))
        start += count
    return made


def units(param: Tensor, granularity: str) -> int:
    """Elements of one unit."""
    whole, row = param.numel(), param[0].numel() if param.dim() else 1
    return {"element": 1, "row": row, "tensor": whole}[granularity]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", BASES)
def test_p_one_is_bitwise_the_base(name: str, options: dict[str, Any]):
    plain, wrapped = tensors(name), tensors(name)
    base = make(name, plain)
    lrd = LRDropout(make(name, wrapped), p=1.0, seed=SEED, **options)
    advance(base, plain, 0, 5)
    advance(lrd, wrapped, 0, 5)
    assert same(plain, wrapped)
    assert same(base.state_dict()["state"], lrd.state_dict()["state"])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", BASES)
def test_kept_elements_move_as_the_base_would_and_dropped_ones_stay(
    name: str, options: dict[str, Any]
):
    """Rescaled, they move 1/p as far: compared with that in float64."""
    params, granularity = tensors(name), options.get("granularity", "element")
    base, snapshot = make(name, params), "snapshot"  # the fused step agrees up to rounding
    lrd = LRDropout(base, p=P, seed=SEED, implementation=snapshot, **options)
    kept = total = 0
    for step in range(4):
        twin_params = [p.detach().clone().requires_grad_() for p in params]
        twin = make(name, twin_params)
        twin.load_state_dict(copy.deepcopy(lrd.base.state_dict()))
        before = [p.detach().clone() for p in params]
        advance(lrd, params, step, 1)
        advance(twin, twin_params, step, 1)
        for param, moved, old, mask in zip(
            params, twin_params, before, masks(params, step, granularity), strict=True
        ):
            if "rescale" in options:
                move = (moved.double() - old.double()) / P
                torch.testing.assert_close(
                    param[mask].double(), (old + move)[mask], rtol=1e-6, atol=1e-6
                )
            else:
                assert torch.equal(param[mask], moved[mask])
            assert torch.equal(param[~mask], old[~mask])
            size = units(param, granularity)
            kept, total = kept + int(mask.sum()) // size, total + mask.numel() // size
        went = torch.cat([(a != b).flatten() for a, b in zip(twin_params, before, strict=True)])
        assert went.float().mean() > 0.3, "the base hardly moved, so nothing was tested"
        assert same(lrd.base.state_dict()["state"], twin.state_dict()["state"])
    assert abs(kept - total * P) < 5 * math.sqrt(total * P * (1 - P))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", BASES)
def test_a_resume_is_bitwise_the_uninterrupted_run(name: str, options: dict[str, Any], tmp_path):
    straight = tensors(name)
    advance(LRDropout(make(name, straight), p=P, seed=SEED, **options), straight, 0, 6)
    first = tensors(name)
    lrd = LRDropout(make(name, first), p=P, seed=SEED, **options)
    advance(lrd, first, 0, 3)
    torch.save({"params": first, "optimizer": lrd.state_dict()}, tmp_path / "c.pt")
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    second = saved["params"]
    resumed = LRDropout(make(name, second), p=0.9, seed=99)  # what is saved wins
    resumed.load_state_dict(saved["optimizer"])
    advance(resumed, second, 3, 3)
    assert same(straight, second)


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_the_forms_of_a_base_agree(name: str, form: str):
    plain, quick = tensors(name), tensors(name)
    advance(LRDropout(make(name, plain, foreach=False), p=P, seed=SEED), plain, 0, 5)
    advance(LRDropout(make(name, quick, **{form: True}), p=P, seed=SEED), quick, 0, 5)
    for a, b in zip(plain, quick, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_matrix_covers_every_optimizer_that_torch_exports():
    exported = {
        kind
        for kind in vars(torch.optim).values()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    }
    tested = {kind for kind, _ in BASES.values()} | {torch.optim.SparseAdam}
    assert exported <= tested


def test_sparse_gradients_are_refused_before_anything_moves():
    with pytest.raises(ValueError, match="must take dense gradients, got SparseAdam"):
        LRDropout(torch.optim.SparseAdam([torch.zeros(3, requires_grad=True)]))
    table, line = nn.Embedding(5, 2, sparse=True), nn.Linear(2, 1)
    params = [*line.parameters(), *table.parameters()]
    before = [p.detach().clone() for p in params]
    lrd = LRDropout(torch.optim.SGD(params, lr=0.1))

    def closure() -> Tensor:
        loss = line(table(torch.tensor([1, 3]))).sum()
        loss.backward()
        return loss

    with pytest.raises(ValueError, match="gradients must be dense.* a parameter of shape"):
        lrd.step(closure)
    with pytest.raises(ValueError, match=r"Embedding\(sparse=False\)"):
        lrd.step()
    assert same([p.detach() for p in params], before) and lrd.t == 0


@pytest.mark.parametrize("p", [0, 1.5, -0.1, float("nan"), "0.5", True])
def test_p_outside_its_range_is_refused(p: Any):
    param = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"p must be in \(0, 1\].*got"):
        LRDropout(torch.optim.SGD([param], lr=0.1), p=p)
    lrd = LRDropout(torch.optim.SGD([param], lr=0.1))
    with pytest.raises(ValueError, match="p must be"):
        lrd.add_param_group({"params": [torch.zeros(1)], "keep_p": p})
    assert len(lrd.param_groups) == 1


def test_bases_that_cannot_be_wrapped_are_refused():
    param = torch.zeros(2, requires_grad=True)
    with pytest.raises(TypeError, match="got Linear"):
        LRDropout(nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is an LRDropout already"):
        LRDropout(LRDropout(torch.optim.SGD([param])))
    with pytest.raises(ValueError, match="differentiable=False"):
        LRDropout(torch.optim.Adam([param], differentiable=True))


def test_options_that_do_not_exist_are_refused():
    def with_(**options: Any) -> LRDropout:
        return LRDropout(torch.optim.SGD([torch.zeros(2)], lr=0.1), **options)

    text = "granularity must be one of element, row, tensor, got column"
    with pytest.raises(ValueError, match=text):
        with_(granularity="column")
    with pytest.raises(ValueError, match="rescale must be one of True, False, got 2"):
        with_(rescale=2)
    later = {**with_().state_dict(), "lrd": {"p": 0.5, "granularity": "column"}}
    lrd = with_()
    with pytest.raises(ValueError, match=text):
        lrd.load_state_dict(later)


@pytest.mark.parametrize("p", [0, -0.1, 1.5, float("nan"), "0.5", True, None])
def test_a_keep_probability_is_checked_when_it_is_set(p: Any):
    optimizer = LRDropout(torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=1.0), p=0.3)
    with pytest.raises(ValueError, match=r"p must be in \(0, 1\] .* got"):
        optimizer.p = p
    assert optimizer.p == 0.3
