"""Tables: the runs of every cell, contrasts between cells, and the test at chosen settings."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lrd.analysis.aggregates import TaskSummary, steps_to_target, summarize_tasks
from lrd.analysis.comparison import Comparison, compare
from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import (
    SAME_TASK,
    CellResults,
    collect_results,
    require_distinct,
    title_with_overrides,
)
from lrd.analysis.render import (
    DASH,
    Bold,
    Cell,
    Report,
    ReportBlock,
    TextTable,
    format_interval,
    format_number,
)
from lrd.analysis.resolve import setting_name
from lrd.analysis.studies import (
    CellPair,
    CellSpec,
    ContrastSpec,
    RowSpec,
    TableSpec,
    TargetSpec,
)

NOTE = "final epoch, mean over seeds, half of the 95 % t interval, n seeds"
INLINE = "final epoch, mean over seeds ± half of the 95 % t interval"
BETTER = "bold: better than what it is compared with, by a paired 95 % interval without 0"
PAIRED = "paired by seed: mean difference, half of its 95 % t interval, n pairs"
OVER_TASKS = (
    "scores of each pair of cells in percent of the base's mean, larger is better; interquartile "
    "mean over all runs, 95 % stratified bootstrap interval; probability that a run is better"
)
TO_TARGET = "median over runs of the first step that reaches the row's target, runs that reach it"
PAIRED_INLINE = "paired by seed: mean difference ± half of its 95 % t interval"
APART = "bold: the interval excludes 0"
# The lines under each row: what they show of a cell.
LINES: dict[str, Callable[[CellResults], str]] = {
    "ours": lambda found: "" if found.mean is None else f"{found.mean:.2f}",
    "95 % ±": lambda found: "" if found.half_width is None else f"{found.half_width:.2f}",
    "n": lambda found: _describe_n(found),
    "published": lambda found: (
        "" if found.cell.published is None else f"{found.cell.published:.2f}"
    ),
}


class TablePart(NamedTuple):
    """A table with its runs, and the overrides that these were made with."""

    table: TableSpec
    results: Mapping[CellSpec, CellResults]
    overrides: Sequence[str]


def table_parts(
    table: TableSpec, frames: RunFrames, overrides: Sequence[str] = ()
) -> list[TablePart]:
    """Return the table and, if it chooses settings, their test. Raises ValueError, in one line, for
    wrong overrides and for runs that cannot be read."""
    results = collect_results(table.cells(), frames, overrides)
    require_distinct("cells", results.values(), overrides)
    parts = [TablePart(table, results, overrides)]
    if table.selection:
        test = chosen_table(table, results)
        kept = [o for o in overrides if setting_name(o) != setting_name(table.selection.test)]
        parts.append(TablePart(test, collect_results(test.cells(), frames, kept), kept))
    for part in parts:
        for found in part.results.values():
            found.scores  # noqa: B018 -- raises for runs that cannot be read
    return [part for part in parts if part.table.rows]


def best_cell(results: Sequence[CellResults], setting: str) -> CellResults | None:
    """Choose the cell with the best mean score; of equal ones that with the lowest ``setting``.

    Cells with a failed run are not chosen, and none is chosen before every cell has a run. Means
    are over the seeds that all cells to choose from have.
    """
    sound = [found for found in results if found.n and found.failed.empty]
    if not sound or not all(found.n or len(found.failed) for found in results):
        return None
    scores = pd.concat(
        [found.scores for found in sound], axis=1, join="inner", keys=range(len(sound))
    )
    if scores.empty:
        return None
    sign = 1 if sound[0].score.maximize else -1
    means = (sign * scores.sum()).tolist()
    return max(
        zip(sound, means, strict=True), key=lambda pair: (pair[1], -pair[0].identity[setting])
    )[0]


def chosen_table(table: TableSpec, results: Mapping[CellSpec, CellResults]) -> TableSpec:
    """Return a table that tests the chosen cells, with a row for each first label of which every
    row has one.

    The held-out samples choose, and the test set is read by the runs of this table alone.
    """
    selection = table.selection
    assert selection is not None
    arms = tuple(dict.fromkeys(row.labels[-1] for row in table.rows))
    chosen: dict[str, list[tuple[str, CellSpec]]] = {}
    for row in table.rows:
        cells = [cell for group in row.groups for cell in group]
        if best := best_cell([results[cell] for cell in cells], selection.setting):
            edge = " (edge of the grid)" if best.cell in (cells[0], cells[-1]) else ""
            shown = f"{best.identity[selection.setting]:g}{edge}"
            test = CellSpec(best.cell.experiment, (*best.cell.overrides, selection.test))
            chosen.setdefault(row.labels[0], []).append((shown, test))
    rows = []
    for label, best in chosen.items():
        if len(best) == len(arms):
            labels = (label, *(shown for shown, _ in best))
            rows.append(RowSpec(labels, (tuple(cell for _, cell in best),)))
    heads = (table.heads[0], *(f"{selection.label} {arm}" for arm in arms))
    title = f"{selection.title}, {' / '.join(arms)}"
    contrasts = (ContrastSpec(arms[:1], arms[1:], selection.contrast),)
    return TableSpec(table.name, title, heads, ("Test",), tuple(rows), contrasts, arms)


def cells_frame(parts: Sequence[TablePart]) -> pd.DataFrame:
    """Return a row a cell: labels, experiment, overrides, mean, half_width_95, n, failed and
    published.

    A cell that a contrast compares with another has its difference from that one too: difference,
    difference_low and difference_high (95 % t interval), difference_n (pairs), difference_published
    and difference_from (the other's overrides). Those of a second comparison end in ``_2``.
    """
    rows = []
    for part in parts:
        compared: dict[CellSpec, list[dict[str, Any]]] = {}
        for pair in part.table.pairs():
            compared.setdefault(pair.other, []).append(_difference_values(part, pair))
        for labels, groups in part.table.rows:
            for cell in (cell for group in groups for cell in group):
                found = part.results[cell]
                row = {
                    "experiment": cell.experiment,
                    "overrides": _overrides_text(cell, part),
                    "mean": found.mean,
                    "half_width_95": found.half_width,
                    "n": found.n,
                    "failed": len(found.failed),
                    "published": cell.published,
                }
                for number, values in enumerate(compared.get(cell, ()), 1):
                    end = f"_{number}" if number > 1 else ""
                    row |= {f"{name}{end}": value for name, value in values.items()}
                rows.append(dict(zip(part.table.heads, labels, strict=True)) | row)
    heads = list(dict.fromkeys(head for table, *_ in parts for head in table.heads))
    frame = pd.DataFrame(rows)
    counts = [name for name in frame if str(name).startswith("difference_n")]
    frame = frame.astype(dict.fromkeys(counts, "Int64"))
    return frame.loc[:, heads + [name for name in frame if name not in heads]]


def _difference_values(part: TablePart, pair: CellPair) -> dict[str, Any]:
    found = compare(part.results[pair.base], part.results[pair.other])
    low, high = found.effect.interval or (None, None)
    return {
        "difference": found.effect.mean,
        "difference_low": low,
        "difference_high": high,
        "difference_n": found.n,
        "difference_published": found.published,
        "difference_from": _overrides_text(pair.base, part),
    }


def _overrides_text(cell: CellSpec, part: TablePart) -> str:
    return " ".join([*cell.overrides, *part.overrides])


def table_report(parts: Sequence[TablePart]) -> Report:
    """Return the tables and their contrasts; a row a cell."""
    blocks: list[ReportBlock] = []
    for part in parts:
        blocks.append(_cells_text(part))
        if part.table.contrasts:
            blocks += [_contrasts_text(part), *over_tasks_blocks(part)]
    return Report(blocks, cells_frame(parts))


def over_tasks(part: TablePart) -> pd.DataFrame:
    """Return a row for each contrast that compares cells of two or more tasks or data sets.

    Scores are normalized within each pair of cells, whose base has the mean 100; runs that failed
    or whose score is not finite are left out. Columns: tasks, cells (pairs of cells that have runs
    in both arms), n and failed (runs, the base's and the other's), and of ``summarize_tasks`` base,
    other, difference and probability, each followed by its interval in ``_low`` and ``_high``.
    """
    rows = {}
    for contrast in part.table.contrasts:
        ends = [
            (part.results[pair.base], part.results[pair.other])
            for pair in part.table.pairs()
            if pair.contrast == contrast
        ]
        found = [pair for pair in ends if all(len(_finite(arm)) for arm in pair)]
        tasks = {tuple(base.identity.get(name) for name in SAME_TASK) for base, _ in found}
        if len(tasks) < 2:
            continue
        arms = list(zip(*found, strict=True))
        base, other = ([_finite(cell) for cell in arm] for arm in arms)
        row: dict[str, object] = {"tasks": len(tasks), "cells": len(found)}
        row["n"] = tuple(sum(map(len, arm)) for arm in (base, other))
        row["failed"] = tuple(
            sum(len(cell.failed) + cell.n for cell in arm) - n
            for arm, n in zip(arms, row["n"], strict=True)
        )
        summary = summarize_tasks(base, other, [cell.score.maximize for cell in arms[0]])
        for name, (value, interval) in summary._asdict().items():
            low, high = interval or (np.nan, np.nan)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        rows[str(contrast)] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def _finite(found: CellResults) -> np.ndarray:
    """Return the scores that are finite."""
    scores = found.scores.to_numpy(dtype=float)
    return scores[np.isfinite(scores)]


def steps_to(found: CellResults, target: TargetSpec) -> np.ndarray:
    """Return for each run the first step at which it has reached a target; inf if it never has.

    Raises:
        ValueError: in one line, if a run does not log the metric.
    """
    firsts = []
    for seed, curve in found.curves(target.metric).items():
        if curve.empty:
            raise ValueError(
                f"{found.runs.folder[seed]}: no epoch has the target's {target.metric}"
            )
        steps = found.frames.epochs(found.runs.folder[seed]).step[curve.index]
        firsts.append(steps_to_target(steps, curve, target.value, target.maximize))
    return np.concatenate(firsts) if firsts else np.empty(0)


def _describe_n(found: CellResults) -> str:
    """Return how many, and how many failed, of which no score is known."""
    failed = f" ({len(found.failed)} failed)" if len(found.failed) else ""
    return f"{found.n}{failed}" if found.n or failed else ""


def shown_lines(table: TableSpec) -> list[str]:
    """Return the names of LINES that a table has; the published one only where a value is."""
    printed = any(cell.published is not None for cell in table.cells())
    return [name for name in LINES if printed or name != "published"]


def _cells_text(part: TablePart) -> TextTable:
    table, results, overrides = part
    lines, rows = shown_lines(table), []
    for labels, groups in table.rows:
        for name in lines:
            cells = ([LINES[name](results[cell]) or "-" for cell in group] for group in groups)
            rows.append([*_once(labels, name, lines), name, *map(" / ".join, cells)])
    title, head = title_with_overrides(table.title, overrides), [*table.heads, "", *table.columns]
    inline = _inline_cells(part, title)
    return TextTable(title, NOTE, head, len(table.heads) + 1, rows, len(lines), inline=inline)


def _inline_cells(part: TablePart, title: str) -> TextTable:
    """Return the table with mean and interval in one cell, the better arm in bold, and the n of
    most cells in the note."""
    table, results, _ = part
    found = [results[cell] for cell in table.cells()]
    (n, _), *_ = Counter(each.n for each in found if each.n).most_common(1) or [(0, 0)]
    better = _better_cells(part)

    def show(cell: CellSpec) -> str:
        each = results[cell]
        text = DASH if each.mean is None else f"{each.mean:.2f}"
        if each.half_width is not None:
            text += f" ± {each.half_width:.2f}"
        others = [f"n = {each.n}"] if each.n and each.n != n else []
        others += [f"{len(each.failed)} failed"] if len(each.failed) else []
        text += f" ({', '.join(others)})" if others else ""
        return Bold(text) if cell in better else text

    def publish(cell: CellSpec) -> str:
        return DASH if cell.published is None else f"{cell.published:.2f}"

    printed = any(cell.published is not None for cell in table.cells())
    rows: list[list[Cell]] = []
    for labels, groups in table.rows:
        ours = [tuple(map(show, group)) for group in groups]
        rows.append([*labels, *(["ours"] if printed else []), *ours])
        if printed:
            published = [tuple(map(publish, group)) for group in groups]
            rows.append([*("" for _ in labels), "published", *published])
    head = [*table.heads, *([""] if printed else []), *table.columns]
    note = "; ".join([INLINE, *([f"n = {n} seeds"] if n else []), *([BETTER] if better else [])])
    return TextTable(title, note, head, len(table.heads) + printed, rows, 1 + printed)


def _better_cells(part: TablePart) -> set[CellSpec]:
    """Return the cells that are better than another in a comparison of the table whose interval
    excludes 0, and worse in none."""
    better, worse = set(), set()
    for pair in part.table.pairs():
        found = compare(part.results[pair.base], part.results[pair.other])
        if found.better is not None:
            ends = (pair.base, pair.other)
            better.add(ends[found.better])
            worse.add(ends[1 - found.better])
    return better - worse


def _contrasts_text(part: TablePart) -> TextTable:
    """Return the differences that the contrasts ask for: a line each."""
    table, results, overrides = part
    rows: list[list[str]] = []
    inline: list[list[str]] = []
    for pair in table.pairs():
        found = compare(results[pair.base], results[pair.other])
        mean, half, n = _effect_texts(found)
        published = format_number(found.published, "+.2f")
        rows.append([pair.label, mean, half, n, published])
        text = mean if half == DASH else f"{mean} ± {half}"
        inline.append([pair.label, text if found.better is None else Bold(text), n, published])
    head = ["", "difference", "95 % ±", "n", "published"]
    inline_head = ["", "difference", "n", "published"]
    if not any(row[-1] != DASH for row in rows):
        head, inline_head = head[:-1], inline_head[:-1]
        rows, inline = [row[:-1] for row in rows], [row[:-1] for row in inline]
    what = f": {table.contrasts[0]}" if len(table.contrasts) == 1 else ""
    title = title_with_overrides(f"Differences{what}", overrides)
    bold = [APART] if any(isinstance(row[1], Bold) for row in inline) else []
    note = "; ".join([PAIRED_INLINE, *bold])
    compact = TextTable(title, note, inline_head, 1, inline, 1)
    return TextTable(title, PAIRED, head, 1, rows, len(rows), inline=compact)


def over_tasks_blocks(part: TablePart) -> Iterator[TextTable]:
    """Yield what contrasts show over tasks, and the steps to the targets that rows have."""
    frame, rows, forms = over_tasks(part), [], (".2f", ".2f", "+.2f", ".2f")
    for contrast, row in frame.to_dict("index").items():
        pairs = zip(row["n"], row["failed"], strict=True)
        n = [f"{n} ({x} failed)" if x else f"{n}" for n, x in pairs]
        texts = [
            f"{row[name]:{form}} {_interval(row, name, form)}".rstrip()
            for name, form in zip(TaskSummary._fields, forms, strict=True)
        ]
        rows.append([str(contrast), f"{row['tasks']}", f"{row['cells']}", " / ".join(n), *texts])
    if rows:
        head = ["", "tasks", "cells", "runs", "base", "other", "difference", "P(better)"]
        title = title_with_overrides("Over tasks", part.overrides)
        yield TextTable(title, OVER_TASKS, head, 1, rows, len(rows))
    if steps := list(_target_rows(part)):
        title, head = title_with_overrides("Steps to the target", part.overrides), ["", "target"]
        yield TextTable(title, TO_TARGET, [*head, "base", "other"], 2, steps, len(steps))


def _interval(row: Mapping[Hashable, Any], name: str, form: str) -> str:
    shown = format_interval((row[f"{name}_low"], row[f"{name}_high"]), form)
    return "" if shown == DASH else f"({shown})"


def _target_rows(part: TablePart) -> Iterator[list[str]]:
    labels = {cell: place[: len(part.table.heads)] for place, cell in part.table.places.items()}
    for pair in part.table.pairs():
        if target := part.table.targets.get(labels[pair.base]):
            texts = []
            for cell in (pair.base, pair.other):
                steps = steps_to(part.results[cell], target)
                reached = f"{np.isfinite(steps).sum()} of {len(steps)}"
                median = np.median(steps) if len(steps) else np.nan
                shown = "not reached" if np.isinf(median) else format_number(median, ",.10g")
                texts.append(f"{shown} ({reached})")
            yield [pair.label, str(target), *texts]


def _once(labels: Sequence[str], name: str, names: Iterable[str]) -> Sequence[str]:
    """Return a row's labels on the first of its lines."""
    return labels if name == next(iter(names)) else [""] * len(labels)


def _effect_texts(found: Comparison) -> list[str]:
    """Return the mean difference, half of its interval, n."""
    low, high = found.effect.interval or (0.0, float("nan"))
    half = format_number((high - low) / 2, ".2f")
    return [format_number(found.effect.mean, "+.2f"), half, str(found.n or DASH)]
