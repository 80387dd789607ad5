"""Least squares from running cross moments, instead of from stored activations.

A linear model asks, for every unit, how its activation changes with numbers that are known for every stimulus: the side
of a contrast, the length of a text, a rating. The normal equations need no more than means and centred cross products
of these numbers (*regressors*) with one another and with the activations. :class:`CrossMoments` holds them; two of them
add up to those of both sets of observations, as :class:`~modalnet.stats.moments.Moments` do, so batches and folds
reduce their own part. From them follow the t of a slope, and that of an intercept: of paired differences, adjusted or
not.

Errors are taken to have one variance for all observations, as in ordinary least squares. A standard error that holds
without this needs each observation's leverage, which is known for the whole set of stimuli but not for the sums over
some of its folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy import special

from modalnet.errors import InputError
from modalnet.stats.moments import CONSTANT

# Residuals below this share of the variance are rounding errors of float32 activations that the regressors determine.
DETERMINED = 1e-13
# Regressors whose correlation matrix has a smaller eigenvalue are collinear.
COLLINEAR = 1e-10


@dataclass(eq=False)
class CrossMoments:
    """Means and centred cross products of regressors and of a stream of values, per unit.

    Attributes
    ----------
    n
        Number of observations.
    x
        Mean of each regressor, float64 [regressor].
    y
        Mean of the values, float64 of any shape.
    xx
        Centred cross products of the regressors [regressor, regressor].
    xy
        Centred cross products of regressors and values [regressor, *unit].
    yy
        Sum of squared deviations of the values from their mean.

    References
    ----------
    Chan, Golub & LeVeque (1983), The American Statistician 37(3):242-247, for the merge of two sets, applied to
    products.
    """

    n: int
    x: Float[np.ndarray, " regressor"]
    y: Float[np.ndarray, "*unit"]
    xx: Float[np.ndarray, "regressor regressor"]
    xy: Float[np.ndarray, " regressor *unit"]
    yy: Float[np.ndarray, "*unit"]

    def __post_init__(self) -> None:
        self.n = int(self.n)
        for name in ("x", "y", "xx", "xy", "yy"):
            setattr(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        k = len(self.x)
        shapes = (self.xx.shape == (k, k), self.xy.shape == (k, *self.y.shape), self.yy.shape == self.y.shape)
        if not all(shapes) or self.n < 0:
            raise InputError(
                f"Cross moments require n >= 0 and shapes that agree, got n={self.n}, x {self.x.shape}, y "
                f"{self.y.shape}, xx {self.xx.shape}, xy {self.xy.shape}, yy {self.yy.shape}."
            )

    @classmethod
    def zeros(cls, n_regressors: int, shape: int | tuple[int, ...]) -> CrossMoments:
        """Cross moments of no observations yet, for units of the given shape."""
        k, y = n_regressors, np.zeros(shape)
        return cls(0, np.zeros(k), y, np.zeros((k, k)), np.zeros((k, *y.shape)), y.copy())

    def update(self, x: Float[np.ndarray, "observation regressor"], y: Float[np.ndarray, " observation *unit"]) -> None:
        """Add observations, in place; computed in float64, whatever their type.

        Raises
        ------
        InputError
            If a shape does not agree.
        """
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if x.shape != (len(y), len(self.x)) or y.shape[1:] != self.y.shape:
            raise InputError(
                f"`x` must be [observation, {len(self.x)}] and `y` [observation, *units] with units {self.y.shape}, "
                f"got {x.shape} and {y.shape}."
            )
        if len(y) == 0:
            return
        with np.errstate(invalid="ignore", over="ignore"):
            mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
            around_x, around_y = x - mean_x, y - mean_y
            yy = np.square(around_y).sum(axis=0)
            xy = np.tensordot(around_x, around_y, axes=(0, 0))
            merged = self + CrossMoments(len(y), mean_x, mean_y, around_x.T @ around_x, xy, yy)
        self.n, self.x, self.y = merged.n, merged.x, merged.y
        self.xx, self.xy, self.yy = merged.xx, merged.xy, merged.yy

    def __add__(self, other: CrossMoments) -> CrossMoments:
        """Return the cross moments of both sets of observations together; neither changes."""
        if not isinstance(other, CrossMoments):
            return NotImplemented
        if self.xy.shape != other.xy.shape:
            raise InputError(
                f"Cross moments must have the same shape to be merged, got {self.xy.shape} and {other.xy.shape}."
            )
        n = self.n + other.n
        share, weight = other.n / max(n, 1), self.n * other.n / max(n, 1)
        with np.errstate(invalid="ignore", over="ignore"):
            x, y = other.x - self.x, other.y - self.y
            return CrossMoments(
                n,
                self.x + x * share,
                self.y + y * share,
                self.xx + other.xx + np.outer(x, x) * weight,
                self.xy + other.xy + np.multiply.outer(x, y) * weight,
                self.yy + other.yy + np.square(y) * weight,
            )


@dataclass(frozen=True, eq=False)
class Estimate:
    """An estimated coefficient per unit, and its t-test.

    Attributes
    ----------
    value
        The coefficient, float64.
    t
        Coefficient over its standard error; NaN where undefined.
    df
        Residual degrees of freedom.
    p
        Two-sided p value; computed when first asked for.
    """

    value: Float[np.ndarray, "*unit"]
    t: Float[np.ndarray, "*unit"]
    df: int

    @cached_property
    def p(self) -> Float[np.ndarray, "*unit"]:
        return 2.0 * special.stdtr(float(self.df), -np.abs(self.t))


def slope(moments: CrossMoments, place: int = 0) -> Estimate:
    """Test the slope of one regressor, adjusted for the others: ordinary least squares with an intercept.

    Equal to the t of that coefficient in ``statsmodels.api.OLS`` on the observations that the moments were made of.
    With the side of a contrast (1 or 0) as the only regressor it is Student's t of two groups of equal variance.

    Parameters
    ----------
    moments
        Of all observations.
    place
        Which regressor.

    Returns
    -------
    Estimate
        NaN where a value was not finite, where a unit is constant or the regressors determine it, and everywhere if
        regressors are collinear or no degree of freedom is left (df = n - regressors - 1).
    """
    inverse = _inverse(moments)
    weights = np.zeros(len(moments.x))
    weights[place] = 1.0
    return _tested(moments, inverse, weights, np.zeros(()), float(inverse[place, place]))


def intercept(moments: CrossMoments) -> Estimate:
    """Test the expected value where every regressor is 0; without regressors, the mean.

    For paired differences without regressors equal to ``scipy.stats.ttest_rel`` on the pairs; with the differences of
    covariates as regressors, the difference between pairs whose covariates are equal.

    Returns
    -------
    Estimate
        NaN as for :func:`slope`.
    """
    inverse = _inverse(moments)
    scale = 1 / max(moments.n, 1) + float(moments.x @ inverse @ moments.x)
    return _tested(moments, inverse, -moments.x, moments.y, scale)


def _tested(
    moments: CrossMoments,
    inverse: Float[np.ndarray, "regressor regressor"],
    weights: Float[np.ndarray, " regressor"],
    constant: np.ndarray,
    scale: float,
) -> Estimate:
    """The estimate constant + weights @ slopes, whose variance is the residual variance times the scale."""
    df = moments.n - 1 - len(moments.x)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        slopes = np.tensordot(inverse, moments.xy, axes=1)
        value = constant + np.tensordot(weights, slopes, axes=1)
        residual = moments.yy - (slopes * moments.xy).sum(axis=0)
        constant_unit = np.sqrt(moments.yy / max(moments.n, 1)) <= CONSTANT * np.abs(moments.y)
        undefined = ~np.isfinite(residual) | ~np.isfinite(value) | constant_unit | (residual <= DETERMINED * moments.yy)
        t = value / np.sqrt(residual / max(df, 1) * scale)
    undefined = undefined | (df < 1)
    return Estimate(np.where(undefined, np.nan, value), np.where(undefined, np.nan, t), df)


def _inverse(moments: CrossMoments) -> Float[np.ndarray, "regressor regressor"]:
    """The inverse of the cross products of the regressors; NaN where they are collinear or constant."""
    k = len(moments.x)
    spread = np.sqrt(np.diag(moments.xx))
    if not (spread > CONSTANT * np.maximum(np.abs(moments.x), np.finfo(float).tiny)).all():
        return np.full((k, k), np.nan)
    correlation = moments.xx / np.outer(spread, spread)
    if k and np.linalg.eigvalsh(correlation)[0] < COLLINEAR:
        return np.full((k, k), np.nan)
    return np.linalg.inv(correlation) / np.outer(spread, spread)
