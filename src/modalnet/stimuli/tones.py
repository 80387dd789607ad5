"""Tones at a range of frequencies, for tonotopy: which units prefer which frequency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from modalnet._validation import check_int, check_number, check_seed, refusal
from modalnet.errors import InputError
from modalnet.stimuli.conversion import StimuliLike, as_stimuli
from modalnet.stimuli.sound_sets import LEVEL, RATE, at_level, check_duration, check_rate, ramped
from modalnet.stimuli.sounds import Sound
from modalnet.stimuli.stimulus import Stimulus

if TYPE_CHECKING:
    from jaxtyping import Float, Real

LOWEST, HIGHEST, N_FREQUENCIES = 100, 7000, 16
UNIT = " Hz"
LARGEST_JITTER = 12.0  # dB; a tone stays below full scale
WIDEST = 2.0  # octaves
_SERIES = 6


def tones(
    frequencies: Sequence[float] | Real[np.ndarray, " frequency"] | None = None,
    n_per_frequency: int = 8,
    *,
    bandwidth: float | None = None,
    duration: float = 1.0,
    level_jitter: float = 0.0,
    rate: int = RATE,
    seed: int = 0,
) -> list[Stimulus]:
    """Pure tones, or bands of noise, at frequencies that are equally spaced in octaves.

    Tones have equal level (root mean square 0.05 of full scale), random phase, and ramps of 10 ms (raised cosine). The
    sounds of one frequency differ in phase, with ``level_jitter`` in level, and bands of noise in their samples.

    Equal level is not equal loudness: sensitivity differs between frequencies, in people and in models.
    ``level_jitter`` makes level less predictive of anything, so that a unit which prefers a frequency is not one that
    has a threshold.

    Parameters
    ----------
    frequencies
        Hz, each above one period per duration and below half the rate; None takes 16 from 100 to 7000 Hz, equally
        spaced on a logarithmic scale and rounded to 1 Hz.
    n_per_frequency
        Sounds per frequency.
    bandwidth
        None for pure tones. A number of octaves, at most 2, makes bands of Gaussian noise centred (in octaves) on each
        frequency: 1/3 is usual in maps of auditory cortex.
    duration
        Seconds, 0.05 to 60.
    level_jitter
        Range of level in dB, 0 to 12: the level of each sound is drawn uniformly from plus or minus half of it.
    rate
        Samples per second.
    seed
        Seed of phases, noise and levels.

    Returns
    -------
    list of Stimulus
        Sounds without text, ordered by frequency as given; conditions such as ``"440 Hz"``, which
        :func:`tone_frequencies` turns into numbers, and ids such as ``"440 Hz-001"``.

    Raises
    ------
    InputError
        A frequency is out of range or occurs twice, or another argument is out of range.

    References
    ----------
    Formisano, Kim, Di Salle, van de Moortele, Ugurbil & Goebel (2003). Mirror-symmetric tonotopic maps in human primary
    auditory cortex. Neuron 40, 859-869.
    Moerel, De Martino & Formisano (2012). Processing of natural sounds in human auditory cortex: tonotopy, spectral
    tuning, and relation to voice sensitivity. Journal of Neuroscience 32, 14205-14216.

    Examples
    --------
    >>> sounds = tones([220, 440, 880], n_per_frequency=2)
    >>> [sound.id for sound in sounds][:3]
    ['220 Hz-001', '220 Hz-002', '440 Hz-001']
    >>> tone_frequencies(sounds).tolist()
    [220.0, 220.0, 440.0, 440.0, 880.0, 880.0]
    """
    check_int("n_per_frequency", n_per_frequency, minimum=1)
    check_duration(duration)
    check_number("level_jitter", level_jitter, minimum=0, maximum=LARGEST_JITTER)
    check_rate(rate)
    check_seed(seed)
    if bandwidth is not None:
        check_number("bandwidth", bandwidth, above=0, maximum=WIDEST)
    stimuli = []
    for place, frequency in enumerate(_checked(frequencies, duration, rate, bandwidth or 0.0)):
        condition = f"{frequency:g}{UNIT}"
        for number in range(n_per_frequency):
            rng = np.random.default_rng([_SERIES, seed, place, number])
            level = LEVEL * 10 ** (rng.uniform(-0.5, 0.5) * level_jitter / 20)
            length = round(duration * rate)
            if bandwidth is None:
                samples = _tone(rng, frequency, length, rate)
            else:
                samples = _band(rng, frequency, bandwidth, length, rate)
            samples = at_level(ramped(samples, rate), level).astype(np.float32)
            name = f"{condition}-{number + 1:03d}"
            stimuli.append(Stimulus(audio=Sound(samples, rate), condition=condition, id=name))
    return stimuli


def tone_frequencies(stimuli: StimuliLike) -> Float[np.ndarray, " stimulus"]:
    """The frequency of each stimulus of :func:`tones`, read from its condition.

    Parameters
    ----------
    stimuli
        Stimuli with conditions such as ``"440 Hz"``.

    Returns
    -------
    array
        Hz, float64, one per stimulus: a ``regressor=`` of :class:`Contrast`, for example, after ``np.log2``.

    Raises
    ------
    InputError
        A stimulus has another condition.
    """
    found = []
    for stimulus in () if isinstance(stimuli, list | tuple) and not stimuli else as_stimuli(stimuli):
        condition = stimulus.condition or ""
        try:
            if not condition.endswith(UNIT):
                raise ValueError
            found.append(float(condition.removesuffix(UNIT)))
        except ValueError:
            raise InputError(
                f"`stimuli` must have conditions such as '440 Hz', got {stimulus.condition!r} of stimulus "
                f"{stimulus.label}."
            ) from None
    return np.array(found, dtype=np.float64)


def _checked(
    frequencies: Sequence[float] | Real[np.ndarray, " frequency"] | None, duration: float, rate: int, bandwidth: float
) -> list[float]:
    """The frequencies, each of which fits between one period and half the rate, with its band."""
    lowest, highest = 1 / duration, rate / 2
    reach = 2 ** (bandwidth / 2)
    if frequencies is None:
        top = min(HIGHEST, 0.95 * highest / reach)
        return [float(round(each)) for each in np.geomspace(LOWEST, top, N_FREQUENCIES)]
    if (
        isinstance(frequencies, str | bytes)
        or not isinstance(frequencies, Sequence | np.ndarray)
        or not len(frequencies)
    ):
        raise refusal("frequencies", "a list of numbers in Hz or None", frequencies)
    checked = [check_number("frequencies", _plain(each), above=0) for each in frequencies]
    for each in checked:
        if each / reach < lowest or each * reach >= highest:
            band = f" with its band of {bandwidth:g} octaves" if bandwidth else ""
            raise InputError(
                f"`frequencies` must be from {lowest:g} Hz (one period in {duration:g} s) to below {highest:g} Hz "
                f"(half the rate){band}, got {each:g}."
            )
    labels = [f"{each:g}" for each in checked]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise InputError(f"`frequencies` must differ in their first six digits, got {', '.join(twice)} more than once.")
    return [float(label) for label in labels]


def _plain(value: object) -> object:
    """A number of numpy as one of Python, which its checks know."""
    return value.item() if isinstance(value, np.generic) else value


def _tone(rng: np.random.Generator, frequency: float, length: int, rate: int) -> Float[np.ndarray, " sample"]:
    phase = rng.uniform(0, 2 * np.pi)
    return np.sin(2 * np.pi * frequency * np.arange(length) / rate + phase)


def _band(
    rng: np.random.Generator, frequency: float, bandwidth: float, length: int, rate: int
) -> Float[np.ndarray, " sample"]:
    """Gaussian noise with a rectangular spectrum, at least one component wide."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    hertz = np.fft.rfftfreq(length, 1 / rate)
    inside = np.abs(np.log2(np.maximum(hertz, hertz[1] / 2) / frequency)) <= bandwidth / 2
    inside[np.argmin(np.abs(hertz - frequency))] = True
    return np.fft.irfft(np.where(inside, spectrum, 0), n=length)
