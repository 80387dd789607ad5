"""Bootstrap: intervals of means, differences and excesses over controls.

What is resampled are *blocks* of stimuli or items. Stimuli of one passage, or neighbours in time, are alike, and taking
them for independent makes every interval too narrow; a stimulus on its own is a block of one.

Every function draws from a generator that the caller passes, so that results repeat and streams do not mix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Integer

LEVEL = 0.95
CHUNK = 4_000_000  # numbers that one step of resampling holds at once
TIE = 1e-10  # sums that differ by less than this share of their size differ by the order of additions alone


def interval(
    samples: Float[np.ndarray, " resample"], level: float = LEVEL, *, skip_nan: bool = False
) -> tuple[float, float]:
    """Return the percentile interval of resampled values: their (1 - level) / 2 and (1 + level) / 2 quantiles.

    Parameters
    ----------
    samples
        Values of a statistic over resamples.
    level
        Nominal coverage.
    skip_nan
        Leave NaN out. Otherwise the interval is NaN if a value is not finite.

    Returns
    -------
    tuple of float
        Lower and upper end; NaN if there is no value.

    References
    ----------
    Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 13, equation 13.5.
    """
    low, high = intervals(samples, level, skip_nan=skip_nan)
    return float(low), float(high)


def intervals(
    samples: Float[np.ndarray, "resample ..."], level: float = LEVEL, *, skip_nan: bool = False
) -> Float[np.ndarray, "2 ..."]:
    """Return the percentile interval of every cell: :func:`interval` along the first axis.

    Parameters
    ----------
    samples, level, skip_nan
        As for :func:`interval`.

    Returns
    -------
    array
        ``[bound, ...]``: lower and upper ends; NaN for a cell without values.
    """
    values = np.asarray(samples, dtype=np.float64)
    cells = values.reshape(len(values), math.prod(values.shape[1:]))
    ends = [(1 - level) / 2, (1 + level) / 2]
    bounds = np.full((2, cells.shape[1]), np.nan)
    if len(cells):
        whole = np.isfinite(cells).all(axis=0)
        bounds[:, whole] = np.quantile(cells[:, whole], ends, axis=0)
        # Apart from the others, as nanquantile goes through the cells one by one.
        missing = np.isnan(cells)
        some = missing.any(axis=0) & ~missing.all(axis=0) & ~np.isinf(cells).any(axis=0)
        if skip_nan and some.any():
            bounds[:, some] = np.nanquantile(cells[:, some], ends, axis=0)
    return bounds.reshape(2, *values.shape[1:])


def t_interval(values: Float[np.ndarray, " fold"], level: float = LEVEL) -> tuple[float, float]:
    """Return mean ± t · standard error over the finite values; NaN with fewer than two.

    Networks selected on overlapping folds share most of their stimuli, so over folds this describes how much the
    measured folds differ, and is a little too narrow as an interval for new networks.

    References
    ----------
    Student (1908), Biometrika 6(1):1-25; Bengio & Grandvalet (2004), JMLR 5:1089-1105, for folds.
    """
    from scipy import stats

    there = values[np.isfinite(values)]
    if len(there) < 2:
        return math.nan, math.nan
    reach = float(stats.t.ppf((1 + level) / 2, len(there) - 1) * there.std(ddof=1) / math.sqrt(len(there)))
    return float(there.mean()) - reach, float(there.mean()) + reach


def bootstrap_counts(n: int, n_resamples: int, rng: np.random.Generator) -> Integer[np.ndarray, "resample block"]:
    """Return how often each of n blocks is drawn when n are drawn with replacement.

    The mean of a resample is then a product of counts and values, divided by n.
    """
    return rng.multinomial(n, np.full(n, 1 / n), size=n_resamples)


def bootstrap_means(
    scores: Float[np.ndarray, "item cell"], n_resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "resample cell"]:
    """Return every column's mean over items that are drawn with replacement, the same draws for all columns.

    Parameters
    ----------
    scores
        One column per cell (a lesion, or the model without one).
    n_resamples
        How often all items are drawn.
    rng
        Source of randomness.

    References
    ----------
    Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 6, algorithm 6.1.
    """
    n = len(scores)
    means = np.empty((n_resamples, scores.shape[1]))
    for part in chunks(n_resamples, n):
        rows = part.stop - part.start
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means[part] = product(times, scores) / n
    return means


def bootstrap_excess(
    network: Float[np.ndarray, " resample"],
    controls: Float[np.ndarray, "resample draw"],
    rng: np.random.Generator,
) -> Float[np.ndarray, " resample"]:
    """Return how far a network's mean lies below the mean of its controls when the draws are resampled as well.

    Parameters
    ----------
    network, controls
        Columns of :func:`bootstrap_means`: the items are resampled already.
    rng
        Source of randomness.

    References
    ----------
    Owen (2007), The pigeonhole bootstrap, Annals of Applied Statistics 1(2):386-411: rows and columns resampled
    independently give intervals that are a little too wide, never too narrow by more than sampling error.
    """
    n_resamples, n = controls.shape
    drawn = rng.integers(0, n, size=(n_resamples, n))
    return np.take_along_axis(controls, drawn, axis=1).mean(axis=1) - network


def chunks(n: int, width: int) -> Iterator[slice]:
    """Yield slices over n rows of the given width that hold at most CHUNK numbers each (and one row at least)."""
    step = max(1, CHUNK // max(width, 1))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def product(
    counts: Integer[np.ndarray, "row item"], values: Float[np.ndarray, "item cell"]
) -> Float[np.ndarray, "row cell"]:
    """Return the matrix product, in which a value that is not finite affects its own column only."""
    with np.errstate(invalid="ignore", over="ignore"):
        return counts.astype(np.float64) @ values
