"""A localization made of activations, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from modalnet.localization.result import Localization
from modalnet.stats.moments import Moments


def localized(
    values: Mapping[str, np.ndarray], positive: Sequence[bool], *, n_folds: int = 2, name: str = "contrast"
) -> Localization:
    """A localization of activations.

    Parameters
    ----------
    values
        Space → ``[stimulus, layer, unit]``.
    positive
        Which stimuli are on the positive side.
    n_folds
        Stimulus i is in fold i modulo this.
    name
        Of the contrast; digests of stimuli begin with it.
    """
    side = np.asarray(positive)
    fold = np.arange(len(side)) % n_folds

    def moments(array: np.ndarray, chosen: np.ndarray) -> Moments:
        total = Moments.zeros(array.shape[1:])
        total.update(array[chosen])
        return total

    groups = {"positive": side, "negative": ~side}
    return Localization(
        sides={
            which: {space: [moments(a, chosen & (fold == f)) for f in range(n_folds)] for space, a in values.items()}
            for which, chosen in groups.items()
        },
        conditions={
            which: {space: moments(a, chosen) for space, a in values.items()} for which, chosen in groups.items()
        },
        mean_abs={space: np.abs(a).mean(0) for space, a in values.items()},
        meta={
            "model": "model",
            "contrast": {"name": name, "positive": ["positive"], "negative": ["negative"]},
            "stimuli": {f"{name}-{index}": int(f) for index, f in enumerate(fold)},
        },
    )
