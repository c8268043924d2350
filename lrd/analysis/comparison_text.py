"""What compare.py prints of pairs of arms: scores, convergence, power and equivalence."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import pandas as pd

from lrd.analysis.comparison import (
    ArmPair,
    Comparison,
    TimeToTarget,
    level_table,
    pool_comparisons,
    score_table,
    why_not_pooled,
)
from lrd.analysis.matching import title_with_overrides
from lrd.analysis.render import (
    DASH,
    Bold,
    Report,
    ReportBlock,
    TextTable,
    format_epoch,
    format_interval,
    format_number,
    format_p,
    format_pairs,
)
from lrd.analysis.statistics import FEW, PAIRS_LIMIT, PairedDifferences, Pooled, pool
from lrd.config.fingerprint import diff_identities

Comparisons = Mapping[str, Comparison]
MAX_LISTED = 4  # comparisons, up to which they are named
POINTS = {"%": "percentage points"}  # the unit of differences

BOLD = "the better arm is bold where the 95 % interval excludes 0"
DECIMALS = 3  # of scores and differences, at least
MOST_DECIMALS = 7
SIGN_FLIP: dict[str, Callable[[Any], str]] = {
    "p (sign flip)": lambda row: format_p(row.p_permutation),
    "smallest p": lambda row: format_number(row.smallest_p, ".2g"),
    "Holm ": lambda row: format_p(row.p_permutation_holm),
}


def _effect_columns(decimals: int) -> dict[str, Callable[[Any], str]]:
    """Return how columns of score_table and level_table are shown: their head, and a row's text."""
    signed, plain = f"+z.{decimals}f", f"z.{decimals}f"
    return {
        "n": lambda row: str(row.n),
        "difference": lambda row: format_number(row.difference, signed),
        "95 % interval": lambda row: format_interval((row.low, row.high), signed),
        "sd": lambda row: format_number(row.sd, plain),
        "p (t)": lambda row: "sd = 0" if row.sd == 0 else format_p(row.p_t),
        "Holm": lambda row: format_p(row.p_t_holm),
    }


def _count_decimals(spreads: Iterable[float]) -> int:
    """Return the decimals that show two digits of the smallest standard deviation above 0."""
    smallest = min((spread for spread in spreads if spread > 0), default=1.0)
    return min(max(DECIMALS, 1 - math.floor(math.log10(smallest))), MOST_DECIMALS)


def _frame_rows(
    frame: pd.DataFrame, columns: Mapping[str, Callable[[Any], str]]
) -> tuple[list[str], list[list[str]]]:
    """Return a table's head and rows."""
    shown: Any = frame.itertuples()
    rows = [[str(row.Index), *(show(row) for show in columns.values())] for row in shown]
    return ["", *(head.strip() for head in columns)], rows


def comparison_report(pairs: Sequence[ArmPair], gap: float | None = None) -> Report:
    """Return what compare.py prints: scores, convergence and the seeds that ``gap`` takes."""
    table, lines = _head(pairs)
    blocks: list[ReportBlock] = ["\n".join(lines)]
    if any(c.n for c in table.values()):
        blocks += [_scores(table, pairs[0].arms), *_convergence(table), _sample_sizes(table, gap)]
    else:
        blocks += ["no pair of finished runs yet"]
    return Report(blocks, comparison_frame(pairs, table))


def describe_differences(what: str, pairs: Sequence[tuple[str, Comparison]]) -> str:
    """Return in words where the other arm is better, where it is worse, where no difference is
    shown by the 95 % interval, and the mean difference.

    Args:
        what: what is compared, such as "Lion against Adam".
        pairs: named comparisons, each with a pair of runs.
    """
    kinds: dict[str, list[str]] = {"better": [], "worse": [], "no difference shown": []}
    for label, found in pairs:
        sign = 1 if found.score.maximize else -1
        ends = [sign * end for end in found.effect.interval or (-math.inf, math.inf)]
        kind = "better" if min(ends) > 0 else "worse" if max(ends) < 0 else "no difference shown"
        kinds[kind].append(label)
    said = [kind + _where(labels, len(pairs)) for kind, labels in kinds.items() if labels]
    text = f"{what}: {', '.join(said)}"
    pooled = pool_comparisons([found for _, found in pairs])
    effect = pooled.effect if pooled and pooled.by_cell.n > 1 else None
    effect = pairs[0][1].effect if len(pairs) == 1 else effect
    if effect is not None and effect.mean is not None:
        text += f"; mean difference {_describe_effect(effect, pairs[0][1].score.unit)}"
    elif pooled is None and len(pairs) <= MAX_LISTED:
        each = (f"{label} {_describe_effect(c.effect, c.score.unit)}" for label, c in pairs)
        text += f"; {', '.join(each)}"
    n = sorted({found.n for _, found in pairs})
    text += f"; n = {n[0]}" + (f" to {n[-1]}" if len(n) > 1 else "")
    if failed := sum(len(found.base.failed) + len(found.other.failed) for _, found in pairs):
        text += f", {failed} failed run{'s' * (failed > 1)} left out"
    return text


def _where(labels: Sequence[str], total: int) -> str:
    """Return in how many of all comparisons, and in which, if they are some and few."""
    if total == 1:
        return ""
    named = f" ({', '.join(labels)})" if len(labels) <= MAX_LISTED and len(labels) < total else ""
    return f" in {len(labels)} of {total}{named}"


def _describe_effect(effect: PairedDifferences, unit: str) -> str:
    """Return a mean with its unit and, if there is one, its interval."""
    text = f"{format_number(effect.mean, '+.2f')} {POINTS.get(unit, unit)}".rstrip()
    return text + (f" ({format_interval(effect.interval, '+.2f')})" if effect.interval else "")


def comparison_frame(pairs: Sequence[ArmPair], table: Comparisons) -> pd.DataFrame:
    """Return a row a comparison: what is compared, ``score_table``, and convergence.

    The columns of ``level_table`` follow for the training loss, and after ``to_base_final_`` and
    ``to_worse_final_`` how many pairs reach these scores sooner, at the same epoch and later, with
    the p of the sign test.
    """
    scores = score_table(table)
    told = pd.DataFrame(
        [
            {
                "title": pair.title,
                "comparison": name,
                "overrides": " ".join(pair.overrides),
                "base_arm": pair.arms[0],
                "other_arm": pair.arms[1],
                "score": table[name].score.name if table[name].n else None,
                "failed_seeds": " ".join(map(str, table[name].failed)),
            }
            for name, pair in {pair.name: pair for pair in pairs}.items()
        ],
        index=scores.index,
    )
    levels = level_table("train_loss", table).drop(columns="n").add_prefix("train_loss_level_")
    times = [
        {
            f"to_{name}_final_{key}": value
            for name, even in (("base", False), ("worse", True))
            for key, value in _time_values(found.time_to_target(even=even)).items()
        }
        for found in table.values()
    ]
    return told.join([scores, levels, pd.DataFrame(times, index=scores.index)])


def _time_values(time: TimeToTarget) -> dict[str, float | None]:
    return dict(zip(("sooner", "same", "later", "p"), (*time.counts, time.p_sign), strict=True))


def _head(pairs: Sequence[ArmPair]) -> tuple[dict[str, Comparison], list[str]]:
    table = {pair.name: pair.compare() for pair in pairs}
    base, other = pairs[0].arms
    changed = (diff_identities(*(r.identity for r in pair.results)) for pair in pairs)
    title = title_with_overrides(f"{pairs[0].title}: {other} against {base}", pairs[0].overrides)
    settings = ", ".join(dict.fromkeys(chain.from_iterable(changed)))
    lines = [title]
    if known := [(name, found) for name, found in table.items() if found.n]:
        lines += [f"{describe_differences(f'{other} against {base}', known)}."]
    lines += [f"pairs by seed; {other} has {settings}"]
    for name, found in table.items():
        if found.failed:
            seeds = ", ".join(map(str, found.failed))
            lines += [f"note: {name}: seed {seeds} failed in an arm, and no pair has it"]
        if not found.effect.is_finite:
            lines += [f"note: {name}: a score is not finite, so that nothing follows"]
    return table, lines


def _scores(table: Comparisons, arms: tuple[str, str]) -> TextTable:
    """Return the final scores: each configuration, and all of them. The better arm is bold where
    the interval excludes 0."""
    names = (f"{c.score.name} {c.score.unit}".strip() for c in table.values() if c.n)
    frame = score_table(table)
    decimals = _count_decimals(frame["sd"])
    means: dict[str, Callable[[Any], str]] = {
        arms[0]: lambda row: format_number(row.base, f"z.{decimals}f"),
        arms[1]: lambda row: format_number(row.other, f"z.{decimals}f"),
    }
    effect = _effect_columns(decimals)
    columns = {"n": effect["n"], **means, **effect}
    if any(found.n >= FEW for found in table.values()):
        columns |= SIGN_FLIP
    title = f"Score at the final epoch ({', '.join(dict.fromkeys(names))})"
    head, rows = _frame_rows(frame, columns)
    for row, found in zip(rows, table.values(), strict=True):
        if found.better is not None:
            row[2 + found.better] = Bold(row[2 + found.better])
    everything = pool_comparisons(list(table.values()))
    foot = [f"not pooled: {why_not_pooled(list(table.values()))}"]
    if everything is not None:
        foot = _pooled_lines(everything, decimals)
    note = BOLD if any(found.better is not None for found in table.values()) else ""
    return TextTable(title, note, head, 1, rows, 0, foot)


def _pooled_lines(found: Pooled, decimals: int) -> list[str]:
    """Return the pooled estimate in a sentence; none for one configuration."""
    if found.cells < 2 or not found.by_cell.n:
        return []
    effect, form = found.effect, f"+z.{decimals}f"
    of = f"{found.by_cell.n} of {found.cells}" if found.by_cell.n < found.cells else found.cells
    p = "sd = 0" if effect.sd == 0 else format_p(effect.p_t)
    flips = f", p (sign flip) {format_p(effect.p_permutation)}" if effect.n >= FEW else ""
    interval = format_interval(effect.interval, form)
    return [
        f"mean of {of} configurations, n = {effect.n} seeds: "
        f"{format_number(effect.mean, form)}, 95 % interval {interval}, "
        f"p (t) {p}{flips}",
        "  95 % interval for new seeds and new configurations (mixed effects): "
        f"{format_interval(found.mixed_effects_interval, form)}",
    ]


def _convergence(table: Comparisons) -> list[TextTable]:
    """Return epochs to a target, and the levels of curves."""
    goals = {
        "the final score of the base run of its seed": False,
        "the worse of the pair's two final scores": True,
    }
    found = [
        _times(
            f"Epochs until the score first reaches {goal}",
            {name: c.time_to_target(even=even) for name, c in table.items()},
        )
        for goal, even in goals.items()
    ]
    found += [_levels("train_loss", table)]
    for key in dict.fromkeys(c.score.name for c in table.values() if c.n):
        found += [_levels(key, {name: c for name, c in table.items() if c.score.name == key})]
    return found


def _times(title: str, times: Mapping[str, TimeToTarget]) -> TextTable:
    head = ["", "n", "reached", "median epochs", "sooner", "same", "later"]
    head += ["difference", "95 % interval", "p (sign)", "smallest p"]
    rows, foot = [], []
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
    if net.cells >= 2 and net.by_cell.n:
        share, interval = format_number(net.effect.mean, "+z.2f"), net.effect.interval
        kept = format_interval(
            interval and (max(interval[0], -1.0), min(interval[1], 1.0)), "+z.2f"
        )
        what = "net share of configurations in which the second arm was slower"
        foot = [f"{what}: {share}, 95 % interval {kept}"]
    return TextTable(title, "", head, 1, rows, 0, foot)


def _levels(key: str, table: Comparisons) -> TextTable:
    """Return differences of mean levels, with their mean if it is one of like things."""
    title = f"Mean of {key} over the epochs (the area under its curve, per epoch)"
    compared = list(table.values())
    levels = [] if why_not_pooled(compared) else [c.level_differences(key) for c in compared]
    frame = level_table(key, table)
    decimals = _count_decimals(frame["sd"])
    head, rows = _frame_rows(frame, _effect_columns(decimals))
    return TextTable(title, "", head, 1, rows, 0, _pooled_lines(pool(levels), decimals))


def _sample_sizes(table: Comparisons, gap: float | None) -> TextTable:
    """Return the spread of the pairs, their correlation, and the seeds that they ask for.

    Fewer than FEW pairs do not know their spread well enough to plan by it.
    """
    head = ["", "n", "r of the pairs", "sd", "95 % interval of sd"]
    head += ["gap", "seeds", "their interval"]
    rows = []
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
    what = "the published gap" if gap is None else f"a difference of {gap:g}"
    title = f"Spread of the pairs, and seeds that would show {what} 4 times out of 5"
    note = f"seeds are given from {FEW} pairs on, since fewer do not know their spread"
    foot = [note] if any(0 < c.n < FEW for c in table.values()) else []
    return TextTable(title, "", head, 1, rows, 0, foot)


def equivalence_report(pairs: Sequence[ArmPair], margin: float) -> Report:
    """Return the paired equivalence test of every configuration, two one-sided t tests each."""
    table, lines = _head(pairs)
    blocks: list[ReportBlock] = ["\n".join(lines)]
    for pair in pairs:
        found = table[pair.name]
        lines = [f"{pair.name}: {found.score.name} at the final epoch"]
        width = max(map(len, pair.arms))
        for arm, results, mean in zip(pair.arms, pair.results, found.means or (), strict=False):
            runs: Any = results.runs.loc[list(found.seeds)].itertuples()
            made = "; ".join(dict.fromkeys(map(_describe_environment, runs)))
            lines += [f"{arm:{width}}  n = {found.n}  mean {mean:.3f}  ({made})"]
        blocks.append("\n".join([*lines, *_equivalence_lines(found, margin)]))
    tests = pd.DataFrame([_equivalence_values(c, margin) for c in table.values()], list(table))
    return Report(blocks, comparison_frame(pairs, table).join(tests))


def _equivalence_values(found: Comparison, margin: float) -> dict[str, Any]:
    low, high = found.effect.t_interval(0.90) or (None, None)
    p = found.effect.equivalence_p(margin)
    return {"margin": margin, "low_90": low, "high_90": high, "p_equivalence": p}


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
