"""Dealing stimuli into folds, so that a network can be selected on some of them and measured on the others.

Every condition is spread evenly over the folds. Dealing goes on with the fold after the one where the previous
condition ended, so that the folds themselves stay equally large.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Shaped

from modalnet.errors import InputError


def assign_folds(
    conditions: Sequence[str] | Shaped[np.ndarray, " stimulus"], n_folds: int = 10, seed: int = 0
) -> Int[np.ndarray, " stimulus"]:
    """Deal stimuli into folds, evenly within every condition.

    Each condition's stimuli, in an order shuffled by the seed, are dealt round robin. The outcome depends on the
    sequence of conditions, the number of folds and the seed only, and is the same on every machine.

    Parameters
    ----------
    conditions
        The condition of each stimulus.
    n_folds
        How many folds. With fewer stimuli than folds, some folds stay empty.
    seed
        A non-negative integer.

    Returns
    -------
    array
        int64 [stimulus], the fold of each stimulus. Within a condition, and over all, fold sizes differ by at
        most one.

    Raises
    ------
    InputError
        If ``n_folds`` is below 1.
    """
    if n_folds < 1:
        raise InputError(f"`n_folds` must be at least 1, got {n_folds}.")
    rng = np.random.Generator(np.random.PCG64(seed))
    labels = np.array([str(condition) for condition in conditions], dtype=object)
    folds = np.zeros(len(labels), dtype=np.int64)
    dealt = 0
    for condition in dict.fromkeys(labels):
        members = np.flatnonzero(labels == condition)
        order = np.argsort(rng.random(len(members)), kind="stable")
        folds[members[order]] = (dealt + np.arange(len(members))) % n_folds
        dealt += len(members)
    return folds
