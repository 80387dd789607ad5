"""Correction for the number of tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """P values corrected for the number of tests, so that any false rejection has at most the stated rate.

    Parameters
    ----------
    p
        P values; where one is NaN, it stays so and counts as a test.

    References
    ----------
    Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6(2):65-70.
    """
    order = np.argsort(p)  # NaN last
    steps = np.fmax.accumulate(p[order] * (len(p) - np.arange(len(p))))
    found = np.empty(len(p))
    found[order] = np.where(np.isnan(p[order]), np.nan, np.minimum(steps, 1.0))
    return found
