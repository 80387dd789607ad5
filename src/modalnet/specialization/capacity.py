"""Capacity: decoding accuracy of a domain as a function of the number of units.

The smallest number of units that suffices to decode a domain measures how concentrated its code is. Decoding one domain
from the network of another measures how much the code is shared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from modalnet.stats.folds import assign_folds
from modalnet.stats.moments import Moments, welch

FOLDS = 5
ENOUGH = 0.95  # fraction of the gain of the best number of units over chance
SHRINKAGE = 0.1  # of the variance of each unit towards the mean over units


def capacity(
    values: Float[np.ndarray, "stimulus unit"],
    positive: Bool[np.ndarray, " stimulus"],
    conditions: Sequence[str] | Shaped[np.ndarray, " stimulus"],
    *,
    draws: int,
    seed: int,
    items: Sequence[str | None] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Compute the held-out accuracy of decoding the sides of a contrast from its best k units, for increasing k.

    Parameters
    ----------
    values
        Activations of all candidate units.
    positive
        Whether each stimulus is of the positive side.
    conditions
        The condition of each stimulus; folds are stratified by condition.
    draws, seed
        Number of random selections of k units as controls, and the seed of these and of the folds.
    items
        The item of each stimulus; folds keep items together.

    Returns
    -------
    rows
        k, accuracy (balanced, held out), low, high (95%, Wilson), control (mean over random units), control_low,
        control_high (lowest and highest draw).
    summary
        best (the highest accuracy), k_enough (the smallest k whose gain over chance is at least 95% of the highest),
        k_enough_random (the same for random units; NaN if no k reaches it).

    Notes
    -----
    In each of five folds units are ranked by Welch's t on the training stimuli. The decoder is a diagonal linear
    discriminant: each unit contributes its deviation from the midpoint of the two class means, times their difference
    divided by its shrunken variance (Dudoit, Fridlyand & Speed 2002, JASA 97:77-87).
    """
    folds = assign_folds(conditions, FOLDS, [seed, 8], items)
    n_units = values.shape[1]
    sizes = [k for k in (2**i for i in range(0, 14)) if k < n_units] + [n_units]
    right = np.zeros((len(sizes), len(values)), dtype=bool)
    right_random = np.zeros((len(sizes), draws, len(values)), dtype=bool)
    rng = np.random.Generator(np.random.PCG64([seed, 7]))
    for fold in range(FOLDS):
        test = folds == fold
        train = ~test
        order = _rank(values[train], positive[train])
        shuffled = [np.argsort(rng.random(n_units), kind="stable") for _ in range(draws)]
        for i, k in enumerate(sizes):
            right[i, test] = _decode(values[:, order[:k]], positive, train, test)
            for draw, some in enumerate(shuffled):
                right_random[i, draw, test] = _decode(values[:, some[:k]], positive, train, test)
    rows = []
    for i, k in enumerate(sizes):
        accuracy = _balanced(right[i], positive)
        control = [_balanced(one, positive) for one in right_random[i]]
        low, high = wilson(accuracy, len(positive))
        rows.append(
            {
                "k": k,
                "accuracy": accuracy,
                "low": low,
                "high": high,
                "control": float(np.mean(control)) if control else math.nan,
                "control_low": min(control, default=math.nan),
                "control_high": max(control, default=math.nan),
            }
        )
    best = max(row["accuracy"] for row in rows)
    bar = 0.5 + ENOUGH * (best - 0.5)
    enough = next(row["k"] for row in rows if row["accuracy"] >= bar - 1e-12)
    by_chance = next((row["k"] for row in rows if row["control"] >= bar - 1e-12), math.nan)
    return rows, {"best": best, "k_enough": float(enough), "k_enough_random": float(by_chance)}


def decoded_by(
    values: Float[np.ndarray, "stimulus unit"],
    positive: Bool[np.ndarray, " stimulus"],
    conditions: Sequence[str] | Shaped[np.ndarray, " stimulus"],
    seed: int,
    items: Sequence[str | None] | None = None,
) -> float:
    """Return the held-out balanced accuracy of the decoder of :func:`capacity` over all given units."""
    folds = assign_folds(conditions, FOLDS, [seed, 8], items)
    right = np.zeros(len(values), dtype=bool)
    for fold in range(FOLDS):
        test = folds == fold
        right[test] = _decode(values, positive, ~test, test)
    return _balanced(right, positive)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95% score interval of a proportion of n (Wilson 1927, JASA 22:209-212)."""
    z = 1.959964
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _decode(values: np.ndarray, positive: np.ndarray, train: np.ndarray, test: np.ndarray) -> Bool[np.ndarray, " held"]:
    sides = values[train & positive].astype(np.float64), values[train & ~positive].astype(np.float64)
    means = [side.mean(axis=0) for side in sides]
    n = sum(len(side) for side in sides)
    variance = sum(((side - mean) ** 2).sum(axis=0) for side, mean in zip(sides, means, strict=True)) / max(n - 2, 1)
    # Variances are shrunk relative to the scale of each unit, because scales differ widely (massive activations).
    scale = np.maximum(np.mean([np.abs(mean) for mean in means], axis=0), np.sqrt(variance))
    relative = variance / np.maximum(scale**2, 1e-300)
    relative = (1 - SHRINKAGE) * relative + SHRINKAGE * relative.mean()
    difference = (means[0] - means[1]) / np.maximum(scale, 1e-150)
    weights = np.where(relative > 0, difference / np.where(relative > 0, relative, 1), 0) / np.maximum(scale, 1e-150)
    score = (values[test].astype(np.float64) - (means[0] + means[1]) / 2) @ weights
    return (score > 0) == positive[test]


def _rank(values: np.ndarray, positive: np.ndarray) -> Int[np.ndarray, " rank"]:
    sides = []
    for side in (values[positive], values[~positive]):
        moments = Moments.zeros(values.shape[1])
        moments.update(side)
        sides.append(moments)
    t = np.abs(welch(*sides).t)
    return np.argsort(-np.nan_to_num(t, nan=-1.0), kind="stable")


def _balanced(right: np.ndarray, positive: np.ndarray) -> float:
    return float((right[positive].mean() + right[~positive].mean()) / 2)
