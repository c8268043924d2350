"""From a command line to checked settings, and what Hydra has to say of it in one line.

Imports no torch.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrd.config.schema import Config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def to_config(cfg: DictConfig) -> Config:
    """Check a composed configuration and resolve it; ``scale`` is multiplied into the epochs and
    ``lr_factor`` into the optimizer's rate.

    Raises ValueError, in one line, for an unknown key, a wrong type or a broken rule.
    """
    try:
        _refuse_unknown(cfg, Config, "")
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ValueError(format_error(error)) from error
    assert isinstance(config, Config)
    config.train.epochs = max(1, round(config.train.epochs * config.scale))
    if config.lr_factor != 1:
        rate = config.optim.get("lr")
        if not isinstance(rate, int | float):
            raise ValueError(f"lr_factor must have an optim.lr to multiply, got optim.lr={rate}")
        config.optim["lr"] = rate * config.lr_factor
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
        raise ValueError(format_error(error)) from error


def format_error(error: BaseException) -> str:
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
