"""The identity of a configuration: what distinguishes its numbers. Imports no torch.

Equal numbers, one identity, as far as that is known without importing torch.
"""

import hashlib
import json
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lrd.config.schema import Config
from lrd.config.sources import OUR_PACKAGES, TORCH_PACKAGES, recipe_of, source_of

# Images in a folder are known by their name, wherever the folder is; what it holds is recorded and
# compared by its manifest. The name of any other data set only names it.
FOLDER_DATASETS = (
    *("tasks.folder.ImageFolder", "tasks.voc_masks.MaskFolder", "tasks.voc_boxes.BoxFolder"),
)
SOURCE = "source."  # prefix of the keys that hold code of the user's


def identity(config: Config) -> dict[str, Any]:
    """Return what distinguishes a configuration's numbers, as a flat ``{"train.epochs": 100,
    ...}``.

    Left out are the seed, settings declared ``not_in_fingerprint``, labels, what p = 1 makes void,
    and closed settings at their default, so that a new setting invalidates no finished run. A float
    with an integer value counts as that integer, a weights file by its content.

    Added are ``recipe.<group>`` where the class of a group has a ``recipe`` above 1, and
    ``source.<package>`` for every package that is neither torch's nor this repository's.
    """
    flat = _flatten_config(config)
    if config.lrd.p == config.lrd.p_end == 1:
        flat = {n: v for n, v in flat.items() if n == "lrd.p" or not n.startswith("lrd.")}
    for name, target in list(flat.items()):
        if name.endswith("._target_") and isinstance(target, str):
            flat[name] = _canonical_target(target)
            flat |= _code_of(name.removesuffix("._target_"), target)
    is_folder = flat.get("dataset._target_") in FOLDER_DATASETS
    names_only = "dataset.path" if is_folder else "dataset.name"
    return {
        name: flat[name]
        for name in sorted(flat)
        if name != names_only and (name not in DEFAULTS or flat[name] != DEFAULTS[name])
    }


def fingerprint(identity: dict[str, Any]) -> str:
    """Return the twelve hexadecimal digits that stand for an identity."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def diff_identities(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return ``setting=value instead of value`` for each setting in which two identities differ."""
    return [
        f"{name}={found.get(name, DEFAULTS.get(name))} "
        f"instead of {expected.get(name, DEFAULTS.get(name))}"
        for name in sorted(expected.keys() | found.keys())
        if found.get(name) != expected.get(name)
    ]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dictionary as ``{"a.b": value}``."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def without_source(identity: dict[str, Any]) -> dict[str, Any]:
    """Return an identity whatever the user's code."""
    return {name: value for name, value in identity.items() if not name.startswith(SOURCE)}


def _canonical_target(target: str) -> str:
    """Return the public name of one of torch's optimizers: ``torch.optim.adam.Adam`` is
    ``torch.optim.Adam``."""
    parts = target.split(".")
    if parts[:2] != ["torch", "optim"] or "lr_scheduler" in parts:
        return target
    return ".".join([*parts[:2], parts[-1]])


def _code_of(group: str, target: str) -> dict[str, Any]:
    """Return what an identity says of the code of a class."""
    package = target.split(".")[0]
    if package in OUR_PACKAGES:
        recipe = recipe_of(target)
        return {f"recipe.{group}": recipe} if recipe > 1 else {}
    return {} if package in TORCH_PACKAGES else {SOURCE + package: source_of(package)}


def _flatten_config(config: Config) -> dict[str, Any]:
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
            flat |= {name: _hash_weights(name, v) for name, v in nodes.items()}
    return flat


def _hash_weights(name: str, value: Any) -> Any:
    """Return the hash of a weights file, whatever its name; any other value in canonical form."""
    if name.endswith(".weights") and isinstance(value, str) and (path := Path(value)).is_file():
        stat = path.stat()
        return _hash_file(path.resolve(), stat.st_mtime_ns, stat.st_size)
    return _canonical(value)


@cache
def _hash_file(path: Path, modified: int, size: int) -> str:
    """Return the hash of a file's content, which a run and each job of a sweep ask for."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    if isinstance(value, dict):
        return {k: _canonical(v) for k, v in value.items()}
    return value


# Closed settings belong to an identity only where they differ from these.
DEFAULTS = _flatten_config(Config())
