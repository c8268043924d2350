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
        params: Parameters, or groups of them.
        lr: Learning rate of both.
        weight_decay: Decoupled weight decay of both.
        momentum: Muon's momentum (Nesterov's).
        ns_steps: Newton-Schulz iterations of Muon's orthogonalization.
        betas: AdamW's decay rates.
        eps: AdamW's term for numerical stability.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        muon: dict[str, Any] = dict(
            momentum=momentum, ns_steps=ns_steps, adjust_lr_fn="match_rms_adamw"
        )
        adamw: dict[str, Any] = dict(betas=betas, eps=eps)
        common: dict[str, Any] = dict(lr=lr, weight_decay=weight_decay)
        groups: list[dict[str, Any]] = []
        for group in _groups(params):
            for is_muon, kind, own in ((True, Muon, muon), (False, AdamW, adamw)):
                members = [q for q in group["params"] if (q.dim() == 2) == is_muon]
                if members:
                    settings = {**common, **own, **group, "params": members}
                    groups += kind([settings], **common, **own).param_groups
                    groups[-1]["algorithm"] = "muon" if is_muon else "adamw"
        super().__init__(groups, common)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for algorithm, kind in (("muon", Muon), ("adamw", AdamW)):
            groups = [group for group in self.param_groups if group["algorithm"] == algorithm]
            if groups:
                part = kind.__new__(kind)
                part.__setstate__({"defaults": {}, "param_groups": groups, "state": self.state})
                step: Any = kind.step  # hooks are for this optimizer's step
                getattr(step, "__wrapped__", step)(part)
        return loss


def _groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Return groups whose parameters are lists; a name may come with each parameter."""
    given = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    return [
        {
            **group,
            "params": [group["params"]]
            if isinstance(group["params"], Tensor)
            else list(group["params"]),
        }
        for group in groups
    ]
