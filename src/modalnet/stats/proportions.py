"""Intervals of proportions: of the mean of scores from 0 to 1, which the bootstrap gets wrong near the edges.

Resamples of items that are all right are all right, so a percentile interval of 16 of 16 is [1.00, 1.00], and near the
edges it is too short. A score interval has no such edge. Items of one paradigm are alike: what counts is then not their
number but the effective number, at which independent items would leave as much uncertainty.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Integer

from modalnet.stats.resampling import LEVEL, n_blocks

EDGE = 1e-9


def score_interval(
    scores: Float[np.ndarray, " item"], groups: Integer[np.ndarray, " item"] | None = None, level: float = LEVEL
) -> tuple[float, float]:
    """Return the Wilson score interval of a mean of scores from 0 to 1.

    Parameters
    ----------
    scores
        Scores from 0 to 1. Those between (half a point for a tie) vary less than scores of 0 and 1 with the same mean,
        which makes the interval a little too wide.
    groups
        Number of the group (paradigm) of each item, from 0; None where items are independent. With G groups, the number
        of items is replaced by the effective number p(1 - p) / v, at most that of the items, v the between-group
        variance of the mean, and the normal quantile by that of t with G - 1 degrees of freedom. Where all scores are 0
        or all are 1, v is unknown and a group counts as one item.
    level
        Nominal coverage.

    Returns
    -------
    tuple of float
        Lower and upper end; NaN where a score is not finite.

    References
    ----------
    Wilson (1927), Journal of the American Statistical Association 22(158):209-212. Brown, Cai & DasGupta (2001),
    Statistical Science 16(2):101-133, equation 4. Korn & Graubard (1998), Survey Methodology 24(2):193-201, for the
    effective number; Dean & Pagano (2015), Journal of Survey Statistics and Methodology 3(4):484-503, for its use here.
    """

    n, mean = len(scores), float(np.mean(scores))
    if not math.isfinite(mean):
        return math.nan, math.nan
    constant = np.ptp(scores) == 0 and mean in {0.0, 1.0}
    effective, quantile = _effective(scores - mean, groups, n * mean * (1 - mean), level, constant=constant)
    square = quantile**2
    centre = (mean + square / (2 * effective)) / (1 + square / effective)
    reach = quantile * math.sqrt(mean * (1 - mean) / effective + square / (4 * effective**2)) / (1 + square / effective)
    # The ends at 0 and 1 are exact; additions of floats miss them by a few 1e-17.
    low = 0.0 if mean == 0 else max(0.0, centre - reach)
    return low, 1.0 if mean == 1 else min(1.0, centre + reach)


def difference_interval(
    differences: Float[np.ndarray, " item"], groups: Integer[np.ndarray, " item"] | None = None, level: float = LEVEL
) -> tuple[float, float]:
    """Return Tango's score interval of a mean difference of paired scores from 0 to 1.

    With b the sum of the positive differences of n items and c that of the negative ones, the ends are the d at which

        |b - c - n d| / sqrt(n (2 q + d (1 - d))) = z,

    q being the probability of a negative difference that is likeliest given d.

    Parameters
    ----------
    differences
        From -1 to 1. Those between (half a point for a tie) count by their size.
    groups
        Number of the group (paradigm) of each item, from 0; None where items are independent. The number of items is
        replaced by the effective one, and the normal quantile by that of t, as in :func:`score_interval`.
    level
        Nominal coverage.

    Returns
    -------
    tuple of float
        Lower and upper end, from -1 to 1; NaN where a difference is not finite. Where nothing changed these are
        ± z² / (n + z²), so that "no change in 16 items" is not taken for "no change in any item".

    References
    ----------
    Tango (1998), Statistics in Medicine 17(8):891-908, equations 8 to 10. Korn & Graubard (1998), Survey Methodology
    24(2):193-201, for the effective number.
    """
    from scipy.optimize import brentq

    values = np.asarray(differences, dtype=np.float64)
    mean = float(np.mean(values))
    if not math.isfinite(mean):
        return math.nan, math.nan
    away = values - mean
    effective, quantile = _effective(away, groups, float((away**2).sum()), level, constant=np.ptp(values) == 0)
    b, c = (effective * float(np.clip(sign * values, 0, None).mean()) for sign in (1, -1))

    def beyond(d: float, sign: int) -> float:
        # Squared and multiplied out, as the standard error is 0 at the ends of the range.
        linear = -b - c + (2 * effective - b + c) * d
        constant = -c * d * (1 - d)
        q = (math.sqrt(max(linear**2 - 8 * effective * constant, 0.0)) - linear) / (4 * effective)
        away = sign * (b - c - effective * d)
        return away - quantile * math.sqrt(max(effective * (2 * q + d * (1 - d)), 0.0))

    # At the mean itself the standard error may be 0, which is a root but no end.
    low = brentq(beyond, -1, mean - EDGE, args=(1,)) if mean > EDGE - 1 and beyond(-1, 1) > 0 else -1.0
    high = brentq(beyond, mean + EDGE, 1, args=(-1,)) if mean < 1 - EDGE and beyond(1, -1) > 0 else 1.0
    return float(low), float(high)


def _effective(
    away: Float[np.ndarray, " item"],
    groups: Integer[np.ndarray, " item"] | None,
    squares: float,
    level: float,
    *,
    constant: bool,
) -> tuple[float, float]:
    """The effective number of items of a mean, and the quantile that goes with it.

    Parameters
    ----------
    away
        Each value minus the mean.
    groups
        Number of the group of each item; None where items are independent: they then count one by one.
    squares
        The sum of squares that independent items would have. Where groups have more between them, items count for less.
    level
        Nominal coverage.
    constant
        Whether nothing varies, so that how alike the items of a group are is unknown, and a group counts as one.
    """
    from scipy import stats

    n = len(away)
    normal = float(stats.norm.ppf((1 + level) / 2))
    if groups is None:
        return float(n), normal
    count = n_blocks(n, groups)
    if constant:
        return float(count), normal
    between = count / (count - 1) * float((np.bincount(groups, weights=away, minlength=count) ** 2).sum())
    effective = min(float(n), n * squares / between) if between > 0 else float(n)
    return effective, float(stats.t.ppf((1 + level) / 2, count - 1))
