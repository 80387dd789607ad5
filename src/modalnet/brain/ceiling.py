"""The noise ceiling: the highest correlation with the measured responses that any model can reach.

A measured response is the sum of signal and noise, so that even a model that predicts the signal exactly correlates
below 1 with it. The noise ceiling is this correlation. A score divided by it is the fraction of the explainable
correlation that is explained.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from modalnet._validation import check_option, check_seed
from modalnet.errors import InputError

N_SPLITS = 100
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
        Spearman-Brown correction 2r / (1 + r); the ceiling is its square root. ``"variance"``: the variance over
        repeats of one stimulus is the noise variance; the ceiling is sqrt(signal / (signal + noise / n)), as for the
        Natural Scenes Dataset.
    n_splits, seed
        Number of random split halves, and the seed of the splits.

    Returns
    -------
    array
        float64 [target], correlations from 0 to 1; 0 where repeats are not positively correlated.

    Raises
    ------
    InputError
        If there are fewer than two repeats, or the method is unknown.

    References
    ----------
    Spearman (1910), British Journal of Psychology 3:271-295; Brown (1910), 3:296-322. Schoppe, Harper, Willmore, King &
    Schnupp (2016), Frontiers in Computational Neuroscience 10:10, for the square root. Allen et al. (2022), Nature
    Neuroscience 25:116-126, methods, for the variance.
    """
    values = np.asarray(repeats, dtype=np.float64)
    if values.ndim != 3 or len(values) < 2:
        raise InputError(
            f"`repeats` must be [repeat, stimulus, target] with two repeats or more, got shape {values.shape}."
        )
    check_option("method", method, METHODS)
    check_seed(seed)
    import warnings

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # means of empty slices are NaN, and are left out below
        if method == "split-half":
            rng = np.random.Generator(np.random.PCG64(seed))
            correlations = []
            for _ in range(n_splits):
                order = np.argsort(rng.random(len(values)))
                half = len(values) // 2
                one, two = (np.nanmean(values[part], axis=0) for part in (order[:half], order[half:]))
                correlations.append(_correlation(one, two))
            r = np.clip(np.nanmean(correlations, axis=0), 0, 1)
            if len(values) % 2:  # halves of unequal size: Spearman-Brown from their mean size
                factor = len(values) / (len(values) / 2)
                reliability = factor * r / (1 + (factor - 1) * r)
            else:
                reliability = 2 * r / (1 + r)
        else:
            n = np.isfinite(values).sum(axis=0).astype(float)
            n[n == 0] = np.nan
            noise = np.nanmean(np.nanvar(values, axis=0, ddof=1), axis=0) * np.nanmean(1 / n, axis=0)
            total = np.nanvar(np.nanmean(values, axis=0), axis=0, ddof=1)
            reliability = np.clip(total - noise, 0, None) / total
    return np.sqrt(np.nan_to_num(np.clip(reliability, 0, 1)))


def _correlation(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Pearson correlation per target over the stimuli measured in both halves."""
    both = np.isfinite(one) & np.isfinite(two)
    one, two = (np.where(both, part, np.nan) for part in (one, two))
    one, two = (part - np.nanmean(part, axis=0) for part in (one, two))
    return np.nansum(one * two, axis=0) / np.sqrt(np.nansum(one**2, axis=0) * np.nansum(two**2, axis=0))
