"""The optimizers that the benchmarks compare: torch's, LRDropout and a naive LRD."""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any
from unittest import mock

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lrd.config.compose import compose
from lrd.optim import flat_params, kernels
from lrd.optim.lr_dropout import LRDropout

OPTIMIZER_NAMES = ("sgdm", "rmsprop", "adam", "amsgrad", "radam")
TORCH_FUSED, TORCH_FOREACH, TORCH_LOOP = "torch, fused", "torch, foreach", "torch, for-loop"
LRD_EAGER, LRD_COMPILED = "LRD, generic, eager", "LRD, generic, compiled"
LRD_FUSED = "LRD, fused"
NAIVE = "naive LRD"
FUSED_IMPLEMENTATION = "single_pass"  # the value of lrd.implementation
P = 0.5  # keep probability


class NaiveAdam(Optimizer):
    """Adam with LRD in the style of the code published with the paper, to measure its cost.

    It steps parameter by parameter, samples the mask with ``torch.bernoulli`` from a tensor filled
    with p and copies the first moment. At p = 1 it is torch.optim.Adam up to floating-point error.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        p: float = 0.5,
    ) -> None:
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, p=p)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, param.grad, group)

    def _update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (b1, b2) = self.state[param], group["betas"]
        if not state:
            state["step"] = 0
            state["m"], state["v"] = torch.zeros_like(param), torch.zeros_like(param)
        state["step"] += 1
        if group["weight_decay"]:
            grad = grad.add(param, alpha=group["weight_decay"])
        m, v = state["m"], state["v"]
        m.mul_(b1).add_(grad, alpha=1 - b1)
        v.mul_(b2).addcmul_(grad, grad, value=1 - b2)
        denominator = v.sqrt() / math.sqrt(1 - b2 ** state["step"]) + group["eps"]
        mask = torch.bernoulli(torch.ones_like(param) * group["p"])
        update = m.clone() / denominator * mask
        param.add_(update, alpha=-group["lr"] / (1 - b1 ** state["step"]))


@cache
def paper_settings(name: str) -> tuple[Callable[..., Optimizer], dict[str, Any]]:
    """Return class and settings of the paper's CIFAR-10 runs, from the configuration files."""
    node = OmegaConf.to_container(compose(["task=cifar10", f"optim={name}"]).optim, resolve=True)
    assert isinstance(node, dict)
    settings = {str(key): value for key, value in node.items()}
    return get_class(settings.pop("_target_")), settings


def torch_variants(name: str) -> dict[str, dict[str, bool]]:
    """Return the settings of torch's variants of an optimizer, the fastest kind first."""
    takes = inspect.signature(paper_settings(name)[0]).parameters
    fused = {TORCH_FUSED: {"fused": True}} if "fused" in takes else {}
    return fused | {TORCH_FOREACH: {"foreach": True}, TORCH_LOOP: {"foreach": False}}


def lrd_variants(device: torch.device) -> list[str]:
    """Return LRDropout's variants on ``device``; without a compiler, the eager one alone."""
    compiled = kernels.can_compile(device.type)
    return [LRD_EAGER, LRD_COMPILED, LRD_FUSED] if compiled else [LRD_EAGER]


def naive_variants(name: str) -> list[str]:
    """Return the naive variant of Adam; other optimizers have none."""
    return [NAIVE] if name == "adam" else []


def make_parameters(
    variant: str, sizes: Iterable[Sequence[int]], device: torch.device
) -> list[Parameter]:
    """Return parameters with gradients, of a trained network's magnitude, for one variant."""
    torch.manual_seed(0)
    params = [Parameter(0.05 * torch.randn(*size, device=device)) for size in sizes]
    flatten_for(variant, params)
    # By a real backward, so that gradients lie where training would put them.
    torch.manual_seed(1)
    torch.autograd.backward(params, [0.01 * torch.randn_like(param) for param in params])
    return params


def flatten_for(variant: str, params: Sequence[Parameter]) -> None:
    """Move parameters into flat buffers if the variant needs them, as a run of run.py does."""
    if variant == LRD_FUSED:
        flat_params.flatten_parameters([{"params": list(params)}])


def make_optimizer(name: str, variant: str, params: Sequence[Parameter], p: float = P) -> Optimizer:
    """Return one variant of an optimizer over ``params``, which :func:`flatten_for` has seen."""
    cls, settings = paper_settings(name)
    variants = torch_variants(name)
    if variant in variants:
        return cls(list(params), **settings, **variants[variant])
    if variant == NAIVE:
        assert name == "adam"
        return NaiveAdam(params, **settings, p=p)
    base = cls(list(params), **settings, **next(iter(variants.values())))
    implementation = FUSED_IMPLEMENTATION if variant == LRD_FUSED else "generic"
    optimizer = LRDropout(base, p, implementation=implementation)
    if variant == LRD_EAGER:
        optimizer.step = mock.patch.object(kernels, "COMPILE", False)(optimizer.step)
    return optimizer


def check_fused(optimizers: dict[str, Optimizer]) -> None:
    """Assert that the fused variant among ``optimizers`` has taken fused steps."""
    if (lrd := optimizers.get(LRD_FUSED)) is not None:
        assert isinstance(lrd, LRDropout) and lrd.path == FUSED_IMPLEMENTATION, "not fused"
