"""Identities of configurations, by the overrides that compose them, remembered.

Composing takes Hydra a tenth of a second, and a table asks for up to a hundred configurations, the
page for several hundred. So what the groups of a command line compose to is kept, and its values
are set in a copy: in Hydra too they come after all groups. What came of it is kept in the user's
cache folder for the next process, as long as no file changes that it rests on. What is needed of
many is learnt by several processes at once.
"""

import atexit
import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
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
from lrd.config.compose import CONFIGS, compose, to_config
from lrd.config.fingerprint import identity
from lrd.config.schema import Config
from lrd.runs.store import atomic_write

Identity = dict[str, Any]
MOST = 5000  # of one user's identities that are remembered
NUMBERS = {f.name for f in fields(Config) if f.type in (int, float)}  # settings of no group


def identity_of(overrides: Sequence[str]) -> Identity:
    """That of ``python run.py OVERRIDES``. Raises ValueError in one line."""
    return remembered().recall(_name(overrides), lambda: identity(to_config(recompose(overrides))))


def _name(overrides: Sequence[str]) -> str:
    return json.dumps(list(overrides))


def learn(asked: Iterable[Sequence[str]], workers: Executor) -> None:
    """Identities that will be asked for, by processes of ``workers``, each of which takes command
    lines of the same groups. A mistake is left to be told to who asks."""
    known, parts = remembered().known, defaultdict(list)
    for overrides in asked:
        if _name(overrides) not in known:
            parts[_chosen(overrides)].append(overrides)
    for found in workers.map(_identities, parts.values()):
        known.update(found)


def _identities(asked: Sequence[Sequence[str]]) -> dict[str, Identity]:
    found = {}
    for overrides in asked:
        with suppress(ValueError):
            found[_name(overrides)] = identity(to_config(recompose(overrides)))
    return found


def recompose(overrides: Sequence[str]) -> DictConfig:
    """As ``compose``, for many command lines that differ in values alone."""
    values = [o for o in overrides if _is_value(o)]
    try:
        parsed = OverridesParser.create().parse_overrides(values)
        if any(o.is_sweep_override() for o in parsed):
            return compose(overrides)
        config = deepcopy(_groups(_chosen(overrides)))
        for override in parsed:
            OmegaConf.update(config, override.key_or_group, override.value())
        return config
    except Exception:
        return compose(overrides)  # which says what is wrong


def _chosen(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(o for o in overrides if not _is_value(o))


def _is_value(override: str) -> bool:
    name = override.partition("=")[0]
    return ("." in name or name in NUMBERS) and not set("+~/@") & set(name)


@cache
def _groups(overrides: tuple[str, ...]) -> DictConfig:
    return compose(overrides)


class Memory:
    """What came of configurations, by name, in a file; one with another ``key`` is forgotten."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.known: dict[str, Any] = {}
        try:
            there = json.loads(path.read_bytes())
            if there["key"] == key:
                self.known = dict(there["known"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none yet, or not ours
        self.before = len(self.known)

    def recall(self, name: str, make: Callable[[], Any]) -> Any:
        """What is known by that name, else what ``make`` gives (as JSON has it)."""
        if name not in self.known:
            self.known[name] = make()
        return self.known[name]

    def save(self) -> None:
        """Not what a weights file is part of, whose content may change."""
        kept = {asked: it for asked, it in self.known.items() if ".weights=" not in asked}
        if not self.before < len(kept) <= MOST:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self.path, json.dumps({"key": self.key, "known": kept}).encode())
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
    """Everything of ours that what is remembered rests on."""
    ours = (Path(lrd.__file__).with_name(f"{n}.py") for n in ("compose", "config", "identity"))
    here = (Path(__file__).with_name(f"{name}.py") for name in ("composed", "sweep"))
    return [*sorted(CONFIGS.rglob("*.yaml")), *ours, *here]


def key_of(files: Iterable[Path]) -> str:
    """A fingerprint of the files' names and content, and of what reads them."""
    key = hashlib.sha256(repr((hydra.__version__, omegaconf.__version__, sys.version)).encode())
    for path in files:
        key.update(f"{path.name} ".encode() + path.read_bytes())
    return key.hexdigest()
