"""The test of a contrast on some of its folds: t, p and the effect size of every unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln

from modalnet.stats import moments as statistics
from modalnet.stats.moments import Moments, Welch
from modalnet.stats.regression import CrossMoments, Estimate, intercept, slope


@dataclass(frozen=True, eq=False)
class Tested:
    """What a test says of every unit of a space.

    Attributes
    ----------
    test
        ``.t`` and ``.p``.
    effect_size
        Hedges' g; of a parametric contrast the partial correlation.
    """

    test: Welch | Estimate
    effect_size: Float[np.ndarray, "layer dim"]


def evaluate(
    positive: Moments,
    negative: Moments,
    cross: CrossMoments | None = None,
    *,
    test: str = "welch",
    parametric: bool = False,
) -> Tested:
    """Test one space.

    Parameters
    ----------
    positive, negative
        Moments of the two sides.
    cross
        Cross moments, where the test is not Welch's.
    test
        ``"welch"``, ``"paired"``, ``"regression"`` or ``"attribution"``.
    parametric
        Whether the slope is that of a number and not of the side.

    Returns
    -------
    Tested
        The effect size is the (adjusted) difference in units of the pooled standard deviation within the sides, Hedges'
        g, whatever the test: that of a paired contrast is comparable with that of an unpaired one, while Cohen's d_z, t
        over the root of the number of pairs, grows with how alike the pairs are (Lakens 2013, Frontiers in Psychology
        4:863). Its small-sample correction is that for paired sides. A slope has the partial correlation, t / sqrt(t² +
        df). An attribution has the mean effect over pairs in units of its own standard deviation, corrected for few
        pairs (Hedges 1981).
    """
    if cross is None or test == "welch":
        return Tested(statistics.welch(positive, negative), statistics.hedges_g(positive, negative))
    estimate = slope(cross) if test == "regression" else intercept(cross)
    if test == "attribution":
        return Tested(estimate, _standardized_mean(estimate, cross))
    if parametric:
        with np.errstate(invalid="ignore"):
            return Tested(estimate, estimate.t / np.sqrt(np.square(estimate.t) + estimate.df))
    # What is constant on both sides, or not finite on one, has no difference in these units.
    correlation = _correlation(positive, negative, cross) if test == "paired" else 0.0
    g = statistics.standardized_difference(estimate.value, positive, negative, correlation)
    g = np.where(np.isnan(estimate.t), np.nan, g)
    return Tested(Estimate(estimate.value, np.where(np.isnan(g), np.nan, estimate.t), estimate.df), g)


def _standardized_mean(estimate: Estimate, cross: CrossMoments) -> Float[np.ndarray, "layer dim"]:
    """The mean in units of the standard deviation, with the small-sample correction; NaN where t is."""
    df = max(cross.n - 1, 1)
    correction = np.exp(gammaln(df / 2) - gammaln((df - 1) / 2)) / np.sqrt(df / 2) if df > 1 else np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        found = correction * estimate.value / np.sqrt(cross.yy / df)
    return np.where(np.isnan(estimate.t), np.nan, found)


def _correlation(positive: Moments, negative: Moments, cross: CrossMoments) -> Float[np.ndarray, "layer dim"] | float:
    """Correlation between the members of pairs, from the variance of their differences; 0 where items are larger."""
    if not positive.n == negative.n == cross.n > 1:
        return 0.0
    a, b = positive.variance, negative.variance
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (a + b - cross.yy / (cross.n - 1)) / (2 * np.sqrt(a * b))
    return np.clip(np.nan_to_num(r), -1, 1)


def merged(parts: Sequence[CrossMoments], folds: Sequence[int]) -> CrossMoments:
    """Return the cross moments of some folds."""
    total = CrossMoments.zeros(len(parts[0].x), parts[0].y.shape)
    for fold in folds:
        total = total + parts[fold]
    return total
