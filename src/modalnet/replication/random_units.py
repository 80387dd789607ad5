"""Random units beside a network, as published protocols draw them."""

from __future__ import annotations

import numpy as np

from modalnet._validation import check_int, check_seed, check_type
from modalnet.errors import InputError
from modalnet.localization.result import Localization
from modalnet.localization.selection import flatten, masks
from modalnet.protocols.protocol import RandomUnits
from modalnet.units import Units


def random_units(
    units: Units,
    drawn: RandomUnits,
    localization: Localization | None = None,
    *,
    n: int | None = None,
    seed: int = 0,
) -> list[Units]:
    """Draw random units as a protocol does; a referee's controls are :meth:`modalnet.Units.random`.

    Parameters
    ----------
    units
        The network.
    drawn
        What the protocol says of its random units.
    localization
        The localization of the network, where units of the network may be drawn: these are drawn from all units with a
        defined t.
    n
        How many sets; None for the number of the protocol.
    seed
        A non-negative integer. Draw i is the same however many are drawn.

    Returns
    -------
    list of Units
        Sets of as many units as the network has, uniform over all units outside of it, or over all units with a
        defined t; not matched in layer or activation.

    Raises
    ------
    InputError
        If too few units are left to draw from, or the localization is missing or of other units.
    """
    check_type("units", units, Units, "Units")
    check_type("drawn", drawn, RandomUnits, "a modalnet.protocols.RandomUnits")
    count = drawn.n if n is None else check_int("n", n, minimum=0)
    check_seed(seed)
    if not count or not units.count:
        return []
    if drawn.excludes_network:
        return units.random(count, seed, match="tower")
    check_type(
        "localization", localization, Localization, "the Localization of the network, where its own units may be drawn"
    )
    assert localization is not None
    if localization.shapes != units.shapes:
        raise InputError(
            f"`localization` must be of the network's units, {units.shapes}, got {localization.shapes} [layer, unit]."
        )
    defined = np.flatnonzero(~np.isnan(flatten(localization.t, localization.spaces)))
    if len(defined) < units.count:
        raise InputError(f"{units.count} units were requested, but only {len(defined)} have a defined t.")
    rngs = [np.random.default_rng([seed, draw]) for draw in range(count)]
    chosen = [rng.choice(defined, units.count, replace=False) for rng in rngs]
    return [
        localization.units_of(masks(each, localization.shapes, localization.spaces), selected_on=()) for each in chosen
    ]
