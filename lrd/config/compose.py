"""Compose and check a configuration, and format Hydra's errors as one line. Imports no torch."""

import difflib
import re
from collections.abc import Container, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrd.config.schema import Config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def require_checkout() -> None:
    """Raises ValueError, in one line, where the package stands alone, as the wheel installs it."""
    if not CONFIGS.is_dir():
        raise ValueError(
            f"experiments need a checkout of the repository, got the package alone in "
            f"{CONFIGS.parent}: clone it and run pip install -e '.[experiments]' there"
        )


def to_config(cfg: DictConfig) -> Config:
    """Check and resolve a composed configuration.

    ``scale`` multiplies the epochs and ``lr_factor`` the optimizer's learning rate. An optimizer
    that states no weight decay takes the task's, ``train.weight_decay``.

    Raises:
        ValueError: an unknown key, a wrong type or a broken rule, in one line.
    """
    try:
        _reject_unknown(cfg, Config, "")
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ValueError(format_error(error)) from error
    assert isinstance(config, Config)
    config.train.epochs = max(1, round(config.train.epochs * config.scale))
    if config.train.weight_decay:
        config.optim.setdefault("weight_decay", config.train.weight_decay)
    if config.lr_factor != 1:
        lr = config.optim.get("lr")
        if not isinstance(lr, int | float):
            raise ValueError(f"lr_factor must have an optim.lr to multiply, got optim.lr={lr}")
        config.optim["lr"] = lr * config.lr_factor
    return config


def restore_config(recorded: dict[str, Any], identity: Container[str]) -> Config:
    """Return the configuration that a run's record holds, checked; nothing is scaled again.

    Settings that this version lacks are left out if they changed no number.

    Args:
        recorded: ``config`` of run.json.
        identity: The names of the settings in the run's identity.

    Raises:
        ValueError: A setting of another version changed the run's numbers, or a rule is broken.
    """
    known = {f.name: f.type for f in fields(Config)}
    kept: dict[str, Any] = {}
    for group, value in recorded.items():
        if not is_dataclass(kind := known.get(group)):
            kept |= {group: value} if group in known else {}
            continue
        unknown = value.keys() - {f.name for f in fields(kind)}
        if void := sorted(name for name in unknown if f"{group}.{name}" in identity):
            raise ValueError(f"the run is of another version: {group}.{void[0]} is unknown here")
        kept[group] = {name: value[name] for name in value.keys() - unknown}
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), kept))
    except OmegaConfBaseException as error:
        raise ValueError(f"the run is of another version: {format_error(error)}") from error
    assert isinstance(config, Config)
    return config


def _reject_unknown(cfg: DictConfig | ListConfig, schema: type, prefix: str) -> None:
    known = {f.name: f.type for f in fields(schema)}
    for name in cfg:
        if name not in known:
            raise ValueError(_unknown_setting(f"{prefix}{name}"))
        if is_dataclass(kind := known[str(name)]):
            _reject_unknown(cfg[name], kind, f"{prefix}{name}.")  # type: ignore[arg-type]


def compose(overrides: Sequence[str]) -> DictConfig:
    """Return the configuration of ``python run.py OVERRIDES``.

    Raises:
        ValueError: Hydra cannot compose it, in one line.
    """
    require_checkout()
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return hydra.compose("config", overrides=list(overrides))
    except Exception as error:
        raise ValueError(format_error(error)) from error


def format_error(error: BaseException) -> str:
    """Format an error of Hydra or OmegaConf as one line in the terms of the command line."""
    text = str(error)
    if choice := re.search(r"Could not find '([^']*)/([^'/]*)'", text):
        group, name = choice.groups()
        listed = re.search(r"Available options in '[^']*':\n((?:\t.*\n?)+)", text)
        options = ", ".join(listed[1].split()) if listed else "none"
        return f"unknown {group} '{name}'; available: {options}"
    if setting := re.search(r"Could not override '([^']*)'", text):
        return _unknown_setting(setting[1])
    if sweep := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return f"{sweep[1]} is a sweep and needs -m (a list needs brackets)"
    if override := re.match(r"Error merging override (.*)", text):
        reason = str(error.__cause__).splitlines()[0] if error.__cause__ else "it does not fit"
        return f"{override[1]}: {reason}"
    if isinstance(error, OverrideParseException):
        lines = [line for line in text.splitlines() if not line.startswith("See http")]
        return f"cannot parse {error.override!r} as KEY=VALUE: {lines[-1]}"
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key or 'configuration'}: {text.splitlines()[0]}"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _unknown_setting(setting: str) -> str:
    """Return the line for an unknown setting, with the closest one or all of its group."""
    group, _, name = setting.rpartition(".")
    schema: Any = Config
    for part in filter(None, group.split(".")):
        schema = (
            {f.name: f.type for f in fields(schema)}.get(part) if is_dataclass(schema) else None
        )
    if not is_dataclass(schema):
        return f"unknown setting {setting}; python run.py --cfg job shows the settings"
    known = [f"{group}.{f.name}".lstrip(".") for f in fields(schema)]
    if near := difflib.get_close_matches(setting, known, 1):
        return f"unknown setting {setting}. Did you mean {near[0]}?"
    return f"unknown setting {setting}; available: {', '.join(known)}"
