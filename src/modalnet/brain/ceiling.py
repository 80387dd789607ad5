"""The noise ceiling: the highest correlation with the measured responses that any model can reach.

A measured response is the sum of signal and noise, so that even a model that predicts the signal exactly correlates
below 1 with it. The noise ceiling is this correlation. A score divided by it is the fraction of the explainable
correlation that is explained.
"""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float

from modalnet._validation import check_option, check_seed
from modalnet.errors import InputError
from modalnet.stats.resampling import LEVEL

N_SPLITS = 100
ROUNDING = 1e-12
METHODS = ("split-half", "variance")


def noise_ceiling(
    repeats: Float[np.ndarray, "repeat stimulus target"],
    method: str = "split-half",
    *,
    n_splits: int = N_SPLITS,
    seed: int = 0,
) -> Float[np.ndarray, " target"]:
    """Estimate the expected correlation of a perfect model with the mean over repeats.

    Parameters
    ----------
    repeats
        Repeated measurements, or one measurement per participant; NaN where missing.
    method
        ``"split-half"``: split-half reliability, the mean correlation r of random halves of the repeats with the
        Spearman-Brown correction 2r / (1 + r), or Horst's for an odd number of repeats; the ceiling is its square root.
        ``"variance"``: the variance over repeats of one stimulus is the noise variance; the ceiling is
        sqrt(signal / (signal + noise / n)), as for the Natural Scenes Dataset.
    n_splits, seed
        Number of random split halves, and the seed of the splits.

    Returns
    -------
    array
        float64 [target], correlations from 0 to 1; 0 where the lower end of :func:`ceiling_interval` is 0, that is,
        where repeats do not show that there is a signal. Without signal 2.5% of targets have another ceiling. Estimates
        of weak signals that pass are somewhat too large, as those that vary downwards do not pass.

    Raises
    ------
    InputError
        If there are fewer than two repeats, or the method is unknown.

    References
    ----------
    Spearman (1910), British Journal of Psychology 3:271-295; Brown (1910), 3:296-322; Horst (1951), Educational and
    Psychological Measurement 11:368-371, for halves of unequal size. Schoppe, Harper, Willmore, King &
    Schnupp (2016), Frontiers in Computational Neuroscience 10:10, for the square root. Allen et al. (2022), Nature
    Neuroscience 25:116-126, methods, for the variance.
    """
    values = _checked(repeats)
    check_option("method", method, METHODS)
    check_seed(seed)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # means of empty slices are NaN, and are left out below
        reliability = _split_half(values, n_splits, seed) if method == "split-half" else _by_variance(values)
    ceiling = np.sqrt(np.nan_to_num(np.clip(reliability, 0, 1)))
    # Without this, the root turns a reliability of 0.02, common without any signal, into a ceiling of 0.14.
    return np.where(ceiling_interval(values)[0] > 0, ceiling, 0.0)


def ceiling_interval(
    repeats: Float[np.ndarray, "repeat stimulus target"], level: float = LEVEL
) -> Float[np.ndarray, "2 target"]:
    """Return an interval of the noise ceiling of each target, from the variance ratio of its repeats.

    Parameters
    ----------
    repeats
        As for :func:`noise_ceiling`. Differences between the means of repeats (runs, participants) are removed.
    level
        Nominal coverage. Exact for normal signal and noise without missing values.

    Returns
    -------
    array
        ``[bound, target]``, correlations from 0 to 1. With F the mean square of stimuli over the residual mean square,
        the reliability of the mean over repeats is 1 - 1 / F, and its ends follow from the quantiles of F; the ends
        here are their square roots. 0 and 0 where F is undefined (a constant target, or fewer than two stimuli).

    Raises
    ------
    InputError
        If there are fewer than two repeats.

    References
    ----------
    Shrout & Fleiss (1979), Psychological Bulletin 86(2):420-428: ICC(3, k) and its interval. McGraw & Wong (1996),
    Psychological Methods 1(1):30-46, table 7.
    """
    from scipy import stats

    values = _checked(repeats)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        there = np.isfinite(values)
        values = np.where(there, values, np.nan)
        size = np.nanmax(np.abs(values), axis=(0, 1))
        values -= np.nanmean(values, axis=1, keepdims=True)
        # What is left of a constant is the rounding of its mean.
        values[:, :, np.nanmax(np.abs(values), axis=(0, 1)) <= ROUNDING * size] = 0
        count = there.sum(axis=0)
        means = np.nanmean(values, axis=0)
        stimuli = (count > 0).sum(axis=0)
        between = np.nansum(count * means**2, axis=0) / (stimuli - 1)
        left = count.sum(axis=0) - stimuli - there.any(axis=1).sum(axis=0) + 1
        ratio = between / (np.nansum((values - means) ** 2, axis=(0, 1)) / left)
        end = (1 + level) / 2
        low = 1 - stats.f.ppf(end, stimuli - 1, left) / ratio
        high = 1 - 1 / (ratio * stats.f.ppf(end, left, stimuli - 1))
    return np.sqrt(np.nan_to_num(np.clip([low, high], 0, 1)))


def _checked(repeats: Float[np.ndarray, "repeat stimulus target"]) -> Float[np.ndarray, "repeat stimulus target"]:
    values = np.asarray(repeats, dtype=np.float64)
    if values.ndim != 3 or len(values) < 2:
        raise InputError(
            f"`repeats` must be [repeat, stimulus, target] with two repeats or more, got shape {values.shape}."
        )
    return values


def _split_half(
    values: Float[np.ndarray, "repeat stimulus target"], n_splits: int, seed: int
) -> Float[np.ndarray, " target"]:
    rng = np.random.Generator(np.random.PCG64(seed))
    correlations = []
    n, half = len(values), len(values) // 2
    for _ in range(n_splits):
        order = np.argsort(rng.random(n))
        one, two = (np.nanmean(values[part], axis=0) for part in (order[:half], order[half:]))
        correlations.append(_correlation(one, two))
    r = np.clip(np.nanmean(correlations, axis=0), 0, 1)
    # The noise variance of one repeat over the signal variance, from r² = 1 / ((1 + x / half) (1 + x / (n - half))).
    x = (np.sqrt(n**2 + 4 * half * (n - half) * (1 / r**2 - 1)) - n) / 2
    return 1 / (1 + x / n)


def _by_variance(values: Float[np.ndarray, "repeat stimulus target"]) -> Float[np.ndarray, " target"]:
    n = np.isfinite(values).sum(axis=0).astype(float)
    n[n == 0] = np.nan
    noise = np.nanmean(np.nanvar(values, axis=0, ddof=1), axis=0) * np.nanmean(1 / n, axis=0)
    total = np.nanvar(np.nanmean(values, axis=0), axis=0, ddof=1)
    return np.clip(total - noise, 0, None) / total


def _correlation(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Pearson correlation per target over the stimuli measured in both halves."""
    both = np.isfinite(one) & np.isfinite(two)
    one, two = (np.where(both, part, np.nan) for part in (one, two))
    one, two = (part - np.nanmean(part, axis=0) for part in (one, two))
    return np.nansum(one * two, axis=0) / np.sqrt(np.nansum(one**2, axis=0) * np.nansum(two**2, axis=0))
