"""What the bundled sets of sounds share: their rate, level and ramps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modalnet._validation import check_int, check_number

if TYPE_CHECKING:
    from jaxtyping import Float

# Samples per second, which speech models read.
RATE = 16_000
# Root mean square of every sound; full scale is 1. It leaves 26 dB to full scale, more than the peaks of speech need.
LEVEL = 0.05
RAMP = 0.01  # seconds
SLOWEST, FASTEST = 4_000, 192_000
LONGEST = 60.0  # seconds
MINIMUM_N = 2


def rms(samples: Float[np.ndarray, " sample"]) -> float:
    """Root mean square of samples."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def at_level(samples: Float[np.ndarray, " sample"], level: float = LEVEL) -> Float[np.ndarray, " sample"]:
    """Scale samples to a root mean square; silence stays silent."""
    now = rms(samples)
    return samples * (level / now) if now > 0 else samples


def ramped(samples: Float[np.ndarray, " sample"], rate: int, seconds: float = RAMP) -> Float[np.ndarray, " sample"]:
    """Fade in and out with raised cosines, which avoids clicks."""
    length = min(round(seconds * rate), len(samples) // 2)
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / max(length, 1))
    gain = np.ones(len(samples))
    gain[:length], gain[len(samples) - length :] = rise, rise[::-1]
    return samples * gain


def check_duration(duration: object, minimum: float = 0.05) -> float:
    """Validate the duration of sounds, in seconds; the shortest has room for both ramps."""
    return check_number("duration", duration, minimum=minimum, maximum=LONGEST)


def check_rate(rate: object) -> int:
    """Validate the rate of sounds, in samples per second."""
    return check_int("rate", rate, minimum=SLOWEST, maximum=FASTEST)
