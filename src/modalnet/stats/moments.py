"""Statistics of a contrast, computed from running moments instead of from stored activations.

A contrast asks, for every unit, whether its activations under one set of stimuli differ from those under another.
Keeping all activations costs memory that grows with the number of stimuli. Three numbers per unit do not grow and
are enough: how many values there were (``n``), their mean, and the sum of squared distances to that mean (``m2``).
:class:`Moments` holds them; two of them add up to the moments of both sets of values together, so batches, folds
and machines can each reduce their own part. From the moments of two sides follow Welch's t, its p, and Hedges' g.

A unit has no defined statistic where a value was NaN or infinite, or where neither side varies. Its t is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from modalnet.errors import InputError

# A standard deviation below this share of |mean| counts as zero. Merging the means of a constant rounds them
# differently (about 1e-16 of |mean| each time), which leaves a spread that is not in the data; a float32 activation
# that really varies does so by at least 6e-8 of its size.
CONSTANT = 1e-12


@dataclass(eq=False)
class Moments:
    """Count, mean and sum of squared deviations of a stream of values, per unit.

    Attributes
    ----------
    n
        How many values were seen (the same for all units).
    mean
        Mean of the values, float64 of any shape.
    m2
        Sum of squared deviations from the mean, float64 of the same shape. NaN or infinite once a value was.

    References
    ----------
    Welford (1962), Technometrics 4(3):419-420; Chan, Golub & LeVeque (1983), The American Statistician
    37(3):242-247, for the merge of two sets.
    """

    n: int
    mean: Float[np.ndarray, "*unit"]
    m2: Float[np.ndarray, "*unit"]

    def __post_init__(self) -> None:
        self.n = int(self.n)
        self.mean = np.asarray(self.mean, dtype=np.float64)
        self.m2 = np.asarray(self.m2, dtype=np.float64)
        if self.mean.shape != self.m2.shape or self.n < 0:
            raise InputError(
                f"Moments require n >= 0 and a mean and m2 of the same shape, got n={self.n}, mean {self.mean.shape}, "
                f"m2 {self.m2.shape}."
            )

    @classmethod
    def zeros(cls, shape: int | tuple[int, ...]) -> Moments:
        """Moments of no values yet, for units of the given shape."""
        return cls(0, np.zeros(shape), np.zeros(shape))

    def update(self, values: Float[np.ndarray, " stimulus *unit"]) -> None:
        """Take in more values, in place.

        Parameters
        ----------
        values
            One value per stimulus and unit. Computed with in float64, whatever their type.

        Raises
        ------
        InputError
            If the shape after the first axis is not the units' shape.
        """
        x = np.asarray(values, dtype=np.float64)
        if x.ndim == 0 or x.shape[1:] != self.mean.shape:
            raise InputError(f"`values` must be [stimulus, *units] with units {self.mean.shape}, got {x.shape}.")
        if len(x) == 0:
            return
        with np.errstate(invalid="ignore", over="ignore"):
            rough = x.mean(axis=0)
            n, deviations = len(x), x - rough
            del x  # a copy in float64 of what may be large
            # The mean of large values is off by rounding; the mean of the small deviations says by how much.
            correction = deviations.mean(axis=0)
            m2 = np.square(deviations, out=deviations).sum(axis=0) - n * np.square(correction)
            batch = Moments(n, rough + correction, np.maximum(m2, 0.0))
        merged = self + batch
        self.n, self.mean, self.m2 = merged.n, merged.mean, merged.m2

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets of values together (Chan et al. 1983); neither side changes."""
        if not isinstance(other, Moments):
            return NotImplemented
        if self.mean.shape != other.mean.shape:
            raise InputError(
                f"Moments must have the same shape to be merged, got {self.mean.shape} and {other.mean.shape}."
            )
        if self.n == 0 or other.n == 0:
            kept = self if other.n == 0 else other
            return Moments(kept.n, kept.mean.copy(), kept.m2.copy())
        n = self.n + other.n
        with np.errstate(invalid="ignore", over="ignore"):
            delta = other.mean - self.mean
            mean = self.mean + delta * (other.n / n)
            m2 = self.m2 + other.m2 + np.square(delta) * (self.n * other.n / n)
        return Moments(n, mean, m2)

    @property
    def variance(self) -> Float[np.ndarray, "*unit"]:
        """Unbiased variance (``ddof=1``); NaN with fewer than two values."""
        return self.m2 / (self.n - 1) if self.n > 1 else np.full_like(self.m2, np.nan)


@dataclass(frozen=True, eq=False)
class Welch:
    """Welch's t-test per unit.

    Attributes
    ----------
    t, df
        The statistic and its (Welch-Satterthwaite) degrees of freedom, float64; NaN where undefined.
    p
        Two-sided p value, float64; computed when first asked for.
    """

    t: Float[np.ndarray, "*unit"]
    df: Float[np.ndarray, "*unit"]

    @cached_property
    def p(self) -> Float[np.ndarray, "*unit"]:
        return 2.0 * special.stdtr(self.df, -np.abs(self.t))


def welch(a: Moments, b: Moments) -> Welch:
    """Welch's t-test of ``a`` against ``b``: positive where the mean of ``a`` is larger.

    Equal to ``scipy.stats.ttest_ind(..., equal_var=False)`` on the values that the moments were made of.

    Parameters
    ----------
    a, b
        Moments of the two sides; shapes must agree.

    Returns
    -------
    Welch
        NaN where a value was not finite, where both sides are constant, and everywhere if a side has fewer than
        two values. One constant side is fine.

    References
    ----------
    Welch (1947), Biometrika 34:28-35.
    """
    variance_a, variance_b, undefined = _sides(a, b)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error_a, error_b = variance_a / max(a.n, 1), variance_b / max(b.n, 1)
        error = error_a + error_b
        t = np.where(undefined, np.nan, (a.mean - b.mean) / np.sqrt(error))
        # Satterthwaite's ratio, written with shares of the total so that squares of tiny variances do not underflow.
        inverse = np.square(error_a / error) / max(a.n - 1, 1) + np.square(error_b / error) / max(b.n - 1, 1)
        df = np.where(undefined, np.nan, 1.0 / inverse)
    return Welch(t, df)


def hedges_g(a: Moments, b: Moments) -> Float[np.ndarray, "*unit"]:
    """Hedges' g of ``a`` against ``b``: the difference of means in units of the pooled standard deviation.

    Carries the exact small-sample correction J = Γ(m/2) / (√(m/2) Γ((m-1)/2)) with m = n_a + n_b - 2, which makes it
    unbiased (for normal values of equal variance).

    Parameters
    ----------
    a, b
        Moments of the two sides; shapes must agree.

    Returns
    -------
    array
        float64, NaN exactly where :func:`welch` gives t = NaN.

    References
    ----------
    Hedges (1981), Journal of Educational Statistics 6(2):107-128, equations 6d and 6e.
    """
    with np.errstate(invalid="ignore"):
        return standardized_difference(a.mean - b.mean, a, b)


def standardized_difference(
    difference: Float[np.ndarray, "*unit"],
    a: Moments,
    b: Moments,
    correlation: Float[np.ndarray, "*unit"] | float = 0.0,
) -> Float[np.ndarray, "*unit"]:
    """Return a difference of two sides, such as an adjusted one, in the units of :func:`hedges_g`.

    Parameters
    ----------
    difference
        What is divided by the pooled standard deviation of the sides.
    a, b
        Moments of the two sides.
    correlation
        Between the members of pairs r, where sides are paired: their variances are then not independent, and the pooled
        one has (n_a + n_b - 2) / (1 + r²) degrees of freedom, from which the correction J is taken.

    References
    ----------
    Cousineau (2020), The Quantitative Methods for Psychology 16(4):418-421, for the degrees of freedom.
    """
    variance_a, variance_b, undefined = _sides(a, b)
    m = max(a.n + b.n - 2, 2)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        df = np.maximum(m / (1.0 + np.square(correlation)), 1.0 + 1e-9)
        j = np.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / np.sqrt(df / 2)
        pooled = ((a.n - 1) * variance_a + (b.n - 1) * variance_b) / m
        return np.where(undefined, np.nan, j * difference / np.sqrt(pooled))


def fdr(p: Float[np.ndarray, " unit"]) -> Float[np.ndarray, " unit"]:
    """Benjamini-Hochberg adjusted p values over the finite entries of a flat array; NaN elsewhere.

    References
    ----------
    Benjamini & Hochberg (1995), Journal of the Royal Statistical Society B 57(1):289-300.
    """
    from scipy.stats import false_discovery_control

    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1:
        raise InputError(f"`p` must be one-dimensional, got shape {p.shape}. Flatten it first.")
    q = np.full(p.shape, np.nan)
    finite = np.isfinite(p)
    if finite.any():
        q[finite] = false_discovery_control(p[finite])
    return q


def _sides(
    a: Moments, b: Moments
) -> tuple[Float[np.ndarray, "*unit"], Float[np.ndarray, "*unit"], Bool[np.ndarray, "*unit"]]:
    """Return the variances of both sides (exactly 0 where constant) and where the contrast is undefined."""
    if a.mean.shape != b.mean.shape:
        raise InputError(f"The two sides must have units of the same shape, got {a.mean.shape} and {b.mean.shape}.")
    cleaned = []
    for side in (a, b):
        variance = side.variance
        with np.errstate(invalid="ignore"):
            constant = np.sqrt(variance) <= CONSTANT * np.abs(side.mean)
        cleaned.append(np.where(constant, 0.0, variance))
    variance_a, variance_b = cleaned
    finite = np.isfinite(a.mean) & np.isfinite(b.mean) & np.isfinite(variance_a) & np.isfinite(variance_b)
    return variance_a, variance_b, ~finite | ((variance_a == 0) & (variance_b == 0))
