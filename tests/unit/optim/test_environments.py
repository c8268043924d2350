"""LRDropout among other tools: their checkpoints, compilers, wrappers, autograd and threads."""

import copy
import doctest
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from lrd import LRDropout
from lrd.optim import lr_dropout
from lrd.optim.masks import keep_mask

Made = tuple[nn.Module, LRDropout]


def made(p: float = 0.4, seed: int = 7, kind: Any = torch.optim.Adam, **options: Any) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return model, LRDropout(kind(model.parameters(), lr=0.05), p=p, seed=seed, **options)


def train(model: nn.Module, optimizer: LRDropout, count: int) -> None:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(count):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([q.detach().flatten() for q in model.parameters()])


# Checkpoints.


def by_own(first: Made, second: Made, folder: str) -> None:
    torch.save(first[1].state_dict(), f"{folder}/o.pt")
    second[1].load_state_dict(torch.load(f"{folder}/o.pt", weights_only=True))


def by_torch(first: Made, second: Made, folder: str) -> None:
    set_optimizer_state_dict(*second, get_optimizer_state_dict(*first))


def by_torch_flat(first: Made, second: Made, folder: str) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    saved = get_optimizer_state_dict(*first, options=options)
    set_optimizer_state_dict(*second, saved, options=options)


def by_torch_full(first: Made, second: Made, folder: str) -> None:
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    saved = get_optimizer_state_dict(*first, options=options)
    set_optimizer_state_dict(*second, saved, options=options)


def by_torch_files(first: Made, second: Made, folder: str) -> None:
    dcp.save({"optimizer": get_optimizer_state_dict(*first)}, checkpoint_id=folder, no_dist=True)
    loaded = {"optimizer": get_optimizer_state_dict(*second)}
    dcp.load(loaded, checkpoint_id=folder, no_dist=True)
    set_optimizer_state_dict(*second, loaded["optimizer"])


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("implementation", ["auto", "snapshot"])
@pytest.mark.parametrize("way", [by_own, by_torch, by_torch_flat, by_torch_full, by_torch_files])
def test_five_steps_a_checkpoint_and_five_steps_are_ten(
    way: Callable[..., None], implementation: str, fresh: bool, tmp_path: Any
):
    """Seed, step and p come from the checkpoint, whatever the new optimizer was made with."""
    straight = made(implementation=implementation)
    train(*straight, 10)
    first = made(implementation=implementation)
    train(*first, 5)
    second = made(p=0.9, seed=99, implementation=implementation)
    if not fresh:
        train(*second, 2)
    way(first, second, str(tmp_path))
    second[0].load_state_dict(first[0].state_dict())
    assert (second[1].t, second[1].seed, second[1].p) == (5, 7, 0.4)
    train(*second, 5)
    assert torch.equal(weights(second[0]), weights(straight[0]))


def test_a_state_dict_without_seed_and_step_warns_of_what_is_lost():
    model, optimizer = made()
    plain = torch.optim.Adam(model.parameters())
    with pytest.warns(UserWarning, match="no seed and t.*continue with seed=7 and t=0, not from"):
        optimizer.load_state_dict(plain.state_dict())


# Compilers and captures.


@pytest.mark.parametrize("implementation", ["fused", "snapshot", "reference"])
def test_a_compiled_step_is_the_eager_one(implementation: str):
    eager, compiled = (made(implementation=implementation) for _ in range(2))
    step = torch.compile(compiled[1].step, backend="eager")
    for _ in range(4):
        for model, optimizer in (eager, compiled):
            optimizer.zero_grad()
            model(torch.ones(2, 6)).square().sum().backward()
        eager[1].step()
        step()
        assert compiled[1].path == eager[1].path
    assert compiled[1].t == 4 and torch.equal(weights(eager[0]), weights(compiled[0]))


def test_a_compiled_training_step_is_the_eager_one():
    eager, compiled = made(), made()

    def work(model: nn.Module, optimizer: LRDropout) -> None:
        optimizer.zero_grad()
        model(torch.ones(2, 6)).square().sum().backward()
        optimizer.step()

    together = torch.compile(work, backend="eager")
    for _ in range(4):
        work(*eager)
        together(*compiled)
    torch.testing.assert_close(weights(eager[0]), weights(compiled[0]))


def test_a_cuda_graph_that_captures_the_step_is_refused_before_anything_moves(
    monkeypatch: pytest.MonkeyPatch,
):
    model, optimizer = made()
    train(model, optimizer, 2)
    before = weights(model)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(ValueError, match=r"must run outside torch.cuda.graph, which would repeat"):
        optimizer.step()
    assert torch.equal(weights(model), before) and optimizer.t == 2


# Bases that are wrappers, have methods, or take closures.


class Around(Optimizer):
    """The common pattern of a wrapper, which never calls Optimizer.__init__."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        self.param_groups, self.state = inner.param_groups, inner.state
        self.defaults = inner.defaults

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return self.inner.step(closure)


def test_a_base_that_never_called_optimizer_init():
    model, plain = made()
    twin, _ = made()
    wrapped = LRDropout(Around(torch.optim.Adam(twin.parameters(), lr=0.05)), p=0.4, seed=7)
    plain.implementation = "snapshot"
    train(model, plain, 3)
    train(twin, wrapped, 3)
    assert torch.equal(weights(model), weights(twin))
    wrapped.load_state_dict(wrapped.state_dict())


class Nested(Around):
    """A wrapper whose state_dict holds that of the optimizer inside (Lookahead, for example)."""

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "k": 5}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict["inner"])
        self.param_groups, self.state = self.inner.param_groups, self.inner.state


def test_a_base_whose_state_dict_is_nested():
    model, _ = made()
    first = LRDropout(Nested(torch.optim.Adam(model.parameters())), p=0.4, seed=7)
    train(model, first, 3)
    second = LRDropout(Nested(torch.optim.Adam(model.parameters())))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert (second.t, second.seed, second.p) == (3, 7, 0.4)


class Modes(torch.optim.SGD):
    """A base with modes, as Schedule-Free optimizers have."""

    mode = "none"

    def train(self) -> None:
        self.mode = "train"

    def eval(self) -> None:
        self.mode = "eval"


def test_what_the_base_can_do_the_wrapper_can():
    _, optimizer = made(kind=Modes)
    optimizer.train()
    assert isinstance(optimizer.base, Modes)
    assert optimizer.mode == optimizer.base.mode == "train"
    optimizer.eval()
    assert optimizer.mode == "eval"
    _, plain = made()
    assert not hasattr(plain, "train") and not hasattr(plain, "_step_supports_amp_scaling")


class CallsPlainly(torch.optim.SGD):
    """A base whose step calls its closure without enabling gradients."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = closure()
        for param in self.param_groups[0]["params"]:
            param.sub_(param.grad, alpha=self.param_groups[0]["lr"])
        return loss


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_closures_run_with_gradients_enabled(p: float):
    model, optimizer = made(p=p, kind=CallsPlainly)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(2, 6)).square().sum()
        loss.backward()
        return loss

    before = weights(model)
    assert optimizer.step(closure).requires_grad
    assert not torch.equal(weights(model), before)


def test_zero_redundancy_around_it_is_refused_and_as_its_base_works():
    from torch.distributed.optim import ZeroRedundancyOptimizer

    param = nn.Parameter(torch.zeros(1000))
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:

        def inside(params: Any, **settings: Any) -> Optimizer:
            return LRDropout(torch.optim.SGD(params, **settings))

        with pytest.raises(ValueError, match="must be around ZeroRedundancyOptimizer, not inside"):
            ZeroRedundancyOptimizer([param], optimizer_class=inside, lr=1.0)  # type: ignore[arg-type]
        base = ZeroRedundancyOptimizer([param], optimizer_class=torch.optim.SGD, lr=1.0)
        param.grad = torch.ones(1000)
        LRDropout(base).step()
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(param == -1, keep_mask(0, 0, 0.5, start=0, count=1000))


def test_flat_shards_are_refused():
    param = nn.Parameter(torch.zeros(10))
    param._fsdp_flattened = True  # type: ignore[attr-defined]  # as FullyShardedDataParallel marks
    with pytest.raises(ValueError, match="must not be flat shards.*use .*fully_shard"):
        LRDropout(torch.optim.SGD([param]))


class NoGroups(Optimizer):
    def __init__(self) -> None:
        pass


def test_a_base_without_groups_is_refused_in_one_line():
    with pytest.raises(TypeError, match="must have param_groups, got NoGroups: wrap"):
        LRDropout(NoGroups())


# Autograd in every form, and what is kept of a gradient.


def test_gradients_of_gradients_and_gradients_that_are_kept():
    results = []
    for implementation in ("fused", "reference"):
        model, optimizer = made(implementation=implementation)
        kept: list[Tensor | None] = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(torch.ones(4, 6)).square().sum()
            grads = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
            penalty = loss + torch.stack([g.square().sum() for g in grads]).sum()
            penalty.backward()
            kept.append(next(model.parameters()).grad)
            optimizer.step()
        assert kept[0] is not None and kept[1] is not None
        assert not torch.equal(kept[0], kept[1])  # the second backward has left the first alone
        results.append((weights(model), kept[0]))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_no_weight_shares_memory_with_another():
    model, optimizer = made(implementation="fused")
    train(model, optimizer, 3)
    storages = [q.untyped_storage() for q in model.state_dict().values()]
    assert len({s.data_ptr() for s in storages}) == len(storages)
    assert sum(s.nbytes() for s in storages) == 4 * len(weights(model))


def test_hooks_of_other_threads_fire_while_a_base_steps():
    inside, counted, seen = threading.Event(), threading.Event(), []

    class Slow(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            inside.set()
            assert counted.wait(20)

    _, optimizer = made(kind=Slow)
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    handle = register_optimizer_step_post_hook(lambda o, a, k: seen.append(o))
    try:
        for param in optimizer.param_groups[0]["params"]:
            param.grad = torch.ones_like(param)
        thread = threading.Thread(target=optimizer.step)
        thread.start()
        assert inside.wait(20)
        other.step()
        counted.set()
        thread.join()
    finally:
        handle.remove()
    assert seen == [other, optimizer]


# What is shown.


def test_repr_shows_base_p_seed_and_a_groups_own_p():
    _, optimizer = made(p=0.4, seed=7)
    optimizer.param_groups[0]["keep_p"] = 0.8
    shown = repr(optimizer)
    first = shown.splitlines()[0]
    assert first.startswith("LRDropout(p=0.4, seed=7, t=0, granularity='element', rescale=False")
    assert "around Adam" in first and "keep_p: 0.8" in shown


def test_the_docstrings_example_runs():
    assert doctest.testmod(lr_dropout).attempted >= 4
    assert doctest.testmod(lr_dropout).failed == 0


def test_equal_seeds_draw_equal_masks_as_the_docstring_says():
    one, other = (nn.Parameter(torch.zeros(100)) for _ in range(2))
    for param in (one, other):
        param.grad = torch.ones(100)
        LRDropout(torch.optim.SGD([param], lr=1.0)).step()
    assert torch.equal(one, other) and "same seed draw the same masks" in str(LRDropout.__doc__)
