"""Does each network prefer its own domain, on stimuli that did not select it?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from modalnet.stats.controls import draw
from modalnet.stats.moments import hedges_g
from modalnet.stats.resampling import t_interval
from modalnet.units import Units


def selectivity(
    localizations: Mapping[str, Any], fraction: float, *, draws: int, seed: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Effect size of every domain's contrast in every network, held out.

    Parameters
    ----------
    localizations
        Per domain, its localization.
    fraction
        Size of the networks.
    draws, seed
        Random units of the same layers that stand beside each network.

    Returns
    -------
    rows
        network, domain, own (whether the domain is the network's), g (mean Hedges' g of its units), low, high (95%,
        over folds of stimuli), control (mean over random units), n_folds. For its own domain the network is selected on
        the other folds, and measured on the one left out; another domain's stimuli did not select it.
    notes
        What could not be held out.
    """
    rows, notes = [], []
    for name, own in localizations.items():
        for domain, measured in localizations.items():
            shared = set(own.stimuli) & set(measured.stimuli)
            if domain != name and shared:
                notes.append(
                    f"{len(shared)} stimuli of {domain} also selected the network {name}: its selectivity for {domain} "
                    "is not held out"
                )
            values, controls = [], []
            for fold in range(measured.n_folds):
                # Its own folds: the network is selected anew without them.
                units = own.without(fold).top(fraction=fraction) if domain == name else own.top(fraction=fraction)
                g = _effects(measured, fold)
                values.append(_mean(g, units))
                controls += [_mean(g, one) for one in draw(units, draws, seed=seed + fold)]
            low, high = t_interval(np.array(values))
            rows.append(
                {
                    "network": name,
                    "domain": domain,
                    "own": domain == name,
                    "g": _average(values),
                    "low": low,
                    "high": high,
                    "control": _average(controls),
                    "n_folds": measured.n_folds,
                }
            )
    return rows, notes


def _effects(localization: Any, fold: int) -> dict[str, Float[np.ndarray, "layer dim"]]:
    return {
        tower: hedges_g(
            localization.moments("positive", tower, [fold]), localization.moments("negative", tower, [fold])
        )
        for tower in localization.spaces
    }


def _mean(g: Mapping[str, Float[np.ndarray, "layer dim"]], units: Units) -> float:
    """Mean g of the units in the towers that the domain was measured in; NaN where there are none."""
    parts = [g[tower][mask] for tower, mask in units.mask.items() if tower in g and mask.any()]
    values = np.concatenate(parts) if parts else np.zeros(0)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else math.nan


def _average(values: list[float]) -> float:
    """Of those that are defined; NaN where none is."""
    there = [value for value in values if math.isfinite(value)]
    return float(np.mean(there)) if there else math.nan
