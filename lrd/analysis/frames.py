"""Runs as data frames: where every table, comparison, figure and page starts.

runs = load_runs("runs")
finished = runs.query("status == 'finished'")
finished.groupby(["dataset", "optim", "arm"]).final.agg(["mean", "std", "count"])
curves = load_curves("runs", ["train_loss", "test_accuracy"])
"""

import difflib
import json
import math
import operator
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lrd.config.fingerprint import DEFAULTS, flatten
from lrd.runs.labels import names_of
from lrd.runs.store import Run, RunIndex, open_run

# Fields of run.json that are columns as they are.
COPIED = ("device", "implementation", "batch_norm", "data_manifest", "commit")
COPIED = (*COPIED, "started", "ended", "error")
# Groups in the order in which their settings name a difference.
IMPORTANT = ("optim", "lrd", "regularizer", "schedule", "model", "dataset", "train", "task")
COMPARED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
Source = str | Path | RunIndex | Iterable[Run]


class RunFrames:
    """The runs of one directory, read once: hand it down, so that all parts of a page agree.

    Args:
        source: a runs directory, or its RunIndex.
        seeds: the seeds whose runs are taken; all if None.
    """

    def __init__(self, source: str | Path | RunIndex, seeds: Collection[int] | None = None) -> None:
        self.index = source if isinstance(source, RunIndex) else RunIndex(source)
        self.root = str(self.index.root)
        self.seeds = seeds

    @cached_property
    def runs(self) -> pd.DataFrame:
        return load_runs(self.index)

    @cached_property
    def curves(self) -> pd.DataFrame:
        return load_curves(self.index)

    def select(self, fingerprint: str, status: str) -> pd.DataFrame:
        """Return the runs of a configuration with this status, indexed by seed."""
        return self._selected.get((fingerprint, status), self._none)

    def epochs(self, folder: str) -> pd.DataFrame:
        """Return the epochs of one run, indexed by epoch."""
        return self._epochs.get(folder, self.curves.iloc[:0])

    def metric(self, folder: str, key: str) -> pd.Series:
        """Return a metric of one run by epoch, at the epochs that log it."""
        if key not in self._by_metric:
            curves = self.curves.set_index("epoch")
            values: Any = curves.get(key, pd.Series(math.nan, curves.index))
            values = pd.to_numeric(values, errors="coerce")
            is_logged = values.notna() | (~curves.finite.astype(bool) & (key in curves))
            self._by_metric[key] = dict(iter(values[is_logged].groupby(curves.folder[is_logged])))
        return self._by_metric[key].get(folder, pd.Series(dtype=float))

    @cached_property
    def _by_metric(self) -> dict[str, dict[Any, Any]]:
        return {}

    def run(self, folder: str) -> Run:
        """Return the run in a directory, for what is no column of a frame."""
        return self._by_folder[folder]

    @cached_property
    def _none(self) -> pd.DataFrame:
        return self.runs.iloc[:0].set_index("seed", drop=False)

    @cached_property
    def _selected(self) -> dict[Any, Any]:
        known: Any = self.runs[self.runs.seed.notna()].astype({"seed": int})
        known = known[known.seed.isin(self.seeds)] if self.seeds is not None else known
        known = known.drop_duplicates(["fingerprint", "status", "seed"], keep="last")
        known = known.sort_values("seed", kind="stable").set_index("seed", drop=False)
        return dict(iter(known.groupby(["fingerprint", "status"])))

    @cached_property
    def _epochs(self) -> dict[Any, Any]:
        return dict(iter(self.curves.set_index("epoch").groupby("folder")))

    @cached_property
    def _by_folder(self) -> dict[str, Run]:
        return {str(run.folder): run for run in self.index.runs}


def load_runs(source: Source) -> pd.DataFrame:
    """Load one row a run, in the order of their directories.

    Args:
        source: a runs directory, its RunIndex, or runs.

    Returns:
        What a run is (name, task, dataset, model, optimizer, arm, p, seed, epochs, scale,
        fingerprint), how it ended (status, state, epochs_done, final, best, seconds, error), where
        it ran (hardware, device, torch, commit, ...), its folder, and every resolved setting under
        its name, such as ``optim.lr``. ``final`` and ``best`` are of finished runs, from
        metrics.jsonl; ``problem`` says why they cannot be computed. ``seconds`` is the sum over
        the epochs.
    """
    rows = [_row(run) for run in _runs_of(source)]
    frame = pd.DataFrame(rows, columns=None if rows else list(_row(Run(Path("a/b/c"), {}))))
    return frame.astype({"seed": "Int64"})


def load_curves(source: Source, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Load one row a run and epoch.

    Args:
        source: a runs directory, its RunIndex, or runs.
        metrics: the columns to keep; all if None.

    Returns:
        folder, fingerprint, seed, epoch, ``finite`` (whether every logged number is), and a column
        for each metric, NaN where an epoch does not log it. Runs whose metrics.jsonl is damaged
        have no row; ``load_runs`` says so.
    """
    first = ["folder", "fingerprint", "seed", "epoch", "finite"]
    rows = []
    for run in _runs_of(source):
        for line in _read_metrics(run)[0]:
            numbers = [value for value in line.values() if isinstance(value, float)]
            known = (str(run.folder), run.metadata.get("fingerprint"), run.metadata.get("seed"))
            finite = all(map(math.isfinite, numbers))
            rows.append(dict(zip(first, (*known, line["epoch"], finite), strict=True)) | line)
    frame = pd.DataFrame(rows, columns=None if rows else first)
    return frame if metrics is None else frame.reindex(columns=[*first, *metrics])


def _runs_of(source: Source) -> Iterable[Run]:
    if isinstance(source, str | Path):
        source = RunIndex(source)
    return source.runs if isinstance(source, RunIndex) else source


def _read_metrics(run: Run) -> tuple[list[dict[str, Any]], str]:
    """Return the epochs of a run, or none and what is wrong with them."""
    try:
        for number, line in enumerate(run.metrics, 1):
            if not isinstance(line, dict) or not isinstance(line.get("epoch"), int):
                raise ValueError(f"{run.folder / 'metrics.jsonl'} is damaged in line {number}")
    except ValueError as error:
        return [], str(error)
    return run.metrics, ""


def _row(run: Run) -> dict[str, Any]:
    record, config = run.metadata, get_nested(run.metadata, "config") or {}
    lines, problem = _read_metrics(run)
    logged = [s for line in lines if (s := as_number(line.get("seconds"))) is not None]
    final = best = math.nan
    if run.status == "finished" and not problem:
        try:
            final, best = run.final, run.best
        except ValueError as error:
            problem = str(error)
    names: dict[str, str | None] = dict.fromkeys(("task", "dataset", "model", "optimizer", "arm"))
    with suppress(KeyError, TypeError, AttributeError):
        names |= names_of(config)
    own = {
        "status": run.status,
        "state": run.state,
        "name": run.folder.parts[-3],
        **names,
        "data": names["dataset"],  # as the command line has them
        "optim": names["optimizer"],
        "p": get_nested(config, "lrd", "p"),
        "seed": seed if isinstance(seed := record.get("seed"), int) else _number_of(run.folder),
        "epochs": get_nested(config, "train", "epochs"),
        "epochs_done": math.nan if problem and not lines else len(lines),
        "final": final,
        "best": best,
        "score": get_nested(record, "score", "name"),
        "maximize": get_nested(record, "score", "maximize"),
        "unit": get_nested(record, "score", "unit") or "",
        "seconds": sum(logged) if logged else math.nan,
        "scale": as_number(record.get("scale")),
        "hardware": describe_hardware(record),
        "precision": record.get("precision") or get_nested(config, "train", "precision"),
        "torch": get_nested(record, "versions", "torch"),
        **{name: record.get(name) for name in COPIED},
        "problem": problem,
        "fingerprint": record.get("fingerprint") or run.folder.parts[-2],
        "folder": str(run.folder),
    }
    return {**own, **run_settings(run), **own}  # own columns first, and they win


def run_settings(run: Run) -> dict[str, Any]:
    """Return what was configured: ``optim.lr``, ``lrd.p``, ..."""
    config = get_nested(run.metadata, "config")
    return flatten(config) if isinstance(config, dict) else {}


def find_run(runs: Sequence[Run], name: str) -> Run:
    """Return the run that a directory, or the start of a fingerprint (with /seed<k>), names."""
    mark, _, seed = name.partition("/")
    found = [
        run
        for run in runs
        if run.folder.resolve() == Path(name).resolve()
        or (run.folder.parts[-2].startswith(mark) and seed in ("", run.folder.name))
    ]
    if len(found) != 1:
        known = ", ".join(f"{r.folder.parts[-2]}/{r.folder.name}" for r in found[:5]) or "none"
        raise ValueError(f"RUN must name one run, got {name}, which names {len(found)}: {known}")
    return found[0]


def locate_run(root: str | Path, name: str) -> Run:
    """Return the run in the directory ``name``, or the one under ``root`` that it names."""
    if (Path(name) / "run.json").is_file():
        return open_run(name)
    return find_run(RunIndex(root).runs, name)


def list_frame(
    runs: Sequence[Run], filters: Sequence[str] = (), sort: str | None = None
) -> pd.DataFrame:
    """Return the rows of ``load_runs`` that pass the filters, in order, with what only a list of
    runs shows: ``job`` and ``differs in``. The index has the places in ``runs``."""
    frame = load_runs(runs)
    jobs = [f"{getattr(run, 'job', '')} {getattr(run, 'slurm_state', '')}".strip() for run in runs]
    alike = frame[["dataset", "optimizer", "p", "seed", "epochs", "arm"]].astype(str)
    differ = distinguishing_settings(runs, list(alike.itertuples(index=False, name=None)))
    frame = select_runs(frame.assign(**{"job": jobs, "differs in": differ}), filters)
    return frame if sort is None else sort_runs(frame, sort)


def select_runs(runs: pd.DataFrame, filters: Sequence[str]) -> pd.DataFrame:
    """Return the rows in which every filter holds: ``column=value``, and of numbers also <, <=, >
    and >=. Raises ValueError, in one line, for an unknown column."""
    for text in filters:
        parts = re.fullmatch(r"([^=<>]+)(<=|>=|=|<|>)(.*)", text, re.DOTALL)
        if parts is None:
            raise ValueError(f"a filter must be SETTING=VALUE, got {text}")
        if not len(runs):
            continue
        name, sign, value = parts.groups()
        if name not in runs:
            near = difflib.get_close_matches(name, map(str, runs.columns), 1)
            hint = f". Did you mean {near[0]}?" if near else "; --show RUN lists those of a run"
            raise ValueError(f"no run has a setting {name}{hint}")
        wanted = _parse_value(value)
        if sign != "=" and _to_float(wanted) is None:
            raise ValueError(f"{name}{sign} must be given a number, got {value}")
        column = runs[name]
        if sign == "=" and name in ("final", "best"):
            column = column.round(2)  # as a list shows them
        runs = runs.loc[[_holds(known, sign, wanted) for known in column]]
    return runs


def _parse_value(text: str) -> Any:
    """Return a value as the command line of run.py reads it; text that is no YAML as it is."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def sort_runs(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the rows in the order of a column, ``-column``: from the largest on. Rows without a
    value come last. Raises ValueError, in one line, for an unknown column."""
    name = column.removeprefix("-")
    if not len(runs):
        return runs
    if name not in runs:
        raise ValueError(f"--sort must name a column or a setting, got {name}")

    def keys(values: pd.Series) -> pd.Series:
        numbers = values.map(_to_float)
        is_number = bool((numbers.notna() | values.isna()).all())
        return numbers.astype(float) if is_number else values.map(_text_or_none)

    return runs.sort_values(name, ascending=name == column, key=keys, kind="stable")


def _text_or_none(value: Any) -> str | None:
    is_missing = value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
    return None if is_missing else str(value)


def _to_float(value: Any) -> float | None:
    try:
        return None if value is pd.NA else float(value)  # 1e-3 is a string to YAML
    except (TypeError, ValueError):
        return None


def _holds(known: Any, sign: str, wanted: Any) -> bool:
    one, two = _to_float(known), _to_float(wanted)
    if sign != "=":
        return one is not None and two is not None and COMPARED[sign](one, two)
    if one is not None and two is not None:
        return one == two
    if isinstance(known, str) and isinstance(wanted, str):
        return known.lower() == wanted.lower()  # optim=adam, data=mnist
    return known is not pd.NA and known == wanted


def distinguishing_settings(runs: Sequence[Run], alike: Sequence[Any], few: int = 3) -> list[str]:
    """Return for each run the settings in which it differs from those with the same ``alike``.

    First the settings that distinguish rows, the optimizer's before the others; ``few`` settings,
    or more if rows would still be equal. "..." stands for others.
    """
    known = [run.metadata.get("identity", {}) for run in runs]
    texts = [""] * len(runs)
    groups: dict[Any, list[int]] = {}
    for number, key in enumerate(alike):
        if known[number]:
            groups.setdefault(key, []).append(number)
    for numbers in groups.values():
        names = sorted({name for number in numbers for name in known[number]}, key=_importance)
        values = {n: [str(known[k].get(n, DEFAULTS.get(n))) for k in numbers] for n in names}
        names = [name for name in names if len(set(values[name])) > 1]
        shown = _that_distinguish(values, names)
        rest = [name for name in names if name not in shown]
        shown += rest[: max(0, few - len(shown))]
        for place, number in enumerate(numbers):
            own = [f"{n}={values[n][place]}" for n in shown if values[n][place] != "None"]
            texts[number] = " ".join([*own, *(["..."] * (len(names) > len(shown)))])
    return texts


def _importance(name: str) -> tuple[int, bool, str]:
    group = name.partition(".")[0]
    place = IMPORTANT.index(group) if group in IMPORTANT else len(IMPORTANT)
    return place, name != "optim.lr", name


def _that_distinguish(values: Mapping[str, list[str]], names: Sequence[str]) -> list[str]:
    """Return the first of ``names`` whose values distinguish as many rows as all of them."""
    chosen: list[str] = []
    count = 1
    for name in names:
        found = len(set(zip(*(values[n] for n in [*chosen, name]), strict=True)))
        if found > count:
            chosen, count = [*chosen, name], found
    return chosen


def plain_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs for a file: one type a column; lists, and what is of several types, as JSON."""
    columns = {}
    for name, column in runs.items():
        if column.dtype == object:
            values = [None if _text_or_none(v) is None else v for v in column]
            types = {type(value) for value in values if value is not None}
            if types <= {int, float}:
                columns[name] = pd.Series(values, column.index, dtype=float)
                continue
            if types - {str} and types != {bool}:
                values = [None if v is None else json.dumps(v, default=str) for v in values]
            column = pd.Series(values, column.index, dtype="boolean" if types == {bool} else object)
        columns[name] = column
    return pd.DataFrame(columns, index=runs.index)


def _number_of(folder: Path) -> int | None:
    """Return the seed that the name of a run directory has."""
    number = folder.name.removeprefix("seed")
    return int(number) if number.isdecimal() else None


def get_nested(record: Any, *path: str) -> Any:
    """Return a value of nested dictionaries; None where they do not have it."""
    for name in path:
        record = record.get(name) if isinstance(record, Mapping) else None
    return record


def as_number(value: Any) -> float | None:
    """Return a number as it is; None for anything else, such as text or a boolean."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def describe_hardware(record: Any) -> str:
    """Return the device that computed, and how much of it."""
    known = get_nested(record, "hardware")
    if not isinstance(known, Mapping):
        return "" if known is None else str(known)
    cpu, gpu = str(known.get("cpu") or ""), known.get("gpu")
    if gpu and get_nested(record, "device") != "cpu":
        return f"{gpu} ({cpu})"
    counts = (("core", known.get("cores")), ("thread", get_nested(record, "threads")))
    sizes = ", ".join(f"{n} {what}" + ("" if n == 1 else "s") for what, n in counts if n)
    return f"{cpu} ({sizes})" if sizes else cpu
