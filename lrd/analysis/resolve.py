"""From overrides to configurations and fingerprints, and from an experiment to its jobs.

A page asks for several hundred configurations that differ in few groups. So the groups of a command
line are composed once, and its values are set in a copy: Hydra applies values after all groups too.
A value that others may depend on, or that has to be converted, is left to Hydra.
"""

import pickle
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, partial
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from lrd.config.compose import (
    CONFIGS,
    check_config,
    compose,
    composer,
    config_dirs,
    format_error,
    require_checkout,
    settle_config,
    to_config,
)
from lrd.config.composer import Composer
from lrd.config.fingerprint import fingerprint, identity
from lrd.config.parallel import run_jobs
from lrd.config.schema import Config, WandbSettings

WORTH_A_PROCESS = 8  # compositions, from which a second process is
REFERENCE = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")
ENVIRONMENT = re.compile(r"\$\{oc\.env:[^${}]*\}")
NUMBERS = {f.name for f in fields(Config) if f.type in (int, float)}  # settings without a group


@dataclass(frozen=True)
class CellSpec:
    """One configuration: the overrides that compose it, and the value that was published of it."""

    experiment: str
    overrides: tuple[str, ...]
    published: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Resolved:
    """A checked configuration with what distinguishes its numbers."""

    config: Config
    identity: dict[str, Any]
    fingerprint: str


@dataclass(frozen=True)
class _Base:
    """What a choice of groups makes: the checked ``config``, pickled, the settings to which others
    refer, and what its files say to Hydra to sweep."""

    config: bytes
    references: frozenset[str]
    sweep: dict[str, str]


_bases: dict[tuple[Composer, tuple[str, ...]], _Base | None] = {}
_resolved: dict[tuple[Composer, tuple[str, ...]], Resolved] = {}


def resolve(overrides: Sequence[str]) -> Resolved:
    """Return what ``python run.py OVERRIDES`` would run. Raises ValueError in one line."""
    key = composer(), tuple(overrides)
    if key not in _resolved:
        config = _with_values(overrides) or to_config(compose(overrides))
        found = identity(config)
        _resolved[key] = Resolved(config, found, fingerprint(found))
    return _resolved[key]


def split_wandb_settings(
    overrides: Sequence[str], are_used: bool = True
) -> tuple[WandbSettings, list[str]]:
    """Return ``wandb.*`` as run.py resolves it, and the other overrides.

    Args:
        overrides: those of a command line.
        are_used: the settings are; else they are checked alone.

    Raises:
        ValueError: in one line, for a wrong setting.
    """
    ours = [override for override in overrides if override.startswith("wandb.")]
    rest = [override for override in overrides if override not in ours]
    return (resolve(ours).config.wandb if ours or are_used else WandbSettings()), rest


def resolve_cell(cell: CellSpec, overrides: Sequence[str] = ()) -> Resolved:
    """Return the configuration of a cell under further overrides."""
    return resolve(_command_line(cell, overrides))


def resolve_cells(
    requests: Iterable[tuple[CellSpec, Sequence[str]]],
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Compose many cells on all cores, for :func:`resolve_cell` to be fast. What is wrong with one
    is left to it. ``meanwhile`` runs in this process, where there is something to compose."""
    asked: dict[tuple[str, ...], None] = {}
    for cell, overrides in requests:
        asked |= {_groups_of(_command_line(cell, overrides)): None}
        asked |= {(f"+experiment={cell.experiment}",): None}  # for sweep_parameters
    new = [groups for groups in asked if (composer(), groups) not in _bases]
    if len(new) >= WORTH_A_PROCESS:
        made = run_jobs([partial(_compose_groups, groups) for groups in new], meanwhile)
        _bases.update(zip(((composer(), groups) for groups in new), made, strict=True))


def _command_line(cell: CellSpec, overrides: Sequence[str]) -> tuple[str, ...]:
    return (f"+experiment={cell.experiment}", *cell.overrides, *overrides)


def _with_values(overrides: Sequence[str]) -> Config | None:
    """Return what the groups make, with the values set in a copy; None where that may be something
    else than what ``compose`` returns, or where it raises."""
    if (base := _base_of(_groups_of(overrides))) is None:
        return None
    config: Config = pickle.loads(base.config)
    try:
        for override in map(_parse, filter(_is_value, overrides)):
            name = override.key_or_group
            if any(_overlap(name, other) for other in base.references):
                return None
            _set_value(config, name, override.value())
        for node in (*vars(config).values(), config):
            if is_dataclass(node):
                node.__post_init__()  # type: ignore[attr-defined] -- its rules
        return settle_config(config)
    except Exception:
        return None


def _base_of(groups: tuple[str, ...]) -> _Base | None:
    key = composer(), groups
    if key not in _bases:
        _bases[key] = _compose_groups(groups)
    return _bases[key]


def _compose_groups(groups: tuple[str, ...]) -> _Base | None:
    """Return what a choice of groups makes; None if it is wrong or incomplete, or if it refers to
    settings in other ways than by their names."""
    try:
        composed, launch = composer().compose(groups)
        references = frozenset(_references(OmegaConf.to_container(composed)))
        return _Base(pickle.dumps(check_config(composed)), references, _sweep_of(launch))
    except Exception:
        return None


def _references(node: Any) -> Iterator[str]:
    """Yield the settings that interpolations name. Raises ValueError where one has another form."""
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _references(value)
    elif isinstance(node, str) and "${" in node:
        text = ENVIRONMENT.sub("", node)
        yield from REFERENCE.findall(text)
        if "${" in REFERENCE.sub("", text):
            raise ValueError(node)


def _overlap(name: str, other: str) -> bool:
    """Return whether one setting is the other or holds it."""
    return f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.")


@cache
def _parse(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


def _set_value(config: Config, name: str, value: Any) -> None:
    """Set what has a value already. Raises TypeError or LookupError where OmegaConf would convert
    the value, add it or reject it."""
    if not isinstance(value, int | float | str | None) or "${" in str(value) or value == "???":
        raise TypeError(value)
    *path, last = name.split(".")
    node: Any = config
    for part in path:
        node = node[part] if isinstance(node, dict) else getattr(node, part)
    if isinstance(node, dict):
        if isinstance(node[last], dict | list):
            raise TypeError(value)
        node[last] = value
        return
    (kind,) = (f.type for f in fields(node) if f.name == last)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise TypeError(value)
    setattr(node, last, value)


def _groups_of(overrides: Iterable[str]) -> tuple[str, ...]:
    return tuple(o for o in overrides if not _is_value(o))


def _is_value(override: str) -> bool:
    name = override.partition("=")[0]
    return ("." in name or name in NUMBERS) and not set("+~/@") & set(name)


def setting_name(override: str) -> str:
    """Return the setting that an override names: ``arm`` for ``+arm=lrd``."""
    return override.partition("=")[0].lstrip("+~")


def sweep_parameters(experiment: str) -> dict[str, str]:
    """Return what an experiment sweeps, as on the command line. Raises ValueError if unknown."""
    groups = (f"+experiment={experiment}",)
    if base := _base_of(groups):
        return base.sweep
    require_checkout()
    try:
        return _sweep_of(composer().compose(groups)[1])
    except Exception as error:
        raise ValueError(format_error(error)) from error


def _sweep_of(launch: dict[str, Any]) -> dict[str, str]:
    params = OmegaConf.select(OmegaConf.create(launch), "sweeper.params") or {}
    return {str(name): str(text) for name, text in params.items()}


def sweep_values(name: str, text: str) -> list[str]:
    """Return the values of a sweep in Hydra's grammar: ``0,1,2`` or ``range(0,10)``."""
    return list(_sweep_values(name, text, composer()))


@cache
def _sweep_values(name: str, text: str, using: Composer) -> tuple[str, ...]:
    """``using``: the options, of which ``glob(*)`` are values."""
    with _configs() as parser:
        (override,) = parser.parse_overrides([f"{name}={text}"])
    return tuple(override.sweep_string_iterator()) if override.is_sweep_override() else (text,)


def config_option() -> list[str]:
    """Return the option of a command that has the directory of options that is in use."""
    return [f"--config-dir={folder}" for folder in config_dirs()[:-1]]


def run_line(words: Sequence[str]) -> str:
    """Return the command that runs a sweep."""
    return shlex.join(["python", "run.py", *config_option(), "-m", *words])


def expand_sweep(experiment: str, overrides: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Return the overrides of every job of ``run.py -m +experiment=EXPERIMENT OVERRIDES``, in
    order. A sweep of ``overrides`` replaces the experiment's sweep of the same setting."""
    params = [f"{name}={text}" for name, text in sweep_parameters(experiment).items()]
    with _configs() as parser:
        parsed = parser.parse_overrides([*params, f"+experiment={experiment}", *overrides])
        (batch,) = BasicSweeper.split_arguments(parsed, None)
    return [tuple(job) for job in batch]


def requested_seeds(experiment: str, overrides: Sequence[str]) -> tuple[int, ...]:
    """Return the seeds of the overrides, else the experiment's, else 0 to 9."""
    asked = seeds_of(overrides)
    if asked is None:
        asked = seeds_of([f"seed={sweep_parameters(experiment).get('seed', 'range(0,10)')}"])
    assert asked is not None
    return asked


def seeds_of(overrides: Sequence[str]) -> tuple[int, ...] | None:
    """Return the seeds that overrides ask for; None if they ask for none."""
    asked = [o.partition("=")[2] for o in overrides if setting_name(o) == "seed"]
    if not asked:
        return None
    return tuple(dict.fromkeys(_integer(seed) for seed in sweep_values("seed", asked[-1])))


def swept_settings(
    experiment: str, arms: Sequence[str], overrides: Sequence[str]
) -> dict[str, list[str]]:
    """Return what is swept besides the arms' settings and the seed: by ``overrides``, and by the
    experiment where they say nothing else."""
    given = {setting_name(o): o.partition("=") for o in overrides}
    own = {"seed"} | {setting_name(word) for arm in arms for word in shlex.split(arm)}
    swept = sweep_parameters(experiment)
    sweep = {name: text for name, text in swept.items() if setting_name(name) not in given}
    sweep |= {n: text for n, _, text in given.values() if len(sweep_values(n, text)) > 1}
    return {n: sweep_values(n, text) for n, text in sweep.items() if setting_name(n) not in own}


def _integer(seed: str) -> int:
    try:
        return int(seed)
    except ValueError:
        raise ValueError(f"seed must be whole numbers, got {seed}") from None


def list_experiments() -> list[str]:
    """Return the experiments of ``configs/`` and of the user's directory."""
    require_checkout()
    files = (path for folder in config_dirs() for path in folder.glob("experiment/*.yaml"))
    return sorted({path.stem for path in files})


@contextmanager
def _configs() -> Iterator[OverridesParser]:
    """Open the configurations for Hydra, with a parser of its grammar; an error becomes a
    ValueError in one line."""
    require_checkout()
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            yield OverridesParser.create(GlobalHydra.instance().config_loader())
    except Exception as error:
        raise ValueError(format_error(error)) from error
