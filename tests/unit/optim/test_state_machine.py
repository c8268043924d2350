"""Whatever a user does between two steps is honored: random actions between random steps.

Each step is compared with the plain base optimizer's on a deep copy and with a mask that numpy
draws, never with another path of LRDropout.
"""

import copy
import gc
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
)

from lrd import LRDropout
from lrd.rmsprop import RMSpropDecayInMoment
from tests.helpers.masks import mask

BASES: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda q: SGD(q, lr=0.1),
    "momentum": lambda q: SGD(q, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda q: SGD(q, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda q: Adam(q, lr=0.01),
    "amsgrad": lambda q: Adam(q, lr=0.01, amsgrad=True, weight_decay=0.01),
    "adamw": lambda q: AdamW(q, lr=0.01),
    "radam": lambda q: RAdam(q, lr=0.01, weight_decay=0.01),
    "rmsprop": lambda q: RMSprop(q, lr=0.01, weight_decay=0.01),
    "rmsprop_all": lambda q: RMSprop(q, lr=0.01, centered=True, momentum=0.9),
    "rmsprop_authors": lambda q: RMSpropDecayInMoment(q, lr=0.01, weight_decay=0.01),
    "nadam": lambda q: NAdam(q, lr=0.01),  # has no update rule
}
SHAPES = [(7, 5), (11,), (3, 2, 4, 5), (2, 600), (), (1, 1)]
COUNTS = {"actions": 0, "steps": 0}
which = st.integers(0, 10**6)


CLOSE: dict[str, Any] = dict(rtol=2e-5, atol=2e-6, equal_nan=True)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit; NaN is NaN."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


class Machine(RuleBasedStateMachine):
    """A user with one optimizer. Subclasses name the base and the implementation."""

    base: str
    implementation: str

    def __init__(self) -> None:
        super().__init__()
        self.hooks: list[Any] = []
        self.calls: dict[str, int] = {}
        self.granularity, self.rescale = "element", False
        self.draws = itertools.count()
        self.threads = torch.get_num_threads()

    def teardown(self) -> None:
        for handle in self.hooks:
            handle.remove()
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(self.threads)

    # What there is at first.

    @initialize(
        seed=st.integers(0, 2**40),
        p=st.sampled_from([0.5, 0.5, 0.1, 0.9, 1.0]),
        groups=st.integers(1, 3),
        beyond=st.sampled_from(["paper", "paper", "row", "tensor", "rescale"]),
        dtype=st.sampled_from([torch.float32, torch.float32, torch.float64]),
    )
    def begin(
        self, seed: int, p: float, groups: int, beyond: str, dtype: torch.dtype = torch.float32
    ) -> None:
        self.seed, self.p, self.t = seed, p, 0
        torch.set_default_dtype(dtype)
        self.rescale = beyond == "rescale"
        if beyond in ("row", "tensor") and self.implementation != "fused":
            self.granularity = beyond
        generator = torch.Generator().manual_seed(seed)
        params = [
            nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float32))
            for shape in SHAPES
        ]
        self.optimizer = LRDropout(
            BASES[self.base]([{"params": params[k::groups]} for k in range(groups)]),
            p=p,
            seed=seed,
            implementation=self.implementation,
            granularity=self.granularity,
            rescale=self.rescale,
        )
        for _ in range(3):
            self.step(next(self.draws), closure=False, idle=None)

    @property
    def params(self) -> list[Tensor]:
        return [q for group in self.optimizer.param_groups for q in group["params"]]

    def pick(self, number: int) -> Any:
        return self.params[number % len(self.params)]

    def group(self, number: int) -> dict[str, Any]:
        return self.optimizer.param_groups[number % len(self.optimizer.param_groups)]

    def acted(self) -> None:
        COUNTS["actions"] += 1

    # A step, and what it must have done.

    @invariant()
    def go_on(self) -> None:
        """Take a step after most actions, sometimes one with a closure or an idle parameter."""
        number = next(self.draws)
        if hasattr(self, "optimizer") and number % 4:
            self.step(number, number % 11 == 5, number % 7 if number % 3 == 0 else None)

    def step(self, number: int, closure: bool, idle: int | None) -> None:
        """Take a step on gradients from a backward, or at times on some that are assigned."""
        generator = torch.Generator().manual_seed(number)
        self.optimizer.zero_grad(set_to_none=number % 5 != 2)
        moving, grads = [], []
        for place, param in enumerate(self.params):
            grad = torch.randn(param.shape, generator=generator, dtype=torch.float32)
            if place == idle:
                param.grad = None
            elif param.requires_grad:
                moving.append(param)
                grads.append(grad.to(param.dtype))
        if number % 5:
            torch.autograd.backward(moving, grads)
        else:
            for param, grad in zip(moving, grads, strict=True):
                param.grad = torch.empty_like(param).copy_(grad)
        params = self.params
        before = [q.detach().clone() for q in params]
        copies, plain = copy.deepcopy((params, self.optimizer.base))
        for one, other in zip(params, copies, strict=True):
            other.grad = None if one.grad is None else one.grad.clone()
        calls = dict(self.calls)
        plain.step()
        self.calls = dict(calls)  # the global hooks fired for the copy
        loss = self.optimizer.step((lambda: torch.ones(())) if closure else None)
        assert (loss is not None) == closure
        COUNTS["steps"] += 1
        self.compare(before, copies, plain)
        self.t += 1
        assert self.optimizer.t == self.t
        assert self.calls == {name: count + 1 for name, count in calls.items()}

    def compare(self, before: list[Tensor], copies: list[Tensor], plain: Optimizer) -> None:
        exact = self.optimizer.path != "fused"
        start = 0
        owned = [(g, q) for g in self.optimizer.param_groups for q in g["params"]]
        for (group, param), old, moved in zip(owned, before, copies, strict=True):
            p = group.get("keep_p", self.p)
            shape = tuple(param.shape)
            keep = torch.from_numpy(
                np.array(mask(self.seed, self.t, p, start, shape, self.granularity))
            )
            start += param.numel()
            new, now = moved.detach(), param.detach()
            if self.rescale and p < 1:
                new = old + (new - old) * (1 / p)
            assert same(now[~keep], old[~keep]), "a dropped element has moved"
            if exact and (not self.rescale or p == 1 or now.dtype == torch.float64):
                assert same(now[keep], new[keep]), "a kept element is not the base's"
            else:
                torch.testing.assert_close(now, torch.where(keep, new, old), **CLOSE)
            self.compare_state(self.optimizer.state.get(param, {}), plain.state.get(moved, {}))

    def compare_state(self, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(mine[name], value, **CLOSE)
            else:
                assert mine[name] == value

    # Hyperparameters, flags and p.

    @rule(number=which, lr=st.sampled_from([0.0, 0.003, 0.05]), as_tensor=st.booleans())
    def set_lr(self, number: int, lr: float, as_tensor: bool) -> None:
        self.acted()
        self.group(number)["lr"] = torch.tensor(lr, dtype=torch.float32) if as_tensor else lr
        if as_tensor:
            self.group(number).update(foreach=False, fused=None)

    @rule(number=which, value=st.sampled_from([0.0, 0.1]))
    def set_weight_decay(self, number: int, value: float) -> None:
        self.acted()
        self.group(number)["weight_decay"] = value

    @rule(number=which, value=st.sampled_from([0.0, 0.5, 0.9]))
    def set_momentum(self, number: int, value: float) -> None:
        self.acted()
        group = self.group(number)
        if "betas" in group:
            group["betas"] = (value, 0.99)
        elif "alpha" in group:
            group["alpha"] = value or 0.7  # centered, 0 is the root of a rounding error
        elif not group["nesterov"]:
            group["momentum"] = value

    @rule(number=which)
    def maximize(self, number: int) -> None:
        self.acted()
        group = self.group(number)
        if "maximize" in group:
            group["maximize"] = not group["maximize"]

    @rule(number=which, value=st.sampled_from([None, False]))
    def set_foreach(self, number: int, value: bool | None) -> None:
        self.acted()
        group = self.group(number)
        if not isinstance(group["lr"], Tensor) and "foreach" in group:
            group["foreach"] = value

    @rule(p=st.sampled_from([0.5, 0.2, 1.0]))
    def set_p(self, p: float) -> None:
        self.acted()
        self.p = self.optimizer.p = p

    @rule(number=which, p=st.sampled_from([None, 0.3, 1.0]))
    def set_keep_p(self, number: int, p: float | None) -> None:
        self.acted()
        self.group(number).pop("keep_p", None)
        if p is not None:
            self.group(number)["keep_p"] = p

    @rule(number=which, value=st.sampled_from([0.01, 0.5, 2.0]))
    def set_a_key_p_of_another_meaning(self, number: int, value: float) -> None:
        self.acted()
        self.group(number)["p"] = value

    @rule(seed=st.integers(0, 2**63))
    def set_seed(self, seed: int) -> None:
        self.acted()
        self.seed = self.optimizer.seed = seed

    # Memory, dtype and layout.

    @rule()
    def cast_the_model_there_and_back(self) -> None:
        self.acted()
        for param in self.params:
            param.data = param.data.double().to(param.dtype)

    @rule(dtype=st.sampled_from([torch.float64, torch.bfloat16, torch.float16, torch.float32]))
    def cast_model_and_state(self, dtype: torch.dtype) -> None:
        self.acted()
        for param in self.params:
            param.grad = None
            param.data = param.data.to(dtype)
        for state in self.optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, Tensor) and name != "step" and name != "mu_product":
                    state[name] = value.to(dtype)
        for group in self.optimizer.param_groups:
            if "foreach" in group and dtype != torch.float32:
                group["foreach"] = False  # torch's own foreach differs in low precision

    @rule(number=which)
    def new_memory(self, number: int) -> None:
        self.acted()
        self.pick(number).data = self.pick(number).data.clone()

    @rule()
    def one_memory_for_all(self) -> None:
        self.acted()
        if len({q.dtype for q in self.params}) == 1:
            flat = torch.cat([q.data.flatten() for q in self.params])
            parts = flat.split([q.numel() for q in self.params])
            for param, part in zip(self.params, parts, strict=True):
                param.data = part.view(param.shape)

    @rule(number=which)
    def other_strides(self, number: int) -> None:
        self.acted()
        param = self.pick(number)
        if param.dim() == 4:
            param.data = param.data.contiguous(memory_format=torch.channels_last)
        elif param.dim() == 2:
            param.data = param.data.t().contiguous().t()
        else:
            spread = torch.zeros(*param.shape, 2, dtype=param.dtype)
            param.data = spread[..., 0].copy_(param.data)

    @rule(dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    def default_dtype(self, dtype: torch.dtype) -> None:
        self.acted()
        # From here on new tensors, also the base's step counts, have this type.
        if dtype != torch.bfloat16 or all(self.optimizer.state.get(q) for q in self.params):
            torch.set_default_dtype(dtype)

    @rule(threads=st.sampled_from([1, 2, 3]))
    def threads_change(self, threads: int) -> None:
        self.acted()
        torch.set_num_threads(threads)

    @rule()
    def collect_garbage(self) -> None:
        self.acted()
        gc.collect()

    # State.

    def states(self, number: int) -> tuple[Tensor, dict[str, Any]]:
        param = self.pick(number)
        return param, self.optimizer.state.get(param, {})

    @rule(number=which, through_data=st.booleans())
    def restart_the_step_count(self, number: int, through_data: bool) -> None:
        self.acted()
        _, state = self.states(number)
        if isinstance(state.get("step"), Tensor):
            (state["step"].data if through_data else state["step"]).fill_(1)

    @rule(number=which, how=st.sampled_from(["new", "in place", "data", "strided", "copy"]))
    def change_moments(self, number: int, how: str) -> None:
        self.acted()
        param, state = self.states(number)
        for name, value in state.items():
            if not isinstance(value, Tensor) or name in ("step", "mu_product"):
                continue
            if how == "new":
                state[name] = torch.zeros_like(param)
            elif how == "in place":
                value.mul_(0.5)
            elif how == "data":
                value.data = value.data * 0.5
            elif how == "strided":
                other = torch.zeros(*value.shape, 2, dtype=value.dtype)[..., 1]
                state[name] = other.copy_(value)
            else:
                state[name] = value.clone()

    @rule(number=which, everything=st.booleans())
    def forget_state(self, number: int, everything: bool) -> None:
        self.acted()
        if everything:
            self.optimizer.state.clear()
        else:
            self.optimizer.state.pop(self.pick(number), None)

    # Saving, loading and copying.

    @rule(way=st.sampled_from(["own", "file", "base", "groups and state"]))
    def load_what_was_saved_now(self, way: str) -> None:
        self.acted()
        if way == "base":
            return self.optimizer.base.load_state_dict(self.optimizer.base.state_dict())
        self.optimizer.load_state_dict(self.carried(way))

    @precondition(lambda self: not self.calls)
    @rule(way=st.sampled_from(["own", "file", "groups and state"]))
    def go_on_in_a_new_optimizer(self, way: str) -> None:
        """Seed, step and p come from what was saved, not from the new optimizer."""
        self.acted()
        saved = self.carried(way)
        groups = [{"params": group["params"]} for group in self.optimizer.param_groups]
        self.optimizer = LRDropout(
            BASES[self.base](groups), p=0.9, seed=99, implementation=self.optimizer.implementation
        )
        self.optimizer.load_state_dict(saved)

    def carried(self, way: str) -> dict[str, Any]:
        """The state dict as a tool may carry it."""
        saved = self.optimizer.state_dict()
        if way == "file":
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            return torch.load(file, weights_only=True)
        names = ("param_groups", "state")
        return {name: saved[name] for name in names} if way == "groups and state" else saved

    @rule()
    def save(self) -> None:
        self.acted()
        self.saved = (
            copy.deepcopy(self.optimizer.state_dict()),
            (self.seed, self.p, self.t),
            [tuple(q.shape) for q in self.params],
        )

    @precondition(lambda self: hasattr(self, "saved"))
    @rule()
    def load_what_was_saved_earlier(self) -> None:
        self.acted()
        state, (seed, p, t), shapes = self.saved
        groups = [len(group["params"]) for group in self.optimizer.param_groups]
        same = [len(group["params"]) for group in state["param_groups"]] == groups
        if same and shapes == [tuple(q.shape) for q in self.params]:
            self.optimizer.load_state_dict(copy.deepcopy(state))
            self.seed, self.p, self.t = seed, p, t

    @precondition(lambda self: not self.calls)
    @rule(pickled=st.booleans())
    def go_on_with_a_copy(self, pickled: bool) -> None:
        self.acted()
        if pickled:
            self.optimizer = pickle.loads(pickle.dumps(self.optimizer))
        else:
            self.optimizer = copy.deepcopy(self.optimizer)

    # Groups and parameters.

    @rule(shape=st.sampled_from(SHAPES), p=st.sampled_from([None, 0.7]))
    def add_a_group(self, shape: tuple[int, ...], p: float | None) -> None:
        self.acted()
        if len(self.params) < 12:
            dtype = self.params[0].dtype
            group: dict[str, Any] = {"params": [nn.Parameter(torch.ones(shape, dtype=dtype))]}
            self.optimizer.add_param_group(group if p is None else {**group, "keep_p": p})

    @rule(number=which, keep=st.booleans())
    def swap_a_parameter(self, number: int, keep: bool) -> None:
        self.acted()
        group, states = self.group(number), self.optimizer.state
        place = number % len(group["params"])
        old = group["params"][place]
        group["params"][place] = new = nn.Parameter(old.detach().clone())
        if (state := states.pop(old, None)) is not None and keep:
            states[new] = state

    @rule()
    def reorder_groups(self) -> None:
        self.acted()
        self.optimizer.param_groups.reverse()

    @rule()
    def replace_groups(self) -> None:
        self.acted()
        self.optimizer.base.param_groups = [dict(group) for group in self.optimizer.param_groups]

    @rule(number=which)
    def freeze_or_thaw(self, number: int) -> None:
        self.acted()
        param = self.pick(number)
        param.requires_grad_(not param.requires_grad)

    @rule(set_to_none=st.booleans())
    def zero_grad(self, set_to_none: bool) -> None:
        self.acted()
        self.optimizer.zero_grad(set_to_none)

    # Hooks and schedulers.

    @rule(kind=st.sampled_from(["base pre", "base post", "own pre", "own post", "global"]))
    def add_a_hook(self, kind: str) -> None:
        self.acted()
        if kind in self.calls:
            return
        self.calls[kind] = 0

        def count(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            mine = (self.optimizer, self.optimizer.base)
            if optimizer in mine:
                self.calls[kind] += 1

        where, base = self.optimizer, self.optimizer.base
        register = {
            "base pre": base.register_step_pre_hook,
            "base post": base.register_step_post_hook,
            "own pre": where.register_step_pre_hook,
            "own post": where.register_step_post_hook,
            "global": register_optimizer_step_post_hook,
        }
        self.hooks.append(register[kind](count))

    @rule()
    def remove_hooks(self) -> None:
        self.acted()
        while self.hooks:
            self.hooks.pop().remove()
        self.calls.clear()

    @precondition(lambda self: not self.calls)
    @rule(around_base=st.booleans())
    def a_scheduler(self, around_base: bool) -> None:
        self.acted()
        of = self.optimizer.base if around_base else self.optimizer
        for group in of.param_groups:
            group.pop("initial_lr", None)
        LambdaLR(of, lambda step: 0.5)

    @rule(implementation=st.sampled_from(["auto", "snapshot", "reference"]))
    def another_implementation(self, implementation: str) -> None:
        self.acted()
        self.optimizer.implementation = implementation


PATHS = ("fused", "snapshot", "reference")
CASES = [(b, i) for b in BASES for i in PATHS if (b, i) != ("nadam", "fused")]


# What torch says of such histories, once a process.
IGNORED = (
    "ignore:Detected call of `lr_scheduler.step:UserWarning",
    "ignore:grad and param do not obey the gradient layout contract:UserWarning",
)


def run(base: str, implementation: str, examples: int, steps: int) -> None:
    machine = type("Machine", (Machine,), {"base": base, "implementation": implementation})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


@pytest.mark.filterwarnings(*IGNORED)
@pytest.mark.parametrize(("base", "implementation"), CASES)
def test_every_action_between_two_steps_is_honored(base: str, implementation: str):
    run(base, implementation, examples=4, steps=25)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings(*IGNORED)
@pytest.mark.parametrize(("base", "implementation"), CASES)
def test_longer_histories_are_honored(base: str, implementation: str):
    run(base, implementation, examples=10, steps=40)
