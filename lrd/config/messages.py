"""One line for every mistake on the command line: what is wrong, and what to type.

Hydra and OmegaConf report a mistake in their own terms and on several lines. :func:`format_error`
translates what they say. Imports no torch.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from lrd.config.schema import Config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# What each group of configs/ chooses, for --help.
GROUP_MEANINGS = {
    "task": "what is trained: data, model, schedule, epochs and batch size together",
    "dataset": "the data alone",
    "model": "the network alone",
    "optim": "the optimizer and its learning rate; any class: optim._target_=torch.optim.AdamW",
    "schedule": "the learning rate over the run",
    "regularizer": "the paper's other regularizers; several: regularizer=[nl,ng]",
    "logger": "where numbers go besides the run's files: wandb, tensorboard; several: logger=[...]",
    "train": "how it is computed: as in the paper, or fast",
    "arm": "LRD and regularizers of a table's column, together",
    "experiment": "every run of a table or a figure; needs -m",
    "cluster": "where the runs of a sweep are computed; needs -m",
    "search": "a search of settings on held-out samples; needs -m",
    "tuned": "the values of a pair of task and optimizer",
}
ADDED = ("arm", "experiment", "cluster", "search")  # groups of which no option is the default
AUTOMATIC = ("tuned",)  # groups that are chosen by the choices of others
READ_ELSEWHERE = {"study": "scripts/table.py"}  # folders of configs/ that no run chooses from
# Groups whose files name a class, which a user's own may replace.
OWN_CLASS = ("task", "dataset", "model", "optim", "schedule")
# The setting of a section that ``section=value`` probably means.
MAIN_SETTINGS = {
    "lrd": "lrd.p",
    "train": "train.epochs",
    "eval": "eval.mode",
    "data": "data.root",
    "run": "run.dir",
    "wandb": "wandb.mode",
}

# What OmegaConf says of a wrong type, and the rule.
WRONG_TYPES = {
    "could not be converted to Integer": "a whole number",
    "could not be converted to Float": "a number",
    "is not a valid bool": "true or false",
    "is not a ListConfig": "a list in brackets",
}


def format_error(
    error: BaseException,
    overrides: Sequence[str] = (),
    leaves: Callable[[], Sequence[str]] | None = None,
) -> str:
    """Format an error of Hydra or OmegaConf as one line in the terms of the command line.

    Args:
        error: What Hydra or OmegaConf raised.
        overrides: The command line that it was raised for, if known.
        leaves: Return all settings of that command line, for the nearest one.
    """
    return escape_unprintable(_format_error(error, overrides, leaves or closed_settings))


def escape_unprintable(text: str) -> str:
    """Escape what is not printable, such as a line break in a value."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _format_error(
    error: BaseException, overrides: Sequence[str], settings: Callable[[], Sequence[str]]
) -> str:
    text = str(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, text)
    if nameless := [o for o in overrides if re.match(r"[+~]*(@[^=]*)?(=|$)", o)]:
        return f"cannot parse {nameless[0]!r} as KEY=VALUE: the key is missing"
    if raised := re.search(r"In '([^']*)': .*\n\s*Key '([^']*)' not in", text):
        return f"configs/{raised[1]}.yaml has an unknown setting: {raised[2]}"
    if choice := re.search(r"Could not find '([^']*)/([^'/]*)'", text):
        listed = re.search(r"Available options in '[^']*':\n((?:\t.*\n?)+)", text)
        return _unknown_option(choice[1], choice[2], listed[1].split() if listed else [])
    if added := re.search(r"To append to your default list use \+(\S+)", text):
        group = added[1].partition("=")[0]
        if "@" in group or group.startswith("hydra"):
            return unknown_setting(group, settings())
        if group in READ_ELSEWHERE:
            return f"{group} is nothing to train; {READ_ELSEWHERE[group]} reads it"
        meaning = f" ({GROUP_MEANINGS[group]})" if group in GROUP_MEANINGS else ""
        return f"{group} is added with +: +{added[1]}{meaning}"
    if setting := re.search(r"Could not override '([^']*)'", text):
        return unknown_setting(setting[1], settings(), _value_of(setting[1], overrides))
    if removed := re.search(r"Could not delete from config. '([^']*)' does not exist", text):
        if removed[1] in (known := settings()):
            return f"~{removed[1]}: a setting cannot be removed; {removed[1]}=VALUE changes it"
        return unknown_setting(removed[1], known)
    if removed := re.search(r"Could not delete '([^']*)'. No match", text):
        return f"~{removed[1]}: nothing to remove, no {removed[1].partition('=')[0]} is chosen"
    if sweep := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return f"{sweep[1]} is a sweep and needs -m (a list needs brackets)"
    if override := re.match(r"Error merging override (.*)", text):
        return _not_merged(override[1], error.__cause__)
    for parsed in _parsed(overrides):
        if line := _wrong_choice(parsed, text):
            return line
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key or 'configuration'}: {text.splitlines()[0]}"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def closed_settings(schema: Any = Config, prefix: str = "") -> list[str]:
    """Return the names of all closed settings: ``seed``, ``lrd.p``, ..."""
    names: list[str] = []
    for field in fields(schema):
        if is_dataclass(field.type):
            names += closed_settings(field.type, f"{prefix}{field.name}.")
        elif prefix or field.default is not MISSING:
            names.append(f"{prefix}{field.name}")
    return names


def open_settings(group: str, node: Mapping[Any, Any]) -> Iterator[str]:
    """Yield the names of the settings under an open group's node."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from open_settings(f"{group}.{name}", value)
        else:
            yield f"{group}.{name}"


def unknown_setting(setting: str, known: Sequence[str], value: str | None = None) -> str:
    """Return the line for an unknown setting, with the nearest of ``known``, if one is near."""
    group, _, name = setting.rpartition(".")
    within = [k for k in known if k.rpartition(".")[0] == group]
    near = [k for k in known if k.rpartition(".")[2] == name]
    near = near or _nearest(name, within, 0.6) or _nearest(setting, within, 0.7, whole=True)
    near = near or _nearest(name, known, 0.75) or _nearest(setting, known, 0.75, whole=True)
    line = f"unknown setting {setting}"
    if near:
        return f"{line}. Did you mean {' or '.join(near[:3])}?"
    if group.partition(".")[0] in (*OWN_CLASS, "regularizer"):
        return f"{line}; if the class takes it: +{setting}={'VALUE' if value is None else value}"
    if within and group:
        return f"{line}; available: {', '.join(within)}"
    return f"{line}; python run.py --help lists all settings"


def _nearest(name: str, known: Sequence[str], cutoff: float, whole: bool = False) -> list[str]:
    by_name = {(k if whole else k.rpartition(".")[2]): k for k in known}
    return [by_name[n] for n in difflib.get_close_matches(name, by_name, 1, cutoff)]


def _unknown_option(group: str, name: str, options: Sequence[str]) -> str:
    line = f"unknown {group} '{name}'; available: {', '.join(options) or 'none'}"
    if group in OWN_CLASS:
        line += f"; a class of your own: {group}._target_=PACKAGE.CLASS run.allow=[PACKAGE]"
    return line


def none_chosen(group: str) -> str:
    """Return the line for a group of which one option must be chosen, and none or several are."""
    options = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    return f"one {group} must be chosen: {group}=NAME, of {', '.join(options)}"


def _unreadable(override: str, text: str) -> str:
    """Return the line for an override that Hydra's grammar does not accept."""
    key, equal, value = override.partition("=")
    if not equal:
        return f"cannot parse {override!r} as KEY=VALUE: '=' is missing"
    quoted = f"{key}='{value}'" if '"' in value else f'{key}="{value}"'
    if not _parse(f"{key}=0"):
        return f"cannot parse {override!r} as KEY=VALUE: {key!r} is no name of a setting"
    if _is_unbalanced(value) or not _parse(quoted):
        return f"cannot parse {override!r} as KEY=VALUE: a bracket or a quote is not closed"
    caret = re.search(r"^( *)\^", text, re.MULTILINE)
    prefix = len("LexerNoViableAltException: ")
    character = override[len(caret[1]) - prefix :][:1] if caret else ""
    what = f"{character!r} needs quotes" if character else "the value needs quotes"
    return f"cannot parse {override!r} as KEY=VALUE: {what}: {shlex.quote(quoted)}"


def _is_unbalanced(value: str) -> bool:
    pairs = ("[]", "{}", "()")
    return any(value.count(a) != value.count(b) for a, b in pairs) or any(
        value.count(quote) % 2 for quote in "'\""
    )


def _not_merged(override: str, cause: BaseException | None) -> str:
    """Return the line for a value that does not fit its setting."""
    key, _, value = override.lstrip("+~").partition("=")
    reason = str(cause).splitlines()[0] if cause else "it does not fit"
    if "does not support deletion" in reason:
        return f"{override}: a setting cannot be removed; {key}=VALUE changes it"
    if span := re.fullmatch(r"(\d+)-(\d+)", value):
        several = f"-m {key}=range({span[1]},{int(span[2]) + 1})"
        return f"{override}: a run has one value; several runs: {several}"
    names = ", ".join(name for name in closed_settings() if name.startswith(f"{key}."))
    if names and "Invalid type assigned" in reason:
        near = f" Did you mean {MAIN_SETTINGS[key]}={value}?" if key in MAIN_SETTINGS else ""
        return f"{key} holds several settings, got {value}.{near} It has {names}"
    if "is not Optional" in reason:
        return f"{key} must have a value, got {value}"
    for found, rule in WRONG_TYPES.items():
        if found in reason:
            return f"{key} must be {rule}, got {value or 'nothing'}"
    return f"{override}: {reason}"


def _wrong_choice(override: Override, text: str) -> str | None:
    """Return the line if ``override`` chooses no option of a group, or not one."""
    group, value = override.key_or_group, override.value()
    written = override.input_line or group
    none = override.is_delete() or not isinstance(value, str | list)
    if group in GROUP_MEANINGS and (none or (isinstance(value, list) and group != "regularizer")):
        return f"{written}: {none_chosen(group)}"
    if none and "must be a string or a list" in text:
        return f"{group} is a group, whose options have names, got {written}"
    if group in GROUP_MEANINGS and (override.is_add() or override.is_force_add()):
        if re.search(r"Multiple values for|more than once|force-add of config groups", text):
            how = "added with one +: +" if group in ADDED else "chosen without +: "
            return f"{group} is {how}{group}={value}"
    return None


def _value_of(key: str, overrides: Sequence[str]) -> str | None:
    values = [o.partition("=")[2] for o in overrides if o.startswith(f"{key}=")]
    return values[-1] if values else None


def _parsed(overrides: Sequence[str]) -> list[Override]:
    return [parsed for override in overrides if (parsed := _parse(override))]


def _parse(override: str) -> Override | None:
    try:
        return OverridesParser.create().parse_overrides([override])[0]
    except HydraException:
        return None
