"""Bootstrap: intervals of means, differences and excesses over controls.

What is resampled are *blocks* of stimuli or items. Stimuli of one passage, or neighbours in time, are alike, and taking
them for independent makes every interval too narrow; a stimulus on its own is a block of one.

Every function draws from a generator that the caller passes, so that results repeat and streams do not mix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Integer

from modalnet._warnings import warn

LEVEL = 0.95
CHUNK = 4_000_000  # numbers that one step of resampling holds at once
FEWEST_GROUPS = 5  # fewer groups than this say too little about other groups to be resampled
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


def expanded(level: float, n: float) -> float:
    """Return the level whose percentile interval over n blocks has about the nominal coverage.

    Resamples of n blocks vary by the factor sqrt((n - 1) / n) too little, and percentiles stand where normal quantiles
    are, not those of t. With 5 blocks 0.95 becomes 0.998, with 100 0.952.

    Parameters
    ----------
    level
        Nominal coverage.
    n
        Number of blocks, or an effective number of them (see :func:`effective_number`); with fewer than 2 the level is
        returned as it is.

    References
    ----------
    Hesterberg (2015), What teachers should know about the bootstrap, The American Statistician 69(4):371-386, section
    3.5 (expanded percentile interval).
    """
    from scipy import stats

    if n < 2:
        return level
    return float(1 - 2 * stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf((1 - level) / 2, n - 1)))


def effective_number(weights: Float[np.ndarray, "item cell"]) -> Float[np.ndarray, " cell"]:
    """Return of how many equal weights a weighted mean is as variable, (sum w)^2 / sum w^2; NaN where all are 0.

    References
    ----------
    Kish (1965), Survey Sampling, section 11.7.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weights.sum(axis=0) ** 2 / (weights**2).sum(axis=0))


def mean_intervals(
    values: Float[np.ndarray, "item cell"], n_resamples: int, rng: np.random.Generator, level: float = LEVEL
) -> Float[np.ndarray, "2 cell"]:
    """Return the symmetric bootstrap-t interval of every column's mean: mean ± q · standard error.

    q is the quantile of |mean* - mean| / standard error* over resamples. For skewed values with few items this covers
    more than percentiles do: of 10,000 means of 16 exponential values 0.931, where percentiles cover 0.886 and expanded
    ones 0.915.

    Parameters
    ----------
    values
        One row per item, one column per mean; items are resampled.
    n_resamples, rng, level
        Number of resamples, source of randomness, and nominal coverage.

    Returns
    -------
    array
        ``[bound, cell]``: lower and upper ends, equal to the mean where a column is constant; NaN with fewer than two
        items or where a value is not finite.

    References
    ----------
    Hall (1988), Journal of the Royal Statistical Society B 50(1):35-45.
    """
    n, n_cells = values.shape
    if n < 2:
        return np.full((2, n_cells), np.nan)
    middle = values.mean(axis=0)
    bounds = np.empty((2, n_cells))
    counts = bootstrap_counts(n, n_resamples, rng)
    for part in chunks(n_cells, n_resamples):
        away = values[:, part] - middle[part]
        means = product(counts, away) / n
        with np.errstate(invalid="ignore"):
            variance = np.maximum(product(counts, away**2) / n - means**2, 0)
        # A resample of one value again and again has no standard error, and says nothing.
        varies = variance > TIE * (away**2).mean(axis=0)
        t = np.where(varies, np.abs(means) / np.sqrt(np.where(varies, variance, 1) / (n - 1)), np.nan)
        q = intervals(t, 2 * level - 1, skip_nan=True)[1]
        error = values[:, part].std(axis=0, ddof=1) / math.sqrt(n)
        reach = np.where(error > 0, q * error, error)
        bounds[:, part] = middle[part] - reach, middle[part] + reach
    return bounds


def block_values(
    scores: Float[np.ndarray, "item cell"], groups: Integer[np.ndarray, " item"] | None
) -> Float[np.ndarray, "block cell"]:
    """Return what is independent of what: the scores, or one value per group, whose mean is that of all items.

    Parameters
    ----------
    scores
        One column per cell.
    groups
        Number of the group of each item, from 0; None where items are independent. The value of a group is the sum of
        its items over the mean size of groups.
    """
    if groups is None:
        return scores
    sums = np.zeros((n_blocks(len(scores), groups), scores.shape[1]))
    np.add.at(sums, groups, scores)
    return sums * (len(sums) / len(scores))


def n_blocks(n_items: int, groups: Integer[np.ndarray, " item"] | None) -> int:
    """Return how many blocks are resampled: the groups, numbered from 0, or the items where there are none."""
    return n_items if groups is None else int(groups.max()) + 1


def item_groups(groups: Sequence[str] | None, what: str = "The items") -> Integer[np.ndarray, " item"] | None:
    """Return the number of each item's group where groups are what must be resampled, None where items are.

    Items are resampled where they have no groups or all one, and, with a warning, where they have fewer than 5: so few
    say nothing about other groups, and the interval is then about other items of the same groups.

    Parameters
    ----------
    groups
        The group (paradigm, suite) of each item, or None.
    what
        The items, as the warning begins.
    """
    if groups is None:
        return None
    names, numbers = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) >= FEWEST_GROUPS:
        return numbers.astype(np.int64)
    if len(names) > 1:
        warn(
            f"{what} come from {len(names)} groups, and at least {FEWEST_GROUPS} are needed to resample groups. Items "
            "are resampled instead: intervals are about other items of these groups, and too narrow for other groups."
        )
    return None


def bootstrap_counts(n: int, n_resamples: int, rng: np.random.Generator) -> Integer[np.ndarray, "resample block"]:
    """Return how often each of n blocks is drawn when n are drawn with replacement.

    The mean of a resample is then a product of counts and values, divided by n.
    """
    return rng.multinomial(n, np.full(n, 1 / n), size=n_resamples)


def bootstrap_means(
    scores: Float[np.ndarray, "item cell"],
    n_resamples: int,
    rng: np.random.Generator,
    groups: Integer[np.ndarray, " item"] | None = None,
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
    groups
        Number of the group of each item, from 0: whole groups are drawn in place of items, and a mean is over all items
        of the groups drawn. See :func:`item_groups`.

    References
    ----------
    Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 6, algorithm 6.1. Cameron, Gelbach & Miller
    (2008), Review of Economics and Statistics 90(3):414-427, for groups (the pairs cluster bootstrap).
    """
    if groups is not None:
        return _bootstrap_groups(scores, n_resamples, rng, groups)
    n = len(scores)
    means = np.empty((n_resamples, scores.shape[1]))
    for part in chunks(n_resamples, n):
        rows = part.stop - part.start
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means[part] = product(times, scores) / n
    return means


def _bootstrap_groups(
    scores: Float[np.ndarray, "item cell"],
    n_resamples: int,
    rng: np.random.Generator,
    groups: Integer[np.ndarray, " item"],
) -> Float[np.ndarray, "resample cell"]:
    sizes = np.bincount(groups)
    sums = np.zeros((len(sizes), scores.shape[1]))
    np.add.at(sums, groups, scores)
    counts = bootstrap_counts(len(sizes), n_resamples, rng)
    return product(counts, sums) / (counts @ sizes)[:, None]


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
