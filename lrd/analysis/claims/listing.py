"""What verdicts.py prints: the claims with their parts."""

from collections.abc import Sequence

import pandas as pd

from lrd.analysis.claims.verdicts import Verdict
from lrd.analysis.render import Listing, Report, ReportBlock


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
