"""What LRDropout rejects, with one-line reasons."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer, SparseAdam

from lrd.optim.flat_params import indexed_params
from lrd.optim.kernels import can_compile
from lrd.optim.update_rules import update_rule_for


def check_base(base: Optimizer) -> None:
    """Raise TypeError or ValueError if no implementation can wrap ``base``."""
    if not isinstance(base, Optimizer):
        raise TypeError(f"base must be a torch.optim.Optimizer, got {type(base).__name__}")
    if isinstance(base, SparseAdam):
        raise ValueError("base must take dense gradients, got SparseAdam: use Adam")
    if any(group.get("differentiable") for group in base.param_groups):
        raise ValueError("base must have differentiable=False: a mask has no gradient")


def check_dense(groups: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError if a gradient is sparse."""
    for number, (_, _, param) in enumerate(indexed_params(groups)):
        if param.grad is not None and param.grad.layout != torch.strided:
            raise ValueError(
                f"gradients must be dense, got {param.grad.layout} for parameter {number} of "
                f"shape {tuple(param.shape)}: use Embedding(sparse=False)"
            )


def checked_closure(
    closure: Callable[[], Any], groups: Sequence[dict[str, Any]]
) -> Callable[[], Any]:
    """Return ``closure`` followed by :func:`check_dense`."""

    def call() -> Any:
        loss = closure()
        check_dense(groups)
        return loss

    return call


def why_unsupported(
    implementation: str, base: Optimizer, granularity: str = "element"
) -> str | None:
    """Return why ``base`` cannot step by ``implementation`` here, in one line, or None."""
    if implementation != "single_pass":
        return None
    if granularity != "element":
        return (
            "implementation=single_pass must have granularity=element (its kernel draws a bit for "
            f"each), got {granularity}: use generic"
        )
    if any(update_rule_for(base, group) is None for group in base.param_groups):
        return (
            "implementation=single_pass must have one of SGD, RMSprop, Adam, AdamW, RAdam with "
            f"plain numbers as settings, got {type(base).__name__}: use generic"
        )
    devices = {param.device.type for group in base.param_groups for param in group["params"]}
    if not all(map(can_compile, devices)):
        return (
            f"implementation=single_pass must find a compiler for {', '.join(sorted(devices))} "
            "(g++, or CXX names one; on a GPU Triton too), got none: use generic"
        )
    return None
