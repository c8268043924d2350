"""LRDropout in use: schedulers, scaler, groups, saving, copying, odd parameters, hooks."""

import copy
import io
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR
from torch.optim.optimizer import register_optimizer_step_post_hook

from lrd import LRDropout
from lrd.optim.masks import keep_mask


def problem(seed: int = 0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(16, 6)


def train(model: nn.Module, optimizer: Any, x: Tensor, steps: int, scheduler: Any = None) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def step_once(param: Tensor, **settings: Any) -> tuple[Tensor, LRDropout]:
    """A parameter after one step of SGD at rate 1 on gradient 1: dropped 0, kept -1."""
    param.grad = torch.ones_like(param)
    lrd = LRDropout(torch.optim.SGD([param], lr=1.0), **settings)
    lrd.step()
    return param.detach(), lrd


def test_it_is_an_optimizer_that_shares_groups_and_state_with_its_base():
    model, x = problem()
    base = torch.optim.Adam(model.parameters())
    lrd = LRDropout(base)
    assert isinstance(lrd, torch.optim.Optimizer)
    train(model, lrd, x, 2)
    for _ in range(2):
        assert lrd.param_groups is base.param_groups
        assert lrd.state is base.state and lrd.defaults is base.defaults
        lrd.load_state_dict(lrd.state_dict())
    base.load_state_dict(base.state_dict())  # behind its back
    assert lrd.param_groups is base.param_groups and lrd.state is base.state


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: MultiStepLR(o, milestones=[2, 4], gamma=0.1),
        lambda o: LambdaLR(o, lambda t: 1 / (t + 1)),
    ],
)
def test_schedulers_rule_the_rate(schedule: Any):
    """Against plain SGD by hand at the rates that the scheduler gives a plain optimizer."""
    model, x = problem()
    plain = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    reference, rates = schedule(plain), []
    for _ in range(6):
        rates.append(plain.param_groups[0]["lr"])
        plain.step()
        reference.step()
    twin = copy.deepcopy(model)
    lrd = LRDropout(torch.optim.SGD(model.parameters(), lr=0.01), p=0.5, seed=1)
    train(model, lrd, x, 6, schedule(lrd))
    count = len(weights(model))
    for step, rate in enumerate(rates):
        twin.zero_grad()
        twin(x).square().sum().backward()
        keep, at = keep_mask(1, step, 0.5, start=0, count=count), 0
        for param in twin.parameters():
            part = keep[at : at + param.numel()].view(param.shape)
            param.data -= rate * part * param.grad
            at += param.numel()
    torch.testing.assert_close(weights(model), weights(twin))


@pytest.mark.parametrize("options", [{}, {"rescale": True}, {"granularity": "row"}])
def test_a_grad_scaler_that_overflows_skips_the_step_and_its_mask(options: dict[str, Any]):
    model, x = problem()
    lrd = LRDropout(torch.optim.Adam(model.parameters(), fused=True), seed=2, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = weights(model)
    for bad in (True, False):
        lrd.zero_grad()
        with torch.amp.autocast("cpu", torch.bfloat16):
            loss = model(x).square().sum() * (float("inf") if bad else 1.0)
        scaler.scale(loss).backward()
        scaler.step(lrd)
        scaler.update()
        assert lrd.t == (0 if bad else 1)
        assert torch.equal(weights(model), before) == bad
    moved = weights(model) != before
    assert (weights(model) - before).abs().max() < 3e-3  # not 1024 times Adam's 1e-3, or 2e-3
    keep = keep_mask(2, 0, 0.5, start=0, count=len(moved))
    if "granularity" in options:
        rows = [q.numel() // len(q) for q in model.parameters() for _ in q]
        firsts = torch.tensor([0, *rows]).cumsum(0)[:-1]
        keep = keep[firsts.repeat_interleave(torch.tensor(rows))]
    assert moved.any() and not (moved & ~keep).any()


def test_each_group_may_have_its_own_p():
    w, b = torch.zeros(2000, requires_grad=True), torch.zeros(2000, requires_grad=True)
    base = torch.optim.SGD([{"params": [w]}, {"params": [b], "keep_p": 1.0}], lr=1.0)
    lrd = LRDropout(base, p=0.25, seed=5)
    more = torch.zeros(3000, requires_grad=True)
    lrd.add_param_group({"params": [more], "keep_p": 0.9})
    for param in (w, b, more):
        param.grad = torch.ones_like(param)
    lrd.step()
    assert torch.equal(w == -1, keep_mask(5, 0, 0.25, start=0, count=2000))
    assert (b == -1).all()
    assert torch.equal(more == -1, keep_mask(5, 0, 0.9, start=4000, count=3000))
    kept = int((w == -1).sum() + (b == -1).sum() + (more == -1).sum())
    assert lrd.fraction_kept() == kept / 7000
    lrd.param_groups[1]["keep_p"] = 0.0
    with pytest.raises(ValueError, match="p must be"):
        lrd.step()


def test_state_dicts_go_between_an_lrdropout_and_its_base():
    model, x = problem()
    lrd = LRDropout(torch.optim.Adam(model.parameters()), p=0.3, seed=9)
    lrd.param_groups[0]["keep_p"] = 0.7
    train(model, lrd, x, 3)
    plain = torch.optim.Adam(model.parameters())
    plain.load_state_dict(lrd.state_dict())
    step = next(iter(plain.state.values()))["step"]
    assert int(step) == 3
    other = LRDropout(torch.optim.Adam(model.parameters()), p=0.4, seed=8)
    other.param_groups[0]["keep_p"] = 0.6
    with pytest.warns(UserWarning, match="holds no seed and t of LRDropout.*seed=8 and t=0"):
        other.load_state_dict(torch.optim.Adam(model.parameters()).state_dict())
    assert (other.p, other.seed, other.t, other.param_groups[0]["keep_p"]) == (0.4, 8, 0, 0.6)
    other.load_state_dict(lrd.state_dict())
    assert (other.p, other.seed, other.t, other.param_groups[0]["keep_p"]) == (0.3, 9, 3, 0.7)


def test_a_fresh_process_goes_on_bitwise(tmp_path):
    code = """
import sys, torch
from tests.unit.optim.test_usage import LRDropout, problem, train, weights
model, x = problem()
lrd = LRDropout(torch.optim.Adam(model.parameters()), seed=4)
if sys.argv[1] == "second":
    saved = torch.load(sys.argv[2], weights_only=True)
    model.load_state_dict(saved["model"]); lrd.load_state_dict(saved["lrd"])
train(model, lrd, x, 4)
torch.save({"model": model.state_dict(), "lrd": lrd.state_dict()}, sys.argv[2])
"""
    for part in ("first", "second"):
        subprocess.run([sys.executable, "-c", code, part, str(tmp_path / "s.pt")], check=True)
    model, x = problem()
    train(model, LRDropout(torch.optim.Adam(model.parameters()), seed=4), x, 8)
    saved = torch.load(tmp_path / "s.pt", weights_only=True)
    assert all(torch.equal(a, saved["model"][n]) for n, a in model.state_dict().items())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_and_pickles_go_on_alike(how: Any):
    model, x = problem()
    options: dict[str, Any] = dict(p=0.3, seed=6, granularity="row", rescale=True)
    lrd = LRDropout(torch.optim.Adam(model.parameters()), **options)
    train(model, lrd, x, 2)
    model_2, lrd_2 = how((model, lrd))
    assert lrd_2.base is not lrd.base and lrd_2.param_groups is lrd_2.base.param_groups
    train(model, lrd, x, 2)
    train(model_2, lrd_2, x, 2)
    assert torch.equal(weights(model), weights(model_2))
    assert "keep_p" not in lrd_2.param_groups[0] and (lrd_2.p, lrd_2.seed, lrd_2.t) == (0.3, 6, 4)
    assert (lrd_2.granularity, lrd_2.rescale) == ("row", True)


def test_what_earlier_versions_saved_is_understood():
    """A pickle and a state_dict of the first version, whose groups had their own p under ``p``."""
    model, x = problem()
    lrd = LRDropout(torch.optim.Adam(model.parameters()), p=0.3, seed=6)
    train(model, lrd, x, 2)
    (group,) = lrd.param_groups
    for name in [name for name in group if name.startswith("lrd_")]:
        del group[name]
    group["p"] = 0.9
    old = {"base": lrd.base, "p": 0.3, "seed": 6, "t": 2}
    saved = {**copy.deepcopy(lrd.base.state_dict()), "lrd": {"p": 0.3, "seed": 6, "t": 2}}
    for name, now in (("generic", "snapshot"), ("single_pass", "fused"), ("auto", "auto")):
        older = LRDropout.__new__(LRDropout)
        older.__setstate__({**old, "implementation": name})
        assert (older.granularity, older.rescale, older.implementation) == ("element", False, now)
        assert (older.p, older.seed, older.t) == (0.3, 6, 2)
        assert older.param_groups[0]["keep_p"] == 0.9 and "p" not in older.param_groups[0]
    rows = LRDropout(torch.optim.Adam(model.parameters()), granularity="row", rescale=True)
    rows.load_state_dict(saved)  # which leaves what it does not know
    assert (rows.p, rows.seed, rows.t) == (0.3, 6, 2)
    assert (rows.granularity, rows.rescale) == ("row", True)
    assert rows.param_groups[0]["keep_p"] == 0.9


class HasItsOwnP(torch.optim.SGD):
    """A base with a hyperparameter p, such as FAdam and SophiaH of pytorch_optimizer."""

    def __init__(self, params: Any, lr: float, p: float) -> None:
        super().__init__(params, lr=lr)
        self.defaults["p"] = p
        for group in self.param_groups:
            group["p"] = p


def test_a_p_of_the_base_is_neither_read_nor_renamed():
    param = torch.zeros(1000, requires_grad=True)
    lrd = LRDropout(HasItsOwnP([param], 1.0, 0.01), p=1.0)
    for copied in (lrd, copy.deepcopy(lrd), pickle.loads(pickle.dumps(lrd))):
        (q,) = copied.param_groups[0]["params"]
        q.grad = torch.ones_like(q)
        copied.step()
        assert copied.fraction_kept() == 1 and (q == -copied.t).all()
    old = {**lrd.base.state_dict(), "lrd": {"p": 1.0, "seed": 0, "t": 1}}
    lrd.load_state_dict(old)
    assert lrd.param_groups[0]["p"] == 0.01 and "keep_p" not in lrd.param_groups[0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"lrd_p": 7}, r"p must be in \(0, 1\].*got 7"),
        ({"lrd_seed": "x"}, "seed must be an integer, got 'x'"),
        ({"lrd_t": -1}, "t must be an integer of at least 0, got -1"),
        ({"lrd_granularity": "column"}, "granularity must be one of .*got column"),
        ({"lrd_rescale": 1}, "rescale must be one of True, False, got 1"),
    ],
)
def test_what_is_loaded_is_checked_before_anything_changes(change: dict[str, Any], text: str):
    model, x = problem()
    lrd = LRDropout(torch.optim.Adam(model.parameters()), p=0.3, seed=6)
    train(model, lrd, x, 2)
    before = copy.deepcopy(lrd.state_dict())
    saved = copy.deepcopy(before)
    saved["param_groups"][0].update(change, lr=9.0)
    with pytest.raises(ValueError, match=text):
        lrd.load_state_dict(saved)
    assert lrd.state_dict()["param_groups"] == before["param_groups"]
    with pytest.raises(ValueError, match="p must be in"):
        lrd.load_state_dict({**before, "lrd": {"p": 7, "base": None, "foo": 1}})
    assert lrd.base is not None and not hasattr(lrd, "foo")


def test_frozen_and_gradientless_parameters_stay_and_count_in_the_index():
    frozen, idle, used = (
        torch.zeros(n, requires_grad=r) for n, r in ((7, False), (9, True), (500, True))
    )
    used.grad = torch.ones_like(used)
    lrd = LRDropout(torch.optim.SGD([frozen, idle, used], lr=1.0), seed=1)
    lrd.step()
    assert (frozen == 0).all() and (idle == 0).all()
    assert torch.equal(used == -1, keep_mask(1, 0, 0.5, start=16, count=500))


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.complex64,
        torch.complex128,
    ],
)
def test_every_dtype_has_the_same_mask(dtype: torch.dtype):
    moved, _ = step_once(torch.zeros(1000, dtype=dtype, requires_grad=True), seed=3)
    assert torch.equal(moved == -1, keep_mask(3, 0, 0.5, start=0, count=1000))
    assert ((moved == -1) | (moved == 0)).all()


def test_values_that_compare_oddly_survive_bit_for_bit():
    """Dropped elements keep NaN payloads and negative zeros; infinities do not spread."""
    odd = torch.tensor([float("nan"), -0.0, float("inf"), 1e-45] * 100)
    param = odd.clone().requires_grad_()
    moved, _ = step_once(param, seed=3)
    dropped = ~keep_mask(3, 0, 0.5, start=0, count=400)
    assert torch.equal(moved.view(torch.int32)[dropped], odd.view(torch.int32)[dropped])


@pytest.mark.parametrize(
    "layout",
    [
        lambda t: t.to(memory_format=torch.channels_last),
        lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
        lambda t: torch.zeros(4, 6, 5, 14)[..., ::2].copy_(t),
        lambda t: t,
    ],
)
def test_the_index_is_row_major_whatever_the_strides(layout: Any):
    param = layout(torch.zeros(4, 6, 5, 7)).requires_grad_()
    moved, _ = step_once(param, seed=3)
    keep = keep_mask(3, 0, 0.5, start=0, count=840).view(4, 6, 5, 7)
    assert torch.equal(moved == -1, keep)


def test_large_scalar_and_empty_parameters():
    size = (1 << 19) + 3  # several chunks and a rest
    big, scalar, empty = (torch.zeros(s, requires_grad=True) for s in ((size,), (), (0, 4)))
    for p in (big, scalar, empty):
        p.grad = torch.ones_like(p)
    lrd = LRDropout(torch.optim.SGD([empty, big, scalar], lr=1.0), seed=2)
    lrd.step()
    keep = keep_mask(2, 0, 0.5, start=0, count=size + 1)
    assert torch.equal(torch.cat([big, scalar[None]]) == -1, keep)
    assert lrd.fraction_kept() == int(keep.sum()) / (size + 1)


def test_torchs_random_state_is_neither_read_nor_changed():
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(step_once(torch.zeros(100, requires_grad=True))[0])
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*results)


def test_step_hooks_fire_once_and_see_the_finished_step():
    param = torch.zeros(100, requires_grad=True)
    param.grad = torch.ones(100)
    base = torch.optim.SGD([param], lr=1.0)
    lrd, seen = LRDropout(base), []
    base.register_step_post_hook(lambda o, a, k: seen.append("base"))
    lrd.register_step_post_hook(lambda o, a, k: seen.append("own"))
    handle = register_optimizer_step_post_hook(
        lambda o, a, k: seen.append(("global", o is lrd and bool((param > -lrd.t).any())))
    )
    try:
        lrd.step()
        lrd.step()
    finally:
        handle.remove()
    assert seen == ["base", "own", ("global", True)] * 2


def test_state_dict_hooks_fire_through_the_wrapper():
    lrd, seen = LRDropout(torch.optim.SGD([torch.zeros(1)], lr=1.0)), []
    lrd.register_state_dict_pre_hook(lambda o: seen.append("save"))
    lrd.register_load_state_dict_post_hook(lambda o: seen.append("load"))
    lrd.load_state_dict(lrd.state_dict())
    assert seen == ["save", "load"]


def test_a_step_that_fails_in_the_closure_does_not_count():
    lrd = LRDropout(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0))

    def fails() -> Tensor:
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        lrd.step(fails)
    assert lrd.t == 0


def test_a_weight_average_sees_the_undropped_values():
    """ASGD averages what the base proposes, dropped or not, as the docstring says."""
    param = torch.zeros(100, requires_grad=True)
    param.grad = torch.ones(100)
    lrd = LRDropout(torch.optim.ASGD([param], lr=1.0, lambd=0.0, alpha=0.0, t0=0))
    lrd.step()
    assert (lrd.state[param]["ax"] == -1).all() and (param == 0).any()


def test_importing_the_technique_needs_torch_alone():
    code = """
import sys
import lrd
assert "torch" not in sys.modules
from lrd import LRDropout
heavy = {"hydra", "omegaconf", "torchvision", "torchmetrics", "wandb", "sklearn", "tasks"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cpu_and_gpu_drop_the_same_elements(dtype: torch.dtype):
    here, there = (
        step_once(torch.zeros(1 << 20, dtype=dtype, device=d).requires_grad_(), seed=3)[0]
        for d in ("cpu", "cuda")
    )
    assert torch.equal(here, there.cpu())


def test_a_checkpoint_in_memory_loads_with_weights_only():
    model, x = problem()
    lrd = LRDropout(torch.optim.RAdam(model.parameters(), lr=0.03))
    train(model, lrd, x, 2)
    file = io.BytesIO()
    torch.save(lrd.state_dict(), file)
    file.seek(0)
    (group,) = torch.load(file, weights_only=True)["param_groups"]
    assert {k: v for k, v in group.items() if k.startswith("lrd_")} == {
        **{"lrd_p": 0.5, "lrd_seed": 0, "lrd_t": 2},
        **{"lrd_granularity": "element", "lrd_rescale": False},
    }
