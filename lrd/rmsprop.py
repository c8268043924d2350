"""RMSprop as the paper's authors ran it under learning rate dropout."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class RMSpropDecayInMoment(Optimizer):
    """RMSprop whose weight decay enters the second moment only, not the move.

    ``V_t = alpha V_{t-1} + (1 - alpha)(G_t + wd W)^2``, ``dW_t = G_t / (sqrt(V_t) + eps)``. Inside
    LRDropout this is the update that the authors published as RMSprop with LRD, while their
    baseline was torch's RMSprop with weight decay in the move as well. With weight_decay = 0 it is
    ``torch.optim.RMSprop``. Dense real parameters; one state tensor a parameter.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha must be in [0, 1), got {alpha}")
        super().__init__(params, dict(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p]["square_avg"] = torch.zeros_like(p)
        moments = [self.state[p]["square_avg"] for p in params]
        decayed = torch._foreach_add(grads, params, alpha=group["weight_decay"])
        torch._foreach_mul_(moments, group["alpha"])
        torch._foreach_addcmul_(moments, decayed, decayed, value=1 - group["alpha"])
        del decayed
        scale = torch._foreach_sqrt(moments)
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_addcdiv_(params, grads, scale, value=-group["lr"])
