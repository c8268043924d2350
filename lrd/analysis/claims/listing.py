"""What verdicts.py prints: the claims with their parts; and their verdicts, counted in words."""

from collections.abc import Sequence

import pandas as pd

from lrd.analysis.claims.rules import Status
from lrd.analysis.claims.verdicts import Verdict
from lrd.analysis.render import Listing, Report, ReportBlock

# What is said of one claim and of several, in the order in which they are named.
SAID: dict[Status, tuple[str, str]] = {
    "supported": ("{} is supported", "{} are supported"),
    "opposite found": ("for {} the opposite is found", "for {} the opposite is found"),
    "no effect of a size that counts": (
        "{} shows no effect of a size that counts",
        "{} show no effect of a size that counts",
    ),
    "undecided": ("{} is undecided", "{} are undecided"),
    "not enough runs": ("{} lacks runs", "{} lack runs"),
}


def count_verdicts(verdicts: Sequence[Verdict]) -> str:
    """Return how many claims have which verdict: ``1 of 14 claims is supported, 13 lack runs``."""
    total = len(verdicts)
    statuses = [verdict.status for verdict in verdicts]
    parts: list[str] = []
    for status, (one, several) in SAID.items():
        if n := statuses.count(status):
            who = f"{n}" if parts else f"{n} of {total} claims"
            if n == total:
                who = "the claim" if total == 1 else f"all {total} claims"
            parts.append((one if n == 1 else several).format(who))
    return ", ".join(parts)


def verdicts_report(verdicts: Sequence[Verdict], given: Sequence[str] = ()) -> Report:
    """Return the verdicts of claims, under settings that are ``given``."""
    blocks: list[ReportBlock] = [f"[{' '.join(given)}]"] if given else []
    items = []
    for verdict in verdicts:
        claim = verdict.claim
        points = [f"{part.status}: {part.explanation}" for part in verdict.parts]
        text = f"{verdict.status.upper()}: {claim.says} ({claim.where})"
        items.append((claim.name, text, points))
    return Report([*blocks, Listing(items)], verdicts_frame(verdicts))


def verdicts_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return a row for each comparison of a rule, with n, 95 % interval and its own status, and one
    for the mean over several. ``decides`` marks the row that decides the rule; a rule without
    comparisons has a row all the same.
    """
    rows = []
    for verdict in verdicts:
        for number, part in enumerate(verdict.parts, 1):
            shown = [*part.comparisons, *([part.mean] if part.mean else [])]
            for one in shown or [None]:
                rows.append(
                    {
                        "claim": verdict.name,
                        "says": verdict.claim.says,
                        "claim_status": verdict.status,
                        "part": number,
                        "rule": str(part.rule),
                        "rule_status": part.status,
                        "planned_n": part.rule.n,
                        "comparison": one and one.label,
                        "status": one and one.status,
                        "decides": one is not None and one is part.deciding,
                        "n": one and one.n,
                        "mean": one and one.mean,
                        "low": one and one.low,
                        "high": one and one.high,
                        "unit": part.unit,
                        "failed_base": one and one.failed[0],
                        "failed_other": one and one.failed[1],
                        "p_heterogeneity": part.heterogeneity,
                        "n_that_would_decide": part.more,
                        "published": part.printed,
                        "extension": part.extension,
                    }
                )
    return pd.DataFrame(rows, dtype=object)
