"""How sure is an effect of a lesion: intervals and tests for item scores, without any model.

Two things of a lesion study are samples. The *items* of a task stand for all items one could have asked; the *draws* of
random control units stand for all one could have drawn. The same items are asked under every lesion, so all
comparisons are paired by item.

* Intervals resample items (and, against controls, draws too). All lesions of a task share their resamples, which
  keeps them paired and costs one matrix product for a whole study.
* Against the draws stands a rank: how many random sets hurt as much as the network. With n draws it cannot fall below
  1 / (n + 1).
* Against the mean of the draws stands a sign-flip test over items, which is finer: it can see a small effect that
  every item shares. Random sets that truly differ from each other differ on items too, so alone it would call every
  second random set remarkable; it counts only together with the rank.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
CHUNK = 4_000_000  # numbers that one step of resampling holds at once
TIE = 1e-10  # sums that are closer than this share of their size are equal: they differ by the order of additions


def resampled_means(
    scores: Float[np.ndarray, "item cell"], n_resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "resample cell"]:
    """Draw items with replacement and return every cell's mean over the same draws.

    Parameters
    ----------
    scores
        One column per cell (a lesion, or the network without one).
    n_resamples
        How often all items are drawn.
    rng
        Where chance comes from.

    References
    ----------
    Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 6.
    """
    n = len(scores)
    means = np.empty((n_resamples, scores.shape[1]))
    for part in _chunks(n_resamples, n):
        rows = part.stop - part.start
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means[part] = _product(times, scores) / n
    return means


def resampled_excess(
    network: Float[np.ndarray, " resample"],
    controls: Float[np.ndarray, "resample draw"],
    rng: np.random.Generator,
) -> Float[np.ndarray, " resample"]:
    """Return how far the network's mean lies below the mean of its controls when draws are resampled as well.

    Parameters
    ----------
    network, controls
        Columns of :func:`resampled_means`: items are resampled already.
    rng
        Where chance comes from.

    References
    ----------
    Owen (2007), The pigeonhole bootstrap, Annals of Applied Statistics 1(2):386-411: rows and columns resampled
    independently give intervals that are a little too wide, never too narrow by more than sampling error.
    """
    n_resamples, n = controls.shape
    drawn = rng.integers(0, n, size=(n_resamples, n))
    return np.take_along_axis(controls, drawn, axis=1).mean(axis=1) - network


def interval(samples: Float[np.ndarray, " resample"], level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of resampled values; NaN if one of them is not finite."""
    if not np.isfinite(samples).all():
        return math.nan, math.nan
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_flip(
    differences: Float[np.ndarray, "item test"], n_permutations: int, rng: np.random.Generator
) -> Float[np.ndarray, " test"]:
    """One-sided permutation test that the mean of paired differences is above 0.

    If two conditions are alike, an item's difference is as likely to be d as -d. The signs of all items are flipped
    at random, and p is the share of flips in which the mean difference is as large as in the data. All tests share
    their flips.

    Parameters
    ----------
    differences
        One column per test.
    n_permutations
        How many flips are drawn. Where there are no more than that in all (2 to the power of items), each is taken
        once and p is exact.
    rng
        Where chance comes from.

    Returns
    -------
    array
        (1 + flips as extreme) / (1 + flips) where flips are drawn; NaN where a difference is not finite.

    References
    ----------
    Fisher (1935), The Design of Experiments, section 21; Phipson & Smyth (2010), Statistical Applications in Genetics
    and Molecular Biology 9(1):39, for counting the data as one of the flips.
    """
    n, n_tests = differences.shape
    total = differences.sum(axis=0)
    with np.errstate(invalid="ignore"):
        bar = total - TIE * np.abs(differences).sum(axis=0)
    exact = n < 63 and 2**n <= n_permutations
    extreme = np.zeros(n_tests)
    n_flips = 2**n if exact else n_permutations
    patterns = itertools.product((0, 1), repeat=n)
    for part in _chunks(n_flips, n):
        rows = part.stop - part.start
        if exact:
            kept = np.array(list(itertools.islice(patterns, rows)))
        else:
            kept = np.unpackbits(rng.integers(0, 256, (rows, -(-n // 8)), dtype=np.uint8), axis=1, count=n)
        # The items that keep their sign, less those that lose it.
        with np.errstate(invalid="ignore"):
            extreme += (2 * _product(kept, differences) - total >= bar).sum(axis=0)
    p = extreme / n_flips if exact else (1 + extreme) / (1 + n_flips)
    return np.where(np.isfinite(total), p, np.nan)


def rank_p(value: float, controls: Float[np.ndarray, " draw"]) -> float:
    """Share of random sets that hurt as much: (1 + controls >= value) / (1 + controls).

    One-sided: small where the network hurts more than its controls. NaN without controls or where one is not finite.

    References
    ----------
    North, Curtis & Sham (2002), American Journal of Human Genetics 71(2):439-441.
    """
    if not len(controls) or not np.isfinite([value, *controls]).all():
        return math.nan
    return (1 + int((controls >= value - TIE * max(1.0, abs(value))).sum())) / (1 + len(controls))


def standardized(value: float, controls: Float[np.ndarray, " draw"]) -> float:
    """(value - mean of controls) / standard deviation of controls (``ddof=1``).

    NaN with fewer than two controls or where all are alike.
    """
    if len(controls) < 2 or not np.isfinite([value, *controls]).all():
        return math.nan
    spread = float(controls.std(ddof=1))
    return (value - float(controls.mean())) / spread if spread > TIE * max(1.0, abs(value)) else math.nan


def paired_dz(differences: Float[np.ndarray, " item"]) -> float:
    """Cohen's dz: the mean paired difference over its standard deviation (``ddof=1``); NaN where that is 0.

    References
    ----------
    Lakens (2013), Frontiers in Psychology 4:863, equation 6.
    """
    if len(differences) < 2 or not np.isfinite(differences).all():
        return math.nan
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    return mean / spread if spread > TIE * max(1.0, abs(mean)) else math.nan


def _chunks(n: int, width: int) -> Iterator[slice]:
    """Slices over n rows of the given width that hold at most CHUNK numbers each (and one row at least)."""
    step = max(1, CHUNK // max(width, 1))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def _product(counts: np.ndarray, values: Float[np.ndarray, "item cell"]) -> Float[np.ndarray, "row cell"]:
    """Matrix product in which a value that is not finite spoils its own column only, without a warning."""
    with np.errstate(invalid="ignore", over="ignore"):
        return counts.astype(np.float64) @ values
