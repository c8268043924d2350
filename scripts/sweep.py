"""The runs that an experiment's file stands for, expanded as Hydra's basic sweeper does."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor

import hydra
from composed import remembered
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from tabular import Cell

from lrd.config.compose import CONFIGS, format_error

Block = dict[str, tuple[str, ...]]  # the values of every setting; the cells are their product


def setting(override: str) -> str:
    """The setting that an override of the command line names."""
    return override.partition("=")[0].lstrip("+~")


def swept(experiment: str) -> dict[str, str]:
    """What an experiment sweeps, as on the command line. Raises ValueError where there is none of
    that name."""
    return dict(remembered().recall(f"swept {experiment}", lambda: _swept(experiment)))


def learn(experiments: Iterable[str], workers: Executor) -> None:
    """What they sweep, by processes of ``workers``, before it is asked for."""
    known = remembered().known
    unknown = [name for name in dict.fromkeys(experiments) if f"swept {name}" not in known]
    for name, found in zip(unknown, workers.map(_swept, unknown), strict=True):
        known[f"swept {name}"] = found


def _swept(experiment: str) -> dict[str, str]:
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            asked = [f"+experiment={experiment}"]
            whole = hydra.compose("config", overrides=asked, return_hydra_config=True)
    except Exception as error:
        raise ValueError(format_error(error)) from error
    return {str(name): str(text) for name, text in (whole.hydra.sweeper.params or {}).items()}


def _parsed(overrides: Sequence[str]) -> list[Override]:
    """In Hydra's grammar. Raises ValueError, in one line, for what is not in it."""
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            return OverridesParser.create(loader).parse_overrides(list(overrides))
    except Exception as error:
        raise ValueError(format_error(error)) from error


def values(name: str, text: str) -> list[str]:
    """The values of a sweep in Hydra's grammar: ``0,1,2`` or ``range(0,10)``."""
    (override,) = _parsed([f"{name}={text}"])
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else [text]


def cells(experiment: str, overrides: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """The overrides of every run of ``python run.py -m +experiment=EXPERIMENT OVERRIDES``, in its
    order. What is swept on the command line replaces the file's sweep of the same setting."""
    params = [f"{name}={text}" for name, text in swept(experiment).items()]
    parsed = _parsed([*params, f"+experiment={experiment}", *overrides])
    try:
        (batch,) = BasicSweeper.split_arguments(parsed, None)
    except Exception as error:
        raise ValueError(format_error(error)) from error
    return [tuple(run) for run in batch]


def into(root: str, overrides: Sequence[str]) -> list[str]:
    """The overrides of runs that are to lie in this folder."""
    return [*overrides, *([] if root == "runs" else [f"run.dir={root}"])]


def commands(asked: Iterable[Cell], overrides: Sequence[str] = ()) -> list[str]:
    """The commands that run exactly these cells, with the seeds of their experiments."""
    by_experiment: dict[str, list[Cell]] = {}
    for cell in asked:
        by_experiment.setdefault(cell.experiment, []).append(cell)
    lines = []
    for experiment, there in by_experiment.items():
        file = swept(experiment)
        for block in blocks(there):
            words = [f"{n}={','.join(v)}" for n, v in block.items() if not _whole(n, v, file)]
            words = [f"+experiment={experiment}", *words, *overrides]
            lines.append(shlex.join(["python", "run.py", "-m", *words]))
    return lines


def _whole(name: str, chosen: Sequence[str], file: Mapping[str, str]) -> bool:
    """Whether the values are those that the file sweeps anyway."""
    return name in file and set(chosen) == set(values(name, file[name]))


def blocks(asked: Iterable[Cell]) -> list[Block]:
    """The cells as few products: cells that differ in one setting alone become one."""
    found = [{n: (v,) for n, _, v in map(_split, cell.overrides)} for cell in asked]
    for name in dict.fromkeys(name for block in reversed(found) for name in reversed(block)):
        merged: dict[tuple[tuple[str, tuple[str, ...]], ...], Block] = {}
        for block in found:
            rest = tuple((n, v) for n, v in block.items() if n != name)
            if name not in block:
                merged[(*rest, ("", ()))] = block
            elif rest in merged:
                merged[rest] = block | {name: merged[rest][name] + block[name]}
            else:
                merged[rest] = block
        found = list(merged.values())
    return found


def _split(override: str) -> tuple[str, str, str]:
    return override.partition("=")
