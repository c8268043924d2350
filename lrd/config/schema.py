"""The closed settings and their rules. Imports no torch.

Open sets (task, dataset, model, optim, schedule, regularizer, logger) are plain YAML with a
``_target_``. The settings in this module are closed: an unknown key, a wrong type or a broken rule
is a one-line error.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from lrd.optim.options import GRANULARITIES, IMPLEMENTATIONS, RENAMED, is_keep_probability
from lrd.schedules import RAMPS


def require(setting: str, value: Any, holds: bool, rule: str) -> None:
    """Raise ValueError "``setting`` must be ``rule``, got ``value``" unless ``holds``."""
    if not holds:
        raise ValueError(f"{setting} must be {rule}, got {value}")


def require_one_of(setting: str, value: Any, options: Sequence[str]) -> None:
    require(setting, value, value in options, "one of " + ", ".join(options))


def not_in_fingerprint(default: Any = None, factory: Any = None) -> Any:
    """Declare a setting that does not change what is computed: it is not part of the identity."""
    if factory is not None:
        return field(default_factory=factory, metadata={"identity": False})
    return field(default=default, metadata={"identity": False})


@dataclass
class LRD:
    """Settings of learning rate dropout. The paper has p alone."""

    p: float = 0.5
    granularity: str = "element"
    rescale: bool = False
    schedule: str = "constant"
    p_end: float = 1.0
    implementation: str = not_in_fingerprint("auto")

    def __post_init__(self) -> None:
        rule = "in (0, 1] (the probability to KEEP an update)"
        require("lrd.p", self.p, is_keep_probability(self.p), rule)
        require_one_of("lrd.granularity", self.granularity, GRANULARITIES)
        require_one_of("lrd.schedule", self.schedule, list(RAMPS))
        rule = "in (0, 1] (the p after the last step)"
        require("lrd.p_end", self.p_end, is_keep_probability(self.p_end), rule)
        is_used = self.schedule != "constant" or self.p_end == 1
        rule = "left out under lrd.schedule=constant (choose linear or cosine)"
        require("lrd.p_end", self.p_end, is_used, rule)
        self.implementation = RENAMED.get(self.implementation, self.implementation)
        require_one_of("lrd.implementation", self.implementation, IMPLEMENTATIONS)


@dataclass
class Train:
    """Settings of training.

    ``weight_decay`` is the task's, for optimizers whose own settings state none.
    ``decay_norms_and_biases``: off, it leaves out parameters of fewer than two dimensions.
    ``cudnn_benchmark``: on a GPU, time the algorithms of each convolution and take the fastest, so
    that rounding may differ between two runs; void with ``deterministic``.
    ``sync_batchnorm``: on several GPUs, batch norm over the complete batch, not a rank's shard.
    ``accumulate``: micro-batches in which a step computes its batch's gradient.
    ``clip_norm``: the largest norm of a step's gradient, which is scaled down to it.
    ``checkpoint_minutes`` between two checkpoints; ``checkpoint_every``: also every so many epochs.
    """

    epochs: int = 100
    batch_size: int = 128
    weight_decay: float = not_in_fingerprint(0.0)  # resolved into optim.weight_decay
    decay_norms_and_biases: bool = True
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    max_steps: int | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    cuda_graph: bool = not_in_fingerprint(False)
    cudnn_benchmark: bool = not_in_fingerprint(False)
    sync_batchnorm: bool = not_in_fingerprint(True)
    device: str = not_in_fingerprint("auto")
    threads: int | None = not_in_fingerprint(None)
    checkpoint_minutes: float = not_in_fingerprint(10.0)
    checkpoint_every: int | None = not_in_fingerprint(None)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            require(f"train.{name}", getattr(self, name), getattr(self, name) >= 1, "at least 1")
        decay = self.weight_decay
        require("train.weight_decay", decay, decay >= 0, "at least 0")
        is_even = self.batch_size % self.accumulate == 0
        rule = f"a divisor of train.batch_size={self.batch_size}"
        require("train.accumulate", self.accumulate, is_even, rule)
        clip, minutes = self.clip_norm, self.checkpoint_minutes
        require("train.clip_norm", clip, clip is None or clip > 0, "above 0, or null")
        require("train.checkpoint_minutes", minutes, minutes >= 0, "at least 0")
        for name in ("max_steps", "threads", "checkpoint_every"):
            value = getattr(self, name)
            require(f"train.{name}", value, value is None or value >= 1, "at least 1, or null")
        require_one_of("train.precision", self.precision, ["fp32", "tf32", "bf16", "fast"])
        is_device = re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", self.device) is not None
        require("train.device", self.device, is_device, "auto, cpu, cuda, or a GPU such as cuda:1")


@dataclass
class Eval:
    """Settings of evaluation. The task defines the modes; ``scales`` are of the final one.

    ``base_size``: of the final one too, the longer side in pixels that an image is resized to at
    scale 1; null: its own.
    """

    every: int = not_in_fingerprint(1)
    mode: str | None = not_in_fingerprint(None)
    final_mode: str | None = not_in_fingerprint(None)
    scales: list[float] = not_in_fingerprint(factory=lambda: [1.0])
    base_size: int | None = not_in_fingerprint(None)
    batch_size: int = not_in_fingerprint(1000)
    pictures_every: int = not_in_fingerprint(10)

    def __post_init__(self) -> None:
        for name in ("every", "batch_size"):
            require(f"eval.{name}", getattr(self, name), getattr(self, name) >= 1, "at least 1")
        require("eval.pictures_every", self.pictures_every, self.pictures_every >= 0, "at least 0")
        is_valid = len(self.scales) > 0 and all(s > 0 for s in self.scales)
        rule = "a list of numbers above 0, such as [0.5,1,1.5]"
        require("eval.scales", self.scales, is_valid, rule)
        side = self.base_size
        require("eval.base_size", side, side is None or side >= 1, "at least 1, or null")


@dataclass
class Data:
    """Where the data are and how they are loaded."""

    root: str = not_in_fingerprint("data")
    download: bool = not_in_fingerprint(False)
    workers: int | None = not_in_fingerprint(None)

    def __post_init__(self) -> None:
        is_valid = self.workers is None or self.workers >= 0
        require("data.workers", self.workers, is_valid, "at least 0, or null (by the device)")


@dataclass
class RunDirectory:
    """Where a run is stored. ``allow``: further packages whose classes may be instantiated.

    ``keep``: what a finished run keeps: ``weights`` in last.pt; ``last``: the optimizer's state
    too; ``best``: the weights, and those of the best epoch in best.pt; ``none``: no checkpoint.
    """

    dir: str = not_in_fingerprint("runs")
    name: str = not_in_fingerprint("run")
    force: bool = not_in_fingerprint(False)
    keep: str = not_in_fingerprint("weights")
    allow: list[str] = not_in_fingerprint(factory=list)

    def __post_init__(self) -> None:
        is_safe = re.fullmatch(r"\w[\w.-]*", self.name, re.ASCII) is not None
        require("run.name", self.name, is_safe, "letters, digits, '_', '-' and '.'")
        require_one_of("run.keep", self.keep, ["weights", "last", "best", "none"])
        for name in ("dir", "name"):
            value = getattr(self, name)
            is_short = all(len(part.encode()) <= 255 for part in value.split("/"))
            require(f"run.{name}", value, is_short, "of at most 255 bytes between slashes")


@dataclass
class Log:
    """What is logged within an epoch: loss, gradient norm and learning rate, every so many steps.

    Each such step waits once for the device; null: none.
    """

    every_steps: int | None = not_in_fingerprint(None)

    def __post_init__(self) -> None:
        steps = self.every_steps
        require("log.every_steps", steps, steps is None or steps >= 1, "at least 1, or null")


@dataclass
class WandbSettings:
    """Settings of Weights & Biases."""

    mode: str = not_in_fingerprint("disabled")
    project: str = not_in_fingerprint("learning-rate-dropout")
    entity: str | None = not_in_fingerprint(None)
    group: str | None = not_in_fingerprint(None)
    tags: list[str] = not_in_fingerprint(factory=list)

    def __post_init__(self) -> None:
        require_one_of("wandb.mode", self.mode, ["disabled", "offline", "online"])


@dataclass
class Cluster:
    """Settings of ``+cluster=slurm`` and ``+cluster=local``; not read otherwise.

    ``timeout_min`` and ``mem_gb`` are per job; a job that reaches its time limit is requeued.
    ``ranks_per_cell`` processes train each run of ``slurm`` together, on one node, and each has
    ``cpus_per_task`` cores and, of ``gpus_per_node``, one GPU.
    ``jobs`` is the number of parallel jobs of ``local``, by default one per core; on GPUs at most
    ``cells_per_gpu`` for each, which is also the default.
    """

    partition: str | None = not_in_fingerprint(None)
    qos: str | None = not_in_fingerprint(None)
    account: str | None = not_in_fingerprint(None)
    gpus_per_node: int | None = not_in_fingerprint(None)
    ranks_per_cell: int = not_in_fingerprint(1)
    cpus_per_task: int = not_in_fingerprint(1)
    mem_gb: int | None = not_in_fingerprint(None)
    timeout_min: int = not_in_fingerprint(240)
    array_parallelism: int = not_in_fingerprint(256)
    jobs: int | None = not_in_fingerprint(None)
    cells_per_gpu: int = not_in_fingerprint(1)

    def __post_init__(self) -> None:
        counts = ("ranks_per_cell", "cpus_per_task", "timeout_min", "array_parallelism")
        for name in (*counts, "cells_per_gpu"):
            require(f"cluster.{name}", getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("gpus_per_node", "mem_gb", "jobs"):
            value = getattr(self, name)
            require(f"cluster.{name}", value, value is None or value >= 1, "at least 1, or null")
        ranks, gpus = self.ranks_per_cell, self.gpus_per_node
        rule = f"a multiple of cluster.ranks_per_cell={ranks}, or null"
        require("cluster.gpus_per_node", gpus, gpus is None or gpus % ranks == 0, rule)
        for name in ("partition", "qos", "account"):
            value = getattr(self, name)
            is_valid = value is None or re.fullmatch(r"[^\s,]+(,[^\s,]+)*", value) is not None
            require(f"cluster.{name}", value, is_valid, "a name of the cluster's, or null")


@dataclass
class Config:
    """A complete configuration; the open nodes are plain dictionaries."""

    seed: int = not_in_fingerprint(0)
    scale: float = not_in_fingerprint(1.0)
    lr_factor: float = not_in_fingerprint(1.0)
    lrd: LRD = field(default_factory=LRD)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    data: Data = field(default_factory=Data)
    run: RunDirectory = field(default_factory=RunDirectory)
    log: Log = field(default_factory=Log)
    wandb: WandbSettings = field(default_factory=WandbSettings)
    cluster: Cluster = field(default_factory=Cluster)
    task: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    regularizer: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = not_in_fingerprint(factory=dict)

    def __post_init__(self) -> None:
        require("seed", self.seed, 0 <= self.seed < 2**63, "in [0, 2**63)")
        require("scale", self.scale, self.scale > 0, "above 0")
        require("lr_factor", self.lr_factor, self.lr_factor > 0, "above 0")


ConfigStore.instance().store("schema", Config)
