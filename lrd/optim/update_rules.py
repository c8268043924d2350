"""The update rules of the fused step, each written once for CPU and GPU.

A rule computes, for one element, the update ``alpha * dW_t`` and the new moments from weight,
gradient and moments (Algorithm 1, lines 3 to 9). What changes from step to step (learning rate,
bias corrections) is a small tensor, so a schedule causes no compilation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RAdam, RMSprop

from lrd.rmsprop import RMSpropDecayInMoment

Group = dict[str, Any]
Moments = tuple[Tensor, ...]


@dataclass(frozen=True)
class UpdateRule:
    """An optimizer's update of one element.

    ``states``: names of the moments in the base's state, in ``update``'s order. ``scalars(group,
    t)`` returns the ``count`` numbers of step t (from 1), computed in float64 on the host.
    ``update(w, g, moments, scalars)`` returns ``(alpha * dW_t, new moments)``.
    """

    name: str
    states: tuple[str, ...]
    count: int
    scalars: Callable[[Group, int], list[float]]
    update: Callable[[Tensor, Tensor, Moments, Tensor], tuple[Tensor, Moments]]


def update_rule_for(base: Optimizer, group: Group) -> UpdateRule | None:
    """Return the update rule of exactly this class with these settings, or None.

    A subclass may do anything, so it has no rule; nor do groups with tensor hyperparameters.
    """
    make = _RULES.get(type(base))
    numbers = [*group.get("betas", ()), *(v for k, v in group.items() if k != "params")]
    if make is None or any(isinstance(n, Tensor) for n in numbers):
        return None
    rule = make(group)
    return _maximizing(rule) if group.get("maximize") else rule


def _maximizing(rule: UpdateRule) -> UpdateRule:
    def update(w: Tensor, g: Tensor, moments: Moments, s: Tensor) -> tuple[Tensor, Moments]:
        return rule.update(w, -g, moments, s)

    return UpdateRule(f"{rule.name}_maximize", rule.states, rule.count, rule.scalars, update)


def _sgd(group: Group) -> UpdateRule:
    """Return the rule of torch.optim.SGD from its second step on, when momentum buffers exist."""
    momentum, nesterov = group["momentum"] != 0, group["nesterov"]

    def scalars(group: Group, t: int) -> list[float]:
        return [group["lr"], group["weight_decay"], group["momentum"], 1 - group["dampening"]]

    def update(w: Tensor, g: Tensor, moments: Moments, s: Tensor) -> tuple[Tensor, Moments]:
        g = g + s[1] * w
        if not momentum:
            return s[0] * g, ()
        m = s[2] * moments[0] + s[3] * g
        return s[0] * (g + s[2] * m if nesterov else m), (m,)

    name = "sgd" + "_momentum" * momentum + "_nesterov" * nesterov
    return UpdateRule(name, ("momentum_buffer",) * momentum, 4, scalars, update)


def _adam(group: Group) -> UpdateRule:
    """Return the rule of Adam, AMSGrad or AdamW (Kingma, 2015; Reddi, 2018; Loshchilov, 2019)."""
    amsgrad, decoupled = group["amsgrad"], group["decoupled_weight_decay"]

    def scalars(group: Group, t: int) -> list[float]:
        lr, (b1, b2), decay = group["lr"], group["betas"], group["weight_decay"]
        size, root = lr / (1 - b1**t), math.sqrt(1 - b2**t)
        decay = lr * decay if decoupled else decay
        return [size, 1 / root, group["eps"], 1 - b1, b2, 1 - b2, decay]

    def update(w: Tensor, g: Tensor, moments: Moments, s: Tensor) -> tuple[Tensor, Moments]:
        if not decoupled:
            g = g + s[6] * w
        m = moments[0] + (g - moments[0]) * s[3]
        v = moments[1] * s[4] + g * g * s[5]
        new: Moments = (m, v, moments[2].maximum(v)) if amsgrad else (m, v)
        move = s[0] * m / (new[-1].sqrt() * s[1] + s[2])
        return move + s[6] * w if decoupled else move, new

    name = ("adamw" if decoupled else "adam") + "_amsgrad" * amsgrad
    states = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    return UpdateRule(name, states[: 3 if amsgrad else 2], 7, scalars, update)


def _radam(group: Group) -> UpdateRule:
    """Return the rule of RAdam (Liu et al., 2020), rectified once rho_t exceeds 5."""
    decoupled = group["decoupled_weight_decay"]

    def scalars(group: Group, t: int) -> list[float]:
        lr, (b1, b2), decay = group["lr"], group["betas"], group["weight_decay"]
        end = 2 / (1 - b2) - 1
        rho = end - 2 * t * b2**t / (1 - b2**t)
        size, rectified = lr / (1 - b1**t), rho > 5
        if rectified:
            size *= math.sqrt((rho - 4) * (rho - 2) * end / ((end - 4) * (end - 2) * rho))
            size *= math.sqrt(1 - b2**t)
        decay = lr * decay if decoupled else decay
        return [size, float(rectified), group["eps"], 1 - b1, b2, 1 - b2, decay]

    def update(w: Tensor, g: Tensor, moments: Moments, s: Tensor) -> tuple[Tensor, Moments]:
        if not decoupled:
            g = g + s[6] * w
        m = moments[0] + (g - moments[0]) * s[3]
        v = moments[1] * s[4] + g * g * s[5]
        move = s[0] * m / (s[1] * (v.sqrt() + s[2]) + (1 - s[1]))
        return move + s[6] * w if decoupled else move, (m, v)

    name = "radam" + "_decoupled" * decoupled
    return UpdateRule(name, ("exp_avg", "exp_avg_sq"), 7, scalars, update)


def _rmsprop(group: Group) -> UpdateRule:
    """Return the rule of torch.optim.RMSprop, optionally centered and with momentum."""
    centered, momentum = group["centered"], group["momentum"] != 0

    def scalars(group: Group, t: int) -> list[float]:
        alpha = group["alpha"]
        decay = group["weight_decay"]
        return [group["lr"], decay, alpha, 1 - alpha, group["eps"], group["momentum"]]

    def update(w: Tensor, g: Tensor, moments: Moments, s: Tensor) -> tuple[Tensor, Moments]:
        g = g + s[1] * w
        v = moments[0] * s[2] + g * g * s[3]
        new: Moments = (v,)
        square = v
        if centered:
            mean = moments[1] + (g - moments[1]) * s[3]
            square = v - mean * mean
            new += (mean,)
        move = g / (square.sqrt() + s[4])
        if momentum:
            move = s[5] * moments[-1] + move
            new += (move,)
        return s[0] * move, new

    states = ("square_avg", *("grad_avg",) * centered, *("momentum_buffer",) * momentum)
    name = "rmsprop" + "_centered" * centered + "_momentum" * momentum
    return UpdateRule(name, states, 6, scalars, update)


def _rmsprop_authors(group: Group) -> UpdateRule:
    """Return the authors' rule: V_t sees the decayed gradient, the update the plain one."""

    def scalars(group: Group, t: int) -> list[float]:
        alpha = group["alpha"]
        return [group["lr"], group["weight_decay"], alpha, 1 - alpha, group["eps"]]

    def update(w: Tensor, g: Tensor, moments: Moments, s: Tensor) -> tuple[Tensor, Moments]:
        decayed = g + s[1] * w
        v = moments[0] * s[2] + decayed * decayed * s[3]
        return s[0] * g / (v.sqrt() + s[4]), (v,)

    return UpdateRule("rmsprop_authors", ("square_avg",), 5, scalars, update)


_RULES: dict[type[Optimizer], Callable[[Group], UpdateRule]] = {
    SGD: _sgd,
    Adam: _adam,
    AdamW: _adam,
    RAdam: _radam,
    RMSprop: _rmsprop,
    RMSpropDecayInMoment: _rmsprop_authors,
}
