"""Identities of configurations, by the overrides that compose them, remembered.

Composing takes Hydra a tenth of a second, and a table asks for up to a hundred configurations, the
page for several hundred. So what the groups of a command line compose to is kept, and its values
are set in a copy: in Hydra too they come after all groups. What came of it is kept in the user's
cache folder for the next process, as long as no file changes that it rests on.
"""

import atexit
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import omegaconf
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

import lrd
from lrd.compose import CONFIGS, compose, read
from lrd.config import Config
from lrd.identity import identity
from lrd.runs import write_whole

Identity = dict[str, Any]
MOST = 5000  # of one user's identities that are remembered
NUMBERS = {f.name for f in fields(Config) if f.type in (int, float)}  # settings of no group


def identity_of(overrides: Sequence[str]) -> Identity:
    """That of ``python run.py OVERRIDES``. Raises ValueError in one line."""
    memory, asked = remembered(), json.dumps(list(overrides))
    if asked not in memory.known:
        memory.known[asked] = identity(read(recompose(overrides)))
    return memory.known[asked]


def recompose(overrides: Sequence[str]) -> DictConfig:
    """As ``compose``, for many command lines that differ in values alone."""
    values = [o for o in overrides if _is_value(o)]
    try:
        parsed = OverridesParser.create().parse_overrides(values)
        if any(o.is_sweep_override() for o in parsed):
            return compose(overrides)
        config = deepcopy(_groups(tuple(o for o in overrides if not _is_value(o))))
        for override in parsed:
            OmegaConf.update(config, override.key_or_group, override.value())
        return config
    except Exception:
        return compose(overrides)  # which says what is wrong


def _is_value(override: str) -> bool:
    name = override.partition("=")[0]
    return ("." in name or name in NUMBERS) and not set("+~/@") & set(name)


@cache
def _groups(overrides: tuple[str, ...]) -> DictConfig:
    return compose(overrides)


class Memory:
    """The identities in a file, of which one with another ``key`` is forgotten."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.known: dict[str, Identity] = {}
        try:
            there = json.loads(path.read_bytes())
            if there["key"] == key:
                self.known = dict(there["identities"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none yet, or not ours
        self.before = len(self.known)

    def save(self) -> None:
        """Not what a weights file is part of, whose content may change."""
        kept = {asked: i for asked, i in self.known.items() if ".weights=" not in asked}
        if not self.before < len(kept) <= MOST:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps({"key": self.key, "identities": kept}).encode())
        except OSError:
            pass  # a slower next time


@cache
def remembered() -> Memory:
    """This checkout's, which is saved when the process ends."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = hashlib.sha256(str(CONFIGS).encode()).hexdigest()[:12]
    memory = Memory(Path(home) / "lrd" / f"identities-{place}.json", key_of(sources()))
    atexit.register(memory.save)
    return memory


def sources() -> list[Path]:
    """Everything of ours that an identity rests on."""
    code = (Path(lrd.__file__).parent / f"{name}.py" for name in ("compose", "config", "identity"))
    return [*sorted(CONFIGS.rglob("*.yaml")), *code]


def key_of(files: Iterable[Path]) -> str:
    """A fingerprint of the files' names and content, and of what reads them."""
    key = hashlib.sha256(repr((hydra.__version__, omegaconf.__version__, sys.version)).encode())
    for path in files:
        key.update(f"{path.name} ".encode() + path.read_bytes())
    return key.hexdigest()
