"""Numbers and tables as text, Markdown, LaTeX and CSV."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lrd.analysis.comparison import (
    NOT_REACHED,
    ArmPair,
    Comparison,
    TimeToTarget,
    level_table,
    pool_comparisons,
    score_table,
)
from lrd.analysis.frames import distinguishing_settings, plain_frame
from lrd.analysis.matching import title_with_overrides
from lrd.analysis.statistics import FEW, PAIRS_LIMIT, Interval, Pooled, pool
from lrd.config.fingerprint import diff_identities
from lrd.runs.store import Run

DASH = "-"
Comparisons = Mapping[str, Comparison]


def format_number(value: float | None, form: str = "z.3f") -> str:
    """Return a number; a dash for None and NaN."""
    return DASH if value is None or math.isnan(value) else f"{value:{form}}"


def format_interval(interval: Interval | None, form: str = "+z.3f") -> str:
    if interval is None or math.isnan(interval[0]):
        return DASH
    return f"{interval[0]:{form}} to {interval[1]:{form}}"


def format_p(p: float | None) -> str:
    """Return a p-value; of a small one that it is."""
    return DASH if p is None or math.isnan(p) else "<0.0001" if p < 1e-4 else f"{p:.4f}"


def format_pairs(pairs: int | None) -> str:
    """Return a number of pairs; None stands for more than PAIRS_LIMIT."""
    return f">{PAIRS_LIMIT}" if pairs is None else str(pairs)


def format_epoch(value: float) -> str:
    return "never" if value == NOT_REACHED else f"{value:g}"


def align(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return rows as lines: the first ``left`` columns left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        texts = zip(row, widths, strict=True)
        padded = [t.ljust(w) if i < left else t.rjust(w) for i, (t, w) in enumerate(texts)]
        lines.append("  ".join(padded).rstrip())
    return lines


@dataclass(frozen=True)
class TextTable:
    """A table of texts: its first ``labels`` columns are words; every ``per`` lines belong
    together, and the first of them has the labels."""

    title: str
    note: str
    head: list[str]
    labels: int
    rows: list[list[str]]
    per: int


def to_text(table: TextTable) -> str:
    head, *lines = align([table.head, *table.rows], left=len(table.head))
    rule = "-" * max(map(len, [head, *lines]))
    blocks = ["\n".join(lines[i : i + table.per]) for i in range(0, len(lines), table.per)]
    body = "\n".join([head, rule, f"\n{rule}\n".join(blocks)])
    return f"{table.title}\n{table.note}\n\n{body}"


def to_markdown(table: TextTable) -> str:
    rows = [table.head, ["---"] * len(table.head), *table.rows]
    escaped = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    body = "\n".join("| " + " | ".join(row) + " |" for row in escaped)
    return f"{table.title}\n{table.note}\n\n{body}"


def to_latex(table: TextTable) -> str:
    lines = [" & ".join(map(_escape, row)) + r" \\" for row in [table.head, *table.rows]]
    for i in range(0, len(lines), table.per):
        lines[i] += r" \hline"
    columns = "l" * table.labels + "c" * (len(table.head) - table.labels)
    caption = _escape(f"{table.title}. {table.note[0].upper()}{table.note[1:]}.")
    top = ["\\begin{table}", "\\centering", rf"\caption{{{caption}}}"]
    begin, end = rf"\begin{{tabular}}{{{columns}}} \hline", "\\end{tabular}"
    return "\n".join([*top, begin, *lines, end, "\\end{table}"])


def _escape(cell: str) -> str:
    for character in "%&_#${}":
        cell = cell.replace(character, "\\" + character)
    for text, symbol in (("±", "pm"), (">=", "ge"), ("<=", "le")):
        cell = cell.replace(text, rf"$\{symbol}$")
    return cell


TEXT_FORMATS: dict[str, Callable[[TextTable], str]] = {
    "text": to_text,
    "markdown": to_markdown,
    "latex": to_latex,
}

# How the columns of score_table and level_table are shown: their head, and a row's text.
EFFECT: dict[str, Callable[[Any], str]] = {
    "n": lambda row: str(row.n),
    "difference": lambda row: format_number(row.difference, "+z.3f"),
    "95 % interval": lambda row: format_interval((row.low, row.high)),
    "sd": lambda row: format_number(row.sd),
    "p (t)": lambda row: "sd = 0" if row.sd == 0 else format_p(row.p_t),
    "Holm": lambda row: format_p(row.p_t_holm),
}
SIGN_FLIP: dict[str, Callable[[Any], str]] = {
    "p (sign flip)": lambda row: format_p(row.p_permutation),
    "smallest p": lambda row: format_number(row.smallest_p, ".2g"),
    "Holm ": lambda row: format_p(row.p_permutation_holm),
}


def _frame_lines(frame: pd.DataFrame, columns: Mapping[str, Callable[[Any], str]]) -> list[str]:
    shown: Any = frame.itertuples()
    rows = [[str(row.Index), *(show(row) for show in columns.values())] for row in shown]
    return align([["", *(head.strip() for head in columns)], *rows])


RUN_HEADS = ("state", "data", "optim", "p", "seed", "epochs", "final", "arm")
OPTIONAL_HEADS = ("job", "differs in")  # columns that are left out where they would be empty
RUN_HEADS = (*RUN_HEADS, *OPTIONAL_HEADS, "folder")


def format_runs(runs: Sequence[Run], frame: pd.DataFrame) -> str:
    """Return a list of those of ``runs`` whose rows of ``list_frame`` are in ``frame``."""
    runs, rows = [runs[row] for row in frame.index], []
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        done = "damaged" if row["epochs_done"] is None else f"{row['epochs_done']:.0f}"
        score = "" if row["final"] is None else f"{row['final']:.2f} {row['unit']}".strip()
        names = ("state", "dataset", "optimizer", "p", "seed", "epochs", "arm")
        *first, epochs, arm = ("?" if row.get(n) is None else f"{row[n]}" for n in names)
        rows.append([*first, f"{done}/{epochs.removesuffix('.0')}", score, arm, row["job"]])
    alike = [(*row[1:5], row[5].rpartition("/")[2], row[7]) for row in rows]
    differ = distinguishing_settings(runs, alike)
    rows = [[*r, text, str(run.folder)] for r, text, run in zip(rows, differ, runs, strict=True)]
    table = [list(column) for column in zip(RUN_HEADS, *rows, strict=True)]
    table = [column for column in table if column[0] not in OPTIONAL_HEADS or any(column[1:])]
    lines = align(list(zip(*table, strict=True)), left=len(table))
    counts = ", ".join(f"{n} {state}" for state, n in Counter(row[0] for row in rows).items())
    return "\n".join([*lines, f"{len(rows)} runs: {counts or 'none'}"])


def export_runs(runs: Sequence[Run], frame: pd.DataFrame, form: str, out: str | None) -> str:
    """Return a list of runs as text, csv or json, or write it to ``out`` and return that path.

    Args:
        runs: all runs.
        frame: those to export, rows of ``list_frame``.
        form: text, csv, json or parquet.
        out: a file.

    Raises:
        ValueError: parquet has no ``out``, or its library is not installed.
    """
    plain = plain_frame(frame)
    if form == "parquet":
        if out is None:
            raise ValueError("--format parquet must be given --out FILE")
        try:
            plain.to_parquet(out, index=False)
        except ImportError as error:
            raise ValueError("--format parquet needs a package: pip install pyarrow") from error
        return out
    if form == "text":
        text = format_runs(runs, frame)
    elif form == "csv":
        text = str(plain.to_csv(index=False))
    else:
        text = str(plain.to_json(orient="records", indent=1, double_precision=15))
    if out is None:
        return text.rstrip()
    Path(out).write_text(text.rstrip() + "\n")
    return out


def describe_run(run: Run) -> str:
    """Return a run's record, with its state and last epoch, as YAML."""
    record = {k: v for k, v in run.metadata.items() if k not in ("identity", "format", "packages")}
    record = {"folder": str(run.folder), "state": run.state, **record}
    if metrics := run.metrics:
        record["last epoch"] = metrics[-1]
    return yaml.safe_dump(record, sort_keys=False, width=100).rstrip()


def comparison_report(pairs: Sequence[ArmPair], gap: float | None = None) -> str:
    """Return what compare.py prints: scores, convergence and the seeds that ``gap`` takes."""
    table, lines = _head(pairs)
    if not any(c.n for c in table.values()):
        return "\n".join([*lines, "", "no pair of finished runs yet"])
    sections = (
        _score_lines(table, pairs[0].arms),
        _convergence_lines(table),
        _sample_size_lines(table, gap),
    )
    return "\n".join([*lines, *chain.from_iterable(["", *section] for section in sections)])


def _head(pairs: Sequence[ArmPair]) -> tuple[dict[str, Comparison], list[str]]:
    table = {pair.name: pair.compare() for pair in pairs}
    base, other = pairs[0].arms
    changed = (diff_identities(*(r.identity for r in pair.results)) for pair in pairs)
    title = title_with_overrides(f"{pairs[0].title}: {other} against {base}", pairs[0].overrides)
    settings = ", ".join(dict.fromkeys(chain.from_iterable(changed)))
    lines = [title, f"pairs by seed; {other} has {settings}"]
    for name, found in table.items():
        if found.failed:
            seeds = ", ".join(map(str, found.failed))
            lines += [f"note: {name}: seed {seeds} failed in an arm, and no pair has it"]
        if not found.effect.is_finite:
            lines += [f"note: {name}: a score is not finite, so that nothing follows"]
    return table, lines


def _score_lines(table: Comparisons, arms: tuple[str, str]) -> list[str]:
    """Return the final scores: each configuration, and all of them."""
    names = (f"{c.score.name} {c.score.unit}".strip() for c in table.values() if c.n)
    means: dict[str, Callable[[Any], str]] = {
        arms[0]: lambda row: format_number(row.base),
        arms[1]: lambda row: format_number(row.other),
    }
    columns = {"n": EFFECT["n"], **means, **EFFECT}
    if any(found.n >= FEW for found in table.values()):
        columns |= SIGN_FLIP
    title = f"Score at the final epoch ({', '.join(dict.fromkeys(names))})"
    lines = [title, *_frame_lines(score_table(table), columns)]
    everything = pool_comparisons(list(table.values()))
    if everything is None:
        return [*lines, "not pooled: the configurations have several scores"]
    return [*lines, *_pooled_lines(everything)]


def _pooled_lines(found: Pooled) -> list[str]:
    """Return the pooled estimate in a sentence; none for one configuration."""
    if found.cells < 2 or not found.by_cell.n:
        return []
    effect = found.effect
    of = f"{found.by_cell.n} of {found.cells}" if found.by_cell.n < found.cells else found.cells
    p = "sd = 0" if effect.sd == 0 else format_p(effect.p_t)
    flips = f", p (sign flip) {format_p(effect.p_permutation)}" if effect.n >= FEW else ""
    return [
        f"mean of {of} configurations, n = {effect.n} seeds: "
        f"{format_number(effect.mean, '+z.3f')}, 95 % interval {format_interval(effect.interval)}, "
        f"p (t) {p}{flips}",
        "  95 % interval for new seeds and new configurations (mixed effects): "
        f"{format_interval(found.mixed_effects_interval)}",
    ]


def _convergence_lines(table: Comparisons) -> list[str]:
    """Return epochs to a target, and the levels of curves."""
    lines = ["Epochs until the score first reaches the final score of the base run of its seed"]
    lines += _time_lines({name: c.time_to_target() for name, c in table.items()})
    lines += ["", "Epochs until the score first reaches the worse of the pair's two final scores"]
    lines += _time_lines({name: c.time_to_target(even=True) for name, c in table.items()})
    pools = pool_comparisons(list(table.values())) is not None
    lines += ["", *_level_lines("train_loss", table, pools)]
    for key in dict.fromkeys(c.score.name for c in table.values() if c.n):
        alike = {name: c for name, c in table.items() if c.score.name == key}
        lines += ["", *_level_lines(key, alike)]
    return lines


def _time_lines(times: Mapping[str, TimeToTarget]) -> list[str]:
    heads = ["", "n", "reached", "median epochs", "sooner", "same", "later"]
    rows = [[*heads, "difference", "95 % interval", "p (sign)", "smallest p"]]
    for name, time in times.items():
        reached = " / ".join(map(str, time.reached))
        medians = " / ".join(map(format_epoch, time.medians)) if time.medians else DASH
        mean = format_number(time.effect.mean, "+z.1f")
        interval = format_interval(time.effect.interval, "+z.1f")
        if time.effect.mean is None and time.median_interval:
            mean, interval = "median", " to ".join(map(format_epoch, time.median_interval))
        rows += [[name, str(time.n), reached, medians, *map(str, time.counts), mean, interval]]
        rows[-1] += [format_p(time.p_sign), format_number(time.effect.smallest_p, ".2g")]
    net = pool([time.signs for time in times.values()])
    if net.cells < 2 or not net.by_cell.n:
        return align(rows)
    share, interval = format_number(net.effect.mean, "+z.2f"), net.effect.interval
    kept = interval and (max(interval[0], -1.0), min(interval[1], 1.0))
    what = "net share of configurations in which the second arm was slower"
    return [*align(rows), f"{what}: {share}, 95 % interval {format_interval(kept, '+z.2f')}"]


def _level_lines(key: str, table: Comparisons, pools: bool = True) -> list[str]:
    """Return differences of mean levels; ``pools``: whether their mean is one of like things."""
    title = f"Mean of {key} over the epochs (the area under its curve, per epoch)"
    lines = [title, *_frame_lines(level_table(key, table), EFFECT)]
    levels = [c.level_differences(key) for c in table.values()] if pools else []
    return [*lines, *_pooled_lines(pool(levels))]


def _sample_size_lines(table: Comparisons, gap: float | None) -> list[str]:
    """Return the spread of the pairs, their correlation, and the seeds that they ask for.

    Fewer than FEW pairs do not know their spread well enough to plan by it.
    """
    rows = [
        ["", "n", "r of the pairs", "sd", "95 % interval of sd", "gap", "seeds", "their interval"]
    ]
    for name, found in table.items():
        if not found.n:
            continue
        bounds = format_interval(found.effect.sd_interval(0.95), ".3f")
        r, sd = format_number(found.correlation, "+.2f"), format_number(found.effect.sd)
        plan, texts = found.plan(gap), [DASH, DASH, DASH]
        if plan:
            texts[0] = format_number(plan.gap, "+.2f")
        if plan and plan.n >= FEW:
            ends = " to ".join(map(format_pairs, plan.pairs_range))
            texts[1:] = [format_pairs(plan.pairs), ends]
        rows += [[name, str(found.n), r, sd, bounds, *texts]]
    what = "the paper's gap" if gap is None else f"a difference of {gap:g}"
    title = f"Spread of the pairs, and seeds that would show {what} 4 times out of 5"
    note = f"seeds are given from {FEW} pairs on, since fewer do not know their spread"
    return [title, *align(rows), *([note] if any(0 < c.n < FEW for c in table.values()) else [])]


def equivalence_report(pairs: Sequence[ArmPair], margin: float) -> str:
    """Return the paired equivalence test of every configuration, two one-sided t tests each."""
    table, lines = _head(pairs)
    for pair in pairs:
        found = table[pair.name]
        lines += ["", f"{pair.name}: {found.score.name} at the final epoch"]
        width = max(map(len, pair.arms))
        for arm, results, mean in zip(pair.arms, pair.results, found.means or (), strict=False):
            runs: Any = results.runs.loc[list(found.seeds)].itertuples()
            made = "; ".join(dict.fromkeys(map(_describe_environment, runs)))
            lines += [f"{arm:{width}}  n = {found.n}  mean {mean:.3f}  ({made})"]
        lines += _equivalence_lines(found, margin)
    return "\n".join(lines)


def _describe_environment(run: Any) -> str:
    return f"{run.precision}, {run.implementation}, {run.hardware}, torch {run.torch}"


def _equivalence_lines(found: Comparison, margin: float) -> list[str]:
    effect = found.effect
    p, interval = effect.equivalence_p(margin), effect.t_interval(0.95)
    if p is None or interval is None or effect.mean is None:
        why = "a score is not finite"
        if found.n < 2:
            why = f"2 pairs are needed, got {found.n}"
        elif effect.sd == 0:
            why = f"all {found.n} differences are {effect.mean:+.3f}, and no spread shows nothing"
        return [f"not shown: {why}"]
    smallest, largest = min(effect.values), max(effect.values)
    lines = [
        f"mean difference  {effect.mean:+.3f} (standard deviation {effect.sd:.3f}, "
        f"{smallest:+.3f} to {largest:+.3f})",
        f"90 % interval     {format_interval(effect.t_interval(0.90))}",
        f"95 % interval     {format_interval(interval)}",
        f"two one-sided t tests against +-{margin:g}: p = {p:.2g}",
    ]
    if p < 0.05:
        return [*lines, f"equivalent within +-{margin:g} points"]
    lines += [f"not shown: equivalence within +-{margin:g} points"]
    if effect.sd and interval[0] < 0 < interval[1]:
        needed = effect.pairs_for_equivalence(margin) or f"more than {PAIRS_LIMIT}"
        lines += [
            f"with this standard deviation and equal means, {needed} pairs show it 4 times out of 5"
        ]
    return lines
