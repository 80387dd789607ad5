"""Overlap and separation of two networks: their shared units and their distribution over layers.

Random units with as many in every layer say how large an overlap is, not whether it is significant: units are not
independent. :mod:`modalnet.specialization.permuted` tests both with permuted labels, where the stimuli are known.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from modalnet.stats.resampling import interval
from modalnet.units import Units

DRAWS = 5000


def overlap(a: Units, b: Units, rng: np.random.Generator, draws: int = DRAWS) -> dict[str, float]:
    """Count the units that two networks share, beside those of random units.

    Parameters
    ----------
    a, b
        Networks of one model.
    rng
        Random generator of the null distribution.
    draws
        Number of random overlaps.

    Returns
    -------
    dict
        units_a, units_b, shared; dice = 2 shared / (units_a + units_b); chance_layer: its expectation for random units
        with the same number per layer (the mean of the hypergeometric distribution, a·b/n per layer);
        chance_layer_low, chance_layer_high: 2.5th and 97.5th percentile; chance_tower: the expectation for random units
        with the same number per tower.

    References
    ----------
    Dice (1945), Ecology 26(3):297-302.
    """
    size = a.count + b.count
    shared = (a & b).count
    exists = {tower: there | a.mask[tower] | b.mask[tower] for tower, there in (a | b).exists.items()}
    in_layers = [
        (int(row_a.sum()), int(row_b.sum()), int(row.sum()))
        for tower, there in exists.items()
        for row_a, row_b, row in zip(a.mask[tower], b.mask[tower], there, strict=True)
        if row.any()
    ]
    null = np.zeros(draws)
    for n_a, n_b, width in in_layers:
        if n_a and n_b:
            null += rng.hypergeometric(n_a, width - n_a, n_b, size=draws)
    expected = sum(n_a * n_b / width for n_a, n_b, width in in_layers)
    by_tower = sum(float(a.mask[t].sum()) * float(b.mask[t].sum()) / exists[t].sum() for t in a.mask if exists[t].any())
    low, high = interval(null)
    return {
        "units_a": a.count,
        "units_b": b.count,
        "shared": shared,
        "dice": 2 * shared / size,
        "chance_layer": 2 * expected / size,
        "chance_layer_low": 2 * float(low) / size,
        "chance_layer_high": 2 * float(high) / size,
        "chance_tower": 2 * by_tower / size,
    }


def separation(a: Units, b: Units) -> dict[str, float]:
    """Compare the distributions of two networks over layers and towers.

    Parameters
    ----------
    a, b
        As for :func:`overlap`.

    Returns
    -------
    dict
        divergence: Jensen-Shannon divergence, in bits, of the distributions of units over (tower, layer), from 0
        (identical) to 1 (no layer in common). depth: difference of mean relative depth (0 first block, 1 last), b minus
        a, in towers where both have units; distance: earth mover's distance between their relative depths in these
        towers, averaged over towers weighted by units. NaN if they share no tower.

    References
    ----------
    Lin (1991), IEEE Transactions on Information Theory 37(1):145-151; Rubner, Tomasi & Guibas (2000), International
    Journal of Computer Vision 40(2):99-121.
    """
    from scipy.stats import wasserstein_distance

    spread_a, spread_b = (np.concatenate(list(one.per_layer().values())) for one in (a, b))
    here = divergence(spread_a[None], spread_b[None])[0]
    depths, distances, weights = [], [], []
    for tower in a.mask:
        per_a, per_b = a.per_layer()[tower], b.per_layer()[tower]
        if per_a.sum() and per_b.sum() and len(per_a) > 1:
            depth = np.linspace(0, 1, len(per_a))
            weights.append(int(per_a.sum() + per_b.sum()))
            depths.append(float(depth @ per_b / per_b.sum() - depth @ per_a / per_a.sum()))
            distances.append(float(wasserstein_distance(depth, depth, per_a, per_b)))
    return {
        "divergence": float(here),
        "depth": float(np.average(depths, weights=weights)) if weights else math.nan,
        "distance": float(np.average(distances, weights=weights)) if weights else math.nan,
    }


def divergence(a: Int[np.ndarray, "draw bin"], b: Int[np.ndarray, "draw bin"]) -> Float[np.ndarray, " draw"]:
    """Return the Jensen-Shannon divergence, in bits, of counts over bins."""
    p, q = (part / np.maximum(part.sum(axis=1, keepdims=True), 1) for part in (a, b))
    middle = (p + q) / 2

    def information(x: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(x > 0, x * np.log2(x / middle), 0).sum(axis=1)

    return (information(p) + information(q)) / 2


def per_layer(networks: dict[str, Units]) -> list[dict[str, Any]]:
    """Return the number and share of units of each network in each layer."""
    return [
        {
            "network": name,
            "tower": tower,
            "layer": layer,
            "units": int(count),
            "share": int(count) / max(units.count, 1),
        }
        for name, units in networks.items()
        for tower, counts in units.per_layer().items()
        for layer, count in enumerate(counts)
    ]
