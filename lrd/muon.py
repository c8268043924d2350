"""Muon for matrices and AdamW for everything else, as one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """``torch.optim.Muon`` for parameters of two dimensions, ``torch.optim.AdamW`` for all others.

    Each given group becomes up to two: its matrices first, then the rest. Muon's updates are scaled
    to the root mean square of AdamW's (``adjust_lr_fn="match_rms_adamw"``; Liu et al., arXiv
    2502.16982), so that both share a learning rate and a weight decay. Convolution filters have
    four dimensions and go to AdamW.

    Args:
        params: Parameters, with or without their names, or groups of them.
        lr: Learning rate of both.
        weight_decay: Decoupled weight decay of both.
        momentum: Muon's momentum (Nesterov's).
        ns_steps: Newton-Schulz iterations of Muon's orthogonalization.
        betas: AdamW's decay rates.
        eps: AdamW's term for numerical stability.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        defaults: dict[str, Any] = dict(lr=lr, weight_decay=weight_decay, betas=betas, eps=eps)
        defaults |= dict(momentum=momentum, ns_steps=ns_steps, adjust_lr_fn="match_rms_adamw")
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the matrices of a group for Muon, and its other parameters for AdamW."""
        given = param_group["params"]
        members = [given] if isinstance(given, Tensor) else list(given)
        for algorithm, (kind, own) in PARTS.items():
            part = [q for q in members if _is_matrix(q) == (kind is Muon)]
            if part:
                theirs = kind([torch.zeros(1, 1)]).defaults
                ours = {name: self.defaults[name] for name in ("lr", "weight_decay", *own)}
                settings = {**theirs, **ours, **param_group}
                super().add_param_group({**settings, "params": part, "algorithm": algorithm})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for algorithm, (kind, _) in PARTS.items():
            groups = [group for group in self.param_groups if group["algorithm"] == algorithm]
            if groups:
                part = kind.__new__(kind)
                part.__setstate__({"defaults": {}, "param_groups": groups, "state": self.state})
                step: Any = kind.step  # hooks are for this optimizer's step
                getattr(step, "__wrapped__", step)(part)
        return loss


# Each algorithm's class and the settings that are its alone.
PARTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "muon": (Muon, ("momentum", "ns_steps", "adjust_lr_fn")),
    "adamw": (AdamW, ("betas", "eps")),
}


def _is_matrix(param: Any) -> bool:
    """Return whether a parameter, or a pair of its name and itself, has two dimensions."""
    return (param[1] if isinstance(param, tuple) else param).dim() == 2
