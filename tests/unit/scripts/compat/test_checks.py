"""The checks of compatibility find what is wrong; the optimizers of torch pass them."""

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from lrd.optim import LRDropout
from scripts.compat import __main__ as compatibility
from scripts.compat import checks
from scripts.compat.cases import Case, find_all_cases, find_cases
from scripts.compat.checks import Outcome, check, is_same
from scripts.compat.page import outcome_rows, package_counts


class Forgetful(SGD):
    """Its momentum depends on a count that its state_dict lacks."""

    count = 0

    def step(self, closure: Any = None) -> Any:
        self.count += 1
        self.param_groups[0]["lr"] = 0.1 / self.count
        return super().step(closure)


class Cautious(Optimizer):
    """Moves only what a closure has computed."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        with torch.enable_grad():
            loss = closure()
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad, alpha=0.1)
        return loss


class Idle(SGD):
    def step(self, closure: Any = None) -> None:
        pass


def case(make: Callable[[Any], Optimizer]) -> Case:
    return Case("own", "Own", lambda model: make(model.parameters()))


def found(outcome: Outcome) -> tuple[bool | None, ...]:
    return outcome.plain, outcome.masked, outcome.resumed


@pytest.mark.parametrize("name", ["Adam", "SGD", "LBFGS", "Muon", "ASGD", "Rprop"])
def test_optimizers_of_torch_pass(name: str):
    (one,) = [case for case in find_cases("torch") if case.name == name]
    outcome = check(one)
    assert found(outcome) == (True, True, True)
    assert ("closure" in outcome.notes) == (name == "LBFGS")


def test_all_of_torch_are_listed():
    names = {each.name for each in find_cases("torch")}
    assert {"Adam", "AdamW", "Adafactor", "SparseAdam", "LBFGS", "NAdam"} <= names
    assert "Optimizer" not in names


def test_a_step_that_needs_a_closure_gets_one():
    outcome = check(case(Cautious))
    assert found(outcome) == (True, True, True)
    assert outcome.notes == ["closure"]


def test_a_plain_optimizer_that_does_not_resume_is_no_fault_of_the_wrapper():
    outcome = check(case(lambda params: Forgetful(params, lr=0.1)))
    assert found(outcome) == (True, True, None)
    assert outcome.notes == ["the plain optimizer's own resume is not bitwise"]


def test_an_optimizer_that_moves_nothing_shows_nothing():
    outcome = check(case(lambda params: Idle(params, lr=0.1)))
    assert found(outcome) == (None, None, None)
    assert "moves nothing" in outcome.notes[0]


def test_one_that_cannot_be_constructed_says_why():
    outcome = check(case(lambda params: SGD(params, lr=-1)))
    assert found(outcome) == (None, None, None)
    assert "Invalid learning rate" in outcome.notes[0]


class OtherSeed(LRDropout):
    def __init__(self, base: Optimizer, **settings: Any) -> None:
        super().__init__(base, **{**settings, "seed": 4})


class OneWrongElement(LRDropout):
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        with torch.no_grad():
            self.param_groups[0]["params"][0].view(-1)[:1].add_(1e-3)
        return loss


class OtherState(LRDropout):
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        next(iter(self.state.values()))["exp_avg"].view(-1)[0] += 1e-3
        return loss


class ForgetsTheStep(LRDropout):
    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self.t = 0


class RaisesOnLoad(LRDropout):
    def load_state_dict(self, state_dict: Any) -> None:
        raise KeyError("lost")


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (OtherSeed, (True, False, False)),
        (OneWrongElement, (False, False, True)),
        (OtherState, (False, False, True)),
        (ForgetsTheStep, (True, True, False)),
        (RaisesOnLoad, (True, True, False)),
    ],
)
def test_a_wrong_wrapper_fails(
    broken: type[LRDropout], expected: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checks, "LRDropout", broken)
    outcome = check(case(Adam))
    assert found(outcome) == expected
    assert ("resume: KeyError: 'lost'" in outcome.notes) == (broken is RaisesOnLoad)


def test_structures_are_compared_bitwise():
    zero, negative = torch.zeros(2), -torch.zeros(2)
    assert is_same({"a": [zero, 1], "lrd_t": 3}, {"a": [torch.zeros(2), 1]})
    assert is_same(deque([zero]), deque([zero.clone()]))
    assert is_same(torch.tensor(torch.nan), torch.tensor(torch.nan))
    assert not is_same(zero, negative)
    assert not is_same(zero, zero.double())
    assert not is_same(torch.zeros(2), torch.zeros(1, 2))
    assert not is_same({"a": 1}, {"a": 1, "b": 2})
    assert not is_same([1], [1, 2])


def test_random_numbers_of_a_step_do_not_depend_on_the_steps_before():
    def noisy(params: Any) -> Optimizer:
        class Noisy(SGD):
            @torch.no_grad()
            def step(self, closure: Any = None) -> Any:
                for p in self.param_groups[0]["params"]:
                    p.add_(torch.randn_like(p))

        return Noisy(params)

    assert found(check(case(noisy))) == (True, True, True)


def test_counts_and_rows():
    outcomes = [
        Outcome("own", "A", True, True, True),
        Outcome("own", "B", True, False, None, ["closure", "why"]),
    ]
    assert package_counts(outcomes) == ["2 of 2", "1 of 2", "1 of 2"]
    assert list(outcome_rows(outcomes)) == [
        "| A | yes | yes | yes | |",
        "| B | yes | **no** | - | closure; why |",
    ]


def test_a_missing_package_and_an_unknown_name_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    assert compatibility.main([]) == 2
    line = "error: pytorch_optimizer is missing: pip install -e '.[compat]'\n"
    assert capsys.readouterr().err == line
    with pytest.raises(ValueError, match="missing"):
        find_all_cases(["torch.Adam"])


def test_the_network_has_vectors_matrices_and_filters():
    (adam,) = [each for each in find_cases("torch") if each.name == "Adam"]
    training = checks.Training(adam, "step")
    assert {p.ndim for p in training.model.parameters()} == {1, 2, 4}
    assert isinstance(training.model, nn.Module)
