"""Learning rate dropout around any optimizer (paper: Algorithm 1, equation 2)."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from lrd.optim.flat_params import indexed_params
from lrd.optim.fused import FusedStep, bind_fused
from lrd.optim.masks import count_kept, unit_size
from lrd.optim.options import (
    GRANULARITIES,
    IMPLEMENTATIONS,
    check_keep_probability,
    check_option,
)
from lrd.optim.reference import Span
from lrd.optim.snapshot import SnapshotStep
from lrd.optim.validation import check_base, why_unsupported

# What changes the numbers (state_dict holds it), and what a copy or a pickle keeps.
SAVED = ("p", "seed", "t", "granularity", "rescale")
PICKLED = (*SAVED, "implementation")


class LRDropout(Optimizer):
    """Keep each element's update with probability ``p`` at every step, drop it otherwise.

    ``W_t = W_{t-1} - alpha D_t * dW_t`` with a new D_t ~ Bernoulli(p) at every step (equation 2).
    The base takes its complete step, so gradients, momentum and second moments see everything;
    dropped elements keep their old values bit for bit. The update is not divided by p unless
    ``rescale`` is set. An optimizer that averages the weights (ASGD) averages the undropped ones.

    Note that p is the probability to KEEP an update, the opposite of ``torch.nn.Dropout``'s p.

    Args:
        base: Any ``torch.optim`` optimizer over dense parameters. Its ``param_groups``, ``state``
            and ``defaults`` are shared, so schedulers, GradScaler and checkpoints see one
            optimizer. Call ``step`` on this object, not on ``base``.
        p: Probability to KEEP an update, in (0, 1]; a group may have its own, ``group["p"]`` (such
            as 1.0 for biases). With p = 1 only the base's step runs. You may set it between steps;
            see ``lrd.schedules.PSchedule``.
        seed: With the step ``t`` (steps taken so far) and an element's global index it determines
            the mask. The global index counts the elements of all earlier parameters in
            ``param_groups`` order, frozen and gradient-free ones included, plus the row-major index
            in the parameter's shape. The masks are the same on any device, on any number of ranks
            and after a resume; torch's random state is neither read nor changed. A complex element
            has one mask bit.
        implementation: How a step is computed. All give the same masks, and the same weights up to
            floating-point error (``generic`` and ``reference`` bitwise).

            - ``generic``: the base's step, then one restore of what is dropped, by a compiled
              kernel that draws the mask as it goes, or without a compiler in chunks.
            - ``single_pass``: update and mask in one compiled kernel, for SGD, RMSprop, Adam, AdamW
              and RAdam with parameters and gradients in flat buffers
              (:func:`lrd.optim.flat_params.flatten_parameters`). The first step, a step with a
              closure and a step without flat buffers are ``generic``.
            - ``reference``: the complete mask and ``torch.where``, parameter by parameter.
            - ``auto``: ``single_pass`` where possible, else ``generic``, which is compiled once
              steps times elements reach ``lrd.optim.kernels.COMPILE_THRESHOLD``.
        granularity: Elements that share a mask bit: ``element`` (the paper), ``row`` (all with the
            same index in the first dimension, such as a neuron's or a filter's incoming weights;
            each element of a vector is a row) or ``tensor`` (a parameter). The unit has the bit of
            its first element. Not supported by ``single_pass``.
        rescale: Divide kept updates by the group's p: ``W_{t-1} + D_t * (update / p)``, whose mean
            is the base's update. Not in the paper.

    Raises:
        TypeError: ``base`` is not an optimizer.
        ValueError: p outside (0, 1]; a base that LRD cannot wrap, or not by ``single_pass``; an
            unknown option; in ``step``, a sparse gradient (before any update).

    Memory: ``single_pass`` needs none. ``generic`` needs one copy of the parameters that have a
    gradient and p < 1 (two copies of those below 65,536 elements), kept between steps on a CPU, and
    without a compiler at most 12 bytes x 262,144 of scratch for the mask (4.2 million on a GPU); a
    parameter that is not contiguous needs its complete mask. Rows and tensors need that copy and 40
    bytes per unit.
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
        for group in base.param_groups:
            check_keep_probability(group.get("p", p))
        check_option("implementation", implementation, IMPLEMENTATIONS)
        check_option("granularity", granularity, GRANULARITIES)
        check_option("rescale", rescale, (True, False))
        if (why := why_unsupported(implementation, base, granularity)) is not None:
            raise ValueError(why)
        values = (p, seed, 0, granularity, rescale, implementation)
        # Optimizer.__init__ would build its own groups and state; __setstate__ sets up the rest.
        self.__setstate__({"base": base, **dict(zip(PICKLED, values, strict=True))})

    base: Optimizer
    seed: int
    t: int
    implementation: str
    granularity: str = "element"  # absent from pickles made before there was a choice
    rescale: bool = False
    captured: bool = False
    """Whether the fused step becomes a CUDA graph on a GPU, for a loop whose steps are alike."""
    path: str | None
    """What the latest step used: "base" (p = 1), "single_pass", "generic" or "reference"."""

    # load_state_dict rebinds these in the base, so they are read from it.
    param_groups: list[dict[str, Any]] = property(lambda self: self.base.param_groups)  # type: ignore[assignment]
    state: Any = property(lambda self: self.base.state)
    defaults: dict[str, Any] = property(lambda self: self.base.defaults)  # type: ignore[assignment]

    @property
    def p(self) -> float:
        """The keep probability of groups without their own; setting it checks 0 < p <= 1."""
        return self._p

    @p.setter
    def p(self, value: float) -> None:
        check_keep_probability(value)
        self._p = value

    def __getstate__(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("base", *PICKLED)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({k: v for k, v in state.items() if k != "p"})
        self.p = state["p"]
        self.path: str | None = None
        self._discard_prepared()
        # state_dict and load_state_dict call the base's, with the base's hooks.
        for when in ("state_dict_pre", "state_dict_post"):
            for name in (f"_optimizer_{when}_hooks", f"_optimizer_load_{when}_hooks"):
                self.__dict__[name] = getattr(self.base, name)

    def _discard_prepared(self) -> None:
        """Discard what was prepared for earlier parameters and state."""
        self._fused: FusedStep | None = None
        self._snapshot = SnapshotStep(self.base)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take the base's step except where D_t is 0: one mask per step, closures included."""
        if closure is None and (fused := self._bound_fused()) is not None:
            loss, self.path = None, "single_pass"
            fused.prepare(self.seed, self.t, self.p, self.rescale)
            fused.launch()
        else:
            loss = self._snapshot_step(closure)
        self.t += 1
        return loss

    def _bound_fused(self) -> FusedStep | None:
        """Return the fused step, bound again if gradients or state were replaced."""
        if self.implementation not in ("auto", "single_pass") or self.granularity != "element":
            return None
        if all(p == 1 for p in map(self._group_p, self.param_groups)):
            return None  # LRD changes nothing
        if self._fused is None or not self._fused.valid():
            self._fused = bind_fused(self.base)
            if self._fused is not None:
                self._fused.captured = self.captured
                self._snapshot.snapshot = None  # of the first step, not needed again
        return self._fused

    def _group_p(self, group: dict[str, Any]) -> float:
        if "p" not in group:
            return self._p
        check_keep_probability(group["p"])
        return group["p"]

    def _snapshot_step(self, closure: Callable[[], Any] | None) -> Any:
        self._fused = None  # it does not know of the step that the base counts now
        spans = [
            Span(start, p, param.detach(), self.granularity)
            for start, group, param in indexed_params(self.param_groups)
            if (p := self._group_p(group)) < 1 and (closure is not None or param.grad is not None)
        ]
        loss = self._snapshot.step(
            spans,
            closure,
            seed=self.seed,
            t=self.t,
            implementation=self.implementation,
            rescale=self.rescale,
        )
        used = "reference" if self.implementation == "reference" else "generic"
        self.path = used if spans else "base"
        return loss

    def fraction_kept(self) -> float:
        """Return the share of all elements that the latest mask kept, by drawing that mask again.

        Costs one pass and synchronizes: call it once per epoch, not once per step.
        """
        kept = total = 0
        for start, group, param in indexed_params(self.param_groups):
            p, count = self._group_p(group), param.numel()
            unit = unit_size(param.shape, self.granularity)
            where = dict(start=start, count=count, device=param.device, unit=unit)
            kept += count_kept(self.seed, self.t - 1, p, **where)  # type: ignore[arg-type]
            total += count
        return kept / total

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; its global indices follow those of the existing groups."""
        check_keep_probability(param_group.get("p", self.p))
        self.base.add_param_group(param_group)
        self._discard_prepared()

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state_dict, which the base can load too, plus the key ``lrd``: p, seed,
        t, granularity and rescale."""
        return {**self.base.state_dict(), "lrd": {k: getattr(self, k) for k in SAVED}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state_dict of an LRDropout or of a plain base.

        Keys missing from ``state_dict`` (for example saved before ``granularity`` existed) keep
        their current values.
        """
        own = [group["p"] if "p" in group else None for group in self.param_groups]
        lrd = state_dict.get("lrd", {})
        granularity = lrd.get("granularity", self.granularity)
        check_option("granularity", granularity, GRANULARITIES)
        if (why := why_unsupported(self.implementation, self.base, granularity)) is not None:
            raise ValueError(why)
        self.base.load_state_dict({k: v for k, v in state_dict.items() if k != "lrd"})
        for name, value in lrd.items():
            setattr(self, name, value)
        self._discard_prepared()
        if "lrd" in state_dict:
            return
        for group, p in zip(self.param_groups, own, strict=True):
            if p is not None:
                group.setdefault("p", p)
