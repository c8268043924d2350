"""Learning rate dropout around any optimizer (paper: Algorithm 1, equation 2)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer, SparseAdam
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from lrd.masks import keep_bits

# Elements whose mask is drawn at a time: enough work for the threads or a launch, and on a CPU the
# scratch stays in cache.
_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 22}
_WORD = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class LRDropout(Optimizer):
    """Keep each element's update with probability ``p`` at every step, drop it otherwise.

    ``W_t = W_{t-1} - alpha D_t * dW_t`` with D_t ~ Bernoulli(p) anew at every step (equation 2).
    The base takes its whole step, so gradients, momentum and second moments see everything; then
    the dropped elements get their old values back, bit for bit. Nothing is rescaled by 1/p. An
    optimizer that averages the weights (ASGD) averages the undropped ones.

    Args:
        base: any ``torch.optim`` optimizer over dense parameters. Its ``param_groups``, ``state``
            and ``defaults`` are shared, so schedulers, GradScaler and checkpoints see one
            optimizer. Train through this object alone, not through ``base.step()``.
        p: probability to KEEP an update, in (0, 1]; a group may carry its own as ``group["p"]``
            (biases at 1.0, say). At p = 1 the base is called and nothing else happens.
        seed: with the step ``t`` (steps taken so far) and an element's global index it determines
            the mask: the elements of all earlier parameters in ``param_groups`` order, frozen and
            gradient-less ones included, plus the row-major index in the parameter's shape. Hence
            the same masks on any device, on any number of ranks and after a resume; torch's random
            state is neither read nor changed. A complex element has one mask.

    Raises:
        TypeError: ``base`` is no optimizer.
        ValueError: p outside (0, 1]; a base that LRD cannot wrap; a sparse gradient, before
            anything has moved.

    Memory: one copy, during the step, of the parameters that have a gradient and p < 1, plus at
    most 12 bytes x 262,144 of scratch for the mask on a CPU (x 4.2 million on a GPU); a parameter
    that is not contiguous takes its mask whole.
    """

    def __init__(self, base: Optimizer, p: float = 0.5, seed: int = 0) -> None:
        if not isinstance(base, Optimizer):
            raise TypeError(f"base must be a torch.optim.Optimizer, got {type(base).__name__}")
        if isinstance(base, LRDropout):
            raise ValueError("base is an LRDropout already: set its p instead of wrapping it again")
        if isinstance(base, SparseAdam):
            raise ValueError("base must take dense gradients, got SparseAdam: use Adam")
        if any(group.get("differentiable") for group in base.param_groups):
            raise ValueError("base must have differentiable=False: a mask has no gradient")
        check_keep_probability(p)
        for group in base.param_groups:
            check_keep_probability(group.get("p", p))
        # Optimizer.__init__ would build groups and state of its own; what else it sets up,
        # __setstate__ sets up too.
        self.__setstate__({"base": base, "p": p, "seed": seed, "t": 0})

    base: Optimizer
    p: float
    seed: int
    t: int

    # Whatever the base rebinds (load_state_dict rebinds both), there is one of each.
    param_groups: list[dict[str, Any]] = property(lambda self: self.base.param_groups)  # type: ignore[assignment]
    state: Any = property(lambda self: self.base.state)
    defaults: dict[str, Any] = property(lambda self: self.base.defaults)  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {"base": self.base, "p": self.p, "seed": self.seed, "t": self.t}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # state_dict and load_state_dict are the base's, and so are their hooks.
        for when in ("state_dict_pre", "state_dict_post"):
            for name in (f"_optimizer_{when}_hooks", f"_optimizer_load_{when}_hooks"):
                self.__dict__[name] = getattr(self.base, name)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take the base's step and undo it where D_t is 0. One mask a step, closures included."""
        if closure is None:
            self._check_dense()
        else:
            closure = self._then_check(closure)
        before = [
            (index, p, param, param.detach().clone())
            for index, p, param in self._indexed()
            if p < 1 and (closure is not None or param.grad is not None)
        ]
        with _global_hooks_silenced():
            loss = self.base.step() if closure is None else self.base.step(closure)
        while before:
            self._restore(*before.pop())
        self.t += 1
        return loss

    def _indexed(self) -> Iterator[tuple[int, float, Tensor]]:
        """(global index of its first element, keep probability, parameter), in order."""
        index = 0
        for group in self.param_groups:
            p = group.get("p", self.p)
            check_keep_probability(p)
            for param in group["params"]:
                yield index, p, param
                index += param.numel()

    def _restore(self, index: int, p: float, param: Tensor, old: Tensor) -> None:
        """Give the elements that D_t drops their old values back."""
        new, size = param.detach(), _CHUNK.get(param.device.type, 1 << 20)
        parts = [(new, old)]
        if new.is_contiguous() and old.is_contiguous():
            parts = zip(new.view(-1).split(size), old.view(-1).split(size), strict=True)
        for to, back in parts:
            keep = keep_bits(
                self.seed, self.t, p, start=index, count=to.numel(), device=to.device
            ).view(to.shape)
            index += to.numel()
            if to.is_complex():
                to, back, keep = torch.view_as_real(to), torch.view_as_real(back), keep[..., None]
            word = _WORD[to.element_size()]
            to, back, keep = to.view(word), back.view(word), keep.to(word)
            to.bitwise_xor_(back).bitwise_and_(keep).bitwise_xor_(back)

    def fraction_kept(self) -> float:
        """Share of all elements that the latest step's mask kept, by drawing that mask again.

        Costs one pass and waits for the device: for an epoch's log line, not for every step.
        """
        kept, total = 0, 0
        for index, p, param in self._indexed():
            size = _CHUNK.get(param.device.type, 1 << 20)
            for part in param.detach().reshape(-1).split(size) if p < 1 else ():
                mask = keep_bits(
                    self.seed, self.t - 1, p, start=index, count=part.numel(), device=part.device
                )
                kept -= int(mask.sum())
                index += part.numel()
            kept += param.numel() if p == 1 else 0
            total += param.numel()
        return kept / total

    def _check_dense(self) -> None:
        for number, (_, _, param) in enumerate(self._indexed()):
            if param.grad is not None and param.grad.layout != torch.strided:
                raise ValueError(
                    f"gradients must be dense, got {param.grad.layout} for parameter {number} of "
                    f"shape {tuple(param.shape)}: use Embedding(sparse=False)"
                )

    def _then_check(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def checked() -> Any:
            loss = closure()
            self._check_dense()
            return loss

        return checked

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; its elements' global indices follow those that are there."""
        check_keep_probability(param_group.get("p", self.p))
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The base's dictionary, which the base alone can load too, and LRD's own three numbers."""
        lrd = {"p": self.p, "seed": self.seed, "t": self.t}
        return {**self.base.state_dict(), "lrd": lrd}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load an LRDropout's dictionary, or a plain base's, which leaves p, seed and t alone."""
        own = [group["p"] if "p" in group else None for group in self.param_groups]
        self.base.load_state_dict({k: v for k, v in state_dict.items() if k != "lrd"})
        if "lrd" in state_dict:
            self.__dict__.update(state_dict["lrd"])
            return
        for group, p in zip(self.param_groups, own, strict=True):
            if p is not None:
                group.setdefault("p", p)


def check_keep_probability(p: float) -> None:
    """Raise ValueError unless 0 < p <= 1."""
    if not isinstance(p, int | float) or isinstance(p, bool) or not 0 < p <= 1:
        raise ValueError(f"p must be in (0, 1] (the probability to keep an update), got {p}")


@contextmanager
def _global_hooks_silenced() -> Iterator[None]:
    """torch's global step hooks fire around LRDropout's step, and not again around the base's."""
    tables: tuple[dict[int, Any], ...] = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
    saved: list[dict[int, Any]] = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, hooks in zip(tables, saved, strict=True):
            table.update(hooks)
