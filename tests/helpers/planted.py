"""Localizations of random activations with a known preference, for tests of what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from modalnet.localization.result import Localization
from modalnet.stats.moments import Moments

WIDTHS = {"vision": (4, 30), "decoder": (6, 50)}


def localization(*towers: str, seed: int = 0, name: str = "faces > houses", model: str | None = None) -> Localization:
    """Random activations in which the last layer of every tower prefers the positive side."""
    rng = np.random.default_rng(seed)
    shapes = {tower: WIDTHS[tower] for tower in towers}
    sides: dict[str, Any] = {"positive": {}, "negative": {}}
    for tower, shape in shapes.items():
        for side, shift in (("positive", 2.0), ("negative", 0.0)):
            values = rng.normal(size=(10, *shape))
            values[:, -1] += shift
            total = Moments.zeros(shape)
            total.update(values)
            sides[side][tower] = [total]
    conditions = {side: {tower: folds[0] for tower, folds in parts.items()} for side, parts in sides.items()}
    meta: dict[str, Any] = {"source": "some/model", "contrast": {"name": name, "positive": ["positive"]}}
    return Localization(
        sides=sides,
        conditions=conditions,
        mean_abs={tower: np.arange(np.prod(shape), dtype=float).reshape(shape) + 1 for tower, shape in shapes.items()},
        meta=meta if model is None else meta | {"model": model},
    )
