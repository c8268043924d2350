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
    """Return the verdicts of claims, under settings that are ``given``; a row a rule of a claim."""
    blocks: list[ReportBlock] = [f"[{' '.join(given)}]"] if given else []
    items = []
    for verdict in verdicts:
        claim = verdict.claim
        points = [f"{part.status}: {part.explanation}" for part in verdict.parts]
        text = f"{verdict.status.upper()}: {claim.says} ({claim.where})"
        items.append((claim.name, text, points))
    return Report([*blocks, Listing(items)], verdicts_frame(verdicts))


def verdicts_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return a row a rule of a claim: its status and the estimate that decides it.

    ``comparison`` says of which of the ``comparisons`` the estimate is, with its n and 95 %
    interval; ``supported`` counts those that are supported individually.
    """
    rows = []
    for verdict in verdicts:
        for part in verdict.parts:
            one = part.deciding
            statuses = [each.status for each in part.comparisons]
            rows.append(
                {
                    "claim": verdict.name,
                    "says": verdict.claim.says,
                    "claim_status": verdict.status,
                    "rule": str(part.rule),
                    "status": part.status,
                    "planned_n": part.rule.n,
                    "comparisons": len(statuses),
                    "supported": statuses.count("supported"),
                    "comparison": one and one.label,
                    "n": one and one.n,
                    "mean": one and one.mean,
                    "low": one and one.low,
                    "high": one and one.high,
                    "unit": part.unit,
                    "p_heterogeneity": part.heterogeneity,
                    "failed_base": part.failed[0],
                    "failed_other": part.failed[1],
                    "n_that_would_decide": part.more,
                    "published": part.printed,
                    "extension": part.extension,
                }
            )
    return pd.DataFrame(rows, dtype=object)
