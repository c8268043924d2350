"""From a checked configuration to objects; the only place that instantiates."""

import difflib
import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hydra.utils import get_object
from torch import Tensor, nn
from torch.optim import Optimizer

from lrd import kernels, machine
from lrd.config import Config, Eval
from lrd.implement import implement
from lrd.masks import key
from lrd.optim import LRDropout, refusal
from lrd.regularizers import Regularizer
from lrd.schedules import Schedule
from lrd.task import Dataset, Setup, Task
from lrd.train import Trainer

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


def parts(
    config: Config, recorded: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """What a Trainer is made of, checked and instantiated, and how it computes; reads no data.

    ``recorded`` is the record of an unfinished run that goes on: its choices are repeated.

    Raises ValueError, in one line, for whatever a user may have got wrong.
    """
    device, matmul = machine.prepare(config, recorded)
    precision = machine.precision(config.train.precision, device)
    setup = Setup(
        config.seed,
        device,
        config.train.batch_size,
        config.eval.batch_size,
        config.data.root,
        config.data.download,
        machine.workers(config.data.workers, device),
        config.eval.mode,
        config.eval.final_mode,
        tuple(config.eval.scales),
    )
    allow, quick = config.run.allow, config.lrd.implementation != "reference"
    kinds = {g: _kind(g, getattr(config, g), allow, quick) for g in KINDS if g != "regularizer"}
    regularizers = [_kind("regularizer", n, allow)() for n in config.regularizer.values()]
    schedule = kinds["schedule"]()
    task = kinds["task"](setup, kinds["dataset"](setup), kinds["model"])
    _check_eval(config.eval, task)
    torch.default_generator.manual_seed(key("init", config.seed))
    model = task.model()
    for regularizer in regularizers:
        regularizer.on_model(model)
    model = model.to(device)
    if config.train.channels_last:
        model.register_forward_pre_hook(_channels_last)
    optimizer = _wrap(kinds["optim"](task.param_groups(model)), config)
    if config.train.compile:
        kernels.hush()
        compile_forward(model)
    built = dict(
        task=task,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        regularizers=regularizers,
        device=device,
        seed=config.seed,
        epochs=config.train.epochs,
        max_steps=config.train.max_steps,
        eval_every=config.eval.every,
        pictures_every=config.eval.pictures_every,
        bf16=precision == "bf16",
        batch_size=config.train.batch_size,
        compiled=config.train.compile,
        cuda_graph=config.train.cuda_graph,
    )
    return built, {"precision": precision, "matmul": matmul}


def trainer(
    config: Config,
    built: dict[str, Any],
    recorded: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Trainer, str]:
    """The Trainer of :func:`parts`, its data read, and the implementation of its steps."""
    made = Trainer(**built)
    if about := made.task.describe():
        say(about)
    before = (recorded or {}).get("implementation")
    return made, implement(made.optimizer, config.lrd.implementation, before, made.steps, say)


def compile_forward(model: nn.Module, **settings: Any) -> None:
    """torch.compile ``model``'s forward as a whole; ``settings`` are torch.compile's.

    Through a function of our own: ``model.compile()`` in torch 2.11 leaves a network alone, or
    breaks it into pieces, whose outermost code is torch's (an nn.Sequential).
    """
    forward = model.forward

    def whole(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    model.forward = torch.compile(whole, **settings)


def _channels_last(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Images to channels last, which the layers behind keep. The weights stay row-major, as the
    masks count them; a convolution brings them along."""
    return tuple(
        x.contiguous(memory_format=torch.channels_last)
        if isinstance(x, Tensor) and x.dim() == 4
        else x
        for x in inputs
    )


def _kind(
    group: str, node: dict[str, Any], allow: list[str], quick: bool = True
) -> Callable[..., Any]:
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
    if group == "optim" and quick:
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
        inspect.signature(found).bind(*args, **kwargs, **settings)
    except TypeError as error:
        raise ValueError(f"{group} must fit the task, got {found.__name__}: {error}") from error
    try:
        made = found(*args, **kwargs, **settings)
    except (TypeError, ValueError, LookupError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if reason.startswith(group) or re.match(r"[a-z_]+(\.[a-z_]+)? must ", reason):
            raise
        given = ", ".join(f"{k}={v}" for k, v in settings.items())
        raise ValueError(f"{group}: {found.__name__}({given}): {reason}") from error
    return made


def _check_eval(settings: Eval, task: Task) -> None:
    """Refuse ways to evaluate that the task does not have."""
    modes, of = task.eval_modes, type(task).__name__
    asked = {
        "eval.mode": settings.mode,
        "eval.final_mode": settings.final_mode,
        "eval.scales": None if settings.scales == [1.0] else settings.scales,
    }
    for name, value in asked.items():
        if value is not None and not modes:
            raise ValueError(f"{name} must be left out, {of} evaluates in one way; got {value}")
        if name != "eval.scales" and value not in (None, *modes):
            raise ValueError(f"{name} must be one of {', '.join(modes)}, got {value}")


def _wrap(base: Optimizer, config: Config) -> LRDropout:
    closure = inspect.signature(type(base).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(
            f"optim._target_ must step without a closure in this loop, got {type(base).__name__}: "
            "LRDropout around it works in a loop of your own"
        )
    if (why := refusal(config.lrd.implementation, base)) is not None:
        raise ValueError(f"lrd.{why}")
    for group in base.param_groups:
        group["lr"] *= group.pop("lr_factor", 1)
    try:
        return LRDropout(base, config.lrd.p, config.seed)
    except ValueError as error:
        raise ValueError(f"optim: {error}") from error
