"""Effect sizes: how large a difference is in units of a spread."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from modalnet.stats.resampling import TIE


def standardized(value: float, controls: Float[np.ndarray, " draw"]) -> float:
    """Return (value - mean of the controls) / standard deviation of the controls (``ddof=1``).

    NaN with fewer than two controls, where a value is not finite, or where all controls are alike.

    References
    ----------
    Glass (1976), Educational Researcher 5(10):3-8: a difference in units of the control group's standard deviation.
    """
    if len(controls) < 2 or not np.isfinite([value, *controls]).all():
        return math.nan
    spread = float(controls.std(ddof=1))
    return (value - float(controls.mean())) / spread if spread > TIE * max(1.0, abs(value)) else math.nan
