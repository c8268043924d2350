"""What LRD is measured against: the authors' style of step, and the loop as people write it."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset


class AuthorsAdam(Optimizer):
    """Adam with LRD in the style of the code published with the paper, for its cost.

    Parameter by parameter, with a mask from ``torch.bernoulli`` over a tensor filled with p and a
    copy of the first moment that becomes the update. At p = 1 it is torch.optim.Adam to rounding.
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
                    self._move(param, param.grad, group)

    def _move(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
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


class OrdinaryLoop:
    """A PyTorch training loop as it is usually written: samples decoded and augmented one by one in
    a DataLoader's workers, float32, loss and accuracy read after every step."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        data: Dataset[Any],
        device: torch.device,
        batch_size: int = 128,
        workers: int = 2,
    ) -> None:
        self.model, self.optimizer, self.device = model, optimizer, device
        self.loader = DataLoader(data, batch_size, shuffle=True, num_workers=workers)

    def epoch(self, steps: int | None = None) -> dict[str, float]:
        """Train for an epoch, or its first ``steps`` steps; mean loss, accuracy in %, images."""
        self.model.train()
        loss_sum, right, seen, done = 0.0, 0, 0, 0
        for inputs, targets in self.loader:
            inputs, targets = inputs.to(self.device), targets.to(self.device)
            self.optimizer.zero_grad()
            outputs = self.model(inputs)
            loss = F.cross_entropy(outputs, targets)
            loss.backward()
            self.optimizer.step()

            loss_sum += loss.item()
            right += outputs.argmax(1).eq(targets).sum().item()
            seen += len(targets)
            done += 1
            if done == steps:
                break
        return {"loss": loss_sum / done, "accuracy": 100 * right / seen, "images": seen}
