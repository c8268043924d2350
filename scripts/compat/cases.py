"""The optimizers that the compatibility table names, and how to construct each."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

COVERED_PACKAGES = ("torch", "pytorch_optimizer", "timm", "schedulefree")
Parameters = list[nn.Parameter]

# Optimizers that the harness cannot call, or that LRDropout refuses, with the reason.
REASONS = {
    "torch.SparseAdam": "takes only sparse gradients, which LRDropout refuses",
    "pytorch_optimizer.AdaLOMO": "updates in `fused_backward`, has no `step`",
    "pytorch_optimizer.LOMO": "updates in `fused_backward`, has no `step`",
    "pytorch_optimizer.DeMo": "needs the package einops; does not take these shapes",
    "pytorch_optimizer.SafeFP16Optimizer": "has no `param_groups`: wrap the optimizer inside it",
}


def _matrices(model: nn.Module) -> Parameters:
    return [p for p in model.parameters() if p.ndim == 2]


def _muon_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Return the two groups that the Muon family of pytorch_optimizer asks for."""
    params = list(model.parameters())
    return [
        {"params": [p for p in params if p.ndim >= 2], "use_muon": True},
        {"params": [p for p in params if p.ndim < 2], "use_muon": False},
    ]


def _gsam(cls: Callable[..., Optimizer], model: nn.Module) -> Optimizer:
    base = SGD(model.parameters(), lr=0.01, momentum=0.9)
    lr = import_module("pytorch_optimizer").LinearScheduler(base, t_max=100, max_lr=0.01)
    proportion = import_module("pytorch_optimizer").ProportionScheduler(
        lr, max_lr=0.01, max_value=0.1
    )
    return cls(model.parameters(), base, model, proportion)


@dataclass(frozen=True)
class Need:
    """What a class takes that most do not.

    Args:
        first: its first argument, made from the model; by default the parameters.
        more: its further arguments.
        note: what the table says of it.
        build: makes the optimizer from class and model; replaces ``first`` and ``more``.
    """

    first: Callable[[nn.Module], Any] = lambda model: list(model.parameters())
    more: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    build: Callable[[Callable[..., Optimizer], nn.Module], Optimizer] | None = None


def _adam(model: nn.Module) -> Optimizer:
    return Adam(model.parameters())


_AROUND_ADAM = Need(_adam, note="around Adam")
_MUON = Need(_muon_groups, note="matrices and filters by Muon's rule, the rest by AdamW's")
_MATRICES = Need(_matrices, note="matrices only")
_SAM = Need(more={"base_optimizer": SGD, "lr": 0.01, "momentum": 0.9}, note="around SGD")
NEEDS: dict[str, Need] = {
    "torch.Muon": _MATRICES,
    **{f"pytorch_optimizer.{name}": _SAM for name in ("SAM", "LookSAM", "FriendlySAM")},
    "pytorch_optimizer.BSAM": Need(more={"num_data": 8}),
    "pytorch_optimizer.GSAM": Need(note="around SGD; `set_closure`", build=_gsam),
    "pytorch_optimizer.WSAM": Need(
        note="around SGD",
        build=lambda cls, model: cls(model, model.parameters(), base_optimizer=SGD, lr=0.01),
    ),
    **{
        f"pytorch_optimizer.{name}": _AROUND_ADAM
        for name in ("Lookahead", "Magma", "OrthoGrad", "PCGrad", "ScheduleFreeWrapper")
    },
    # From its default of 1e-8 the scale of its updates grows too slowly to move a weight.
    "pytorch_optimizer.TRAC": Need(_adam, {"s_prev": 0.01}, "around Adam; `s_prev=0.01`"),
    "timm.Lookahead": Need(_adam, {"k": 2}, "around Adam; `k=2`"),
    **{
        f"pytorch_optimizer.{name}": _MUON
        for name in ("AdaGO", "AdaMuon", "DistributedMuon", "Muon", "MuonClip", "NorMuon")
    },
    "pytorch_optimizer.AdamMini": Need(lambda model: model),
    "pytorch_optimizer.SpectralSphere": _MATRICES,
    "pytorch_optimizer.Ranger21": Need(more={"num_iterations": 100}),
    # AdaShift moves after keep_num steps; SaRA moves the weights below its threshold alone.
    "pytorch_optimizer.AdaShift": Need(more={"keep_num": 2}, note="`keep_num=2`"),
    "pytorch_optimizer.SaRA": Need(more={"threshold": 0.1}, note="`threshold=0.1`"),
}


@dataclass(frozen=True)
class Case:
    """An optimizer of a package: ``make(model)`` returns a new one."""

    package: str
    name: str
    make: Callable[[nn.Module], Optimizer]

    @property
    def note(self) -> str:
        """How it is constructed, if not by its defaults."""
        return NEEDS.get(f"{self.package}.{self.name}", Need()).note

    @property
    def reason(self) -> str | None:
        """Why it is not tried."""
        return REASONS.get(f"{self.package}.{self.name}")


def find_all_cases(names: Sequence[str] = ()) -> list[Case]:
    """Return the optimizers of all packages, or those named ``package.name``.

    Raises:
        ValueError: A package is not installed, or there is no optimizer of that name.
    """
    try:
        found = [case for package in COVERED_PACKAGES for case in find_cases(package)]
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is missing: pip install -e '.[compat]'") from error
    by_name = {f"{case.package}.{case.name}": case for case in found}
    if unknown := [name for name in names if name not in by_name]:
        raise ValueError(f"unknown optimizer {unknown[0]!r}: write package.name as in the table")
    return [by_name[name] for name in names or by_name]


def find_cases(package: str) -> list[Case]:
    """Return the optimizers of a package by name; those of timm as it registers them.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    if package == "timm":
        return sorted(_timm_cases(), key=lambda case: case.name)
    module = torch.optim if package == "torch" else import_module(package)
    return sorted(_class_cases(package, module), key=lambda case: case.name.lower())


def _class_cases(package: str, module: Any) -> Iterator[Case]:
    for name, cls in vars(module).items():
        own = inspect.isclass(cls) and cls.__module__.partition(".")[0] == package
        if own and issubclass(cls, Optimizer) and cls is not Optimizer and name == cls.__name__:
            yield Case(package, name, _maker(cls, NEEDS.get(f"{package}.{name}", Need())))


def _timm_cases() -> Iterator[Case]:
    """Yield what timm registers, without the names that bitsandbytes and apex would provide."""
    optim = import_module("timm.optim")
    for name in optim.list_optimizers():
        if not isinstance(optim.get_optimizer_info(name).opt_class, str):
            yield Case("timm", name, _timm_maker(optim, name))
    yield Case("timm", "Lookahead", _maker(optim.Lookahead, NEEDS["timm.Lookahead"]))


def _timm_maker(optim: Any, name: str) -> Callable[[nn.Module], Optimizer]:
    return lambda model: optim.create_optimizer_v2(model, name, lr=1e-3)


def _maker(cls: Callable[..., Optimizer], need: Need) -> Callable[[nn.Module], Optimizer]:
    if (build := need.build) is not None:
        return lambda model: build(cls, model)
    return lambda model: cls(need.first(model), **need.more)
