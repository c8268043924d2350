"""What LRDropout refuses, and why, in one line each."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer, SparseAdam

from lrd import flat, kernels
from lrd.rules import rule_for

IMPLEMENTATIONS = ("auto", "single_pass", "generic", "reference")


def check_keep_probability(p: float) -> None:
    """Raise ValueError unless 0 < p <= 1."""
    if not isinstance(p, int | float) or isinstance(p, bool) or not 0 < p <= 1:
        raise ValueError(f"p must be in (0, 1] (the probability to keep an update), got {p}")


def check_option(name: str, value: Any, options: Sequence[Any]) -> None:
    """Raise ValueError unless ``value`` is one of ``options``."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(str, options))}, got {value}")


def check_base(base: Optimizer) -> None:
    """Raise TypeError or ValueError for what LRD cannot wrap by any implementation."""
    if not isinstance(base, Optimizer):
        raise TypeError(f"base must be a torch.optim.Optimizer, got {type(base).__name__}")
    if isinstance(base, SparseAdam):
        raise ValueError("base must take dense gradients, got SparseAdam: use Adam")
    if any(group.get("differentiable") for group in base.param_groups):
        raise ValueError("base must have differentiable=False: a mask has no gradient")


def check_dense(groups: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError for a sparse gradient."""
    for number, (_, _, param) in enumerate(flat.members(groups)):
        if param.grad is not None and param.grad.layout != torch.strided:
            raise ValueError(
                f"gradients must be dense, got {param.grad.layout} for parameter {number} of "
                f"shape {tuple(param.shape)}: use Embedding(sparse=False)"
            )


def checked(closure: Callable[[], Any], groups: Sequence[dict[str, Any]]) -> Callable[[], Any]:
    """``closure``, after which :func:`check_dense` looks at the gradients."""

    def then_check() -> Any:
        loss = closure()
        check_dense(groups)
        return loss

    return then_check


def refusal(implementation: str, base: Optimizer, granularity: str = "element") -> str | None:
    """Why ``base`` cannot step by ``implementation`` here, in one line; None if it can."""
    if implementation != "single_pass":
        return None
    if granularity != "element":
        return (
            "implementation=single_pass must have granularity=element (its kernel draws a bit for "
            f"each), got {granularity}: use generic"
        )
    if any(rule_for(base, group) is None for group in base.param_groups):
        return (
            "implementation=single_pass must have one of SGD, RMSprop, Adam, AdamW, RAdam with "
            f"plain numbers as settings, got {type(base).__name__}: use generic"
        )
    devices = {param.device.type for group in base.param_groups for param in group["params"]}
    if not all(map(kernels.can_compile, devices)):
        return (
            f"implementation=single_pass must find a compiler for {', '.join(sorted(devices))} "
            "(g++, or CXX names one; on a GPU Triton too), got none: use generic"
        )
    return None
