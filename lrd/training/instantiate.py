"""Resolve and check the class that a ``_target_`` names."""

import difflib
import inspect
import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hydra.utils import get_object
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lrd.config.argument_types import check_types
from lrd.loggers.base import Logger
from lrd.regularizers import Regularizer
from lrd.schedules import Schedule
from lrd.task import Dataset, Task

# For each open group its base class, and the arguments that come from the builder, not from a file.
GROUPS: dict[str, tuple[type, tuple[str, ...]]] = {
    "task": (Task, ("setup", "dataset", "model")),
    "dataset": (Dataset, ("setup",)),
    "model": (nn.Module, ("shape", "classes")),
    "optim": (Optimizer, ("params",)),
    "schedule": (Schedule, ()),
    "regularizer": (Regularizer, ("seed",)),
    "logger": (Logger, ("metadata", "folder")),
}
# The same of torch's schedulers, which schedule= may name too.
SCHEDULER = (LRScheduler, ("optimizer", "last_epoch", "epochs", "steps_per_epoch"))
# Settings of torch's schedulers that are the run's number of steps where they are left out.
RUN_STEPS = ("total_steps", "total_iters", "T_max")
log = logging.getLogger(__name__)
logging.getLogger("hydra").addHandler(logging.NullHandler())  # the ValueErrors say what it logs
PACKAGES = ("torch", "torchvision", "lrd", "tasks")


def resolve_target(
    group: str,
    node: dict[str, Any],
    allow: list[str],
    fused: bool = True,
    where: str = "",
) -> Callable[..., Any]:
    """Return the class that a group's ``_target_`` names, with its settings bound.

    Only a class of the group's type is called, from torch, torchvision, lrd, tasks or a package in
    ``run.allow``: a dotted name alone proves nothing, some functions run a shell. A model may also
    be a function of torchvision.models or of a package in ``run.allow`` that returns a Module.

    Args:
        group: A key of :data:`GROUPS`.
        node: The group's configuration.
        allow: Further packages.
        fused: Whether to request torch's fused or foreach form of an optimizer.
        where: The node's name in messages, by default ``group``.

    Raises:
        ValueError: The target or a setting is wrong.
    """
    base, given = GROUPS[group]
    where = where or group
    target = node.get("_target_")
    if not isinstance(target, str) or not re.fullmatch(r"\w+(\.\w+)+", target):
        raise ValueError(f"{where}._target_ must be the dotted name of a class, got {target}")
    packages = (*PACKAGES, *allow)
    if target.split(".")[0] not in packages:
        raise ValueError(
            f"{where}._target_ must be in one of {', '.join(packages)}, got {target}: "
            f"run.allow=[{target.split('.')[0]}] allows its package"
        )
    try:
        found = get_object(target)
    except ImportError as error:
        missing = _missing_package(error)
        if missing not in (None, target.split(".")[0]):
            raise ValueError(
                f"{where}._target_={target} needs a package: pip install {missing}"
            ) from error
        raise ValueError(f"{where}._target_ must be importable, got {target}") from error
    is_scheduler = (
        group == "schedule" and isinstance(found, type) and issubclass(found, LRScheduler)
    )
    if is_scheduler:
        base, given = SCHEDULER
    if group == "model" and inspect.isfunction(found):
        _check_model_function(target, found, allow)
    elif not isinstance(found, type) or not issubclass(found, base) or found is base:
        raise ValueError(f"{where}._target_ must be a subclass of {base.__name__}, got {target}")
    settings = {k: v for k, v in node.items() if k != "_target_"}
    _check_settings(where, found, settings, given)
    if group == "optim" and fused:
        settings |= _fused_form(found, settings)
    return partial(TorchSchedule if is_scheduler else partial(_instantiate, where), found, settings)


class TorchSchedule:
    """A class of ``torch.optim.lr_scheduler`` and its settings; the loop steps it once a step.

    Call it with an optimizer and the run's number of steps for the scheduler. ``total_steps``,
    ``T_max`` and ``total_iters`` are that number where the settings leave them out.

    Raises:
        ValueError: The class needs a score, or a setting is wrong.
    """

    def __init__(self, found: type[LRScheduler], settings: dict[str, Any]) -> None:
        if issubclass(found, ReduceLROnPlateau):
            raise ValueError(
                f"schedule._target_ must depend on the step alone, got {found.__name__}, which "
                "needs a score: choose another class of torch.optim.lr_scheduler"
            )
        self.found, self.settings = found, settings

    def __call__(self, optimizer: Optimizer, total: int) -> LRScheduler:
        given = {name: value for name, value in self.settings.items() if value is not None}
        steps = given.get("total_steps", total)
        if isinstance(steps, int) and steps < total:
            raise ValueError(
                f"schedule.total_steps must be at least the run's {total} steps, got {steps}: "
                "leave it out"
            )
        counts = {n: total for n in RUN_STEPS if n in inspect.signature(self.found).parameters}
        return _instantiate("schedule", self.found, {**counts, **given}, optimizer)

    def check(self, optimizer: Optimizer) -> None:
        """Try two steps on a copy of the groups of ``optimizer``.

        Raises:
            ValueError: The settings are wrong for it.
        """
        stand_in = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        stand_in.defaults = optimizer.defaults
        stand_in.param_groups = [{**group, "params": []} for group in optimizer.param_groups]
        steps = self.settings.get("total_steps")
        try:
            scheduler = self(stand_in, steps if isinstance(steps, int) else 1000)
            stand_in._opt_called = True  # type: ignore[attr-defined]  # or torch warns
            for _ in range(2):
                scheduler.step()
        except ValueError:
            raise
        except Exception as error:  # whatever a wrong value meets in torch
            arguments = ", ".join(f"{name}={value}" for name, value in self.settings.items())
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            message = f"schedule: {self.found.__name__}({arguments}): {reason}"
            raise ValueError(message) from error


def _check_model_function(target: str, found: Callable[..., Any], allow: list[str]) -> None:
    """Reject a function that is no model's, before it is called."""
    if not target.startswith(("torchvision.models.", *(f"{package}." for package in allow))):
        raise ValueError(
            "model._target_ must be a subclass of Module, or a function of torchvision.models or "
            f"of a package in run.allow, got {target}"
        )
    names = inspect.signature(found).parameters
    is_open = any(p.kind is p.VAR_KEYWORD for p in names.values())
    if not is_open and not {"classes", "num_classes"} & names.keys():
        raise ValueError(f"model._target_ must take classes or num_classes, got {target}")


def _fit_model(
    found: Callable[..., Any], settings: dict[str, Any], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return a task's ``shape`` and ``classes`` as a model takes them that has ``num_classes``
    instead, as in torchvision and timm: the channels go to ``in_chans``, where it has that."""
    names = inspect.signature(found).parameters
    is_open = inspect.isfunction(found) and any(p.kind is p.VAR_KEYWORD for p in names.values())
    if "classes" not in kwargs or "classes" in names or not ("num_classes" in names or is_open):
        return kwargs
    fitted = {k: v for k, v in kwargs.items() if k not in ("shape", "classes")}
    fitted["num_classes"] = kwargs["classes"]
    channels, package = kwargs.get("shape", (3,))[0], found.__module__.partition(".")[0]
    if "in_chans" in names or package == "timm":
        fitted |= {} if "in_chans" in settings else {"in_chans": channels}
    elif package == "torchvision" and channels != 3:
        raise ValueError(
            f"model={found.__name__} must be given color images, got {channels} channel: choose "
            "another model or dataset"
        )
    return fitted


def _missing_package(error: BaseException | None) -> str | None:
    """Return the package whose absence made an import fail, or None."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition(".")[0]
        error = error.__cause__ or error.__context__
    return None


def _check_settings(
    where: str, found: Callable[..., Any], settings: dict[str, Any], given: tuple[str, ...]
) -> None:
    """Reject settings that the class does not take, before anything is built."""
    parameters = inspect.signature(found).parameters.values()
    accepted = [
        p.name
        for p in parameters
        if p.name not in given and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    is_open = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name, value in settings.items():
        if isinstance(value, dict) and "_target_" in value:
            raise ValueError(f"{where}.{name} must be plain values, got a _target_ inside")
        if name not in accepted and (name.startswith("_") or name in given or not is_open):
            near = difflib.get_close_matches(name, accepted, 1)
            raise ValueError(
                f"{where}.{name} is no setting of {found.__name__}"
                + (f". Did you mean {where}.{near[0]}?" if near else ".")
                + f" It takes: {', '.join(accepted) or 'none'}"
            )


def _fused_form(found: Callable[..., Any], settings: dict[str, Any]) -> dict[str, bool]:
    """Request torch's fused form of an optimizer, or its foreach form, unless one is set."""
    parameters = inspect.signature(found).parameters
    forms = [form for form in ("fused", "foreach") if form in parameters]
    given = settings.keys() & {*forms, "differentiable"}
    return {forms[0]: True} if forms and not given else {}


def _instantiate(
    where: str, found: Callable[..., Any], settings: dict[str, Any], *args: Any, **kwargs: Any
) -> Any:
    kwargs = _fit_model(found, settings, kwargs) if where == "model" else kwargs
    try:
        inspect.signature(found).bind(*args, **kwargs, **settings)
    except TypeError as error:
        raise ValueError(f"{where} must fit the task, got {found.__name__}: {error}") from error
    try:
        made = found(*args, **kwargs, **settings)
    except (TypeError, ValueError, LookupError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        is_ours = not found.__module__.startswith("torch.")
        names_setting = re.match(r"[a-z_]+(\.[a-z_]+)? must ", reason) is not None
        if reason.startswith(where) or (is_ours and names_setting):
            raise
        check_types(where, found, settings)
        arguments = ", ".join(f"{k}={v}" for k, v in settings.items())
        raise ValueError(f"{where}: {found.__name__}({arguments}): {reason}") from error
    if where == "model" and not isinstance(made, nn.Module):
        raise ValueError(f"model._target_ must return a Module, got {type(made).__name__}")
    check_types(where, found, settings)  # where the class has no rule of its own
    return made
