"""From a checked configuration to objects; the only place that instantiates."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrd import kernels, machine
from lrd.checks import refusal
from lrd.config import Config, Eval
from lrd.implement import implement
from lrd.kinds import KINDS, kind_of
from lrd.masks import key
from lrd.optim import LRDropout
from lrd.ranks import ALONE, Ranks
from lrd.regularizers import Regularizer
from lrd.schedules import KeepProbability
from lrd.task import Setup, Task
from lrd.train import Trainer


def parts(
    config: Config, recorded: dict[str, Any] | None = None, ranks: Ranks = ALONE
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
    kinds = {g: kind_of(g, getattr(config, g), allow, quick) for g in KINDS if g != "regularizer"}
    regularizers = _regularizers(config)
    schedule = kinds["schedule"]()
    task = kinds["task"](setup, kinds["dataset"](setup), kinds["model"])
    _check_eval(config.eval, task)
    torch.default_generator.manual_seed(key("init", config.seed))
    model = task.model()
    if config.train.sync_batchnorm:
        model = ranks.synchronise(model, device)
    for regularizer in regularizers:
        regularizer.on_model(model, task)
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
        keep=KeepProbability(config.lrd.p, config.lrd.p_end, config.lrd.schedule),
        eval_every=config.eval.every,
        pictures_every=config.eval.pictures_every,
        bf16=precision == "bf16",
        batch_size=config.train.batch_size,
        compiled=config.train.compile,
        cuda_graph=config.train.cuda_graph and not ranks.several,
        ranks=ranks,
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
    lrd = config.lrd
    least = lrd.p if lrd.schedule == "constant" else min(lrd.p, lrd.p_end)
    how = implement(made.optimizer, lrd.implementation, before, made.steps, say, least)
    return made, how


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


def _regularizers(config: Config) -> list[Regularizer]:
    """In the fingerprint's order: some do not commute. Two of one class would draw the same."""
    made: dict[type, tuple[str, Regularizer]] = {}
    for name, node in sorted(config.regularizer.items()):
        one = kind_of("regularizer", node, config.run.allow)(seed=config.seed)
        if type(one) in made:
            raise ValueError(
                f"regularizer.{name} must be of another class than regularizer."
                f"{made[type(one)][0]}, whose random stream it would share, got "
                f"{type(one).__name__}"
            )
        made[type(one)] = name, one
    return [one for _, one in made.values()]


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
    lrd = config.lrd
    if (why := refusal(lrd.implementation, base, lrd.granularity)) is not None:
        raise ValueError(f"lrd.{why}")
    for group in base.param_groups:
        group["lr"] *= group.pop("lr_factor", 1)
    try:
        return LRDropout(base, lrd.p, config.seed, granularity=lrd.granularity, rescale=lrd.rescale)
    except ValueError as error:
        raise ValueError(f"optim: {error}") from error
