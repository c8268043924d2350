"""Learning rate dropout around any optimizer (paper: Algorithm 1, equation 2)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer, SparseAdam

from lrd import flat, kernels
from lrd.bind import bind
from lrd.hooks import global_hooks_silenced
from lrd.masks import count_kept
from lrd.reference import NaiveSnapshot, Span
from lrd.restore import Snapshot
from lrd.rules import rule_for
from lrd.single_pass import SinglePass

IMPLEMENTATIONS = ("auto", "single_pass", "generic", "reference")


class LRDropout(Optimizer):
    """Keep each element's update with probability ``p`` at every step, drop it otherwise.

    ``W_t = W_{t-1} - alpha D_t * dW_t`` with D_t ~ Bernoulli(p) anew at every step (equation 2).
    The base takes its whole step, so gradients, momentum and second moments see everything; the
    dropped elements keep their old values, bit for bit. Nothing is rescaled by 1/p. An optimizer
    that averages the weights (ASGD) averages the undropped ones.

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
        implementation: how a step is computed. The masks are the same by each, and so are the
            weights to rounding (of ``generic`` and ``reference`` to the bit).

            - ``generic``: the base's step, then one restore of what is dropped; by a compiled
              kernel that draws the mask as it goes, or without a compiler in chunks.
            - ``single_pass``: update and mask in one compiled kernel, for SGD, RMSprop, Adam, AdamW
              and RAdam whose parameters and gradients lie in flat buffers (``lrd.flat.lay_out``).
              A step for which that does not hold, the first one, and one with a closure are
              ``generic``.
            - ``reference``: the mask whole and ``torch.where``, parameter by parameter.
            - ``auto``: ``single_pass`` where it can be, else ``generic``, compiled once the steps
              taken times their elements reach ``lrd.kernels.WORTH``.

    Raises:
        TypeError: ``base`` is no optimizer.
        ValueError: p outside (0, 1]; a base that LRD cannot wrap, or not by ``single_pass``; a
            sparse gradient, before anything has moved.

    Memory: ``single_pass`` none. ``generic`` one copy of the parameters that have a gradient and
    p < 1 (two of those below 65,536 elements), kept between steps on a CPU, and without a compiler
    at most 12 bytes x 262,144 of scratch for the mask there (x 4.2 million on a GPU); a parameter
    that is not contiguous takes its mask whole.
    """

    def __init__(
        self, base: Optimizer, p: float = 0.5, seed: int = 0, implementation: str = "auto"
    ) -> None:
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
        if (why := refusal(implementation, base)) is not None:
            raise ValueError(why)
        # Optimizer.__init__ would build groups and state of its own; what else it sets up,
        # __setstate__ sets up too.
        self.__setstate__(
            {"base": base, "p": p, "seed": seed, "t": 0, "implementation": implementation}
        )

    base: Optimizer
    p: float
    seed: int
    t: int
    implementation: str
    captured: bool = False
    """Whether the single pass becomes a CUDA graph on a GPU; only for a loop that steps the same
    way every time."""
    path: str | None
    """What the latest step took: "base" (p = 1), "single_pass", "generic" or "reference"."""

    # Whatever the base rebinds (load_state_dict rebinds both), there is one of each.
    param_groups: list[dict[str, Any]] = property(lambda self: self.base.param_groups)  # type: ignore[assignment]
    state: Any = property(lambda self: self.base.state)
    defaults: dict[str, Any] = property(lambda self: self.base.defaults)  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("base", "p", "seed", "t", "implementation")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.path: str | None = None
        self._forget()
        # state_dict and load_state_dict are the base's, and so are their hooks.
        for when in ("state_dict_pre", "state_dict_post"):
            for name in (f"_optimizer_{when}_hooks", f"_optimizer_load_{when}_hooks"):
                self.__dict__[name] = getattr(self.base, name)

    def _forget(self) -> None:
        """Drop what was prepared for the parameters and the state that were there."""
        self._single: SinglePass | None = None
        self._snapshot: tuple[Any, Snapshot] | None = None
        self._work = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take the base's step except where D_t is 0. One mask a step, closures included."""
        if closure is None and (single := self._ready()) is not None:
            loss, self.path = None, "single_pass"
            single.prepare(self.seed, self.t, self.p)
            single.launch()
        else:
            loss = self._generic(closure)
        self.t += 1
        return loss

    def _ready(self) -> SinglePass | None:
        """The single pass for this step, bound anew if gradients or state have moved."""
        if self.implementation not in ("auto", "single_pass") or self._whole():
            return None
        if self._single is None or not self._single.valid():
            self._single = bind(self.base)
            if self._single is not None:
                self._single.captured = self.captured
                self._snapshot = None  # the first step's, which is not wanted again
        return self._single

    def _whole(self) -> bool:
        """Whether every group has p = 1, so that LRD does nothing."""
        return all(p == 1 for p in map(self._keep_probability, self.param_groups))

    def _keep_probability(self, group: dict[str, Any]) -> float:
        p = group.get("p", self.p)
        check_keep_probability(p)
        return p

    def _generic(self, closure: Callable[[], Any] | None) -> Any:
        """The base's step, then the way back where D_t is 0."""
        self._single = None  # the base will count a step that it does not know of
        if closure is None:
            self._check_dense()
        else:
            closure = self._then_check(closure)
        spans = [
            Span(start, p, param.detach())
            for start, group, param in flat.members(self.param_groups)
            if (p := self._keep_probability(group)) < 1
            and (closure is not None or param.grad is not None)
        ]
        snapshot = self._snapshot_of(spans)
        snapshot.take()
        with global_hooks_silenced():
            loss = self.base.step() if closure is None else self.base.step(closure)
        snapshot.restore(self.seed, self.t, self._compiles(spans))
        named = "reference" if self.implementation == "reference" else "generic"
        self.path = named if spans else "base"
        return loss

    def _snapshot_of(self, spans: list[Span]) -> Snapshot | NaiveSnapshot:
        if self.implementation == "reference":
            return NaiveSnapshot(spans)
        key = [(s.index, s.p, s.tensor.data_ptr(), s.tensor.stride()) for s in spans]
        if self._snapshot is None or self._snapshot[0] != key:
            self._snapshot = key, Snapshot(spans)
        return self._snapshot[1]

    def _compiles(self, spans: list[Span]) -> bool:
        """Whether this step's restore is compiled; it has the same bits either way."""
        device = spans[0].tensor.device.type if spans else "cpu"
        if self.implementation == "auto":
            self._work += sum(s.tensor.numel() for s in spans)
            if self._work < kernels.WORTH.get(device, math.inf):
                return False
        return kernels.can_compile(device)

    def fraction_kept(self) -> float:
        """Share of all elements that the latest step's mask kept, by drawing that mask again.

        Costs one pass and waits for the device: for an epoch's log line, not for every step.
        """
        kept = total = 0
        for start, group, param in flat.members(self.param_groups):
            p, count = self._keep_probability(group), param.numel()
            place = dict(start=start, count=count, device=param.device)
            kept += count_kept(self.seed, self.t - 1, p, **place)  # type: ignore[arg-type]
            total += count
        return kept / total

    def _check_dense(self) -> None:
        for number, (_, _, param) in enumerate(flat.members(self.param_groups)):
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
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """The base's dictionary, which the base alone can load too, and LRD's own three numbers."""
        lrd = {"p": self.p, "seed": self.seed, "t": self.t}
        return {**self.base.state_dict(), "lrd": lrd}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load an LRDropout's dictionary, or a plain base's, which leaves p, seed and t alone."""
        own = [group["p"] if "p" in group else None for group in self.param_groups]
        self.base.load_state_dict({k: v for k, v in state_dict.items() if k != "lrd"})
        self._forget()
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


def refusal(implementation: str, base: Optimizer) -> str | None:
    """Why ``base`` cannot step by ``implementation`` here, in one line; None if it can."""
    if implementation not in IMPLEMENTATIONS:
        options = ", ".join(IMPLEMENTATIONS)
        return f"implementation must be one of {options}, got {implementation}"
    if implementation != "single_pass":
        return None
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
