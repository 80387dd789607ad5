"""Intervals and tests of the mean of few skewed values, by Hall's transformation of the t statistic.

With S = mean / SD and g the skewness of n values, both with n in the denominator,

    f(S) = S + g S² / 3 + g² S³ / 27 + g / (6 n)

is monotone, and sqrt(n) f(S) is closer to normal than sqrt(n) S. Where values are skewed, a t test of one side rejects
too often; where they are not, the transformation adds noise. So both are computed here, and the more careful of the two
counts.

References
----------
Hall (1992), On the removal of skewness by transformation, Journal of the Royal Statistical Society B 54(1):221-228.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from modalnet.stats.resampling import LEVEL, t_interval


def skewed_interval(values: Float[np.ndarray, " item"], level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of a mean: at each end, the wider of the t interval and of Hall's.

    Parameters
    ----------
    values
        Independent values.
    level
        Nominal coverage of each of the two.

    Returns
    -------
    tuple of float
        Lower and upper end; NaN for fewer than two values, or where one is not finite.
    """
    from scipy import stats

    n = len(values)
    if n < 2 or not np.isfinite(values).all():
        return math.nan, math.nan
    low, high = t_interval(values, level)
    sd, skewness = float(values.std(ddof=1)), _skewness(values)
    if sd == 0 or abs(skewness) < 1e-9:
        return low, high
    mean, quantile = float(values.mean()), float(stats.t.ppf((1 + level) / 2, n - 1)) / math.sqrt(n)

    def inverse(value: float) -> float:
        return float(3 / skewness * (np.cbrt(1 + skewness * (value - skewness / (6 * n))) - 1))

    return min(low, mean - sd * inverse(quantile)), max(high, mean - sd * inverse(-quantile))


def skewed_p(values: Float[np.ndarray, " item"]) -> float:
    """Return the one-sided p value that a mean is above 0, by Hall's transformation; NaN for fewer than two values."""
    from scipy import stats

    n = len(values)
    if n < 2 or not np.isfinite(values).all():
        return math.nan
    sd, mean = float(values.std()), float(values.mean())
    if sd == 0:
        return 0.0 if mean > 0 else 1.0
    ratio, skewness = mean / sd, _skewness(values)
    transformed = ratio + skewness * ratio**2 / 3 + skewness**2 * ratio**3 / 27 + skewness / (6 * n)
    return float(stats.t.sf(math.sqrt(n) * transformed, n - 1))


def _skewness(values: Float[np.ndarray, " item"]) -> float:
    away = values - values.mean()
    sd = math.sqrt(float((away**2).mean()))
    return float((away**3).mean() / sd**3) if sd > 0 else 0.0
