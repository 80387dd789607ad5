"""Dealing stimuli into folds, so that a network can be selected on some of them and measured on the others.

Every condition is spread evenly over the folds. Dealing goes on with the fold after the one where the previous
condition ended, so that the folds themselves stay equally large. Stimuli of one item are alike, so that one of them in
another fold would not be held out: an item is dealt as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Shaped

from modalnet.errors import InputError


def assign_folds(
    conditions: Sequence[str] | Shaped[np.ndarray, " stimulus"],
    n_folds: int = 10,
    seed: int | Sequence[int] = 0,
    items: Sequence[str | None] | None = None,
) -> Int[np.ndarray, " stimulus"]:
    """Deal stimuli into folds, evenly within every condition, and items as a whole.

    Each condition's stimuli, in an order shuffled by the seed, are dealt round robin; items likewise, among those that
    have the same conditions. The outcome depends on the arguments only, and is the same on every machine.

    Parameters
    ----------
    conditions
        The condition of each stimulus.
    n_folds
        How many folds. With fewer stimuli than folds, some folds stay empty.
    seed
        A non-negative integer, or several.
    items
        The item of each stimulus; None for a stimulus that shares its item with no other.

    Returns
    -------
    array
        int64 [stimulus], the fold of each stimulus. Without items, fold sizes within a condition, and over all, differ
        by at most one; with items, their numbers among those with the same conditions do.

    Raises
    ------
    InputError
        If ``n_folds`` is below 1.
    """
    if n_folds < 1:
        raise InputError(f"`n_folds` must be at least 1, got {n_folds}.")
    rng = np.random.Generator(np.random.PCG64(seed))
    units: dict[object, list[int]] = {}  # what is dealt as a whole: an item, or a stimulus without one
    for place in range(len(conditions)):
        item = None if items is None else items[place]
        units.setdefault(place if item is None else item, []).append(place)
    kinds: dict[tuple[str, ...], list[list[int]]] = {}
    for members in units.values():
        kinds.setdefault(tuple(sorted(str(conditions[place]) for place in members)), []).append(members)
    folds = np.zeros(len(conditions), dtype=np.int64)
    dealt = 0
    for alike in kinds.values():
        order = np.argsort(rng.random(len(alike)), kind="stable")
        for turn, which in enumerate(order.tolist()):
            folds[alike[which]] = (dealt + turn) % n_folds
        dealt += len(alike)
    return folds
