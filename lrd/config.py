"""The closed settings and their rules.

Open sets (task, dataset, model, optim, schedule, regularizer) are plain YAML with a ``_target_``;
what is listed here is closed: an unknown key, a wrong type or a value outside its rule is one
line. Imports no torch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore


def rule(setting: str, value: Any, holds: bool, must: str) -> None:
    if not holds:
        raise ValueError(f"{setting} must be {must}, got {value}")


def one_of(setting: str, value: Any, options: Sequence[str]) -> None:
    rule(setting, value, value in options, "one of " + ", ".join(options))


def apart(default: Any = None, factory: Any = None) -> Any:
    """A setting that is no part of a run's identity: it does not change what is computed."""
    if factory is not None:
        return field(default_factory=factory, metadata={"identity": False})
    return field(default=default, metadata={"identity": False})


@dataclass
class LRD:
    """The paper's by default; granularity, rescale, schedule and p_end go beyond it."""

    p: float = 0.5
    granularity: str = "element"
    rescale: bool = False
    schedule: str = "constant"
    p_end: float = 1.0
    implementation: str = apart("auto")

    def __post_init__(self) -> None:
        rule("lrd.p", self.p, 0 < self.p <= 1, "in (0, 1] (the probability to KEEP an update)")
        one_of("lrd.granularity", self.granularity, ["element", "row", "tensor"])
        one_of("lrd.schedule", self.schedule, ["constant", "linear", "cosine"])
        must = "in (0, 1] (the p after the last step)"
        rule("lrd.p_end", self.p_end, 0 < self.p_end <= 1, must)
        stays = self.schedule != "constant" or self.p_end == 1
        must = "left out under lrd.schedule=constant (choose linear or cosine)"
        rule("lrd.p_end", self.p_end, stays, must)
        options = ["auto", "single_pass", "generic", "reference"]
        one_of("lrd.implementation", self.implementation, options)


@dataclass
class Train:
    """``sync_batchnorm``: among several GPUs, batch norm over the whole batch and not a rank's
    share."""

    epochs: int = 100
    batch_size: int = 128
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    max_steps: int | None = None
    cuda_graph: bool = apart(False)
    sync_batchnorm: bool = apart(True)
    device: str = apart("auto")
    threads: int | None = apart(None)
    checkpoint_every: int = apart(1)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "checkpoint_every"):
            rule(f"train.{name}", getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("max_steps", "threads"):
            value = getattr(self, name)
            rule(f"train.{name}", value, value is None or value >= 1, "at least 1, or null")
        one_of("train.precision", self.precision, ["fp32", "tf32", "bf16", "fast"])
        one_of("train.device", self.device, ["auto", "cpu", "cuda"])


@dataclass
class Eval:
    """What the modes are is the task's affair; ``scales`` are those of the final evaluation."""

    every: int = 1
    mode: str | None = None
    final_mode: str | None = None
    scales: list[float] = field(default_factory=lambda: [1.0])
    batch_size: int = apart(1000)
    pictures_every: int = apart(10)

    def __post_init__(self) -> None:
        for name in ("every", "batch_size"):
            rule(f"eval.{name}", getattr(self, name), getattr(self, name) >= 1, "at least 1")
        rule("eval.pictures_every", self.pictures_every, self.pictures_every >= 0, "at least 0")
        good = len(self.scales) > 0 and all(s > 0 for s in self.scales)
        rule("eval.scales", self.scales, good, "a list of numbers above 0, such as [0.5,1,1.5]")


@dataclass
class Data:
    root: str = apart("data")
    download: bool = apart(False)
    workers: int | None = apart(None)

    def __post_init__(self) -> None:
        sound = self.workers is None or self.workers >= 0
        rule("data.workers", self.workers, sound, "at least 0, or null (by the device)")


@dataclass
class RunFolder:
    dir: str = apart("runs")
    name: str = apart("run")
    force: bool = apart(False)
    allow: list[str] = apart(factory=list)

    def __post_init__(self) -> None:
        safe = re.fullmatch(r"\w[\w.-]*", self.name, re.ASCII) is not None
        rule("run.name", self.name, safe, "letters, digits, '_', '-' and '.'")


@dataclass
class Wandb:
    mode: str = apart("disabled")
    project: str = apart("learning-rate-dropout")
    entity: str | None = apart(None)
    group: str | None = apart(None)
    tags: list[str] = apart(factory=list)

    def __post_init__(self) -> None:
        one_of("wandb.mode", self.mode, ["disabled", "offline", "online"])


@dataclass
class Cluster:
    """Where the cells of ``+cluster=slurm`` and ``+cluster=local`` run; else it is not read.

    ``timeout_min`` and ``mem_gb`` are of one job, which is queued anew when its time is over;
    ``jobs`` are the cells that ``local`` runs at once, by default one a core.
    """

    partition: str | None = apart(None)
    qos: str | None = apart(None)
    account: str | None = apart(None)
    gpus_per_node: int | None = apart(None)
    cpus_per_task: int = apart(1)
    mem_gb: int | None = apart(None)
    timeout_min: int = apart(240)
    array_parallelism: int = apart(256)
    jobs: int | None = apart(None)

    def __post_init__(self) -> None:
        for name in ("cpus_per_task", "timeout_min", "array_parallelism"):
            rule(f"cluster.{name}", getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("gpus_per_node", "mem_gb", "jobs"):
            value = getattr(self, name)
            rule(f"cluster.{name}", value, value is None or value >= 1, "at least 1, or null")
        for name in ("partition", "qos", "account"):
            value = getattr(self, name)
            good = value is None or re.fullmatch(r"[^\s,]+(,[^\s,]+)*", value) is not None
            rule(f"cluster.{name}", value, good, "a name of the cluster's, or null")


@dataclass
class Config:
    """A whole configuration; the open nodes are plain dictionaries."""

    seed: int = apart(0)
    scale: float = apart(1.0)
    lr_factor: float = apart(1.0)
    lrd: LRD = field(default_factory=LRD)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    data: Data = field(default_factory=Data)
    run: RunFolder = field(default_factory=RunFolder)
    wandb: Wandb = field(default_factory=Wandb)
    cluster: Cluster = field(default_factory=Cluster)
    task: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    regularizer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rule("seed", self.seed, 0 <= self.seed < 2**63, "in [0, 2**63)")
        rule("scale", self.scale, self.scale > 0, "above 0")
        rule("lr_factor", self.lr_factor, self.lr_factor > 0, "above 0")


ConfigStore.instance().store("schema", Config)
