"""Resampling: intervals and tests from data that are dealt out again, without any model.

Stimuli of one passage, or neighbours in time, are alike; taking them for independent makes every interval too narrow
and every test too sure. So what is resampled here are *blocks* of stimuli, and a stimulus of its own is a block of one.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95
TIE = 1e-10  # sums that differ by less than this share of their size differ by the order of additions alone


def interval(samples: Float[np.ndarray, " resample"], level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of resampled values; NaN if one of them is not finite.

    References
    ----------
    Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    values = np.asarray(samples, dtype=np.float64)
    if not values.size or not np.isfinite(values).all():
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_counts(n: int, n_resamples: int, rng: np.random.Generator) -> Int[np.ndarray, "resample block"]:
    """How often each of n blocks is drawn, when as many are drawn with replacement."""
    return rng.multinomial(n, np.full(n, 1 / n), size=n_resamples)


def rank_p(value: float, controls: Float[np.ndarray, " draw"]) -> float:
    """Share of random draws that reach a value: (1 + controls >= value) / (1 + controls); one-sided.

    NaN without controls, or where a value is not finite.

    References
    ----------
    North, Curtis & Sham (2002), American Journal of Human Genetics 71(2):439-441.
    """
    controls = np.asarray(controls, dtype=np.float64)
    if not controls.size or not np.isfinite(controls).all() or not math.isfinite(value):
        return math.nan
    return (1 + int((controls >= value - TIE * max(1.0, abs(value))).sum())) / (1 + len(controls))


def sign_flip(differences: Float[np.ndarray, " item"], n_permutations: int, rng: np.random.Generator) -> float:
    """Two-sided permutation test that the mean of paired differences is 0, by flips of their signs.

    References
    ----------
    Fisher (1935), The Design of Experiments, section 21; Phipson & Smyth (2010), Statistical Applications in Genetics
    and Molecular Biology 9(1):39, for counting the data as one of the flips.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not values.size or not np.isfinite(values).all():
        return math.nan
    bar = abs(values.sum()) - TIE * np.abs(values).sum()
    signs = rng.integers(0, 2, size=(n_permutations, len(values))) * 2 - 1
    return (1 + int((np.abs(signs @ values) >= bar).sum())) / (1 + n_permutations)


def label_shuffle(
    a: Float[np.ndarray, " item"], b: Float[np.ndarray, " other"], n_permutations: int, rng: np.random.Generator
) -> float:
    """Two-sided permutation test that two independent groups have one mean: which value is whose is dealt out anew.

    The statistic is Welch's t, which keeps its level where the groups differ in spread and size.

    References
    ----------
    Janssen (1997), Statistics & Probability Letters 36(1):9-21, for permutations of the Welch statistic.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if min(len(a), len(b)) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    joint = np.concatenate([a, b])
    order = np.argsort(rng.random((n_permutations, len(joint))), axis=1)
    dealt = joint[order]
    found = np.abs(_welch(dealt[:, : len(a)], dealt[:, len(a) :]))
    here = abs(float(_welch(a[None], b[None])[0]))
    if not math.isfinite(here):
        return math.nan
    return (1 + int((found >= here - TIE * max(1.0, here)).sum())) / (1 + n_permutations)


def _welch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    error = a.var(axis=1, ddof=1) / a.shape[1] + b.var(axis=1, ddof=1) / b.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return (a.mean(axis=1) - b.mean(axis=1)) / np.sqrt(error)
