"""How well could any model do? The noise ceiling of each target.

A response is signal and noise. A model that knows the signal exactly still correlates below 1 with a measured response.
The ceiling is that correlation; a score divided by it says which share of what can be explained is explained.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

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
    """The expected correlation of a perfect model with the mean over repeats.

    Parameters
    ----------
    repeats
        Repeated measurements, or one per participant; NaN where missing.
    method
        ``"split-half"``: the mean correlation r of random halves of the repeats, stepped up to all of them by
        Spearman and Brown, 2r / (1 + r); the ceiling is its square root. ``"variance"``: the variance over repeats of
        one stimulus is noise; the ceiling is the root of signal / (signal + noise / n), as for the Natural Scenes
        Dataset.
    n_splits, seed
        How many random splits, and which.

    Returns
    -------
    array
        [target], from 0 to 1; 0 where repeats do not agree at all.

    Raises
    ------
    InputError
        With fewer than two repeats, or for an unknown method.

    References
    ----------
    Spearman (1910), British Journal of Psychology 3:271-295; Brown (1910), 3:296-322. Schoppe, Harper, Willmore, King &
    Schnupp (2016), Frontiers in Computational Neuroscience 10:10, for the root. Allen et al. (2022), Nature
    Neuroscience 25:116-126, methods, for the variance.
    """
    values = np.asarray(repeats, dtype=np.float64)
    if values.ndim != 3 or len(values) < 2:
        raise InputError(f"A noise ceiling needs two repeats or more, [repeat, stimulus, target]; got {values.shape}.")
    if method not in METHODS:
        raise InputError(f"method={method!r} is not known. Give one of {', '.join(METHODS)}.")
    import warnings

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # means of nothing are NaN, and are left out below
        if method == "split-half":
            rng = np.random.Generator(np.random.PCG64(seed))
            found = []
            for _ in range(n_splits):
                order = np.argsort(rng.random(len(values)))
                half = len(values) // 2
                one, two = (np.nanmean(values[part], axis=0) for part in (order[:half], order[half:]))
                found.append(_correlation(one, two))
            r = np.clip(np.nanmean(found, axis=0), 0, 1)
            if len(values) % 2:  # halves of unequal size: the step up is from their mean size
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
    """Pearson correlation per target over the stimuli that both have."""
    both = np.isfinite(one) & np.isfinite(two)
    one, two = (np.where(both, part, np.nan) for part in (one, two))
    one, two = (part - np.nanmean(part, axis=0) for part in (one, two))
    return np.nansum(one * two, axis=0) / np.sqrt(np.nansum(one**2, axis=0) * np.nansum(two**2, axis=0))
