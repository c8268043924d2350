"""The optimizers under test: torch's own forms, LRD's paths and the authors' style."""

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol
from unittest import mock

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch.nn import Parameter
from torch.optim import Optimizer

from benchmarks.baselines import AuthorsAdam
from lrd.config.compose import compose
from lrd.optim import flat_params, kernels
from lrd.optim.lr_dropout import LRDropout

NAMES = ("sgdm", "rmsprop", "adam", "amsgrad", "radam")
FUSED, FOREACH, FOR_LOOP = "torch, fused", "torch, foreach", "torch, for-loop"
EAGER, COMPILED = "LRD, generic, eager", "LRD, generic, compiled"
SINGLE = "LRD, single pass"
AUTHORS = "authors' style LRD"
P = 0.5


class Steps(Protocol):
    """As much of an optimizer as the bench calls."""

    def step(self) -> Any: ...

    def zero_grad(self) -> Any: ...


class Eager:
    """LRD's steps as they are where there is no compiler."""

    def __init__(self, lrd: LRDropout) -> None:
        self.lrd, self.zero_grad = lrd, lrd.zero_grad

    def step(self) -> None:
        with mock.patch.object(kernels, "COMPILE", False):
            self.lrd.step()


@cache
def recipe(name: str) -> tuple[Callable[..., Optimizer], dict[str, Any]]:
    """Class and settings of the paper's CIFAR-10 runs, from the configuration they come from."""
    node = OmegaConf.to_container(compose(["task=cifar10", f"optim={name}"]).optim, resolve=True)
    assert isinstance(node, dict)
    settings = {str(key): value for key, value in node.items()}
    return get_class(settings.pop("_target_")), settings


def torch_forms(name: str) -> dict[str, dict[str, bool]]:
    """The forms that torch has of an optimizer, the fused one first where there is one."""
    takes = inspect.signature(recipe(name)[0]).parameters
    forms = {FUSED: {"fused": True}} if "fused" in takes else {}
    return forms | {FOREACH: {"foreach": True}, FOR_LOOP: {"foreach": False}}


def lrd_forms(device: torch.device) -> list[str]:
    """LRD's paths; without a compiler there is the eager one alone."""
    return [EAGER, COMPILED, SINGLE] if kernels.can_compile(device.type) else [EAGER]


def lay_out(form: str, params: Sequence[Parameter]) -> None:
    """What :func:`lrd.training.builder.build` does for the single pass, and torch's forms need not."""
    if form == SINGLE:
        flat_params.flatten_parameters([{"params": list(params)}])


def make(name: str, form: str, params: Sequence[Parameter], p: float = P) -> Steps:
    """An optimizer over ``params``, which :func:`lay_out` has seen."""
    kind, settings = recipe(name)
    forms = torch_forms(name)
    if form in forms:
        return kind(list(params), **settings, **forms[form])
    if form == AUTHORS:
        assert name == "adam"
        return AuthorsAdam(params, **settings, p=p)
    base = kind(list(params), **settings, **next(iter(forms.values())))
    lrd = LRDropout(base, p, implementation="single_pass" if form == SINGLE else "generic")
    return Eager(lrd) if form == EAGER else lrd


def parameters(sizes: Sequence[torch.Size], device: torch.device) -> list[Parameter]:
    """New parameters of these shapes, with values of the size that trained ones have."""
    torch.manual_seed(0)
    return [Parameter(0.05 * torch.randn(size, device=device)) for size in sizes]


def give_gradients(params: Sequence[Parameter]) -> None:
    """A gradient to each, by a real backward, so that it lands where training would put it."""
    torch.manual_seed(1)
    torch.autograd.backward(list(params), [0.01 * torch.randn_like(param) for param in params])
