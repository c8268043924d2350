"""Compose many configurations, with each file read once. Imports no torch.

``hydra.compose`` reads all files each time, half of them Hydra's own. A page of all studies
composes more than 100 configurations. Here Hydra's code still builds the list of files and applies
the overrides, but files are kept as plain dictionaries, which merge fast, and Hydra's own groups,
which say how to launch, are left out. A test compares the results.
"""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import hydra
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import GroupDefault, ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

SCHEMA = "schema"  # the first file of config.yaml: the types of the closed settings


@contextmanager
def _few_interpolation_maps() -> Iterator[None]:
    """Have Hydra make the map of all choices, which takes most of its time, for the lists of files
    that have an interpolation, not for every file."""
    make = defaults_list._create_interpolation_map

    def make_if_needed(overrides: Any, defaults: Any, self_added: bool) -> Any:
        if any(default.is_interpolation() for default in defaults):
            return make(overrides, defaults, self_added)

    defaults_list._create_interpolation_map = make_if_needed
    try:
        yield
    finally:
        defaults_list._create_interpolation_map = make


class _Files(CachingConfigRepository):
    """Files by their path, which choose nothing of Hydra's own groups."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        is_new = f"config_path={config_path}" not in self.cache
        found = super().load_config(config_path)
        if is_new and found and found.defaults_list:
            found.defaults_list = [d for d in found.defaults_list if not _is_hydras(d)]
        return found


def _is_hydras(default: Any) -> bool:
    return isinstance(default, GroupDefault) and str(default.group).lstrip("/").startswith("hydra/")


class Composer:
    """The configurations of directories as they are now: files that change later are not read.

    Args:
        folders: where options are looked for, the first one first; the last one has config.yaml.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._contents: dict[tuple[str | None, str | None], dict[str, Any]] = {}

    @property
    def search_path(self) -> list[str]:
        """The override that has Hydra look in the folders before the last one."""
        paths = [str(folder).replace("'", r"\'") for folder in self.folders[:-1]]
        return [f"hydra.searchpath=['file://{path}']" for path in paths]

    @cached_property
    def _loader(self) -> ConfigLoaderImpl:
        with hydra.initialize_config_dir(str(self.folders[-1]), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
        assert isinstance(loader, ConfigLoaderImpl)
        return loader

    @cached_property
    def _files(self) -> _Files:
        _, files = self._loader._parse_overrides_and_create_caching_repo("config", self.search_path)
        return _Files(files)

    @cached_property
    def _schema(self) -> bytes:
        config = OmegaConf.create()
        config.merge_with(ConfigStore.instance().load(f"{SCHEMA}.yaml").node)
        return pickle.dumps(config)  # faster to copy than by deepcopy

    def compose(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
        """Return a configuration, and what its files say to Hydra, such as what to sweep.

        Raises whatever Hydra raises, of overrides that it cannot compose, that sweep, that are
        Hydra's own, or of files that do not merge as dictionaries do.
        """
        parsed = OverridesParser.create(self._loader).parse_overrides(list(overrides))
        if any(o.is_sweep_override() or o.key_or_group.startswith("hydra") for o in parsed):
            raise ValueError("sweeps, and what is Hydra's own, are for hydra.compose")
        with _few_interpolation_maps():
            found = defaults_list.create_defaults_list(
                self._files, "config", parsed, prepend_hydra=False, skip_missing=False
            )
        schema, *defaults = found.defaults
        if schema.config_path != SCHEMA:
            raise ValueError(f"{schema.config_path} before {SCHEMA} is for hydra.compose")
        content: dict[str, Any] = {}
        for default in defaults:
            _merge(content, self._content(default))
        launch = content.pop("hydra", {})
        config = pickle.loads(self._schema)
        config.merge_with(content)
        OmegaConf.set_struct(config, True)
        ConfigLoaderImpl._apply_overrides_to_config(found.config_overrides, config)
        return config, launch

    def _content(self, default: ResultDefault) -> dict[str, Any]:
        """Return what a file sets. Raises whatever Hydra raises, of values of wrong types."""
        key = default.config_path, default.package
        if key not in self._contents:
            loaded = self._loader._load_single_config(default, self._files).config
            content: Any = OmegaConf.to_container(loaded)
            config = {name: value for name, value in content.items() if name != "hydra"}
            pickle.loads(self._schema).merge_with(config)
            self._contents[key] = content
        return self._contents[key]


def _merge(content: dict[str, Any], other: dict[str, Any]) -> None:
    """Set what ``other`` sets, as OmegaConf does. Raises ValueError where it does something else
    than to replace a value by a value, or a list by a list."""
    for name, value in other.items():
        if isinstance(value, dict) and isinstance(content.setdefault(name, {}), dict):
            _merge(content[name], value)
        elif name not in content:
            content[name] = value
        elif value == "???" or _kind(value) is not _kind(content[name]):
            raise ValueError(f"{name}={value} over {content[name]} is for hydra.compose")
        else:
            content[name] = value


def _kind(value: Any) -> type | None:
    return type(value) if isinstance(value, dict | list) else None
