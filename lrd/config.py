"""The closed settings and their rules, and the composition of a configuration.

Open sets (task, dataset, model, optim, schedule, regularizer) are plain YAML with a ``_target_``;
what is listed here is closed: an unknown key, a wrong type or a value outside its rule is one
line. Imports no torch.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


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
    p: float = 0.5
    implementation: str = apart("auto")

    def __post_init__(self) -> None:
        rule("lrd.p", self.p, 0 < self.p <= 1, "in (0, 1] (the probability to KEEP an update)")
        options = ["auto", "single_pass", "generic", "reference"]
        one_of("lrd.implementation", self.implementation, options)


@dataclass
class Train:
    epochs: int = 100
    batch_size: int = 128
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    max_steps: int | None = None
    cuda_graph: bool = apart(False)
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
class Config:
    """A whole configuration; the open nodes are plain dictionaries."""

    seed: int = apart(0)
    scale: float = apart(1.0)
    lrd: LRD = field(default_factory=LRD)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    data: Data = field(default_factory=Data)
    run: RunFolder = field(default_factory=RunFolder)
    wandb: Wandb = field(default_factory=Wandb)
    task: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    regularizer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rule("seed", self.seed, 0 <= self.seed < 2**63, "in [0, 2**63)")
        rule("scale", self.scale, self.scale > 0, "above 0")


ConfigStore.instance().store("schema", Config)


def read(cfg: DictConfig) -> Config:
    """Check a composed configuration and resolve it; ``scale`` is multiplied into the epochs.

    Raises ValueError, in one line, for an unknown key, a wrong type or a broken rule.
    """
    try:
        _refuse_unknown(cfg, Config, "")
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ValueError(explain(error)) from error
    assert isinstance(config, Config)
    config.train.epochs = max(1, round(config.train.epochs * config.scale))
    return config


def _refuse_unknown(cfg: DictConfig | ListConfig, schema: type, prefix: str) -> None:
    known = {f.name: f.type for f in fields(schema)}
    for name in cfg:
        if name not in known:
            raise ValueError(_unknown(f"{prefix}{name}"))
        if is_dataclass(kind := known[str(name)]):
            _refuse_unknown(cfg[name], kind, f"{prefix}{name}.")  # type: ignore[arg-type]


def compose(overrides: Sequence[str]) -> DictConfig:
    """The configuration of ``python run.py OVERRIDES``. Raises ValueError in one line."""
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return hydra.compose("config", overrides=list(overrides))
    except Exception as error:
        raise ValueError(explain(error)) from error


def explain(error: BaseException) -> str:
    """What Hydra or OmegaConf has to say, on one line and in the terms of the command line."""
    text = str(error)
    if choice := re.search(r"Could not find '([^']*)/([^'/]*)'", text):
        group, name = choice.groups()
        listed = re.search(r"Available options in '[^']*':\n((?:\t.*\n?)+)", text)
        options = ", ".join(listed[1].split()) if listed else "none"
        return f"{group}={name} is no choice of {group}; there are: {options}"
    if setting := re.search(r"Could not override '([^']*)'", text):
        return _unknown(setting[1])
    if override := re.match(r"Error merging override (.*)", text):
        why = str(error.__cause__).splitlines()[0] if error.__cause__ else "it does not fit"
        return f"{override[1]}: {why}"
    if isinstance(error, OverrideParseException):
        lines = [line for line in text.splitlines() if not line.startswith("See http")]
        return f"cannot read {error.override!r} as KEY=VALUE: {lines[-1]}"
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key or 'configuration'}: {text.splitlines()[0]}"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _unknown(setting: str) -> str:
    """The line for a setting that does not exist, with what does."""
    group, _, name = setting.rpartition(".")
    schema: Any = Config
    for part in filter(None, group.split(".")):
        schema = (
            {f.name: f.type for f in fields(schema)}.get(part) if is_dataclass(schema) else None
        )
    if not is_dataclass(schema):
        return f"{setting} is no setting here; python run.py --cfg job shows those that are"
    known = [f"{group}.{f.name}".lstrip(".") for f in fields(schema)]
    near = difflib.get_close_matches(setting, known, 1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"{setting} is no setting{hint} There are: {', '.join(known)}"
