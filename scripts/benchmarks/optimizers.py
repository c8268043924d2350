"""The optimizers that the benchmarks compare: torch's, LRDropout (also of an earlier commit) and a
naive LRD."""

import inspect
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lrd.config.compose import compose
from lrd.optim import LRDropout, snapshot
from lrd.optim.kernels import kernels_for
from lrd.optim.kernels.eager import EagerKernels

OPTIMIZER_NAMES = ("sgdm", "rmsprop", "adam", "amsgrad", "radam")
TORCH_FUSED, TORCH_FOREACH, TORCH_LOOP = "torch, fused", "torch, foreach", "torch, for-loop"
LRD_EAGER, LRD_SNAPSHOT, LRD_FUSED = "LRD, snapshot, eager", "LRD, snapshot", "LRD, fused"
NAIVE = "naive LRD"
P = 0.5  # keep probability
_ROOT = Path(__file__).resolve().parents[2]
# Today's names of the implementations, and those that earlier commits have.
_NAMES = {"fused": ("fused", "single_pass"), "snapshot": ("snapshot", "generic")}


class NaiveAdam(Optimizer):
    """Adam with LRD in the style of the code published with the paper, to measure its cost.

    It steps parameter by parameter, samples the mask with ``torch.bernoulli`` from a tensor filled
    with p and copies the first moment. At p = 1 it is torch.optim.Adam up to floating-point error.
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
                    self._update(param, param.grad, group)

    def _update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
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


@cache
def paper_settings(name: str) -> tuple[Callable[..., Optimizer], dict[str, Any]]:
    """Return class and settings of the paper's CIFAR-10 runs, from the configuration files."""
    node = OmegaConf.to_container(compose(["task=cifar10", f"optim={name}"]).optim, resolve=True)
    assert isinstance(node, dict)
    settings = {str(key): value for key, value in node.items()}
    return get_class(settings.pop("_target_")), settings


def torch_variants(name: str) -> dict[str, dict[str, bool]]:
    """Return the settings of torch's variants of an optimizer, the fastest kind first."""
    takes = inspect.signature(paper_settings(name)[0]).parameters
    fused = {TORCH_FUSED: {"fused": True}} if "fused" in takes else {}
    return fused | {TORCH_FOREACH: {"foreach": True}, TORCH_LOOP: {"foreach": False}}


def lrd_variants(device: torch.device) -> list[str]:
    """Return LRDropout's variants on ``device``; without compiled kernels, the eager one alone."""
    if isinstance(kernels_for(device), EagerKernels):
        return [LRD_EAGER]
    return [LRD_EAGER, LRD_SNAPSHOT, LRD_FUSED]


def naive_variants(name: str) -> list[str]:
    """Return the naive variant of Adam; other optimizers have none."""
    return [NAIVE] if name == "adam" else []


@dataclass(frozen=True)
class EarlierCode:
    """LRDropout as it was at an earlier commit.

    Args:
        wrapper: its class LRDropout.
        implementations: what it calls the implementation of each of its variants.
        flatten: its ``flatten_parameters``, which the fused step of its time needs, if it has one.
    """

    wrapper: Callable[..., Optimizer]
    implementations: Mapping[str, str]
    flatten: Callable[[list[dict[str, Any]]], None] | None

    def flatten_for(self, variant: str, params: Sequence[Parameter]) -> None:
        """Move the parameters to flat buffers if ``variant`` steps there."""
        fused = self.implementations.get(variant) in _NAMES["fused"]
        if fused and self.flatten is not None:
            self.flatten([{"params": list(params)}])


NO_EARLIER_CODE = EarlierCode(LRDropout, {}, None)


@contextmanager
def earlier_code(commit: str | None) -> Iterator[EarlierCode]:
    """Import LRDropout as it was at a commit of this checkout; without a commit there is none.

    The earlier ``lrd`` gets a name of its own, also in its own imports, so that the two never mix:
    both import modules, and torch.compile looks modules up by name, as late as in a step. Its files
    exist until the context ends, as its kernels are compiled on use.

    Raises:
        ValueError: the commit has no LRDropout.
    """
    if commit is None:
        yield NO_EARLIER_CODE
        return
    temporary = tempfile.TemporaryDirectory(prefix=f"lrd_at_{commit}_")
    with temporary as folder, mock.patch.object(sys, "path", [folder, *sys.path]):
        name = Path(folder).name  # new each time: torch.compile remembers modules
        _extract(commit, Path(folder), name)
        try:
            yield _import_earlier(commit, name)
        finally:
            for module in [key for key in sys.modules if key.partition(".")[0] == name]:
                del sys.modules[module]


def _extract(commit: str, folder: Path, name: str) -> None:
    """Write the package ``lrd`` of a commit to ``folder`` under another name."""
    command = ["git", "-C", str(_ROOT), "archive", commit, "lrd"]
    archive = subprocess.run(command, capture_output=True)
    if archive.returncode:
        raise ValueError(f"--against must be a commit that has lrd/, got {commit}")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    for path in (folder / "lrd").rglob("*.py"):
        path.write_text(re.sub(r"\b(from|import) lrd\b", rf"\1 {name}", path.read_text()))
    (folder / "lrd").rename(folder / name)


def _import_earlier(commit: str, name: str) -> EarlierCode:
    try:
        known = import_module(f"{name}.optim.options").IMPLEMENTATIONS
        wrapper = import_module(f"{name}.optim.lr_dropout").LRDropout
        flatten = None
        if find_spec(f"{name}.optim.flat_params") is not None:
            flatten = import_module(f"{name}.optim.flat_params").flatten_parameters
    except ImportError as error:
        raise ValueError(
            f"--against must be a commit with lrd/optim/lr_dropout.py, got {commit}: {error}"
        ) from error
    implementations = {
        f"LRD at {commit}, {today}": each
        for today, names in _NAMES.items()
        for each in names
        if each in known
    }
    return EarlierCode(wrapper, implementations, flatten)


def make_parameters(
    variant: str,
    sizes: Iterable[Sequence[int]],
    device: torch.device,
    earlier: EarlierCode = NO_EARLIER_CODE,
) -> list[Parameter]:
    """Return parameters with gradients, of a trained network's magnitude, for one variant."""
    torch.manual_seed(0)
    params = [Parameter(0.05 * torch.randn(*size, device=device)) for size in sizes]
    earlier.flatten_for(variant, params)
    # By a real backward, so that gradients lie where training would put them.
    torch.manual_seed(1)
    torch.autograd.backward(params, [0.01 * torch.randn_like(param) for param in params])
    return params


def make_optimizer(
    name: str,
    variant: str,
    params: Sequence[Parameter],
    p: float = P,
    earlier: EarlierCode = NO_EARLIER_CODE,
) -> Optimizer:
    """Return one variant of an optimizer over ``params``; ``earlier`` adds its own variants."""
    cls, settings = paper_settings(name)
    variants = torch_variants(name)
    if variant in variants:
        return cls(list(params), **settings, **variants[variant])
    if variant == NAIVE:
        assert name == "adam"
        return NaiveAdam(params, **settings, p=p)
    base = cls(list(params), **settings, **next(iter(variants.values())))
    if variant in earlier.implementations:
        return earlier.wrapper(base, p, implementation=earlier.implementations[variant])
    optimizer = LRDropout(base, p, implementation="fused" if variant == LRD_FUSED else "snapshot")
    if variant == LRD_EAGER:
        eager = mock.patch.object(snapshot, "kernels_for", lambda device: EagerKernels())
        optimizer.step = eager(optimizer.step)
    return optimizer


def check_paths(optimizers: Iterable[Any]) -> None:
    """Assert that each LRDropout has taken its latest step by the implementation it was given."""
    for each in optimizers:
        used, wanted = (getattr(each, name, None) for name in ("path", "implementation"))
        assert used == wanted, f"the step was {used}, not {wanted}"
