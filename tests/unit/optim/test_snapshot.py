"""The generic path: by a compiled kernel, in chunks and naively, the same bits."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from lrd import LRDropout
from lrd.optim import flat_params, kernels
from lrd.optim.masks import keep_mask
from lrd.optim.reference import ReferenceSnapshot, Span
from lrd.optim.snapshot import MIN_ELEMENTS, ElementSnapshot, GroupedSnapshot
from tests.helpers.lrd_options import OPTIONS

P, SEED, STEP = 0.6, 5, 9
# Around every edge: a row, the packing of small ones, a chunk; nothing, and one element.
COUNTS = [
    1,
    255,
    256,
    257,
    MIN_ELEMENTS - 1,
    MIN_ELEMENTS,
    MIN_ELEMENTS + 300,
    0,
    3 * 256,
    1 << 18,
    (1 << 18) + 777,
]
MODES = [
    False,
    pytest.param(
        True,
        marks=pytest.mark.skipif(not kernels.can_compile("cpu"), reason="needs a C++ compiler"),
    ),
]


def spans(tensors: list[Tensor], first: int = 0) -> list[Span]:
    made, index = [], first
    for tensor in tensors:
        made.append(Span(index, P, tensor))
        index += tensor.numel()
    return made


def check(tensors: list[Tensor], compile: bool, first: int = 0) -> None:
    """Every value moved, then restored: against the mask by its definition."""
    places = spans(tensors, first)
    snapshot = ElementSnapshot(places)
    for step in (STEP, STEP + 1):  # the object serves more than one step
        before = [t.clone() for t in tensors]
        snapshot.save()
        for tensor in tensors:
            tensor.neg_()
        snapshot.restore(SEED, step, compile)
        for span, old in zip(places, before, strict=True):
            mask = keep_mask(SEED, step, P, start=span.index, count=old.numel()).view(old.shape)
            assert torch.equal(span.tensor, torch.where(mask, -old, old))


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.rand(*shape, generator=generator, dtype=torch.float64).add(0.5).to(dtype)


@pytest.mark.parametrize("compile", MODES)
def test_sizes_around_every_edge(compile: bool):
    check([numbers(count) for count in COUNTS], compile)
    for count in (1, 256, MIN_ELEMENTS):
        check([numbers(count)], compile)


@pytest.mark.parametrize("compile", MODES)
def test_types_and_strides(compile: bool):
    half = numbers(MIN_ELEMENTS + 3).to(torch.bfloat16)
    tensors = [
        half,
        numbers(MIN_ELEMENTS + 5, dtype=torch.float64),
        torch.complex(numbers(70, 3), numbers(70, 3)),
        numbers(70, 300).t(),
        numbers(4, 8, 16, 64).contiguous(memory_format=torch.channels_last),
        numbers(64, 1000)[:, ::2],
        numbers(MIN_ELEMENTS),
    ]
    check(tensors, compile)


@pytest.mark.parametrize("compile", MODES)
@pytest.mark.parametrize("first", [2**31 - 1000, 2**32 - 1000, 2**32 + 7, 2**33 - 1])
def test_indices_of_64_bits(first: int, compile: bool):
    check([numbers(500), numbers(MIN_ELEMENTS + 10), numbers(3)], compile, first)


@pytest.mark.parametrize("compile", MODES)
def test_neighbours_in_a_flat_buffer_are_one(compile: bool):
    params = [numbers(count).requires_grad_() for count in (140_000, 16, 800)]
    flat_params.flatten_parameters([{"params": params}], gradients=False)
    views = [p.detach() for p in params]
    snapshot = ElementSnapshot(spans(views))
    assert len(snapshot.groups) == 1 and len(snapshot.groups[0].chunks) == 2  # rows, and the rest
    check(views, compile)


def test_infinities_and_nans_come_back_to_the_bit():
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-40] * 5000)
    odd.view(torch.int32)[0] = 0x7FC12345  # a NaN with a payload
    for compile in (False, kernels.can_compile("cpu")):
        tensor = odd.clone()
        snapshot = ElementSnapshot([Span(0, P, tensor)])
        snapshot.save()
        tensor.fill_(3.0)
        snapshot.restore(SEED, STEP, compile)
        mask = keep_mask(SEED, STEP, P, start=0, count=len(odd))
        assert torch.equal(tensor.view(torch.int32)[~mask], odd.view(torch.int32)[~mask])


def after(
    implementation: str, lay: Callable[..., None] | None = None, **options: Any
) -> list[Tensor]:
    """Weights after five steps, each with a p of its own, of many kinds of parameters."""
    torch.manual_seed(0)
    shapes = ((300, 70), (70,), (5, 3, 3, 3), ())
    params = [torch.randn(s, requires_grad=True) for s in shapes]
    params += [torch.randn(30, 40).t().requires_grad_(), torch.randn(9, 8)[:, ::2].requires_grad_()]
    params += [torch.randn(7, 6, dtype=torch.complex64).requires_grad_()]
    params += [torch.randn(50, 3).to(torch.bfloat16).requires_grad_()]
    groups = [{"params": params[:3]}, {"params": params[3:], "p": 0.3}]
    base = torch.optim.RMSprop(groups, lr=0.01, momentum=0.9, foreach=False)
    if lay is not None:
        lay(base.param_groups)
    lrd = LRDropout(base, p=P, seed=SEED, implementation=implementation, **options)
    for step in range(5):
        lrd.p = P + 0.05 * step
        lrd.zero_grad()
        torch.stack([(q - 1).abs().square().sum().float() for q in params]).sum().backward()
        lrd.step()
    assert lrd.path == ("reference" if implementation == "reference" else "generic")
    return [p.detach() for p in params]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_generic_in_every_form_is_the_reference_to_the_bit(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    reference = after("reference", **options)
    monkeypatch.setitem(
        kernels.COMPILE_THRESHOLD, "cpu", 40_000
    )  # auto compiles from the second step on
    forms = [after("generic", **options), after("auto", **options)]
    forms += [after("generic", flat_params.flatten_parameters, **options)]
    monkeypatch.setattr(kernels, "COMPILE", False)
    for params in (*forms, after("generic", **options), after("auto", **options)):
        assert all(torch.equal(a, b) for a, b in zip(params, reference, strict=True))


@pytest.mark.skipif(not kernels.can_compile("cpu"), reason="needs a C++ compiler")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_as_p_changes_nothing_is_compiled_or_prepared_anew(options: dict[str, Any]):
    """Nor is anything mistaken where, for one step, p is that of a group which has its own."""

    def steps(implementation: str) -> tuple[list[Tensor], list[Any]]:
        params = [numbers(300, MIN_ELEMENTS // 300 + 1).requires_grad_() for _ in range(2)]
        groups = [{"params": params[:1]}, {"params": params[1:], "p": 0.25}]
        base = torch.optim.SGD(groups, lr=0.1)
        lrd, snapshots = LRDropout(base, implementation=implementation, **options), []
        for p in (0.5, 0.55, 0.6, 0.65, 0.25, 0.75):
            lrd.p = p
            for param in params:
                param.grad = torch.ones_like(param)
            lrd.step()
            snapshots.append(lrd._snapshot.snapshot)
            if len(snapshots) == 1:
                counters.clear()
        return [param.detach() for param in params], snapshots

    params, snapshots = steps("generic")
    assert counters["stats"]["unique_graphs"] == 0
    assert all(snapshot is snapshots[0] for snapshot in snapshots[:4])
    for ours, theirs in zip(params, steps("reference")[0], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(not kernels.can_compile("cpu"), reason="needs a C++ compiler")
def test_auto_compiles_once_there_was_work_enough(monkeypatch: pytest.MonkeyPatch):
    asked = []
    original = ElementSnapshot.restore

    def restore(self: ElementSnapshot, seed: int, step: int, compile: bool, rescale: bool) -> None:
        asked.append(compile)
        original(self, seed, step, compile, rescale)

    monkeypatch.setattr(ElementSnapshot, "restore", restore)
    monkeypatch.setitem(kernels.COMPILE_THRESHOLD, "cpu", 3 * 1000)
    param = torch.ones(1000, requires_grad=True)
    lrd = LRDropout(torch.optim.SGD([param], lr=0.1))
    for _ in range(5):
        param.grad = torch.ones_like(param)
        lrd.step()
    assert asked == [False, False, True, True, True]


def test_parameters_that_move_are_followed():
    """A parameter given new memory, as model.to() does, and an optimizer that is copied."""
    param = numbers(MIN_ELEMENTS).requires_grad_()
    lrd = LRDropout(torch.optim.SGD([param], lr=0.1), p=P, seed=SEED)
    for step in range(3):
        param.data = param.data.clone() if step == 1 else param.data
        param.grad = torch.ones_like(param)
        before = param.detach().clone()
        lrd.step()
        mask = keep_mask(SEED, step, P, start=0, count=MIN_ELEMENTS)
        assert torch.equal(param.detach() != before, mask)
    twin = copy.deepcopy(lrd)
    twin.param_groups[0]["params"][0].grad = torch.ones(MIN_ELEMENTS)
    before = param.detach().clone()
    twin.step()
    assert torch.equal(param.detach(), before)


def test_naive_restore_is_the_definition():
    tensor = numbers(1000)
    old = tensor.clone()
    snapshot = ReferenceSnapshot([Span(17, P, tensor)])
    snapshot.save()
    tensor.neg_()
    snapshot.restore(SEED, STEP)
    mask = keep_mask(SEED, STEP, P, start=17, count=1000)
    assert torch.equal(tensor, torch.where(mask, -old, old))


@pytest.mark.parametrize("granularity", ["row", "tensor"])
@pytest.mark.parametrize("first", [0, 2**32 - 1000, 2**33 - 1])
def test_units_against_the_twin(granularity: str, first: int):
    """Of any type and strides, over an edge of the index too, and rescaled."""
    tensors = [
        numbers(60, 50),
        numbers(40),
        numbers(70, 30).t(),
        numbers(4, 8, 16, 6).contiguous(memory_format=torch.channels_last),
        numbers(64, 100)[:, ::2],
        torch.complex(numbers(7, 3), numbers(7, 3)),
        numbers(30, 4).to(torch.bfloat16),
        torch.tensor(1.5),
        *(torch.empty(0, 3), torch.empty(3, 0), numbers(1, 5)),
    ]
    places, index = [], first
    for number, tensor in enumerate(tensors):
        places.append(Span(index, P if number % 2 else 0.3, tensor, granularity))
        index += tensor.numel()
    twins = [Span(s.index, s.p, s.tensor.clone(), granularity) for s in places]
    snapshot = GroupedSnapshot(places)
    for step, rescale in ((STEP, False), (STEP + 1, True)):
        naive = ReferenceSnapshot(twins)
        for shot, those in ((snapshot, places), (naive, twins)):
            shot.save()
            for span in those:
                span.tensor.mul_(-1.25)
            shot.restore(SEED, step, rescale=rescale)
        for ours, theirs in zip(places, twins, strict=True):
            assert torch.equal(ours.tensor, theirs.tensor)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("granularity", ["row", "tensor"])
@pytest.mark.parametrize("rescale", [False, True])
def test_on_a_gpu_the_same_units_are_restored(granularity: str, rescale: bool):
    shapes, results = [(60, 50), (40,), (4, 3, 5, 5), ()], []
    for device in ("cpu", "cuda"):
        places = [
            Span(1000 * k, P, numbers(*s).to(device), granularity) for k, s in enumerate(shapes)
        ]
        snapshot = GroupedSnapshot(places)
        snapshot.save()
        for span in places:
            span.tensor.mul_(-1.25)
        snapshot.restore(SEED, STEP, rescale=rescale)
        results.append([span.tensor.cpu() for span in places])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compile", [False, True])
def test_on_a_gpu_the_same_elements_are_restored(compile: bool):
    tensors = [numbers(count).cuda() for count in COUNTS]
    olds = [t.clone() for t in tensors]
    snapshot = ElementSnapshot(spans(tensors))
    snapshot.save()
    for tensor in tensors:
        tensor.neg_()
    snapshot.restore(SEED, STEP, compile)
    for span, old in zip(spans(tensors), olds, strict=True):
        mask = keep_mask(SEED, STEP, P, start=span.index, count=old.numel()).cuda()
        assert torch.equal(span.tensor, torch.where(mask, -old, old))
