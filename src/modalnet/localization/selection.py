"""Selection of units by their t: exactly k units, deterministic on every machine.

Units of several towers compete jointly. They are ranked by t, ties by (tower, layer, dim); units without a defined t
are not ranked, and so never selected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from modalnet._validation import check_fraction, check_int
from modalnet.errors import InputError
from modalnet.models.towers import tower_of

# Tolerance for rounding errors of fraction * n: 0.07 * 100 is 7.000000000000001 and 0.29 * 100 is
# 28.999999999999996, but both mean integers.
SLACK = 1e-9


def flatten(
    values: Mapping[str, Shaped[np.ndarray, "layer dim"]], towers: Sequence[str]
) -> Shaped[np.ndarray, " unit"]:
    """Return the values of some towers as one array, in the order (tower, layer, dim)."""
    return np.concatenate([values[tower].ravel() for tower in towers])


def rank(t: Float[np.ndarray, " unit"]) -> Int[np.ndarray, " rank"]:
    """Return the positions of the units with a defined t, largest t first, ties by position."""
    defined = np.flatnonzero(~np.isnan(t))
    return defined[np.argsort(-t[defined], kind="stable")]


def masks(
    chosen: Int[np.ndarray, " chosen"], shapes: Mapping[str, tuple[int, int]], towers: Sequence[str]
) -> dict[str, Bool[np.ndarray, "layer dim"]]:
    """Turn positions in the flat array of ``towers`` into one mask for every tower of ``shapes``."""
    flat = np.zeros(sum(math.prod(shapes[tower]) for tower in towers), dtype=bool)
    flat[chosen] = True
    parts = dict(
        zip(towers, np.split(flat, np.cumsum([math.prod(shapes[tower]) for tower in towers])[:-1]), strict=True)
    )
    return {
        tower: parts[tower].reshape(shape) if tower in parts else np.zeros(shape, dtype=bool)
        for tower, shape in shapes.items()
    }


def how_many(fraction: float | None, k: int | None, *, n_units: int, n_defined: int) -> int:
    """Return the number of units to select.

    Parameters
    ----------
    fraction, k
        A fraction of ``n_units`` (rounded down) or a number of units; exactly one of them is given.
    n_units, n_defined
        Number of candidate units, and of those with a defined t.

    Raises
    ------
    InputError
        If both or neither is given, a value is out of range, or more units are requested than have a defined t.
    """
    if (fraction is None) == (k is None):
        raise InputError(f"Give either `fraction` or `k`, got fraction={fraction!r} and k={k!r}.")
    if fraction is not None:
        check_fraction("fraction", fraction)
        count = int(fraction * n_units + SLACK)
        if count < 1:
            raise InputError(
                f"`fraction` must be at least {1 / n_units:.3g}, because {fraction!r} of {n_units} units selects none."
            )
    else:
        count = check_int("k", k, minimum=1)
    if count > n_defined:
        undefined = n_units - n_defined
        raise InputError(
            f"{count} units were requested, but only {n_defined} of {n_units} have a defined t"
            + (f" ({undefined} are constant or had a non-finite activation)." if undefined else ".")
        )
    return count


def check_towers(towers: str | Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """Return the spaces that towers or spaces name, in their canonical order; all, if None.

    Raises
    ------
    InputError
        If a tower is not among the known ones, or none is given.
    """
    if towers is None:
        return tuple(known)
    requested = [towers] if isinstance(towers, str) else list(towers)
    unknown = [name for name in requested if not any(name in (space, tower_of(space)) for space in known)]
    if unknown or not requested:
        raise InputError(f"`towers` must be among the localized ones, {list(known)}, got {towers!r}.")
    return tuple(space for space in known if space in requested or tower_of(space) in requested)
