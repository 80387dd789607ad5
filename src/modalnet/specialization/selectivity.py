"""Selectivity: the effect size of each domain's contrast in each network, on held-out stimuli.

A specialized network has a large effect for its domain and none for others. The effect for its domain is
cross-validated, because the stimuli that selected the network would inflate it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from modalnet.stats.controls import draw, match_columns, match_ratios
from modalnet.stats.resampling import t_interval
from modalnet.units import Units


def selectivity(
    localizations: Mapping[str, Any], fraction: float, *, draws: int, seed: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compute the held-out effect size of every domain's contrast in every network.

    Parameters
    ----------
    localizations
        Mapping from domains to their localizations.
    fraction
        Fraction of units in each network.
    draws, seed
        Number of layer-matched sets of random units as controls, and their seed.

    Returns
    -------
    rows
        network, domain, own (whether the domain is that of the network), g (mean Hedges' g of its units), low, high
        (95% interval over folds of stimuli), control (mean over random units), n_folds; match_ratio, match_ratio_low,
        match_ratio_high (:func:`modalnet.stats.controls.match_columns`, over draws and folds). For its own domain the
        network is selected on the training folds and measured on the held-out fold; stimuli of other domains did not
        select it.
    notes
        The effects that are not held out.
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
            values, controls, ratios = [], [], []
            for fold in range(measured.n_folds):
                # For its own domain, the network is reselected without the held-out fold.
                units = own.without(fold).top(fraction=fraction) if domain == name else own.top(fraction=fraction)
                g = _effects(measured, fold)
                values.append(_mean(g, units))
                drawn = draw(units, draws, seed=seed + fold)
                controls += [_mean(g, one) for one in drawn]
                ratios.append(match_ratios(units, drawn))
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
                    **match_columns(np.concatenate(ratios)),
                }
            )
    return rows, notes


def _effects(localization: Any, fold: int) -> dict[str, Float[np.ndarray, "layer dim"]]:
    return {tower: localization.statistics(tower, [fold]).effect_size for tower in localization.spaces}


def _mean(g: Mapping[str, Float[np.ndarray, "layer dim"]], units: Units) -> float:
    """Mean g of the units in the towers in which the domain was measured; NaN if there are none."""
    parts = [g[tower][mask] for tower, mask in units.mask.items() if tower in g and mask.any()]
    values = np.concatenate(parts) if parts else np.zeros(0)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else math.nan


def _average(values: list[float]) -> float:
    """Mean of the finite values; NaN if there are none."""
    there = [value for value in values if math.isfinite(value)]
    return float(np.mean(there)) if there else math.nan
