"""What distinguishes one run's numbers from another's. Imports no torch."""

import hashlib
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from lrd.config import Config


def identity(config: Config) -> dict[str, Any]:
    """What distinguishes a configuration's numbers, as a flat ``{"train.epochs": 100, ...}``.

    Left out: the seed, settings that say where and how fast but not what (``apart`` in
    lrd/config.py), and closed settings at their default, so that a new setting voids no finished
    run. A number that is whole counts as an integer; a weights file counts by its content.
    """
    flat = _flat(config)
    return {
        name: flat[name]
        for name in sorted(flat)
        if name not in DEFAULTS or flat[name] != DEFAULTS[name]
    }


def _flat(config: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for group in fields(Config):
        value = getattr(config, group.name)
        if not group.metadata.get("identity", True):
            continue
        if is_dataclass(value):
            for f in fields(value):
                if f.metadata.get("identity", True):
                    flat[f"{group.name}.{f.name}"] = _canonical(getattr(value, f.name))
        else:
            nodes = flatten(value, f"{group.name}.") if isinstance(value, dict) else {}
            flat |= {name: _content(name, v) for name, v in nodes.items()}
    return flat


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary as ``{"a.b": value}``."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _content(name: str, value: Any) -> Any:
    """A weights file by its content, whatever it is called; anything else in canonical form."""
    if name.endswith(".weights") and isinstance(value, str) and Path(value).is_file():
        return "sha256:" + hashlib.sha256(Path(value).read_bytes()).hexdigest()
    return _canonical(value)


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    if isinstance(value, dict):
        return {k: _canonical(v) for k, v in value.items()}
    return value


# The closed settings that belong to an identity where they differ from this.
DEFAULTS = _flat(Config())


def differences(asked: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """``setting=value instead of value`` for each setting in which two identities differ."""
    return [
        f"{name}={there.get(name, DEFAULTS.get(name))} "
        f"instead of {asked.get(name, DEFAULTS.get(name))}"
        for name in sorted(asked.keys() | there.keys())
        if there.get(name) != asked.get(name)
    ]


def fingerprint(identity: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for an identity."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
