"""The update rules of the fused step, each written once for CPUs and GPUs.

A rule is an optimizer's update of one element (Algorithm 1, lines 3 to 9, without the mask). Its
operations run as they stand on tensors, and :mod:`lrd.optim.kernels.trace` translates them to C
and to Triton. Each operation rounds once, in the order given, so all three give the same bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RAdam, RMSprop

from lrd.rmsprop import RMSpropDecayInMoment

Group = dict[str, Any]
Update = Callable[[Any, Any, SimpleNamespace, SimpleNamespace], tuple[Any, dict[str, Any]]]


@dataclass(frozen=True)
class UpdateRule:
    """An optimizer's update of one element.

    ``name`` is unique for each sequence of operations. ``update(w, g, m, s)`` returns the new
    weight, as if the mask kept it, and the new moments by name; it reads the moments ``m``, which
    the base's state has under these names, and the step's scalars ``s``.
    ``scalars_at(group, lr, t)`` returns the scalars of step ``t`` (from 1), which is a number or a
    float64 tensor of one element per parameter.
    """

    name: str
    moments: tuple[str, ...]
    scalars: tuple[str, ...]
    scalars_at: Callable[[Group, float, Any], tuple[Any, ...]]
    update: Update
    counts_steps: bool = True


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
    def update(w: Any, g: Any, m: SimpleNamespace, s: SimpleNamespace) -> Any:
        return rule.update(w, -g, m, s)

    return UpdateRule(
        f"{rule.name}_maximize",
        rule.moments,
        rule.scalars,
        rule.scalars_at,
        update,
        rule.counts_steps,
    )


def _sqrt(x: Any) -> Any:
    """Return the square root, correctly rounded: torch's own in float32 may miss the last bit."""
    return torch.sqrt(x.double()).float() if isinstance(x, Tensor) else torch.sqrt(x)


def _named(base: str, **flags: bool) -> str:
    return "_".join([base, *(name for name, flag in flags.items() if flag)])


def _sgd(group: Group) -> UpdateRule:
    """Return the rule of torch.optim.SGD; with momentum, of the steps after the first."""
    decay, momentum, nesterov = group["weight_decay"], group["momentum"], group["nesterov"]

    def scalars_at(group: Group, lr: float, t: Any) -> tuple[Any, ...]:
        return lr, group["weight_decay"], group["momentum"], 1 - group["dampening"]

    def update(w: Any, g: Any, m: SimpleNamespace, s: SimpleNamespace) -> Any:
        if decay:
            g = g + s.decay * w
        if not momentum:
            return w - s.lr * g, {}
        buffer = s.momentum * m.momentum_buffer + s.undamped * g
        move = g + s.momentum * buffer if nesterov else buffer
        return w - s.lr * move, {"momentum_buffer": buffer}

    return UpdateRule(
        _named("sgd", momentum=bool(momentum), nesterov=nesterov, decay=bool(decay)),
        ("momentum_buffer",) if momentum else (),
        ("lr", "decay", "momentum", "undamped"),
        scalars_at,
        update,
        counts_steps=False,
    )


# What Adam and RAdam have in common: weight decay, and the moments M_t and V_t.
_MOMENT_SCALARS = ("eps", "rest1", "beta2", "rest2", "decay")


def _moment_scalars(group: Group, lr: float) -> tuple[float, ...]:
    (b1, b2), decay = group["betas"], group["weight_decay"]
    decay = 1 - lr * decay if group["decoupled_weight_decay"] else decay
    return group["eps"], 1 - b1, b2, 1 - b2, decay


def _moments(group: Group) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Return the function of an element's (w, g, m, s) that decays w and computes the moments."""
    decay, decoupled = bool(group["weight_decay"]), group["decoupled_weight_decay"]

    def moments(w: Any, g: Any, m: SimpleNamespace, s: SimpleNamespace) -> Any:
        if decay and decoupled:
            w = s.decay * w
        elif decay:
            g = g + s.decay * w
        first = m.exp_avg + (g - m.exp_avg) * s.rest1
        return w, {"exp_avg": first, "exp_avg_sq": m.exp_avg_sq * s.beta2 + s.rest2 * g * g}

    return moments


def _decay_flags(group: Group) -> dict[str, bool]:
    decay = bool(group["weight_decay"])
    return {"decoupled": decay and group["decoupled_weight_decay"], "decay": decay}


def _adam(group: Group) -> UpdateRule:
    """Return the rule of Adam, AMSGrad or AdamW (Kingma, 2015; Reddi, 2018; Loshchilov, 2019)."""
    amsgrad, moments = group["amsgrad"], _moments(group)

    def scalars_at(group: Group, lr: float, t: Any) -> tuple[Any, ...]:
        b1, b2 = group["betas"]
        return lr / (1 - b1**t), (1 - b2**t) ** -0.5, *_moment_scalars(group, lr)

    def update(w: Any, g: Any, m: SimpleNamespace, s: SimpleNamespace) -> Any:
        w, new = moments(w, g, m, s)
        largest = new["exp_avg_sq"]
        if amsgrad:
            new["max_exp_avg_sq"] = largest = torch.maximum(m.max_exp_avg_sq, largest)
        return w - s.size * new["exp_avg"] / (_sqrt(largest) * s.correction + s.eps), new

    return UpdateRule(
        _named("adam", amsgrad=amsgrad, **_decay_flags(group)),
        ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if amsgrad else 2],
        ("size", "correction", *_MOMENT_SCALARS),
        scalars_at,
        update,
    )


def _radam(group: Group) -> UpdateRule:
    """Return the rule of RAdam (Liu et al., 2020), rectified once rho_t exceeds 5."""
    moments = _moments(group)

    def scalars_at(group: Group, lr: float, t: Any) -> tuple[Any, ...]:
        b1, b2 = group["betas"]
        end = 2 / (1 - b2) - 1
        rho = end - 2 * t * b2**t / (1 - b2**t)
        rectified = (rho > 5) * 1.0
        ratio = (rho - 4) * (rho - 2) * end / (((end - 4) * (end - 2) or 1.0) * rho)
        adaptive = abs(ratio * (1 - b2**t)) ** 0.5
        size = lr / (1 - b1**t) * (rectified * adaptive + 1 - rectified)
        return size, rectified, *_moment_scalars(group, lr)

    def update(w: Any, g: Any, m: SimpleNamespace, s: SimpleNamespace) -> Any:
        w, new = moments(w, g, m, s)
        move = s.size * new["exp_avg"]
        adapted = move / (_sqrt(new["exp_avg_sq"]) + s.eps)
        return w - torch.where(s.rectified > 0, adapted, move), new

    return UpdateRule(
        _named("radam", **_decay_flags(group)),
        ("exp_avg", "exp_avg_sq"),
        ("size", "rectified", *_MOMENT_SCALARS),
        scalars_at,
        update,
    )


def _rmsprop(group: Group) -> UpdateRule:
    """Return the rule of torch.optim.RMSprop, optionally centered and with momentum."""
    centered, momentum = group["centered"], group["momentum"] > 0
    decay = bool(group["weight_decay"])

    def update(w: Any, g: Any, m: SimpleNamespace, s: SimpleNamespace) -> Any:
        if decay:
            g = g + s.decay * w
        square = m.square_avg * s.alpha + s.rest * g * g
        new, variance = {"square_avg": square}, square
        if centered:
            new["grad_avg"] = mean = m.grad_avg + (g - m.grad_avg) * s.rest
            variance = square - mean * mean
        move = g / (_sqrt(variance) + s.eps)
        if momentum:
            new["momentum_buffer"] = move = s.momentum * m.momentum_buffer + move
        return w - s.lr * move, new

    return UpdateRule(
        _named("rmsprop", centered=centered, momentum=momentum, decay=decay),
        ("square_avg", *("grad_avg",) * centered, *("momentum_buffer",) * momentum),
        _RMSPROP_SCALARS,
        _rmsprop_scalars,
        update,
    )


def _rmsprop_authors(group: Group) -> UpdateRule:
    """Return the authors' rule: V_t sees the decayed gradient, the update the plain one."""

    def update(w: Any, g: Any, m: SimpleNamespace, s: SimpleNamespace) -> Any:
        decayed = g + s.decay * w
        square = m.square_avg * s.alpha + s.rest * decayed * decayed
        return w - s.lr * g / (_sqrt(square) + s.eps), {"square_avg": square}

    return UpdateRule(
        "rmsprop_authors",
        ("square_avg",),
        _RMSPROP_SCALARS,
        _rmsprop_scalars,
        update,
        counts_steps=False,
    )


_RMSPROP_SCALARS = ("lr", "decay", "alpha", "rest", "eps", "momentum")


def _rmsprop_scalars(group: Group, lr: float, t: Any) -> tuple[Any, ...]:
    alpha = group["alpha"]
    return lr, group["weight_decay"], alpha, 1 - alpha, group["eps"], group.get("momentum", 0)


_RULES: dict[type[Optimizer], Callable[[Group], UpdateRule]] = {
    SGD: _sgd,
    Adam: _adam,
    AdamW: _adam,
    RAdam: _radam,
    RMSprop: _rmsprop,
    RMSpropDecayInMoment: _rmsprop_authors,
}
