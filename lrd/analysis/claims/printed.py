"""What was published, by the rules of the claims, and the seeds that showing it takes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from lrd.analysis.claims.rules import judge_exactly, status_shares
from lrd.analysis.claims.specs import Rule
from lrd.analysis.studies import CellSpec, Study


def printed_values(studies: Sequence[Study]) -> dict[Any, float]:
    """Return the published numbers of studies, by metric, experiment and overrides."""
    found: dict[Any, float] = {}
    for table in (table for study in studies for table in study.tables.values()):
        for cell in table.cells():
            if cell.published is not None:
                found["score", cell.experiment, frozenset(cell.overrides)] = cell.published
    for figure in (figure for study in studies for figure in study.figures.values()):
        for curve in figure.curves():
            for metric, value in curve.published.items():
                found[metric, curve.cell.experiment, frozenset(curve.cell.overrides)] = value
    return found


def printed_effects(rule: Rule, printed: Mapping[Any, float]) -> list[float] | None:
    """Return the differences of a rule's pairs as published; None unless all are."""
    reduce = np.ptp if rule.measure.name == "range" else fmean
    if rule.measure.name not in ("final", "range"):
        return None

    def side(cells: Sequence[CellSpec]) -> float:
        keys = ((rule.measure.keys[0], c.experiment, frozenset(c.overrides)) for c in cells)
        return float(reduce([printed[key] for key in keys]))

    try:
        return [round(side(pair.other) - side(pair.base), 6) for pair in rule.pairs]
    except KeyError:
        return None


def judge_printed(rule: Rule, printed: Mapping[Any, float]) -> str | None:
    """Return what the rule says of the printed numbers, which have no intervals."""
    effects = printed_effects(rule, printed)
    if effects is None:
        return None
    status = judge_exactly(rule.criterion, effects)
    if len(effects) == 1:
        return f"{status} ({effects[0]:+.3g})"
    if rule.criterion.together == "mean":
        return f"{status} ({fmean(effects):+.3g})"
    single = replace(rule.criterion, least=None)
    alone = [judge_exactly(single, [effect]) for effect in effects]
    return f"{status} ({alone.count('supported')} of {len(alone)})"


def judge_replications(rule: Rule, studies: Sequence[Study]) -> list[str]:
    """Return what the rule says of each difference that others published of one of its pairs."""
    if rule.measure.name != "final":
        return []
    alone = replace(rule.criterion, least=None)
    found = []
    for one in dict.fromkeys(one for study in studies for one in study.replications):
        if any((one.base,) == pair.base and (one.other,) == pair.other for pair in rule.pairs):
            status = judge_exactly(alone, [one.difference])
            found.append(
                f"{status} ({one.difference:+.3g} of {one.base.experiment} "
                f"{one.base.overrides[0]}; {one.statistic}, n = {one.n}, {one.source})"
            )
    return found


def planned_power(rule: Rule, printed: Mapping[Any, float], trials: int = 2000) -> float:
    """Return the chance that the rule, at its planned n, supports a claim whose effect is the one
    that it expects, by simulation."""
    return status_shares(rule.criterion, planned_effects(rule, printed), rule.sd, rule.n, trials)[
        "supported"
    ]


def planned_effects(rule: Rule, printed: Mapping[Any, float]) -> list[float]:
    """Return the effects for which a rule's n is planned.

    Raises:
        ValueError: none is published and the rule expects none.
    """
    if rule.expect is not None:
        return [rule.expect] * max(1, len(rule.pairs))
    effects = printed_effects(rule, printed)
    if effects is None:
        raise ValueError(f"{rule}: expect must be given, since no such number is published")
    return effects
