"""Compose many configurations, with each file read once. Imports no torch.

``hydra.compose`` reads all files each time, half of them Hydra's own. A page of all studies
composes more than 100 configurations. Here Hydra's code still builds the list of files and applies
the overrides, but files are kept, and Hydra's own groups, which say how to launch, are left out. A
test compares the results.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf


class Composer:
    """The configurations of directories as they are now: files that change later are not read.

    Args:
        folders: where options are looked for, the first one first; the last one has config.yaml.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)

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
    def _files(self) -> CachingConfigRepository:
        _, files = self._loader._parse_overrides_and_create_caching_repo("config", self.search_path)
        return files

    def compose(self, overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
        """Return a configuration, and what its files say to Hydra, such as what to sweep.

        Raises whatever Hydra raises, of overrides that it cannot compose, that sweep, or that are
        Hydra's own.
        """
        parsed = OverridesParser.create(self._loader).parse_overrides(list(overrides))
        if any(o.is_sweep_override() or o.key_or_group.startswith("hydra") for o in parsed):
            raise ValueError("sweeps, and what is Hydra's own, are for hydra.compose")
        found = create_defaults_list(self._files, "config", parsed, True, skip_missing=False)
        config, launch = OmegaConf.create(), OmegaConf.create()
        for default in found.defaults:
            if str(default.config_path).startswith("hydra/"):
                continue
            loaded = self._loader._load_single_config(default, self._files).config
            assert isinstance(loaded, DictConfig)
            if "hydra" in loaded:
                launch.merge_with(loaded.hydra)
                loaded = OmegaConf.masked_copy(
                    loaded, [str(name) for name in loaded if name != "hydra"]
                )
            config.merge_with(loaded)
        OmegaConf.set_struct(config, True)
        ConfigLoaderImpl._apply_overrides_to_config(found.config_overrides, config)
        return config, launch
