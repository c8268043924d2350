"""Learning rate dropout around any optimizer (paper: Algorithm 1, equation 2)."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from lrd import flat
from lrd.bind import bind
from lrd.checks import IMPLEMENTATIONS, check_base, check_keep_probability, check_option, refusal
from lrd.generic import Generic
from lrd.masks import GRANULARITIES, count_kept, unit_size
from lrd.reference import Span
from lrd.single_pass import SinglePass

# What changes the numbers, so that a state_dict has it; and all that a copy or a pickle keeps.
SAVED = ("p", "seed", "t", "granularity", "rescale")
FACTS = (*SAVED, "implementation")


class LRDropout(Optimizer):
    """Keep each element's update with probability ``p`` at every step, drop it otherwise.

    ``W_t = W_{t-1} - alpha D_t * dW_t`` with D_t ~ Bernoulli(p) anew at every step (equation 2).
    The base takes its whole step, so gradients, momentum and second moments see everything; the
    dropped elements keep their old values, bit for bit. Nothing is rescaled by 1/p unless asked
    for. An optimizer that averages the weights (ASGD) averages the undropped ones.

    Args:
        base: any ``torch.optim`` optimizer over dense parameters. Its ``param_groups``, ``state``
            and ``defaults`` are shared, so schedulers, GradScaler and checkpoints see one
            optimizer. Train through this object alone, not through ``base.step()``.
        p: probability to KEEP an update, in (0, 1]; a group may carry its own as ``group["p"]``
            (biases at 1.0, say). At p = 1 the base is called and nothing else happens. It may be
            set between steps (``lrd.schedules.KeepProbability``).
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
        granularity: what is kept or dropped together, ``element`` in the paper. Beyond it, ``row``:
            all that shares an index in the first dimension (a neuron's or a filter's incoming
            weights; a vector's elements are rows of their own); ``tensor``: a whole parameter. Such
            a unit has the bit of its first element. Not by ``single_pass``.
        rescale: beyond the paper, move what is kept by 1/p times the base's move, with the p that
            its group has at this step: ``W_{t-1} + D_t * (move / p)``, whose mean is the base's.

    Raises:
        TypeError: ``base`` is no optimizer.
        ValueError: p outside (0, 1]; a base that LRD cannot wrap, or not by ``single_pass``; an
            option that does not exist; a sparse gradient, before anything has moved.

    Memory: ``single_pass`` none. ``generic`` one copy of the parameters that have a gradient and
    p < 1 (two of those below 65,536 elements), kept between steps on a CPU, and without a compiler
    at most 12 bytes x 262,144 of scratch for the mask there (x 4.2 million on a GPU); a parameter
    that is not contiguous takes its mask whole. Rows and tensors: that copy and 40 bytes a unit.
    """

    def __init__(
        self,
        base: Optimizer,
        p: float = 0.5,
        seed: int = 0,
        implementation: str = "auto",
        granularity: str = "element",
        rescale: bool = False,
    ) -> None:
        check_base(base)
        if isinstance(base, LRDropout):
            raise ValueError("base is an LRDropout already: set its p instead of wrapping it again")
        check_keep_probability(p)
        for group in base.param_groups:
            check_keep_probability(group.get("p", p))
        check_option("implementation", implementation, IMPLEMENTATIONS)
        check_option("granularity", granularity, GRANULARITIES)
        check_option("rescale", rescale, (True, False))
        if (why := refusal(implementation, base, granularity)) is not None:
            raise ValueError(why)
        facts = (p, seed, 0, granularity, rescale, implementation)
        # Optimizer.__init__ would build groups and state of its own; what else it sets up,
        # __setstate__ sets up too.
        self.__setstate__({"base": base, **dict(zip(FACTS, facts, strict=True))})

    base: Optimizer
    p: float
    seed: int
    t: int
    implementation: str
    granularity: str = "element"  # as in a pickle from before there was a choice
    rescale: bool = False
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
        return {k: getattr(self, k) for k in ("base", *FACTS)}

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
        self._generic = Generic(self.base)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take the base's step except where D_t is 0. One mask a step, closures included."""
        if closure is None and (single := self._ready()) is not None:
            loss, self.path = None, "single_pass"
            single.prepare(self.seed, self.t, self.p, self.rescale)
            single.launch()
        else:
            loss = self._around(closure)
        self.t += 1
        return loss

    def _ready(self) -> SinglePass | None:
        """The single pass for this step, bound anew if gradients or state have moved."""
        if self.implementation not in ("auto", "single_pass") or self.granularity != "element":
            return None
        if all(p == 1 for p in map(self._keep_probability, self.param_groups)):
            return None  # LRD does nothing
        if self._single is None or not self._single.valid():
            self._single = bind(self.base)
            if self._single is not None:
                self._single.captured = self.captured
                self._generic.snapshot = None  # the first step's, which is not wanted again
        return self._single

    def _keep_probability(self, group: dict[str, Any]) -> float:
        p = group.get("p", self.p)
        check_keep_probability(p)
        return p

    def _around(self, closure: Callable[[], Any] | None) -> Any:
        """The step by the generic path."""
        self._single = None  # the base will count a step that it does not know of
        spans = [
            Span(start, p, param.detach(), self.granularity)
            for start, group, param in flat.members(self.param_groups)
            if (p := self._keep_probability(group)) < 1
            and (closure is not None or param.grad is not None)
        ]
        loss = self._generic.step(
            spans,
            closure,
            seed=self.seed,
            t=self.t,
            implementation=self.implementation,
            rescale=self.rescale,
        )
        named = "reference" if self.implementation == "reference" else "generic"
        self.path = named if spans else "base"
        return loss

    def fraction_kept(self) -> float:
        """Share of all elements that the latest step's mask kept, by drawing that mask again.

        Costs one pass and waits for the device: for an epoch's log line, not for every step.
        """
        kept = total = 0
        for start, group, param in flat.members(self.param_groups):
            p, count = self._keep_probability(group), param.numel()
            unit = unit_size(param.shape, self.granularity)
            place = dict(start=start, count=count, device=param.device, unit=unit)
            kept += count_kept(self.seed, self.t - 1, p, **place)  # type: ignore[arg-type]
            total += count
        return kept / total

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; its elements' global indices follow those that are there."""
        check_keep_probability(param_group.get("p", self.p))
        self.base.add_param_group(param_group)
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """The base's dictionary, which the base alone can load too, and what of LRD's own changes
        the numbers: p, seed, t, granularity and rescale."""
        return {**self.base.state_dict(), "lrd": {k: getattr(self, k) for k in SAVED}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load an LRDropout's dictionary, or a plain base's, which leaves LRD's own numbers alone.

        What a dictionary does not have, as one from before there was a granularity, stays.
        """
        own = [group["p"] if "p" in group else None for group in self.param_groups]
        lrd = state_dict.get("lrd", {})
        granularity = lrd.get("granularity", self.granularity)
        check_option("granularity", granularity, GRANULARITIES)
        if (why := refusal(self.implementation, self.base, granularity)) is not None:
            raise ValueError(why)
        self.base.load_state_dict({k: v for k, v in state_dict.items() if k != "lrd"})
        self.__dict__.update(lrd)
        self._forget()
        if "lrd" in state_dict:
            return
        for group, p in zip(self.param_groups, own, strict=True):
            if p is not None:
                group.setdefault("p", p)
