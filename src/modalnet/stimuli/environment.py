"""Environmental sounds of eight categories, synthesized from models of their sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modalnet._validation import check_int, check_options, check_seed
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.sound_sets import MINIMUM_N, RATE, at_level, check_duration, ramped
from modalnet.stimuli.sounds import Sound
from modalnet.stimuli.stimulus import Stimulus

if TYPE_CHECKING:
    from jaxtyping import Float

# Partials of a church bell (hum, prime, tierce, quint, nominal and above), relative to the prime.
BELL = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 2.67, 3.0, 4.0])
_SERIES = 7


def environment(
    positive: str | Sequence[str] = "birdsong",
    against: str | Sequence[str] | None = None,
    *,
    n: int = 16,
    duration: float = 2.0,
    seed: int = 0,
) -> Contrast:
    """One category of environmental sounds > the others.

    Eight categories, synthesized, at 16 kHz. All sounds have one duration and one level (root mean square 0.05 of full
    scale), and the sounds of a category differ in all that is drawn:

    =============  ==================================================================================================
    ``rain``       high-frequency noise with many short drops
    ``wind``       low-frequency noise with a whistling resonance, both of slowly varying strength
    ``dripping``   drops of water: sinusoids of rising frequency that decay, like air bubbles (van den Doel, 2005)
    ``footsteps``  a regular series of impacts, each a thump and a burst of noise, of heel and toe
    ``bells``      one to three strokes of a bell: decaying inharmonic partials
    ``engine``     a harmonic series of low pitch, with jitter, modulation at half the pitch, and noise
    ``birdsong``   frequency-modulated whistles from 2 to 6 kHz, in repeated motifs
    ``alarm``      two tones with harmonics that alternate, or one that repeats
    =============  ==================================================================================================

    Categories differ in spectrum, in modulation and in how much of the time has sound; only duration and level are
    matched. These are models of sounds, as the drawings of :func:`categories` are of pictures: for units of natural
    sounds, use recordings (:func:`from_folder`).

    Parameters
    ----------
    positive
        The category, or list of categories, expected to evoke the larger response.
    against
        The categories to compare with; None means all others.
    n
        Sounds per category, at least 2. Sound *i* does not depend on ``n``.
    duration
        Seconds, 0.5 to 60.
    seed
        Seed of all that varies within a category.

    Returns
    -------
    Contrast
        Sounds without text; ids ``"birdsong-001"``, ….

    Raises
    ------
    InputError
        A category is unknown or on both sides, there is nothing to compare with, or ``n``, ``duration`` or ``seed`` is
        out of range.

    References
    ----------
    Gaver (1993). What in the world do we hear? An ecological approach to auditory event perception. Ecological
    Psychology 5, 1-29.
    van den Doel (2005). Physically based models for liquid sounds. ACM Transactions on Applied Perception 2, 534-546.

    Examples
    --------
    >>> environment("footsteps", ["rain", "wind"], n=4)
    Contrast('footsteps > rain,wind': 4 positive, 8 negative)
    """
    named = check_options("positive", positive, SOURCES)
    above = [name for name in SOURCES if name in named]
    others = [name for name in SOURCES if name not in above]
    opposed = others if against is None else check_options("against", against, SOURCES)
    below = [name for name in SOURCES if name in opposed]
    check_int("n", n, minimum=MINIMUM_N)
    check_duration(duration, minimum=0.5)
    check_seed(seed)
    stimuli = [
        Stimulus(audio=_sound(name, number, duration, seed), condition=name, id=f"{name}-{number + 1:03d}")
        for name in SOURCES
        if name in (*above, *below)
        for number in range(n)
    ]
    return Contrast(stimuli, above, below)


def _sound(category: str, number: int, duration: float, seed: int) -> Sound:
    rng = np.random.default_rng([_SERIES, seed, list(SOURCES).index(category), number])
    samples = SOURCES[category](rng, round(duration * RATE))
    return Sound(at_level(ramped(samples, RATE)).astype(np.float32), RATE)


def _rain(rng: np.random.Generator, length: int) -> Float[np.ndarray, " sample"]:
    steady = _noise(rng, length, rng.uniform(800, 2000), 7500, slope=rng.uniform(-0.5, 0))
    drops = np.zeros(length)
    for start in rng.integers(length, size=round(rng.uniform(60, 250) * length / RATE)):
        _add(drops, int(start), rng.exponential() * _decaying(rng.uniform(1500, 6000), rng.uniform(0.001, 0.004)))
    return at_level(steady, 1.0) + at_level(drops, rng.uniform(0.4, 1.0))


def _wind(rng: np.random.Generator, length: int) -> Float[np.ndarray, " sample"]:
    low = at_level(_noise(rng, length, 40, rng.uniform(500, 1000), slope=-1.0), 1.0)
    centre = rng.uniform(400, 900)
    whistle = at_level(_noise(rng, length, centre * 0.93, centre * 1.07), rng.uniform(0.2, 0.6))
    return _slow(rng, length, 1.0, 0.8) * low + _slow(rng, length, 2.0, 0.9) * whistle


def _dripping(rng: np.random.Generator, length: int) -> Float[np.ndarray, " sample"]:
    samples = np.zeros(length)
    pitch = rng.uniform(500, 1500)
    for start in _times(rng, length, interval=rng.uniform(0.2, 0.5), jitter=0.4):
        drop = _decaying(pitch * rng.uniform(0.8, 1.3), rng.uniform(0.015, 0.04), rise=rng.uniform(2, 8))
        _add(samples, start, rng.uniform(0.5, 1.0) * drop)
    return samples


def _footsteps(rng: np.random.Generator, length: int) -> Float[np.ndarray, " sample"]:
    samples = np.zeros(length)
    thump, brightness, decay = rng.uniform(70, 140), rng.uniform(1500, 5000), rng.uniform(0.03, 0.06)
    toe = round(rng.uniform(0.06, 0.12) * RATE)
    for start in _times(rng, length, interval=rng.uniform(0.4, 0.65), jitter=0.05):
        for delay, strength in ((0, 1.0), (toe, rng.uniform(0.3, 0.6))):
            count = round(8 * decay * RATE)
            fading = np.exp(-np.arange(count) / (decay * RATE))
            scrape = at_level(_noise(rng, count, 150, brightness, slope=-0.5), 1.0) * fading
            _add(samples, start + delay, strength * rng.uniform(0.8, 1.2) * scrape)
            _add(samples, start + delay, strength * rng.uniform(0.8, 1.2) * _decaying(thump, decay))
    return samples


def _bells(rng: np.random.Generator, length: int) -> Float[np.ndarray, " sample"]:
    samples = np.zeros(length)
    prime, ring = rng.uniform(250, 900), rng.uniform(0.4, 1.2)
    tuning = BELL * rng.uniform(0.99, 1.01, len(BELL))
    strengths = rng.uniform(0.3, 1.0, len(BELL)) / np.sqrt(BELL)
    strokes = int(rng.integers(1, 4))
    for stroke in range(strokes):
        start = round((stroke + rng.uniform(0.02, 0.1)) * length / strokes)
        for partial, strength in zip(tuning, strengths, strict=True):
            _add(samples, start, strength * _decaying(prime * partial, ring / partial))
    return samples


def _engine(rng: np.random.Generator, length: int) -> Float[np.ndarray, " sample"]:
    pitch = rng.uniform(50, 130) * (
        1 + 0.03 * (_slow(rng, length, 3.0, 1.0) - 0.5) + 0.01 * rng.standard_normal(length)
    )
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    harmonics = np.arange(1, int(3000 / pitch.max()))
    strengths = rng.uniform(0.3, 1.0, len(harmonics)) / harmonics ** rng.uniform(0.5, 1.0)
    starts = rng.uniform(0, 2 * np.pi, len(harmonics))
    tone = sum(
        strength * np.sin(harmonic * phase + start)
        for harmonic, strength, start in zip(harmonics, strengths, starts, strict=True)
    )
    uneven = 1 + rng.uniform(0.2, 0.5) * np.sin(phase / 2)
    noise = _noise(rng, length, 60, 2500, slope=-1.0)
    return at_level(np.asarray(tone) * uneven, 1.0) + at_level(noise * uneven, rng.uniform(0.2, 0.5))


def _birdsong(rng: np.random.Generator, length: int) -> Float[np.ndarray, " sample"]:
    samples = np.zeros(length)
    motif = [
        (rng.uniform(2000, 5500), rng.uniform(0.6, 1.6), rng.uniform(0.04, 0.14)) for _ in range(rng.integers(2, 5))
    ]
    position, warble = rng.uniform(0.0, 0.15), rng.uniform(0, 300)
    while position * RATE < length:
        for start, ratio, seconds in motif:
            count = round(seconds * RATE)
            progress = np.arange(count) / count
            # The end of a whistle is at most 6.4 kHz, below half the rate with its warble.
            glide = start * min(ratio, 6400 / start) ** progress + warble * np.sin(2 * np.pi * 30 * progress * seconds)
            whistle = np.sin(2 * np.pi * np.cumsum(glide) / RATE) * np.sin(np.pi * progress) ** 2
            _add(samples, round(position * RATE), whistle)
            position += seconds + rng.uniform(0.01, 0.05)
        position += rng.uniform(0.1, 0.35)
    return samples


def _alarm(rng: np.random.Generator, length: int) -> Float[np.ndarray, " sample"]:
    first = rng.uniform(600, 1400)
    second = first * rng.uniform(1.15, 1.5) if rng.random() < 0.5 else 0.0  # 0: pauses
    period = round(rng.uniform(0.15, 0.5) * RATE)
    high = np.arange(length) // period % 2 == 1
    pitch = np.where(high, second or first, first)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    tone = sum(
        strength * np.sin(k * phase) for k, strength in enumerate(rng.uniform(0.2, 1, 4) / np.arange(1, 5), start=1)
    )
    sounding = np.ones(length) if second else np.where(high, 0.0, 1.0)
    smooth = np.hanning(round(0.01 * RATE))
    return np.asarray(tone) * np.convolve(sounding, smooth / smooth.sum(), mode="same")


# category -> function of a generator and a number of samples
SOURCES: dict[str, Callable[[np.random.Generator, int], Float[np.ndarray, " sample"]]] = {
    "rain": _rain,
    "wind": _wind,
    "dripping": _dripping,
    "footsteps": _footsteps,
    "bells": _bells,
    "engine": _engine,
    "birdsong": _birdsong,
    "alarm": _alarm,
}


def _noise(
    rng: np.random.Generator, length: int, low: float, high: float, slope: float = 0.0
) -> Float[np.ndarray, " sample"]:
    """Gaussian noise between two frequencies, with an amplitude spectrum that is a power of frequency."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    hertz = np.fft.rfftfreq(length, 1 / RATE)
    gain = np.where((hertz >= low) & (hertz <= high), np.maximum(hertz, 1.0) ** slope, 0.0)
    return np.fft.irfft(spectrum * gain, n=length)


def _decaying(frequency: float, decay: float, rise: float = 0.0) -> Float[np.ndarray, " sample"]:
    """A sinusoid that decays by e in ``decay`` seconds, its frequency rising by a fraction ``rise`` per second."""
    time = np.arange(max(1, round(8 * decay * RATE))) / RATE
    return np.sin(2 * np.pi * frequency * (time + rise * time**2 / 2)) * np.exp(-time / decay)


def _slow(rng: np.random.Generator, length: int, rate: float, depth: float) -> Float[np.ndarray, " sample"]:
    """A strength that varies smoothly between 1 - ``depth`` and 1, with about ``rate`` new values per second."""
    count = int(np.ceil(length / RATE * rate)) + 3
    places = np.linspace(0, count - 1, length)
    left = places.astype(np.int64).clip(max=count - 2)
    values = rng.random(count)
    weight = 0.5 - 0.5 * np.cos(np.pi * (places - left))
    return 1 - depth * (values[left] * (1 - weight) + values[left + 1] * weight)


def _times(rng: np.random.Generator, length: int, interval: float, jitter: float) -> list[int]:
    """Starts of events, from about the beginning on, with intervals that vary by a fraction ``jitter``."""
    starts = []
    now = rng.uniform(0.01, 0.1)
    while now * RATE < length:
        starts.append(round(now * RATE))
        now += interval * rng.uniform(1 - jitter, 1 + jitter)
    return starts


def _add(samples: Float[np.ndarray, " sample"], start: int, event: Float[np.ndarray, " event"]) -> None:
    """Add an event, in place, as far as it fits."""
    if start < len(samples):
        event = event[: len(samples) - start]
        samples[start : start + len(event)] += event
