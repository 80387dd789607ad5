"""Units on a sheet: positions in a plane, and statistics smoothed over neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from modalnet._validation import check_type
from modalnet.errors import InputError

#: Position of every unit in one plane, per space.
Sheet: TypeAlias = Mapping[str, Float[np.ndarray, "layer unit 2"]]

#: How many standard deviations away units still count; beyond, a weight is below 4e-6.
REACH = 5.0
#: Units whose neighbours are listed at once.
ROWS = 4096


def check_sheet(sheet: Any, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Float[np.ndarray, "layer unit 2"]]:
    """Return the positions of the units of some spaces as float64 arrays.

    Parameters
    ----------
    sheet
        Positions ``[layer, unit, 2]`` per space; other spaces than those of ``shapes`` are left out.
    shapes
        (layers, units per layer) of each space.

    Raises
    ------
    InputError
        If a space is missing, or its positions have another shape or are not finite.
    """
    check_type("sheet", sheet, Mapping, "a mapping from spaces to positions [layer, unit, 2]")
    found = {}
    for space, shape in shapes.items():
        given = None if space not in sheet else np.asarray(sheet[space])
        numeric = given is not None and given.dtype.kind in "fiu"
        if given is None or not numeric or given.shape != (*shape, 2) or not np.isfinite(given).all():
            got = "nothing" if given is None else f"shape {given.shape}" if numeric else f"an array of {given.dtype}"
            raise InputError(
                f"`sheet` must have finite positions of shape {(*shape, 2)} [layer, unit, 2] for {space}, got {got}."
            )
        found[space] = given.astype(np.float64)
    return found


def smoothed(
    values: Float[np.ndarray, " unit"], positions: Float[np.ndarray, "unit 2"], fwhm: float
) -> Float[np.ndarray, " unit"]:
    """Smooth values over their neighbours with a Gaussian.

    Parameters
    ----------
    values
        One per unit; NaN where undefined, which neighbours do not see and which stays NaN.
    positions
        Where each unit is; on a lattice or not.
    fwhm
        Full width at half maximum of the Gaussian, in units of the positions.

    Returns
    -------
    array
        The mean of all defined values, weighted by a Gaussian of the distance up to five standard deviations.
    """
    from scipy.spatial import KDTree

    sigma = fwhm / np.sqrt(8 * np.log(2))
    defined = np.flatnonzero(~np.isnan(values))
    found = np.full(values.shape, np.nan)
    if not len(defined):
        return found
    places, known = positions[defined], values[defined]
    tree = KDTree(places)
    for start in range(0, len(defined), ROWS):
        near = KDTree(places[start : start + ROWS]).sparse_distance_matrix(tree, REACH * sigma, output_type="ndarray")
        weights = np.exp(-0.5 * np.square(near["v"] / sigma))
        count = min(ROWS, len(defined) - start)
        total = np.bincount(near["i"], weights * known[near["j"]], count)
        found[defined[start : start + ROWS]] = total / np.bincount(near["i"], weights, count)
    return found


def flat_positions(
    sheet: Mapping[str, Float[np.ndarray, "layer unit 2"]], spaces: Sequence[str]
) -> Float[np.ndarray, "unit 2"]:
    """Return the positions of the units of some spaces in the order (space, layer, unit)."""
    return np.concatenate([sheet[space].reshape(-1, 2) for space in spaces])
