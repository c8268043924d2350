"""Decision rules for claims: pure functions of arrays of paired differences.

Differences have the shape (..., k comparisons, n seeds) and are NaN where a run is missing, so that
one call judges real runs, and another thousands of simulated trials. All intervals are t intervals.
A rule errs at most 5 times out of 100: it calls "supported" what has no effect, or "opposite found"
what is the same in both arms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lrd.analysis.statistics import ROUNDING

Status = Literal[
    "supported",
    "opposite found",
    "no effect of a size that counts",
    "undecided",
    "not enough runs",
]
Direction = Literal["rise", "fall", "no_rise", "no_fall", "no_change"]
Combination = Literal["mean", "each", "ordered"]
STATUSES: tuple[Status, ...] = get_args(Status)
SUPPORTED, OPPOSITE, NO_EFFECT, UNDECIDED, TOO_FEW = range(len(STATUSES))
ALPHA = 0.05
SEED_CORRELATION = 0.3  # of the comparisons of one seed, in simulations
Array = NDArray[Any]


@dataclass(frozen=True)
class Criterion:
    """What k comparisons must show.

    Attributes:
        must: what the differences must do. ``rise`` and ``fall``: the 95 % interval excludes 0 and
            the mean is at least ``smallest``. ``no_rise`` and ``no_fall`` (non-inferiority): the
            90 % interval does not reach ``smallest`` that way. ``no_change`` (equivalence): the
            90 % interval lies within +-``smallest``, so that both one-sided t tests reject at 5 %.
        smallest: the smallest effect that counts; the margin of no_rise, no_fall and no_change.
        together: ``mean``: the mean over the comparisons, by its interval over seeds. ``each``:
            every comparison, or at least ``least`` of them. ``ordered``: every step of a ladder,
            with the spread pooled over the steps.
        least: how many comparisons must; all of them if None.
        favors_other: whether the claim speaks for the second arm, so that its failed runs speak
            against it.
    """

    must: Direction
    smallest: float
    together: Combination = "mean"
    least: int | None = None
    favors_other: bool = True


@dataclass(frozen=True)
class Estimates:
    """Means with their standard errors and degrees of freedom, arrays of one shape.

    An error is infinite where the data do not determine it: below two pairs, and where all
    differences are equal (one treatment everywhere: no spread to judge by).
    """

    mean: Array
    error: Array
    degrees: Array

    def bounds(self, alpha: float) -> tuple[Array, Array]:
        """Return both ends of the t interval at the level 1 - ``alpha``."""
        half = _t_quantile(1 - alpha / 2, self.degrees) * self.error
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Decision:
    """What a rule says of each trial.

    Attributes:
        status: places in STATUSES, of shape (...).
        each: of each comparison by itself, (..., k). One of k is called opposite at the level
            1 - 0.05 / k, so that one of many by chance is not.
        mean: the mean over the comparisons, (...).
        cells: the comparisons, (..., k).
    """

    status: Array
    each: Array
    mean: Estimates
    cells: Estimates


def judge_differences(
    criterion: Criterion, differences: Any, n: int, failures: Any = None
) -> Decision:
    """Judge differences, the second arm's minus the first's.

    Args:
        differences: (..., k, seeds), NaN where a run is missing or failed.
        n: the planned number of seeds.
        failures: how many runs of each arm failed, (..., 2, k); none if None. Failed runs count
            as runs. With more in the second arm than in the first, a comparison supports nothing;
            where the claim speaks for the second arm, Fisher's exact test on them (one-sided,
            0.025 / k) finds the opposite.
    """
    d = np.asarray(differences, dtype=float)
    k = d.shape[-2]
    failed = np.zeros((2, k), int) if failures is None else np.asarray(failures)
    base_failed, other_failed = failed[..., 0, :], failed[..., 1, :]
    mean, own = estimate_mean(d), estimate_cells(d)
    cells = estimate_cells(d, pooled=True) if criterion.together == "ordered" else own
    enough = (~np.isnan(d)).sum(-1) + np.maximum(base_failed, other_failed) >= n
    excess = (other_failed > base_failed) & np.ones_like(enough)
    diverges = excess & criterion.favors_other
    diverges &= _fisher(base_failed, other_failed, n) <= ALPHA / 2 / k
    each = _classify(criterion, cells, ALPHA, ALPHA / k, ALPHA, own)
    each = np.where(excess & (each == SUPPORTED), UNDECIDED, each)
    each = np.where(diverges, OPPOSITE, each)
    each = np.where(enough, each, TOO_FEW)
    if criterion.together == "mean":
        status = _classify(criterion, mean, ALPHA, ALPHA, ALPHA)
        status = np.where(excess.any(-1) & (status == SUPPORTED), UNDECIDED, status)
        status = np.where(enough.all(-1), status, TOO_FEW)
        status = np.where((diverges & enough).any(-1), OPPOSITE, status)
    else:
        status = _count(criterion, cells, own, enough, excess, diverges)
    return Decision(status, each, mean, cells)


def _count(
    criterion: Criterion,
    cells: Estimates,
    own: Estimates,
    enough: Array,
    excess: Array,
    diverges: Array,
) -> Array:
    """Judge that at least ``least`` of k comparisons hold, by partial conjunctions.

    That u of k hold is shown where u of them are at the level 1 - alpha / (k - u + 1) (Benjamini
    and Heller, Biometrics 64, 2008, 1215, with Bonferroni's combination): for all of k, each at
    1 - alpha. It is refuted where k - u + 1 comparisons are shown not to.
    """
    k = enough.shape[-1]
    least = k if criterion.least is None else criterion.least
    spare = k - least + 1
    strict = _classify(criterion, cells, ALPHA / spare, ALPHA / least, ALPHA / least, own)
    holds = (strict == SUPPORTED) & enough & ~excess
    against = ((strict == OPPOSITE) | diverges) & enough
    without = against | ((strict == NO_EFFECT) & enough)
    status = np.where(enough.all(-1), UNDECIDED, TOO_FEW)
    status = np.where(without.sum(-1) >= spare, NO_EFFECT, status)
    status = np.where(against.sum(-1) >= spare, OPPOSITE, status)
    return np.where(holds.sum(-1) >= least, SUPPORTED, status)


def _classify(
    criterion: Criterion,
    found: Estimates,
    holds: float,
    against: float,
    none: float,
    own: Estimates | None = None,
) -> Array:
    """Return the status of each estimate by itself, given the alpha of each conclusion.

    ``own``: the estimates with the spread of their own, which alone finds the opposite: by a pooled
    one, the noisiest of many would be found too often.
    """
    s, must = criterion.smallest, criterion.must
    own = found if own is None else own
    if must in ("fall", "no_rise"):  # what must fall is what rises with the other sign
        found, own = (Estimates(-e.mean, e.error, e.degrees) for e in (found, own))
    low, _ = found.bounds(holds)
    least, most = found.bounds(2 * (none if must in ("rise", "fall") else holds))
    lowest, highest = own.bounds(against)
    opposite = (highest < 0) & (found.mean <= -s)
    within = (least > -s) & (most < s)
    if must in ("rise", "fall"):
        held, nothing = (low > 0) & (found.mean >= s), within
    else:
        held, nothing = (least > -s) if must != "no_change" else within, np.zeros_like(within)
    if must == "no_change":
        opposite |= (lowest > 0) & (found.mean >= s)
    return np.select([opposite, held, nothing], [OPPOSITE, SUPPORTED, NO_EFFECT], UNDECIDED)


def estimate_cells(differences: Array, pooled: bool = False) -> Estimates:
    """Return the mean of each comparison, with the spread of its own or of all.

    Variances are pooled as their average. The comparisons depend on one another, because they
    share seeds and arms, and their variances may differ: so it has not k (n - 1) degrees of freedom
    but that times an epsilon estimated from their covariances (Greenhouse and Geisser,
    Psychometrika 24, 1959, 95), which never exceeds the true one by much and may be as low as 1/k.
    """
    known = ~np.isnan(differences)
    count = known.sum(-1)
    mean = np.where(known, differences, 0).sum(-1) / np.maximum(count, 1)
    residuals = np.where(known, differences - mean[..., None], 0)
    degrees = np.maximum(count - 1, 0).astype(float)
    variance = (residuals**2).sum(-1) / np.maximum(degrees, 1)
    largest = np.where(known, np.abs(differences), 0).max(-1, initial=0)
    variance = np.where(variance > (ROUNDING * largest) ** 2, variance, 0)
    if pooled:
        covariance = residuals @ np.swapaxes(residuals, -1, -2)
        squares = (covariance**2).sum((-1, -2))
        trace = np.trace(covariance, axis1=-2, axis2=-1) ** 2
        epsilon = trace / np.where(squares > 0, mean.shape[-1] * squares, 1)
        total = degrees.sum(-1)
        shared = (variance * degrees).sum(-1) / np.maximum(total, 1)
        variance = np.broadcast_to(shared[..., None], mean.shape)
        freedom = np.maximum(epsilon * total, np.minimum(total, 1))
        degrees = np.broadcast_to(freedom[..., None], mean.shape)
    sure = (variance > 0) & (degrees > 0) & (count > 0)
    error = np.sqrt(np.divide(variance, count, out=np.full(mean.shape, np.inf), where=sure))
    return Estimates(np.where(count, mean, np.nan), error, np.where(sure, degrees, 1))


def estimate_mean(differences: Array) -> Estimates:
    """Return the mean over the comparisons with its error over seeds.

    The comparisons of a seed depend on one another, so they are averaged within each seed first. A
    seed that a comparison lacks is left out.
    """
    found = estimate_cells(differences.mean(-2)[..., None, :])
    return Estimates(found.mean[..., 0], found.error[..., 0], found.degrees[..., 0])


def heterogeneity_p(differences: Any) -> float | None:
    """Return the p of the F test that all comparisons have one mean, in seeds that all have.

    Two-way layout of comparisons and seeds, with Greenhouse and Geisser's correction. None below
    two comparisons or seeds, or without spread.
    """
    from scipy import special

    d = np.asarray(differences, dtype=float)
    d = d[:, ~np.isnan(d).any(0)]
    k, n = d.shape
    if k < 2 or n < 2:
        return None
    residuals = d - d.mean(0) - d.mean(1)[:, None] + d.mean()
    within = (residuals**2).sum() / ((k - 1) * (n - 1))
    if within <= (ROUNDING * np.abs(d).max()) ** 2:
        return None
    between = n * ((d.mean(1) - d.mean()) ** 2).sum() / (k - 1)
    covariance = residuals @ residuals.T
    epsilon = np.trace(covariance) ** 2 / ((k - 1) * (covariance**2).sum())
    epsilon = min(1.0, float(epsilon))
    free = epsilon * (k - 1)
    return float(special.fdtrc(free, free * (n - 1), between / within))


def judge_exactly(criterion: Criterion, effects: Sequence[float]) -> Status:
    """Return what the rule says of effects without error, as of a paper's printed numbers."""
    effect = np.asarray(effects, dtype=float)
    exact = Estimates(effect, np.zeros_like(effect), np.ones_like(effect))
    if criterion.together == "mean":
        mean = Estimates(effect.mean(), np.zeros(()), np.ones(()))
        return STATUSES[int(_classify(criterion, mean, ALPHA, ALPHA, ALPHA))]
    yes, no = np.ones(len(effect), bool), np.zeros(len(effect), bool)
    return STATUSES[int(_count(criterion, exact, exact, yes, no, no))]


def simulate_differences(
    effects: Any, sd: Any, n: int, trials: int, seed: int = 0, correlation: float = SEED_CORRELATION
) -> Array:
    """Return normal differences of true means ``effects``, of shape (trials, k, n).

    Args:
        effects: a number for each of k comparisons.
        sd: of the differences, one number or one for each comparison.
        correlation: between two comparisons of a seed.
    """
    rng = np.random.default_rng(seed)
    effect = np.asarray(effects, dtype=float)
    shared = rng.normal(size=(trials, 1, n))
    own = rng.normal(size=(trials, len(effect), n))
    noise = correlation**0.5 * shared + (1 - correlation) ** 0.5 * own
    return effect[:, None] + np.broadcast_to(sd, effect.shape)[:, None] * noise


def status_shares(
    criterion: Criterion, effects: Any, sd: Any, n: int, trials: int = 2000, seed: int = 0
) -> dict[Status, float]:
    """Return how often a rule gives each status where ``effects`` are true."""
    found = judge_differences(criterion, simulate_differences(effects, sd, n, trials, seed), n)
    return {status: float((found.status == i).mean()) for i, status in enumerate(STATUSES)}


def deciding_seeds(criterion: Criterion, found: Estimates, n: int, limit: int = 1000) -> int | None:
    """Return how many seeds would decide about one estimate of ``n`` seeds if its mean and spread
    stayed; None above ``limit`` or without spread."""
    if not np.isfinite(found.error):
        return None
    sizes = np.arange(n + 1, limit + 1)
    error = found.error * (n / sizes) ** 0.5
    then = Estimates(np.full(len(sizes), found.mean), error, sizes - 1.0)
    decided = _classify(criterion, then, ALPHA, ALPHA, ALPHA) != UNDECIDED
    return int(sizes[decided.argmax()]) if decided.any() else None


def _t_quantile(q: float, degrees: Array) -> Array:
    from scipy import special

    values, places = np.unique(degrees, return_inverse=True)
    return np.asarray(special.stdtrit(values, q))[places].reshape(degrees.shape)


def _fisher(base_failed: Array, other_failed: Array, n: int) -> Array:
    """Return the one-sided p of Fisher's exact test that the second of two arms of n runs fails
    more often."""
    if not other_failed.any():
        return np.ones(other_failed.shape)
    from scipy import stats

    runs = np.maximum(n, np.maximum(base_failed, other_failed))
    return stats.hypergeom.sf(other_failed - 1, 2 * runs, base_failed + other_failed, runs)
