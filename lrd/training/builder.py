"""Build a run's objects from a checked configuration; the only module that instantiates."""

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrd.config.schema import Config, Eval
from lrd.loggers.base import Logger
from lrd.optim import LRDropout
from lrd.optim.fused import why_not_fused
from lrd.optim.options import RENAMED
from lrd.regularizers import Regularizer
from lrd.rng import fold_key
from lrd.schedules import PSchedule, Schedule
from lrd.task import Dataset, Problem, Setup, Task
from lrd.training.device import configure_device, default_num_workers, resolve_precision
from lrd.training.distributed import SINGLE_PROCESS, DistributedContext
from lrd.training.instantiate import TorchSchedule, resolve_target
from lrd.training.trainer import Trainer

log = logging.getLogger(__name__)
CPU = torch.device("cpu")
WANDB = {"_target_": "lrd.loggers.wandb.WandbLogger"}


@dataclass
class Components:
    """What a run consists of, instantiated and checked. No data have been read.

    ``precision`` (fp32, tf32, bf16) is what the run computes with.
    """

    task: Task
    model: nn.Module
    optimizer: LRDropout
    schedule: Schedule | TorchSchedule
    p_schedule: PSchedule
    regularizers: list[Regularizer]
    device: torch.device
    precision: str


def build(config: Config, ranks: DistributedContext = SINGLE_PROCESS) -> Components:
    """Check and instantiate everything a run needs; read no data.

    Raises:
        ValueError: A user's mistake, in one line.
    """
    device = configure_device(config)
    fused = config.lrd.implementation != "reference"
    make = {
        group: resolve_target(group, getattr(config, group), config.run.allow, fused)
        for group in ("optim", "schedule")
    }
    resolve_loggers(config)
    regularizers = build_regularizers(config)
    task = build_task(config, device)
    check_eval(config.eval, task)
    if config.train.accumulate > 1 and not task.loss_is_mean:
        raise ValueError(
            f"train.accumulate must be 1 with {type(task).__name__}, whose loss is no mean over "
            f"samples, got {config.train.accumulate}"
        )
    torch.default_generator.manual_seed(fold_key("init", config.seed))
    model = task.model()
    if config.train.sync_batchnorm:
        model = ranks.convert_sync_batchnorm(model, device)
    for regularizer in regularizers:
        regularizer.on_model(model, task)
    model = model.to(device)
    if config.train.channels_last:
        _set_channels_last(model)
    groups = task.param_groups(model)
    if not config.train.decay_norms_and_biases:
        groups = [part for group in groups for part in _without_decay_of_vectors(group)]
    optimizer = _wrap_optimizer(make["optim"](groups), config)
    schedule = make["schedule"]()
    if isinstance(schedule, TorchSchedule):
        schedule.check(optimizer)
    if config.train.compile:
        # torch's CUDA builds warn of a missing GPU at the first compilation.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        torch.compiler.reset()  # its limit of recompilations counts all runs of a process
        compile_forward(model)
    return Components(
        task=task,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        p_schedule=PSchedule(config.lrd.p, config.lrd.p_end, config.lrd.schedule),
        regularizers=regularizers,
        device=device,
        precision=resolve_precision(config.train.precision, device),
    )


def check_components(config: Config) -> None:
    """Look for every class and for the data, without building a network.

    Raises:
        ValueError: A class, a setting of a class, or data are missing.
    """
    for group in ("optim", "schedule"):
        resolve_target(group, getattr(config, group), config.run.allow)
    build_regularizers(config)
    resolve_loggers(config)
    task = build_task(config)
    check_eval(config.eval, task)
    task.manifest()


def check_data(config: Config, counts: Counter[str]) -> Iterator[Problem]:
    """Read all data of a configuration as training does. Yield what is wrong with them, and add
    what was read to ``counts``.

    Raises:
        ValueError: A class or a setting is wrong.
    """
    task, stops = build_task(config), False
    for problem in build_dataset(config).check(counts):
        stops = stops or problem.effect is None
        yield problem
    if stops:
        return
    try:
        task.manifest()
        counts["training steps per epoch"] = task.steps_per_epoch
    except ValueError as error:
        yield Problem(str(error))
    finally:
        task.close()


def build_task(config: Config, device: torch.device = CPU) -> Task:
    """Instantiate the task with its dataset; read no data and build no network."""
    make_task, make_model = (
        resolve_target(group, getattr(config, group), config.run.allow)
        for group in ("task", "model")
    )
    return make_task(_setup(config, device), build_dataset(config, device), make_model)


def resolve_loggers(config: Config) -> dict[str, Callable[..., Logger]]:
    """Return the classes of ``logger=`` by name, with their settings bound: each is called with a
    run's metadata and directory. ``wandb.mode`` alone adds wandb, or leaves it out."""
    nodes = {n: x for n, x in config.logger.items() if x.get("_target_") != WANDB["_target_"]}
    if config.wandb.mode != "disabled":
        nodes["wandb"] = WANDB
    return {
        name: resolve_target("logger", node, config.run.allow, where=f"logger.{name}")
        for name, node in nodes.items()
    }


def build_dataset(config: Config, device: torch.device = CPU) -> Dataset:
    """Instantiate the dataset; read no data."""
    make_dataset = resolve_target("dataset", config.dataset, config.run.allow)
    return make_dataset(_setup(config, device))


def _setup(config: Config, device: torch.device) -> Setup:
    return Setup(
        config.seed,
        device,
        config.train.batch_size,
        config.eval.batch_size,
        config.data.root,
        config.data.download,
        default_num_workers(config.data.workers, device),
        config.eval.mode,
        config.eval.final_mode,
        tuple(config.eval.scales),
        config.eval.base_size,
    )


def build_trainer(
    config: Config,
    parts: Components,
    recorded: dict[str, Any] | None = None,
    ranks: DistributedContext = SINGLE_PROCESS,
) -> tuple[Trainer, str]:
    """Read the data; return the trainer and the implementation of its optimizer steps."""
    trainer = Trainer(
        task=parts.task,
        model=parts.model,
        optimizer=parts.optimizer,
        schedule=parts.schedule,
        regularizers=parts.regularizers,
        device=parts.device,
        seed=config.seed,
        epochs=config.train.epochs,
        max_steps=config.train.max_steps,
        p_schedule=parts.p_schedule,
        eval_every=config.eval.every,
        pictures_every=config.eval.pictures_every,
        log_every=config.log.every_steps,
        bf16=parts.precision == "bf16",
        batch_size=config.train.batch_size,
        compiled=config.train.compile,
        clip_norm=config.train.clip_norm,
        accumulate=config.train.accumulate,
        cuda_graph=config.train.cuda_graph
        and not ranks.is_distributed
        and config.train.accumulate == 1,
        ranks=ranks,
    )
    if about := parts.task.describe():
        log.info(about)
    trainer.require_batches_for_batch_norm()
    return trainer, _choose_implementation(parts, config.lrd.implementation, recorded or {})


def _choose_implementation(parts: Components, requested: str, recorded: dict[str, Any]) -> str:
    """Set how the optimizer steps, and return it for the record: fused, snapshot, reference, or
    base if p is 1 throughout.

    ``auto`` repeats what an unfinished run recorded: a resumed run keeps its rounding.
    """
    optimizer, before = parts.optimizer, recorded.get("implementation")
    choice = RENAMED.get(str(before), before) if requested == "auto" else requested
    if choice not in ("fused", "snapshot", "reference"):
        choice = "fused"
    if why_not_fused(optimizer.base, optimizer.granularity) is not None and choice == "fused":
        choice = "snapshot"
    optimizer.implementation = choice
    groups = optimizer.param_groups
    without = all(group.get("keep_p", parts.p_schedule.smallest) == 1 for group in groups)
    return "base" if without else choice


def compile_forward(model: nn.Module, **settings: Any) -> None:
    """Compile ``model``'s forward as one graph; ``settings`` are torch.compile's.

    ``model.compile()`` does not do it: torch 2.11 leaves a network whose outermost module is
    torch's own (an nn.Sequential) uncompiled, or breaks it into pieces.
    """
    forward = model.forward

    def call(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    model.forward = torch.compile(call, **settings)


def _set_channels_last(model: nn.Module) -> None:
    """Store the filters of convolutions channels-last, and convert the images that ``model`` gets,
    whose order the layers keep. The masks count filters in row-major order all the same."""
    for param in model.parameters():
        if param.dim() == 4:
            param.data = param.data.contiguous(memory_format=torch.channels_last)
    model.register_forward_pre_hook(_images_channels_last)


def _images_channels_last(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        x.contiguous(memory_format=torch.channels_last)
        if isinstance(x, Tensor) and x.dim() == 4
        else x
        for x in inputs
    )


def build_regularizers(config: Config) -> list[Regularizer]:
    """Build them in the order of their names: some do not commute. Two of a class would share a
    random stream, so they are rejected."""
    built: dict[type, tuple[str, Regularizer]] = {}
    for name, node in sorted(config.regularizer.items()):
        if not isinstance(node, dict):
            raise ValueError(f"regularizer.{name} must hold a _target_ and settings, got {node}")
        make = resolve_target("regularizer", node, config.run.allow, where=f"regularizer.{name}")
        regularizer = make(seed=config.seed)
        if type(regularizer) in built:
            raise ValueError(
                f"regularizer.{name} must be of another class than regularizer."
                f"{built[type(regularizer)][0]}, whose random stream it would share, got "
                f"{type(regularizer).__name__}"
            )
        built[type(regularizer)] = name, regularizer
    return [regularizer for _, regularizer in built.values()]


def check_eval(settings: Eval, task: Task) -> None:
    """Reject evaluation modes that the task does not have."""
    modes, name_of_task = task.eval_modes, type(task).__name__
    requested = {
        "eval.mode": settings.mode,
        "eval.final_mode": settings.final_mode,
        "eval.scales": None if settings.scales == [1.0] else settings.scales,
        "eval.base_size": settings.base_size,
    }
    for name, value in requested.items():
        if value is not None and not modes:
            raise ValueError(
                f"{name} must be left out, {name_of_task} evaluates in one way; got {value}"
            )
        if name.endswith("mode") and value not in (None, *modes):
            raise ValueError(f"{name} must be one of {', '.join(modes)}, got {value}")


def _without_decay_of_vectors(group: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a group's parameters of two and more dimensions, and the others, such as those of
    norms and biases, without weight decay."""
    parts: list[list[Tensor]] = [[], []]
    for param in group["params"]:
        parts[param.dim() < 2].append(param)
    settings = ({}, {"weight_decay": 0.0})
    return [{**group, "params": p, **s} for p, s in zip(parts, settings, strict=True) if p]


def _wrap_optimizer(base: Optimizer, config: Config) -> LRDropout:
    closure = inspect.signature(type(base).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(
            f"optim._target_ must step without a closure in this loop, got {type(base).__name__}: "
            "LRDropout around it works in a loop of your own"
        )
    lrd = config.lrd
    if lrd.implementation == "fused" and (why := why_not_fused(base, lrd.granularity)) is not None:
        raise ValueError(f"lrd.implementation=fused: {why}; use snapshot")
    if not config.train.decay_norms_and_biases and "weight_decay" not in base.defaults:
        raise ValueError(
            f"train.decay_norms_and_biases must be true with {type(base).__name__}, which has no "
            "weight decay, got false"
        )
    for group in base.param_groups:
        group["lr"] *= group.pop("lr_factor", 1)
    try:
        return LRDropout(base, lrd.p, config.seed, granularity=lrd.granularity, rescale=lrd.rescale)
    except ValueError as error:
        raise ValueError(f"optim: {error}") from error
