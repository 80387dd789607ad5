"""Permutation and rank tests: p values without a distributional assumption.

Each test states its ``alternative`` as SciPy does: ``"greater"``, ``"less"`` or ``"two-sided"``. A p value counts the
data as one of the permutations, (1 + extreme) / (1 + n), so that it is never 0 (Phipson & Smyth 2010, Statistical
Applications in Genetics and Molecular Biology 9(1):39), unless every permutation is taken once. What cannot be tested
is NaN. Statistics that differ by rounding alone (see :data:`~modalnet.stats.resampling.TIE`) count as equal.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Integer

from modalnet._validation import check_option
from modalnet.stats.resampling import TIE, chunks, product

Alternative = Literal["greater", "less", "two-sided"]
ALTERNATIVES: tuple[Alternative, ...] = ("greater", "less", "two-sided")


def sign_flip(
    differences: Float[np.ndarray, " item *test"],
    n_permutations: int,
    rng: np.random.Generator,
    *,
    alternative: Alternative,
    groups: Integer[np.ndarray, " item"] | None = None,
) -> Float[np.ndarray, "*test"]:
    """Test whether the mean of paired differences is 0, by random flips of their signs.

    If two conditions are alike, an item's difference is as likely to be d as -d. The signs of all items are flipped at
    random; with S the sum of the differences and S* that of flipped ones, p is the share of flips with S* >= S
    (``"greater"``), S* <= S (``"less"``) or |S*| >= |S| (``"two-sided"``).

    Parameters
    ----------
    differences
        One value per item, or one column per test; all tests share their flips.
    n_permutations
        How many flips are drawn. Where there are no more than that in all (2 to the power of items), each is taken
        once and p is exact.
    rng
        Source of randomness.
    alternative
        Whether the mean is above 0, below 0, or either.
    groups
        Number of the group of each item, from 0, where items of a group are alike
        (:func:`modalnet.stats.resampling.item_groups`): the signs of whole groups are flipped. With 5 groups there are
        32 flips.

    Returns
    -------
    array
        One p value per test, of no dimension for a single one; NaN where a difference is not finite or there is none.

    References ---------- Fisher (1935), The Design of Experiments, section 21. Equal to
    ``scipy.stats.permutation_test(..., permutation_type="samples")`` on the mean. Winkler, Webster, Vidaurre, Nichols &
    Smith (2015), NeuroImage 123:253-268, for signs of whole blocks.
    """
    check_option("alternative", alternative, ALTERNATIVES)
    values = np.asarray(differences, dtype=np.float64)
    columns = values[:, None] if values.ndim == 1 else values
    if groups is not None and len(groups):
        sums = np.zeros((int(groups.max()) + 1, columns.shape[1]))
        np.add.at(sums, groups, columns)
        columns = sums
    n, n_tests = columns.shape
    if n == 0:
        return np.full(values.shape[1:], np.nan)
    with np.errstate(invalid="ignore"):
        total = columns.sum(axis=0)
        tie = TIE * np.abs(columns).sum(axis=0)
    exact = n < 63 and 2**n <= n_permutations
    n_flips = 2**n if exact else n_permutations
    extreme = np.zeros(n_tests)
    patterns = itertools.product((0, 1), repeat=n)
    for part in chunks(n_flips, n):
        rows = part.stop - part.start
        if exact:
            same = np.array(list(itertools.islice(patterns, rows)))
        else:
            same = np.unpackbits(rng.integers(0, 256, (rows, -(-n // 8)), dtype=np.uint8), axis=1, count=n)
        # The items that keep their sign, less those that lose it.
        with np.errstate(invalid="ignore"):
            flipped = 2 * product(same, columns) - total
            extreme += _extreme(flipped, total, tie, alternative).sum(axis=0)
    p = extreme / n_flips if exact else (1 + extreme) / (1 + n_flips)
    return np.where(np.isfinite(total), p, np.nan).reshape(values.shape[1:])


def label_permutation(
    a: Float[np.ndarray, " item"],
    b: Float[np.ndarray, " other"],
    n_permutations: int,
    rng: np.random.Generator,
    *,
    alternative: Alternative,
) -> float:
    """Test whether two independent groups have one mean, by permuting which value belongs to which group.

    The statistic is Welch's t, which keeps its level where the groups differ in spread and size.

    Parameters
    ----------
    a, b
        Values of the two groups.
    n_permutations
        How many permutations are drawn.
    rng
        Source of randomness.
    alternative
        Whether the mean of ``a`` is larger, smaller, or either.

    Returns
    -------
    float
        NaN with fewer than two values in a group, where a value is not finite, or where neither group varies.

    References
    ----------
    Janssen (1997), Statistics & Probability Letters 36(1):9-21, for permutations of the Welch statistic.
    """
    check_option("alternative", alternative, ALTERNATIVES)
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if min(len(a), len(b)) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    joint = np.concatenate([a, b])
    order = np.argsort(rng.random((n_permutations, len(joint))), axis=1)
    permuted = joint[order]
    t = _welch(a[None], b[None])
    if not math.isfinite(t[0]):
        return math.nan
    with np.errstate(invalid="ignore"):
        found = _welch(permuted[:, : len(a)], permuted[:, len(a) :])
        tie = TIE * np.maximum(1.0, np.abs(t))
        return (1 + int(_extreme(found, t, tie, alternative).sum())) / (1 + n_permutations)


def rank_p(value: float, draws: Float[np.ndarray, " draw"], *, alternative: Alternative) -> float:
    """Return the share of random draws that are as extreme as a value: (1 + extreme draws) / (1 + draws).

    Parameters
    ----------
    value
        The statistic of a network.
    draws
        The same of its controls.
    alternative
        ``"greater"`` counts draws >= value, ``"less"`` draws <= value; ``"two-sided"`` is twice the smaller of both, at
        most 1.

    Returns
    -------
    float
        Not below 1 / (1 + draws); NaN without draws, or where a value is not finite.

    References
    ----------
    North, Curtis & Sham (2002), American Journal of Human Genetics 71(2):439-441.
    """
    check_option("alternative", alternative, ALTERNATIVES)
    values = np.asarray(draws, dtype=np.float64)
    if not values.size or not np.isfinite(values).all() or not math.isfinite(value):
        return math.nan
    tie = TIE * max(1.0, abs(value))
    above = (1 + int((values >= value - tie).sum())) / (1 + len(values))
    below = (1 + int((values <= value + tie).sum())) / (1 + len(values))
    return {"greater": above, "less": below, "two-sided": min(1.0, 2 * min(above, below))}[alternative]


def p_in_words(p: float) -> str:
    """Return a p or q value as a sentence has it after the letter: ``= 0.012``, ``< 0.001``, or ``unknown``."""
    return "unknown" if math.isnan(p) else "< 0.001" if p < 0.001 else f"= {p:.3f}"


def count_reaching(
    samples: Float[np.ndarray, " permutation *target"], value: Float[np.ndarray, "*target"]
) -> Int[np.ndarray, "*target"]:
    """Return how many samples, along the first axis, are at least the value."""
    return np.asarray((samples >= value - TIE * np.maximum(1.0, np.abs(value))).sum(axis=0))


def p_of_count(
    value: Float[np.ndarray, "*target"], reaching: Int[np.ndarray, "*target"] | Float[np.ndarray, "*target"], n: int
) -> Float[np.ndarray, "*target"]:
    """Return (1 + permutations that reach the value) / (1 + n permutations); NaN where the value is not finite."""
    return np.where(np.isfinite(value), (1 + reaching) / (1 + n), np.nan)


def _extreme(samples: np.ndarray, value: np.ndarray, tie: np.ndarray, alternative: Alternative) -> np.ndarray:
    if alternative == "greater":
        return samples >= value - tie
    if alternative == "less":
        return samples <= value + tie
    return np.abs(samples) >= np.abs(value) - tie


def _welch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    error = a.var(axis=1, ddof=1) / a.shape[1] + b.var(axis=1, ddof=1) / b.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return (a.mean(axis=1) - b.mean(axis=1)) / np.sqrt(error)
