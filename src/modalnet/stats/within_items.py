"""A test of one run of each item against other runs of the same item that are alike if there is no effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modalnet.stats.resampling import TIE, chunks

if TYPE_CHECKING:
    from jaxtyping import Float


def within_items(
    values: Float[np.ndarray, "item test"],
    draws: Float[np.ndarray, "item draw test"],
    n_permutations: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " test"]:
    """Test whether values are larger than draws of the same items, by exchanging them within items.

    If a value is one more draw, it is as likely to stand in the place of each draw of its item. Of every item one of
    the draws and the value is chosen at random; p is the share of choices whose sum is at least that of the values. So
    p is exact whatever the distribution, and whatever differs between items. One-sided.

    Parameters
    ----------
    values
        One value per item, or one column per test; all tests share their choices.
    draws
        The same for each draw.
    n_permutations
        How many choices are drawn.
    rng
        Source of randomness.

    Returns
    -------
    array
        One p value per test; NaN where a number is not finite, or where there are no draws or items.

    References
    ----------
    Fisher (1935), The Design of Experiments, section 21, for randomized blocks. Phipson & Smyth (2010), Statistical
    Applications in Genetics and Molecular Biology 9(1):39, for p values that are never 0.
    """
    n_items, n_draws, n_tests = draws.shape
    if not n_items or not n_draws:
        return np.full(n_tests, np.nan)
    stacked = np.concatenate([values[:, None], draws], axis=1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        total = values.sum(axis=0)
        least = total - TIE * np.abs(stacked).max(axis=1).sum(axis=0)
    reached = np.zeros(n_tests)
    items = np.arange(n_items)
    for part in chunks(n_permutations, n_items * n_tests):
        chosen = rng.integers(0, n_draws + 1, (part.stop - part.start, n_items))
        with np.errstate(invalid="ignore"):
            reached += (stacked[items, chosen].sum(axis=1) >= least).sum(axis=0)
    p = (1 + reached) / (1 + n_permutations)
    return np.where(np.isfinite(stacked).all(axis=(0, 1)), p, np.nan)
