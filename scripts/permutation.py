"""The exact sign-flip test of paired differences, and the correction of many tests. No torch."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

EXACT = 20  # up to so many pairs all 2^n flips are counted
RESAMPLES = 99_999
ROUNDING = 1e-9  # of the numbers at hand: what two scores' subtraction may leave in the last digits


def sign_flip(differences: Sequence[float] | NDArray[np.float64]) -> float:
    """Two-sided p that the differences are as likely to be theirs as their negatives.

    The share of the 2^n ways to flip their signs that bring the sum at least as far from 0 as it is
    (Fisher, The Design of Experiments, 1935, section 21). It assumes independent pairs and nothing
    of their distribution. Sums that agree up to rounding are ties, which count: accuracies are
    multiples of one sample's share, so that ties are frequent. Above 20 pairs 99,999 flips are
    drawn, from a fixed seed. Where no pair differs, p is 1.
    """
    x = np.asarray(differences, dtype=np.float64)
    if x.size > EXACT:
        found: Any = stats.permutation_test(
            (x,),
            np.sum,
            permutation_type="samples",
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=1000,
            rng=0,
        )
        return float(found.pvalue)
    sums = np.zeros(1)
    for difference in x:
        sums = np.concatenate([sums + difference, sums - difference])
    reached = np.abs(sums) >= abs(x.sum()) - ROUNDING * np.abs(x).sum()
    return float(np.mean(reached))


def least(n: int) -> float:
    """The smallest two-sided p that flips of n signs can give: 2 / 2^n, which is 0.25 for n = 3."""
    return min(1.0, 2.0 ** (1 - n)) if n <= EXACT else 2 / (RESAMPLES + 1)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p for each test of a family, in the order given (Scand. J. Stat. 6, 1979).

    To call those below 5 % an effect errs, in the whole family, at most 5 times out of 100, however
    the tests depend on one another. A test without a p stays without, and is not of the family.
    """
    adjusted: list[float | None] = [None] * len(p_values)
    known = [(p, i) for i, p in enumerate(p_values) if p is not None and not math.isnan(p)]
    largest = 0.0
    for rank, (p, i) in enumerate(sorted(known)):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = largest
    return adjusted
