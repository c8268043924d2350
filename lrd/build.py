"""From a checked configuration to objects; the only place that instantiates."""

import difflib
import inspect
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hydra.utils import get_object
from torch import nn
from torch.optim import Optimizer

from lrd.config import Config
from lrd.masks import key
from lrd.optim import LRDropout
from lrd.regularizers import Regularizer
from lrd.schedules import Schedule
from lrd.task import Dataset, Setup, Task

# What each open group may name, and the arguments that are given here and not in a file.
KINDS: dict[str, tuple[type, tuple[str, ...]]] = {
    "task": (Task, ("setup", "dataset", "model")),
    "dataset": (Dataset, ("setup",)),
    "model": (nn.Module, ("shape", "classes")),
    "optim": (Optimizer, ("params",)),
    "schedule": (Schedule, ()),
    "regularizer": (Regularizer, ()),
}
PACKAGES = ("torch", "torchvision", "lrd", "tasks")
_THREADS = torch.get_num_threads()


def parts(config: Config) -> dict[str, Any]:
    """What a Trainer is made of, checked and instantiated; reads no data.

    Raises ValueError, in one line, for whatever a user may have got wrong.
    """
    device = _prepare(config)
    setup = Setup(
        config.seed,
        device,
        config.train.batch_size,
        config.eval.batch_size,
        config.data.root,
        config.data.download,
        config.data.workers,
    )
    allow = config.run.allow
    kinds = {g: _kind(g, getattr(config, g), allow) for g in KINDS if g != "regularizer"}
    regularizers = [_kind("regularizer", n, allow)() for n in config.regularizer.values()]
    schedule = kinds["schedule"]()
    task = kinds["task"](setup, kinds["dataset"](setup), kinds["model"])
    torch.default_generator.manual_seed(key("init", config.seed))
    model = task.model()
    for regularizer in regularizers:
        regularizer.on_model(model)
    memory = torch.channels_last if config.train.channels_last else torch.preserve_format
    model = model.to(device, memory_format=memory)  # type: ignore[call-overload]
    optimizer = _wrap(kinds["optim"](task.param_groups(model)), config)
    if config.train.compile:
        model.compile()
    return dict(
        task=task,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        regularizers=regularizers,
        device=device,
        seed=config.seed,
        epochs=config.train.epochs,
        max_steps=config.train.max_steps,
        bf16=config.train.precision == "bf16",
    )


def _prepare(config: Config) -> torch.device:
    """Set torch's switches as the configuration says and return the device."""
    wanted, gpu = config.train.device, torch.cuda.is_available()
    if wanted == "cuda" and not gpu:
        raise ValueError("train.device must be auto or cpu where torch finds no GPU, got cuda")
    torch.set_num_threads(config.train.threads or _THREADS)
    float32 = "tf32" if config.train.precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = float32
    torch.backends.cudnn.conv.fp32_precision = float32  # type: ignore[attr-defined]
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.train.deterministic)
    return torch.device("cuda", 0) if gpu and wanted != "cpu" else torch.device("cpu")


def _kind(group: str, node: dict[str, Any], allow: list[str]) -> Callable[..., Any]:
    """The class that a group's ``_target_`` names, with its settings bound.

    Only a class of the group's type is ever called, found in torch, torchvision, lrd, tasks or a
    package of ``run.allow``: a name alone proves nothing, some functions run a shell.
    """
    kind, given = KINDS[group]
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
        raise ValueError(f"{group}._target_ must be importable, got {target}") from error
    if not isinstance(found, type) or not issubclass(found, kind) or found is kind:
        raise ValueError(f"{group}._target_ must be a kind of {kind.__name__}, got {target}")
    settings = {k: v for k, v in node.items() if k != "_target_"}
    _check_settings(group, found, settings, given)
    if group == "optim":
        settings |= _quick(found, settings)
    return partial(_call, group, found, settings)


def _check_settings(
    group: str, found: type, settings: dict[str, Any], given: tuple[str, ...]
) -> None:
    """Refuse what the class does not take, before anything is built."""
    parameters = inspect.signature(found).parameters.values()
    takes = [
        p.name
        for p in parameters
        if p.name not in given and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name, value in settings.items():
        if isinstance(value, dict) and "_target_" in value:
            raise ValueError(f"{group}.{name} must be plain values, got a _target_ inside")
        if name not in takes and (name.startswith("_") or name in given or not open_ended):
            near = difflib.get_close_matches(name, takes, 1)
            raise ValueError(
                f"{group}.{name} is no setting of {found.__name__}"
                + (f"; did you mean {group}.{near[0]}?" if near else ".")
                + f" It takes: {', '.join(takes) or 'none'}"
            )


def _quick(found: type, settings: dict[str, Any]) -> dict[str, bool]:
    """torch's fused form of an optimizer, or its foreach form, where none was asked for."""
    takes = inspect.signature(found).parameters
    forms = [form for form in ("fused", "foreach") if form in takes]
    return {forms[0]: True} if forms and not settings.keys() & set(forms) else {}


def _call(group: str, found: type, settings: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    try:
        made = found(*args, **kwargs, **settings)
    except (TypeError, ValueError, LookupError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if reason.startswith(group):
            raise
        given = ", ".join(f"{k}={v}" for k, v in settings.items())
        raise ValueError(f"{group}: {found.__name__}({given}): {reason}") from error
    return made


def _wrap(base: Optimizer, config: Config) -> LRDropout:
    closure = inspect.signature(type(base).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(
            f"optim._target_ must step without a closure in this loop, got {type(base).__name__}: "
            "LRDropout around it works in a loop of your own"
        )
    try:
        return LRDropout(base, config.lrd.p, config.seed)
    except ValueError as error:
        raise ValueError(f"optim: {error}") from error
