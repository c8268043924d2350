"""Learning rate dropout around any optimizer (paper: Algorithm 1, equation 2)."""

import copy
import functools
import sys
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer, SparseAdam

from lrd.optim.fused import fused_step, is_patched, why_not_fused, wrong_granularity
from lrd.optim.masks import count_kept, keep_threshold, unit_size
from lrd.optim.options import (
    GRANULARITIES,
    IMPLEMENTATIONS,
    RENAMED,
    check_count,
    check_keep_probability,
    check_option,
)
from lrd.optim.params import Span, indexed_params
from lrd.optim.reference import reference_step
from lrd.optim.snapshot import SnapshotStep

# What changes the numbers. Every parameter group carries it as lrd_p, lrd_seed, ..., because groups
# are what the tools that save and load optimizers keep.
SAVED = ("p", "seed", "t", "granularity", "rescale")
PICKLED = (*SAVED, "implementation")
HOOK_TABLES = tuple(
    f"_optimizer_{table}_hooks"
    for when in ("pre", "post")
    for table in (f"step_{when}", f"state_dict_{when}", f"load_state_dict_{when}")
)


Function = TypeVar("Function", bound=Callable[..., Any])


def _uncompiled(function: Function) -> Function:
    """Keep torch.compile out of a function: it runs as it is within a compiled program."""
    return torch.compiler.disable(function)  # type: ignore[return-value]


class LRDropout(Optimizer):
    """Keep each element's update with probability ``p`` at every step, drop it otherwise.

    ``W_t = W_{t-1} - alpha D_t * dW_t`` with a new D_t ~ Bernoulli(p) at every step (equation 2).
    The base takes its complete step, so gradients, momentum and second moments see everything;
    dropped elements keep their old values bit for bit. The update is not divided by p unless
    ``rescale`` is set. An optimizer that averages the weights (ASGD) averages the undropped ones.

    Note that p is the probability to KEEP an update, the opposite of ``torch.nn.Dropout``'s p.

    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = LRDropout(torch.optim.Adam(model.parameters(), lr=1e-3), p=0.5, seed=0)
    >>> model(torch.ones(4, 3)).sum().backward()
    >>> optimizer.step()
    >>> optimizer.t, optimizer.path
    (1, 'snapshot')

    Parameters, groups, hyperparameters, hooks and state may be changed, replaced or loaded between
    two steps: each step reads them again.

    Args:
        base: Any ``torch.optim`` optimizer over dense parameters. Its ``param_groups``, ``state``
            and ``defaults`` are shared, so schedulers, GradScaler and checkpoints see one
            optimizer, and its public methods can be called here (``train``, ``eval``). Call
            ``step`` on this object, not on ``base``.
        p: Probability to KEEP an update, in (0, 1]; a group may have its own, ``group["keep_p"]``
            (such as 1.0 for biases). With p = 1 only the base's step runs. You may set it between
            steps; see ``lrd.schedules.PSchedule``.
        seed: With the step ``t`` (steps taken so far) and an element's global index it determines
            the mask. The global index counts the elements of all earlier parameters in
            ``param_groups`` order, frozen and gradient-free ones included, plus the row-major index
            in the parameter's whole shape. The masks are the same on any device, on any number of
            ranks, for whole and for sharded parameters (DTensor, FSDP2) and after a resume; torch's
            random state is neither read nor changed. A complex element has one mask bit. Two
            LRDropouts with the same seed draw the same masks: give the optimizers of two networks
            in one process (a GAN's, say) different seeds.
        implementation: How a step is computed. All give the same masks.

            - ``snapshot``: the base's step, then the dropped elements are restored. Any base; kept
              elements are the base's bit for bit.
            - ``fused``: update and mask in one kernel, for SGD, RMSprop, Adam, AdamW and RAdam and
              float32 parameters, contiguous or channels-last; weights agree up to floating-point
              rounding. A step that it cannot take is ``snapshot``: the first, which makes the
              base's state, one with a closure, and one for which ``why_not_fused`` names the
              reason.
            - ``reference``: Algorithm 1 as it reads, slow; the bits of ``snapshot``.
            - ``auto``: ``fused`` where possible, else ``snapshot``.
        granularity: Elements that share a mask bit: ``element`` (the paper), ``row`` (all with the
            same index in the first dimension, such as a neuron's or a filter's incoming weights;
            each element of a vector is a row) or ``tensor`` (a parameter). The unit has the bit of
            its first element. Not supported by ``fused``.
        rescale: Divide kept updates by the group's p: ``W_{t-1} + D_t * (update / p)``, whose mean
            is the base's update. Not in the paper. With ``granularity="tensor"`` it is SkipUpdate
            (arXiv 2602.15322).

    Raises:
        TypeError: ``base`` is not an optimizer.
        ValueError: p outside (0, 1]; a base that LRD cannot wrap, or not by ``fused``; an unknown
            option; in ``step``, before any update, a sparse gradient, a placement of shards without
            global indices, or a CUDA graph that captures it.

    Memory: ``fused`` needs none. ``snapshot`` needs one copy of the parameters that have a gradient
    and p < 1, kept between steps on a CPU.
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
        _check_base(base)
        implementation = RENAMED.get(implementation, implementation)
        check_option("implementation", implementation, IMPLEMENTATIONS)
        values = dict(p=p, seed=seed, t=0, granularity=granularity, rescale=rescale)
        _check_settings(values)
        for group in base.param_groups:
            check_keep_probability(group.get("keep_p", p), "keep_p")
        if implementation == "fused" and (why := why_not_fused(base, granularity)) is not None:
            raise ValueError(f"implementation=fused: {why}; use snapshot")
        # Optimizer.__init__ would build its own groups and state.
        self._set_up(base, {**values, "implementation": implementation})

    base: Optimizer
    seed: int
    t: int
    implementation: str
    granularity: str
    rescale: bool
    path: str | None
    """What the latest step used: "base" (p = 1), "fused", "snapshot" or "reference"."""
    why_not_fused: str | None
    """Why the latest step was not fused, where the implementation allows it."""

    # load_state_dict rebinds these in the base, so they are read from it.
    param_groups: list[dict[str, Any]] = property(lambda self: self.base.param_groups)  # type: ignore[assignment]
    state: Any = property(lambda self: self.base.state)
    defaults: dict[str, Any] = property(lambda self: getattr(self.base, "defaults", {}))  # type: ignore[assignment]

    @property
    def p(self) -> float:
        """The keep probability of groups without their own; setting it checks 0 < p <= 1."""
        return self._p

    @p.setter
    def p(self, value: float) -> None:
        check_keep_probability(value)
        self._p = value

    def _set_up(self, base: Optimizer, values: dict[str, Any]) -> None:
        for name in HOOK_TABLES:  # some wrappers of optimizers never call Optimizer.__init__
            vars(base).setdefault(name, OrderedDict())
        # state_dict and load_state_dict call the base's, with the base's hooks.
        shared = {name: getattr(base, name) for name in HOOK_TABLES if "state_dict" in name}
        rest = {name: value for name, value in values.items() if name != "p"}
        self.__dict__["base"] = base  # __setstate__ reads defaults
        super().__setstate__({"base": base, **rest, **shared})
        self.p = values["p"]
        self.path = self.why_not_fused = None
        self._snapshot = SnapshotStep()
        self._publish()

    def __getstate__(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("base", *PICKLED)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = {"granularity": "element", "rescale": False, **state}
        if state["implementation"] in RENAMED:  # an earlier pickle
            state["implementation"] = RENAMED[state["implementation"]]
        base = state.pop("base")
        if not any("lrd_t" in group for group in base.param_groups):
            _rename_p(base.param_groups, base)
        self._set_up(base, state)

    def __getattr__(self, name: str) -> Any:
        """Forward what the base has beyond an Optimizer, such as ``train`` and ``eval``."""
        if name.startswith("_") or "base" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.base, name)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in PICKLED)
        return f"{type(self).__name__}({settings}) around {self.base!r}"

    def _publish(self) -> None:
        """Write what changes the numbers into every group, whatever has become of the groups."""
        values = {f"lrd_{name}": getattr(self, name) for name in SAVED}
        for group in self.param_groups:
            group.update(values)

    @_uncompiled
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take the base's step except where D_t is 0: one mask per step, closures included."""
        spans = self._spans(closure is not None)
        self.base._opt_called = True  # type: ignore[attr-defined]  # for a scheduler of the base
        masked = [span for span in spans if span.p < 1]
        self.why_not_fused = None
        if not masked:
            loss, self.path = self._base_step(closure), "base"
        elif self.implementation != "reference" and self._fused(closure, spans):
            loss, self.path = None, "fused"
            self._snapshot.release()
        else:
            reference = self.implementation == "reference"
            take = reference_step if reference else self._snapshot
            step = functools.partial(self._base_step, closure)
            loss = take(step, masked, self.seed, self.t, self.rescale)
            self.path = "reference" if reference else "snapshot"
        self.t += 1
        self._publish()
        return loss

    def _spans(self, has_closure: bool) -> list[Span]:
        """Return the parameters that may move. Raise ValueError for a step that cannot be taken."""
        spans, start = [], 0
        for group in self.param_groups:
            _check_differentiable(group)
            p = self._keep_p(group)
            threshold = keep_threshold(p)
            for param in group["params"]:
                if has_closure or param.grad is not None:
                    spans.append(Span(start, group, param, p, threshold, self.granularity))
                start += param.numel()
        check_dense(span.param for span in spans)
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            raise ValueError(
                "LRDropout.step must run outside torch.cuda.graph, which would repeat one mask: "
                "capture forward and backward, then call step"
            )
        return spans

    def _keep_p(self, group: dict[str, Any]) -> float:
        if "keep_p" not in group:
            return self._p
        check_keep_probability(group["keep_p"], "keep_p")
        return group["keep_p"]

    def _fused(self, closure: Callable[[], Any] | None, spans: list[Span]) -> bool:
        """Take the step in one kernel, if that is possible."""
        if self.implementation == "snapshot":
            return False
        if closure is not None:
            why = "the step has a closure"
        elif self.granularity != "element":
            why = wrong_granularity(self.granularity)
        else:
            why = fused_step(self.base, spans, self.seed, self.t, self.rescale)
        self.why_not_fused = why
        return why is None

    def _base_step(self, closure: Callable[[], Any] | None) -> Any:
        """Take the base's step, with its own hooks.

        torch's global hooks fire around :meth:`step`, once, and not again around the base's.
        """
        base, args = self.base, (self.base,)
        if closure is not None:
            args = (base, functools.partial(_evaluate, closure, self.param_groups))
        if is_patched(base) or not getattr(type(base).step, "hooked", False):
            return base.step(*args[1:])
        kwargs: dict[str, Any] = {}
        for before in list(base._optimizer_step_pre_hooks.values()):
            args, kwargs = before(base, args, kwargs) or (args, kwargs)
        loss = type(base).step.__wrapped__(*args, **kwargs)  # type: ignore[attr-defined]
        for after in list(base._optimizer_step_post_hooks.values()):
            after(base, args, kwargs)
        return loss

    def fraction_kept(self) -> float:
        """Return the share of all elements that the latest mask kept, by drawing that mask again.

        Costs one pass and synchronizes once per device: call it once per epoch, not once per step.
        """
        total, kept = 0, defaultdict[torch.device, int | Tensor](int)
        for start, group, param in indexed_params(self.param_groups):
            p, count = self._keep_p(group), param.numel()
            unit = unit_size(param.shape, self.granularity)
            where = dict(start=start, count=count, device=param.device, unit=unit)
            kept[param.device] += count_kept(self.seed, self.t - 1, p, **where)  # type: ignore[arg-type]
            total += count
        return sum(map(int, kept.values())) / total

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; its global indices follow those of the existing groups."""
        check_keep_probability(param_group.get("keep_p", self.p), "keep_p")
        self.base.add_param_group(param_group)
        self._publish()

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state_dict, which the base can load too.

        Each group holds p, seed, t, granularity and rescale as ``lrd_p``, ``lrd_seed``, ...
        """
        self._publish()
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state_dict of an LRDropout or of a plain base; values are checked first.

        What is absent, for example since it was saved before ``granularity`` existed, keeps its
        current value, and so does the ``keep_p`` of a group. If seed or t are absent, a warning
        says so: the masks do not continue those of the saved run.
        """
        loaded: dict[str, Any] = {}
        for group in _saved_groups(state_dict):
            found = {k: group[f"lrd_{k}"] for k in SAVED if f"lrd_{k}" in group}
            for name, value in found.items():
                check_option(f"lrd_{name} of every group", value, (loaded.get(name, value),))
            loaded.update(found)
        if "lrd" in state_dict:  # saved by an earlier version
            state_dict = copy.copy(state_dict)
            loaded = {k: v for k, v in state_dict.pop("lrd").items() if k in SAVED}
            state_dict["param_groups"] = [dict(group) for group in state_dict["param_groups"]]
            _rename_p(state_dict["param_groups"], self.base)
        _check_settings(loaded)
        if self.implementation == "fused" and loaded.get("granularity", "element") != "element":
            why = wrong_granularity(loaded["granularity"])
            raise ValueError(f"implementation=fused: {why}; use snapshot")
        if lost := [name for name in ("seed", "t") if name not in loaded]:
            kept = " and ".join(f"{name}={getattr(self, name)}" for name in lost)
            warnings.warn(
                f"the state_dict holds no {' and '.join(lost)} of LRDropout: the masks continue "
                f"with {kept}, not from where it was saved",
                stacklevel=2,
            )
        own = [group.get("keep_p") for group in self.param_groups]
        self.base.load_state_dict(state_dict)
        for name, value in loaded.items():
            setattr(self, name, value)
        if not loaded:
            for group, p in zip(self.param_groups, own, strict=True):
                if p is not None:
                    group.setdefault("keep_p", p)
        self._publish()


def check_dense(params: Iterable[Tensor]) -> None:
    """Raise ValueError if a gradient is sparse."""
    for param in params:
        if (grad := param.grad) is not None and grad.layout is not torch.strided:
            raise ValueError(
                f"gradients must be dense, got {grad.layout} for a parameter of shape "
                f"{tuple(param.shape)}: use Embedding(sparse=False)"
            )


def _evaluate(closure: Callable[[], Any], groups: list[dict[str, Any]]) -> Any:
    """Call a step's closure with gradients enabled, and check what it leaves."""
    with torch.enable_grad():
        loss = closure()
    check_dense(param for _, _, param in indexed_params(groups))
    return loss


def _check_settings(values: dict[str, Any]) -> None:
    checks: dict[str, Callable[[Any], None]] = {
        "p": check_keep_probability,
        "seed": lambda value: check_count("seed", value),
        "t": lambda value: check_count("t", value, 0),
        "granularity": lambda value: check_option("granularity", value, GRANULARITIES),
        "rescale": lambda value: check_option("rescale", value, (True, False)),
    }
    for name, value in values.items():
        checks[name](value)


def _saved_groups(state_dict: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the groups of a state_dict, wherever a base that is itself a wrapper puts them."""
    yield from state_dict.get("param_groups", ())
    for name, value in state_dict.items():
        if isinstance(value, dict) and name != "state":
            yield from _saved_groups(value)


def _rename_p(groups: list[dict[str, Any]], base: Optimizer) -> None:
    """Rename the key that once held a group's keep probability, unless the base has one like it."""
    for group in groups:
        if "p" in group and "p" not in getattr(base, "defaults", {}):
            group["keep_p"] = group.pop("p")


def _check_differentiable(group: dict[str, Any]) -> None:
    if group.get("differentiable"):
        raise ValueError("base must have differentiable=False: a mask has no gradient")


def _check_base(base: Any) -> None:
    """Raise TypeError or ValueError if no implementation can wrap ``base``."""
    if not isinstance(base, Optimizer):
        raise TypeError(f"base must be a torch.optim.Optimizer, got {type(base).__name__}")
    if not hasattr(base, "param_groups"):
        raise TypeError(
            f"base must have param_groups, got {type(base).__name__}: wrap the optimizer inside it"
        )
    if isinstance(base, LRDropout):
        raise ValueError("base is an LRDropout already: set its p instead of wrapping it again")
    if isinstance(base, SparseAdam):
        raise ValueError("base must take dense gradients, got SparseAdam: use Adam")
    for group in base.param_groups:
        _check_differentiable(group)
    if any(getattr(q, "_fsdp_flattened", False) for _, _, q in indexed_params(base.param_groups)):
        raise ValueError(
            "parameters must not be flat shards (FullyShardedDataParallel), whose global indices "
            "are unknown: use torch.distributed.fsdp.fully_shard"
        )
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.endswith("zero_redundancy_optimizer.py"):
            raise ValueError(
                "LRDropout must be around ZeroRedundancyOptimizer, not inside it, where each rank "
                "counts its own parameters from 0: LRDropout(ZeroRedundancyOptimizer(...))"
            )
        frame = frame.f_back
