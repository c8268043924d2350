"""Resolve and check the class that a ``_target_`` names."""

import difflib
import inspect
import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from hydra.utils import get_object
from torch import nn
from torch.optim import Optimizer

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
log = logging.getLogger(__name__)
logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it repeats what is raised
PACKAGES = ("torch", "torchvision", "lrd", "tasks")


def resolve_target(
    group: str,
    node: dict[str, Any],
    allow: list[str],
    fused: bool = True,
    task_decay: float = 0.0,
) -> Callable[..., Any]:
    """Return the class that a group's ``_target_`` names, with its settings bound.

    Only a class of the group's type is called, from torch, torchvision, lrd, tasks or a package in
    ``run.allow``: a dotted name alone proves nothing, some functions run a shell.

    Args:
        group: A key of :data:`GROUPS`.
        node: The group's configuration.
        allow: Further packages.
        fused: Whether to request torch's fused or foreach form of an optimizer.
        task_decay: The task's weight decay, left out for an optimizer that takes none.

    Raises:
        ValueError: The target or a setting is wrong.
    """
    base, given = GROUPS[group]
    target = node.get("_target_")
    if not isinstance(target, str) or "." not in target:
        raise ValueError(f"{group}._target_ must be the dotted name of a class, got {target}")
    packages = (*PACKAGES, *allow)
    if target.split(".")[0] not in packages:
        raise ValueError(
            f"{group}._target_ must be in one of {', '.join(packages)}, got {target}: "
            f"run.allow=[{target.split('.')[0]}] allows its package"
        )
    try:
        found = get_object(target)
    except ImportError as error:
        missing = _missing_package(error)
        if missing not in (None, target.split(".")[0]):
            raise ValueError(
                f"{group}._target_={target} needs a package: pip install {missing}"
            ) from error
        raise ValueError(f"{group}._target_ must be importable, got {target}") from error
    if not isinstance(found, type) or not issubclass(found, base) or found is base:
        raise ValueError(f"{group}._target_ must be a subclass of {base.__name__}, got {target}")
    settings = {k: v for k, v in node.items() if k != "_target_"}
    if group == "optim" and settings.get("weight_decay") == task_decay:
        _drop_unsupported_decay(found, settings)
    _check_settings(group, found, settings, given)
    if group == "optim" and fused:
        settings |= _fused_form(found, settings)
    return partial(_instantiate, group, found, settings)


def _missing_package(error: BaseException | None) -> str | None:
    """Return the package whose absence made an import fail, or None."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition(".")[0]
        error = error.__cause__ or error.__context__
    return None


def _check_settings(
    group: str, found: type, settings: dict[str, Any], given: tuple[str, ...]
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
            raise ValueError(f"{group}.{name} must be plain values, got a _target_ inside")
        if name not in accepted and (name.startswith("_") or name in given or not is_open):
            near = difflib.get_close_matches(name, accepted, 1)
            raise ValueError(
                f"{group}.{name} is no setting of {found.__name__}"
                + (f". Did you mean {group}.{near[0]}?" if near else ".")
                + f" It takes: {', '.join(accepted) or 'none'}"
            )


def _drop_unsupported_decay(found: type, settings: dict[str, Any]) -> None:
    """Remove the task's weight decay if the optimizer class takes none."""
    parameters = inspect.signature(found).parameters.values()
    if not any(p.name == "weight_decay" or p.kind is p.VAR_KEYWORD for p in parameters):
        if decay := settings.pop("weight_decay"):
            log.info(f"note: {found.__name__} takes no weight decay, {decay:g} is left out")


def _fused_form(found: type, settings: dict[str, Any]) -> dict[str, bool]:
    """Request torch's fused form of an optimizer, or its foreach form, unless one is set."""
    parameters = inspect.signature(found).parameters
    forms = [form for form in ("fused", "foreach") if form in parameters]
    given = settings.keys() & {*forms, "differentiable"}
    return {forms[0]: True} if forms and not given else {}


def _instantiate(
    group: str, found: type, settings: dict[str, Any], *args: Any, **kwargs: Any
) -> Any:
    try:
        inspect.signature(found).bind(*args, **kwargs, **settings)
    except TypeError as error:
        raise ValueError(f"{group} must fit the task, got {found.__name__}: {error}") from error
    try:
        return found(*args, **kwargs, **settings)
    except (TypeError, ValueError, LookupError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if reason.startswith(group) or re.match(r"[a-z_]+(\.[a-z_]+)? must ", reason):
            raise
        arguments = ", ".join(f"{k}={v}" for k, v in settings.items())
        raise ValueError(f"{group}: {found.__name__}({arguments}): {reason}") from error
