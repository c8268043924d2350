"""Compose and check a configuration. Imports no torch."""

import logging
import os
import re
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, get_origin

import hydra
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrd.config.composer import Composer
from lrd.config.messages import (
    CONFIGS,
    GROUP_MEANINGS,
    OWN_CLASS,
    closed_settings,
    format_error,
    none_chosen,
    open_settings,
    unknown_setting,
)
from lrd.config.schema import Config
from lrd.config.signatures import ANY, arguments_of

log = logging.getLogger(__name__)


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
    that states no weight decay takes the task's, ``train.weight_decay``, if its class has one. A
    ``~/`` at the start of any text is the home directory.

    Raises:
        ValueError: an unknown key, a wrong type or a broken rule, in one line.
    """
    return settle_config(check_config(cfg))


def check_config(cfg: DictConfig) -> Config:
    """Return a composed configuration with its interpolations resolved. Raises ValueError, in one
    line, for an unknown key, a wrong type or a broken rule."""
    try:
        _reject_unknown(cfg, Config, "", partial(_settings_of, cfg))
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ValueError(format_error(error)) from error
    assert isinstance(config, Config)
    return config


def settle_config(config: Config) -> Config:
    """Do to a checked configuration, in place, what :func:`to_config` does besides."""
    for group in OWN_CLASS:
        if not getattr(config, group):
            raise ValueError(none_chosen(group))
        _drop_settings_of_another_class(group, getattr(config, group))
    _expand_home(config)
    config.train.epochs = max(1, round(config.train.epochs * config.scale))
    _settle_weight_decay(config.optim, config.train.weight_decay)
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


def _reject_unknown(
    cfg: DictConfig, schema: type, prefix: str, known: Callable[[], Sequence[str]]
) -> None:
    types = {f.name: f.type for f in fields(schema)}
    for name in cfg:
        if name not in types:
            raise ValueError(unknown_setting(f"{prefix}{name}", known()))
        if is_dataclass(kind := types[str(name)]):
            _reject_unknown(cfg[name], kind, f"{prefix}{name}.", known)  # type: ignore[arg-type]
        elif get_origin(kind) is list and not isinstance(cfg[name], ListConfig):
            # OmegaConf does not check where an interpolation leads
            raise ValueError(f"{prefix}{name} must be a list in brackets, got {cfg[name]}")


def _settings_of(cfg: DictConfig) -> list[str]:
    """Return the names of all settings of a composed configuration."""
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    groups = {f.name: plain.get(f.name) for f in fields(Config) if not is_dataclass(f.type)}
    names = (open_settings(g, node) for g, node in groups.items() if isinstance(node, dict))
    return [*closed_settings(), *chain.from_iterable(names)]


def _drop_settings_of_another_class(group: str, node: dict[str, Any]) -> None:
    """Remove what a file of the group sets for its own class, where the command line names another
    class, which no file has, and that does not take it: it changes nothing that is computed."""
    target = node.get("_target_")
    files = _files_of(group)
    if not isinstance(target, str) or any(file["_target_"] == target for file in files):
        return
    taken = arguments_of(target)
    if taken is None:
        return
    for name in node.keys() - taken - {"_target_"}:
        if any(name in file and file[name] == node[name] for file in files):
            found, value = target.rpartition(".")[2], node.pop(name)
            _note(f"{found} takes no {name}, {group}.{name}={value} is left out")


def _settle_weight_decay(optim: dict[str, Any], decay: float) -> None:
    """Give an optimizer that states no weight decay the task's, if its class takes one."""
    target = str(optim.get("_target_"))
    taken = arguments_of(target)
    if taken is None or taken & {"weight_decay", ANY}:
        optim |= {"weight_decay": decay} if decay and "weight_decay" not in optim else {}
    elif optim.get("weight_decay", decay) == decay:
        optim.pop("weight_decay", None)
        if decay:
            _note(f"{target.rpartition('.')[2]} takes no weight decay, {decay:g} is left out")


@cache
def _note(text: str) -> None:
    """Log it once: a sweep resolves a configuration several times."""
    log.info(f"note: {text}")


@cache
def _files_of(group: str) -> list[dict[Any, Any]]:
    """Return the files of a group in ``configs/`` that hold one class."""
    paths = (CONFIGS / group).glob("*.yaml")
    files = [OmegaConf.to_container(OmegaConf.load(path)) for path in paths]
    return [file for file in files if isinstance(file, dict) and "_target_" in file]


def _expand_home(node: Any) -> Any:
    """Replace ``~/`` at the start of every text under ``node``, in place; return the new value."""
    if isinstance(node, str):
        return os.path.expanduser(node) if node.startswith("~/") or node == "~" else node
    if isinstance(node, list):
        node[:] = [_expand_home(value) for value in node]
    elif isinstance(node, dict):
        node.update({name: _expand_home(value) for name, value in node.items()})
    elif is_dataclass(node):
        for field in fields(node):
            setattr(node, field.name, _expand_home(getattr(node, field.name)))
    return node


def compose(overrides: Sequence[str]) -> DictConfig:
    """Return the configuration of ``python run.py OVERRIDES``.

    Raises:
        ValueError: Hydra cannot compose it, in one line.
    """
    require_checkout()
    try:
        return _composer.compose(overrides)[0]
    except Exception:
        pass  # Hydra says what is wrong
    try:
        return load(overrides)
    except Exception as error:
        raise ValueError(explain(error, overrides)) from error


def explain(error: BaseException, overrides: Sequence[str]) -> str:
    """Return the line for an error that Hydra raised for the command line ``overrides``."""
    return format_error(error, overrides, partial(_known_settings, overrides))


def _folder_name(*, _parent_: DictConfig) -> str:
    """Return the last component of the ``path`` beside a setting, as a name of a run."""
    path = "" if OmegaConf.is_missing(_parent_, "path") else str(_parent_.path)
    name = Path(os.path.abspath(os.path.expanduser(path))).name if path else ""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip(".-") or "folder"


OmegaConf.register_new_resolver("lrd.folder_name", _folder_name, replace=True)
_composer = Composer([CONFIGS])  # see use_config_dir


@contextmanager
def use_config_dir(folder: str | Path | None) -> Iterator[None]:
    """Compose with the groups and options of ``folder`` too, as ``run.py --config-dir`` does.

    Raises:
        ValueError: There is no such directory.
    """
    global _composer
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"--config-dir must be a directory, got {folder}")
    own = [] if folder is None else [Path(folder).resolve()]
    before, _composer = _composer, Composer([*own, CONFIGS])
    try:
        yield
    finally:
        _composer = before


def composer() -> Composer:
    """Return what composes from the directories in use."""
    return _composer


def config_dirs() -> tuple[Path, ...]:
    """Return where options are looked for: the user's directory, if one is in use, and ours."""
    return _composer.folders


def load(overrides: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
    """Compose by Hydra, which raises its own errors; :func:`compose` raises one line."""
    words = [*_composer.search_path, *overrides]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose("config", words, return_hydra_config=return_hydra_config)


def _known_settings(overrides: Sequence[str]) -> list[str]:
    """Return the settings that the groups chosen in ``overrides`` have."""
    choices = [o for o in overrides if o.lstrip("+").partition("=")[0] in GROUP_MEANINGS]
    for chosen in (choices, []):
        try:
            return _settings_of(load(chosen))
        except Exception:  # a wrong choice, or a group of --config-dir
            continue
    return closed_settings()
