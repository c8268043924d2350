"""Three checks of LRDropout around an optimizer, against the plain optimizer.

Every check trains a small network for a few steps, twice, from the same seeds, and compares weights
and optimizer state bit for bit.
"""

import io
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from lrd.optim import LRDropout, keep_mask
from scripts.compat.cases import Case

STEPS, SAVED_AFTER, PAUSED_AFTER = 8, 4, 2
P, SEED = 0.5, 3
WAYS = {  # how a step is taken, the first one that the plain optimizer accepts; its note
    "step": "",
    "closure": "closure",
    "create_graph": "`backward(create_graph=True)`",
    "loss": "closure that only returns the loss",
}


@dataclass
class Outcome:
    """What the checks of one optimizer found: True, False, or None where one does not apply."""

    package: str
    name: str
    plain: bool | None = None
    masked: bool | None = None
    resumed: bool | None = None
    notes: list[str] = field(default_factory=list)


class Training:
    """A small network in training with an optimizer, reproducible from seeds.

    Args:
        case: its optimizer.
        way: how a step is taken, see ``WAYS``.
        settings: of the LRDropout around the optimizer; None leaves it plain.
        seed: of the initial weights.
    """

    def __init__(
        self, case: Case, way: str, settings: dict[str, Any] | None = None, seed: int = 0
    ) -> None:
        set_seeds(seed)
        self.way = way
        self.model = nn.Sequential(
            *(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten()),
            *(nn.Linear(27, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 4)),
        )
        base = case.make(self.model)
        self.optimizer: Any = base if settings is None else LRDropout(base, **settings)
        self.call("train")

    def call(self, method: str) -> None:
        """Call a method that schedule-free optimizers have."""
        if callable(found := getattr(self.optimizer, method, None)):
            found()

    def params(self) -> list[Tensor]:
        """Return the parameters in the order of the global index."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.params()]

    def step(self, t: int) -> None:
        """Take step ``t``; batch and random state depend on ``t`` alone."""
        set_seeds(1000 + t)
        inputs, targets = torch.randn(8, 1, 5, 5), torch.randn(8, 4)

        def loss() -> Tensor:
            return F.mse_loss(self.model(inputs), targets)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            (value := loss()).backward()
            return value

        if hasattr(self.optimizer, "set_closure"):  # GSAM
            self.optimizer.set_closure(F.mse_loss, inputs, targets)
        self.optimizer.zero_grad()
        (value := loss()).backward(create_graph=self.way == "create_graph")
        if self.way in ("step", "create_graph"):
            self.optimizer.step()
        else:
            self.optimizer.step(closure if self.way == "closure" else lambda: value)

    def pause(self, t: int) -> None:
        """Evaluate after step ``t``, if it is the one before a pause."""
        if t + 1 == PAUSED_AFTER:
            self.call("eval")
            self.call("train")

    def run(self, first: int = 0) -> None:
        """Take all steps from ``first`` on."""
        for t in range(first, STEPS):
            self.step(t)
            self.pause(t)

    def state(self) -> Any:
        """Return the weights and the optimizer's state."""
        return self.model.state_dict(), self.optimizer.state_dict()


def check(case: Case) -> Outcome:
    """Run the checks of one optimizer."""
    outcome = Outcome(case.package, case.name, notes=[case.note] * bool(case.note))
    if case.reason is not None:
        outcome.notes.append(case.reason)
        return outcome
    group = one_process_group() if case.name.startswith("Distributed") else nullcontext()
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), group:
        warnings.simplefilter("ignore")  # the packages warn and print
        found = _first_way(case, outcome)
        if found is None:
            return outcome
        way, expected = found
        outcome.plain = _ok(outcome.notes, "p = 1", lambda: _is_plain(case, way, expected))
        outcome.masked = _ok(outcome.notes, "p = 0.5", lambda: _is_masked(case, way))
        outcome.resumed = _check_resume(case, way, outcome)
    return outcome


def set_seeds(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def one_process_group() -> Iterator[None]:
    """Make this process a torch.distributed group of one rank."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _ok(notes: list[str], what: str, run: Callable[[], bool]) -> bool:
    """Return what ``run`` returns; an exception counts as False and becomes a note."""
    try:
        return run()
    except Exception as error:
        notes.append(f"{what}: {_one_line(error)}")
        return False


def _one_line(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0][:100].replace("|", "\\|")
    return f"{type(error).__name__}: {first}".rstrip(": ")


def _first_way(case: Case, outcome: Outcome) -> tuple[str, Any] | None:
    """Return how the plain optimizer steps, and where it ends; None with a note if it does not."""
    errors: list[str] = []
    for way in WAYS:
        try:
            plain = Training(case, way)
            start = plain.weights()
            plain.run()
            if is_same(start, plain.weights()):
                errors.append(f"the plain optimizer moves nothing in {STEPS} steps")
                continue
        except Exception as error:
            errors.append(f"the plain optimizer fails: {_one_line(error)}")
            continue
        outcome.notes += [WAYS[way]] * bool(WAYS[way])
        return way, plain.state()
    outcome.notes.append(errors[0])
    return None


def _is_plain(case: Case, way: str, expected: Any) -> bool:
    wrapped = Training(case, way, {"p": 1.0})
    wrapped.run()
    return is_same(wrapped.state(), expected)


def _is_masked(case: Case, way: str) -> bool:
    """Return whether each step is the plain one where the mask is 1, and nothing where it is 0.

    The plain optimizer takes each step from the same weights and state; then its dropped elements
    get their old values back by hand.
    """
    lrd = Training(case, way, {"p": P, "seed": SEED, "implementation": "snapshot"})
    plain = Training(case, way)
    kept = dropped = 0
    for t in range(STEPS):
        olds, start = plain.weights(), 0
        plain.step(t)
        with torch.no_grad():
            for param, old in zip(plain.params(), olds, strict=True):
                count = param.numel()
                mask = keep_mask(SEED, t, P, start=start, count=count).view(param.shape)
                moved = param != old
                kept += int((moved & mask).sum())
                dropped += int((moved & ~mask).sum())
                param.copy_(torch.where(mask, param, old))
                start += count
        lrd.step(t)
        plain.pause(t)
        lrd.pause(t)
        if not is_same(lrd.state(), plain.state()):
            return False
    return kept > 0 and dropped > 0


def _check_resume(case: Case, way: str, outcome: Outcome) -> bool | None:
    """Return whether LRDropout resumes bitwise; None where the plain optimizer does not."""
    weights_only, errors = True, []
    exact = _ok(errors, "", lambda: _resumes(case, way, None, weights_only=True))
    if errors:
        weights_only, errors = False, []
        exact = _ok(errors, "", lambda: _resumes(case, way, None, weights_only=False))
    if errors:
        outcome.notes.append(f"the plain optimizer does not resume{errors[0]}")
        return None
    if not exact:
        outcome.notes.append("the plain optimizer's own resume is not bitwise")
        return None
    outcome.notes += ["resume: `weights_only=False`"] * (not weights_only)
    settings = {"p": P, "seed": SEED, "implementation": "snapshot"}
    return _ok(outcome.notes, "resume", lambda: _resumes(case, way, settings, weights_only))


def _resumes(case: Case, way: str, settings: dict[str, Any] | None, weights_only: bool) -> bool:
    whole = Training(case, way, settings)
    file = io.BytesIO()
    for t in range(STEPS):
        if t == SAVED_AFTER:
            saved = {"model": whole.model.state_dict(), "optimizer": whole.optimizer.state_dict()}
            torch.save(saved, file)
        whole.step(t)
        whole.pause(t)
    file.seek(0)
    loaded = torch.load(file, weights_only=weights_only)
    if settings is not None:
        settings = {**settings, "p": 0.9, "seed": 9}  # the file's values replace these
    resumed = Training(case, way, settings, seed=1)
    resumed.model.load_state_dict(loaded["model"])
    resumed.optimizer.load_state_dict(loaded["optimizer"])
    resumed.run(SAVED_AFTER)
    if settings is not None:
        lrd = resumed.optimizer
        if (lrd.p, lrd.seed, lrd.t) != (P, SEED, STEPS):
            return False
    return is_same(resumed.state(), whole.state())


def is_same(a: Any, b: Any) -> bool:
    """Return whether two structures of tensors and numbers are bitwise the same.

    Keys of dicts that LRDropout adds (``lrd_...``) are left out; keys that are tensors are compared
    by order.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)
    if isinstance(a, dict) and isinstance(b, dict):
        items = [[(k, v) for k, v in d.items() if not str(k).startswith("lrd_")] for d in (a, b)]
        keys = [[k for k, _ in pairs if not isinstance(k, Tensor)] for pairs in items]
        values = [[v for _, v in pairs] for pairs in items]
        return keys[0] == keys[1] and is_same(*values)
    if isinstance(a, list | tuple | deque) and isinstance(b, list | tuple | deque):
        return len(a) == len(b) and all(map(is_same, a, b))
    if type(a) is not type(b) or callable(a):
        return type(a) is type(b)
    if hasattr(a, "__dict__"):
        return is_same(vars(a), vars(b))
    return bool(a == b or (a != a and b != b))


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
