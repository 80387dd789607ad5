"""Scrambled sounds, which preserve acoustic statistics and destroy content.

Phase scrambling preserves the energy at every frequency over the whole sound and destroys when it occurs: the envelope,
onsets, syllables and words. Quilting preserves the sound within each short segment, and how much it changes from one
segment to the next, and destroys all structure that is longer than a segment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modalnet._validation import check_number, check_seed
from modalnet.errors import InputError
from modalnet.stimuli.sound_sets import at_level, rms
from modalnet.stimuli.sounds import Sound, load_sound

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from modalnet.stimuli.sounds import AudioLike

SEGMENT = 0.03  # seconds
BORDER = 0.03  # seconds at the ends of a segment, over which its borders are compared
MINIMUM_SEGMENTS = 4
MINIMUM_SAMPLES = 8
# To each side, of a segment's length: with segments of 30 ms, periods of pitches from 67 Hz on fit into both.
LARGEST_SHIFT = 1 / 4
FADE = 0.005  # seconds, at most a quarter of a segment
# Of the cochleagram.
LOWEST = 50.0  # Hz
BANDS = 30
FLOOR = 60.0  # dB below the largest value


def phase_scramble_sound(sound: AudioLike, seed: int = 0) -> Sound:
    """Randomize the Fourier phases of a sound and preserve its magnitude spectrum.

    One Fourier transform is taken over the whole sound. Each of its phases is replaced by an independent one, uniform
    over the circle, except at frequency 0 and, with an even number of samples, at half the rate, where a real sound has
    none. Length, mean, root mean square and the magnitude at every frequency are those of the original, up to rounding
    to float32; the result sounds like steady noise with the long-term spectrum of the original.

    Peaks of noise are higher than those of, say, a tone: a loud sound can exceed full scale afterwards. Samples are not
    clipped, which would change the spectrum.

    Parameters
    ----------
    sound
        Any input of :func:`modalnet.stimuli.sounds.load_sound`; several channels are averaged.
    seed
        Seed of the phases.

    Returns
    -------
    Sound
        float32 samples (sample,), as many and at the same rate as those of the sound.

    Raises
    ------
    InputError
        The sound cannot be used (see ``load_sound``), or ``seed`` is not a non-negative integer.

    References
    ----------
    Prichard & Theiler (1994). Generating surrogate data for time series with several simultaneously measured variables.
    Physical Review Letters 73, 951-954.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> phase_scramble_sound((0.1 * rng.standard_normal(16000), 16000))
    Sound(1.00 s at 16000 Hz)
    """
    rng = np.random.default_rng(check_seed(seed))
    heard = load_sound(sound)
    return Sound(with_random_sound_phases(heard.samples.astype(np.float64), rng).astype(np.float32), heard.rate)


def quilt(sound: AudioLike, segment: float = SEGMENT, seed: int = 0) -> Sound:
    """Reorder short segments of a sound so that it changes from segment to segment as the original does: a sound quilt.

    The algorithm of Overath et al. (2015). The sound is divided into equal segments. The first segment of the quilt is
    drawn at random. Each next one is that of the remaining segments whose change from the current segment comes closest
    to the change from the current segment to its successor in the original; the successor itself is excluded. The
    change is the L2 distance between the cochleagrams at both sides of the border, each averaged over the 30 ms
    beside it. Every segment occurs once.

    Simplified or added here:

    - The cochleagram is computed by Fourier transforms of the 30 ms: the energies in 30 triangular bands, equally
      spaced on the ERB scale, in dB with a floor of 60 dB below the largest. The paper has a bank of cochlear filters.
    - Instead of pitch-synchronous overlap-add, each segment is read up to a quarter of its length earlier or later,
      where its beginning correlates best with the end of what precedes it, and cross-faded over 5 ms (a quarter of a
      segment where that is shorter). Length is therefore preserved, and pitch periods are aligned where there are any;
      a few milliseconds at borders can occur twice or be missing.
    - The last segment of the original has no successor: its change is taken to be the mean of all others. A segment
      that is left over at the end with its own predecessor is inserted elsewhere.
    - Segments are as long as asked or slightly longer, so that they fill the sound. The whole is scaled to the root
      mean square of the original.

    Parameters
    ----------
    sound
        Any input of :func:`modalnet.stimuli.sounds.load_sound`; several channels are averaged.
    segment
        Seconds per segment: 0.03 in the paper's shortest condition, 0.96 in its longest.
    seed
        Seed of the first segment, and of ties. Two seeds that draw the same first segment give the same quilt.

    Returns
    -------
    Sound
        float32 samples (sample,), as many and at the same rate as those of the sound.

    Raises
    ------
    InputError
        The sound cannot be used (see ``load_sound``) or is shorter than four segments, ``segment`` is not a positive
        number or has less than 8 samples, or ``seed`` is not a non-negative integer.

    References
    ----------
    Overath, McDermott, Zarate & Poeppel (2015). The cortical analysis of speech-specific temporal structure revealed by
    responses to sound quilts. Nature Neuroscience 18, 903-911.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> quilt((0.1 * rng.standard_normal(16000), 16000), segment=0.06, seed=1)
    Sound(1.00 s at 16000 Hz)
    """
    rng = np.random.default_rng(check_seed(seed))
    seconds = check_number("segment", segment, above=0)
    heard = load_sound(sound)
    samples = heard.samples.astype(np.float64)
    edges = segment_edges(len(samples), heard.rate, seconds)
    order = quilt_order(*border_cochleagrams(samples, heard.rate, edges), rng)
    made = _concatenated(samples, edges, order, heard.rate, align=True)
    if rms(made) < rms(samples) / 2:
        # In a sound that is nearly all silence, shifts can leave out what is not.
        made = _concatenated(samples, edges, order, heard.rate, align=False)
    return Sound(at_level(made, rms(samples)).astype(np.float32), heard.rate)


def with_random_sound_phases(
    samples: Float[np.ndarray, " sample"], rng: np.random.Generator
) -> Float[np.ndarray, " sample"]:
    """Replace the phases of the whole signal's spectrum, without rounding."""
    spectrum = np.fft.rfft(samples)
    phases = rng.uniform(0, 2 * np.pi, len(spectrum))
    # The mean, and the component at half the rate, are real.
    inner = slice(1, (len(samples) + 1) // 2)
    spectrum[inner] = np.abs(spectrum[inner]) * np.exp(1j * phases[inner])
    return np.fft.irfft(spectrum, n=len(samples))


def segment_edges(n_samples: int, rate: int, seconds: float) -> Int[np.ndarray, " edge"]:
    """Where the segments of a sound begin, and where the last one ends; their lengths differ by at most one sample.

    Raises
    ------
    InputError
        The sound is shorter than four segments, or a segment has less than 8 samples.
    """
    length = round(seconds * rate)
    if length < MINIMUM_SAMPLES:
        raise InputError(
            f"`segment` must have at least {MINIMUM_SAMPLES} samples, {MINIMUM_SAMPLES / rate:.2g} s at {rate} Hz; got "
            f"{seconds:g} s."
        )
    count = n_samples // length
    if count < MINIMUM_SEGMENTS:
        raise InputError(
            f"A quilt needs a sound of at least {MINIMUM_SEGMENTS} segments; it has {n_samples / rate:.3g} s, less "
            f"than {MINIMUM_SEGMENTS} times {seconds:g} s. Give a longer sound or a shorter `segment`."
        )
    return np.rint(np.linspace(0, n_samples, count + 1)).astype(np.int64)


def border_cochleagrams(
    samples: Float[np.ndarray, " sample"], rate: int, edges: Int[np.ndarray, " edge"]
) -> tuple[Float[np.ndarray, "segment band"], Float[np.ndarray, "segment band"]]:
    """The cochleagrams of the beginning and of the end of each segment, in dB."""
    length = min(round(BORDER * rate), int(np.diff(edges).min())) or 1
    starts = np.stack([edges[:-1], edges[1:] - length])
    sections = samples[starts[..., None] + np.arange(length)]
    n_fft = 2 ** int(np.ceil(np.log2(2 * length)))
    power = np.abs(np.fft.rfft(sections * np.hanning(length + 2)[1:-1], n=n_fft)) ** 2
    energy = power @ _erb_bands(np.fft.rfftfreq(n_fft, 1 / rate)).T
    largest = energy.max()
    decibels = 10 * np.log10(np.maximum(energy, largest * 10 ** (-FLOOR / 10)) / largest) if largest > 0 else energy
    return decibels[0], decibels[1]


def quilt_order(
    beginnings: Float[np.ndarray, "segment band"],
    ends: Float[np.ndarray, "segment band"],
    rng: np.random.Generator,
) -> Int[np.ndarray, " segment"]:
    """The order of segments in a quilt, in which no segment is followed by its successor in the original.

    Parameters
    ----------
    beginnings, ends
        Cochleagrams of the borders of each segment, in their original order.
    rng
        Draws the first segment, and breaks ties.
    """
    n = len(beginnings)
    original = np.linalg.norm(beginnings[1:] - ends[:-1], axis=1)
    wanted = np.append(original, original.mean())
    order = [int(rng.integers(n))]
    left = rng.permutation(np.delete(np.arange(n), order[0]))
    while len(left):
        current = order[-1]
        allowed = left[left != current + 1]
        if not len(allowed):
            _insert(int(left[0]), order)
            break
        misfit = np.abs(np.linalg.norm(beginnings[allowed] - ends[current], axis=1) - wanted[current])
        order.append(int(allowed[np.argmin(misfit)]))
        left = left[left != order[-1]]
    return np.array(order)


def _insert(segment: int, order: list[int]) -> None:
    """Insert the successor of the last segment, in place, at the beginning or, before its own successor, after it."""
    order.insert(1 if order[0] == segment + 1 else 0, segment)


def _erb_bands(frequencies: Float[np.ndarray, " frequency"]) -> Float[np.ndarray, "band frequency"]:
    """Triangular filters, equally spaced on the ERB-number scale (Glasberg & Moore, 1990)."""

    def number(hertz: Float[np.ndarray, " frequency"]) -> Float[np.ndarray, " frequency"]:
        return 21.4 * np.log10(1 + 0.00437 * hertz)

    highest = frequencies[-1]
    low, high = number(np.array([min(LOWEST, highest / 10), highest]))
    centres, step = np.linspace(low, high, BANDS, retstep=True)
    return np.maximum(0, 1 - np.abs(number(frequencies) - centres[:, None]) / step)


def _concatenated(
    samples: Float[np.ndarray, " sample"],
    edges: Int[np.ndarray, " edge"],
    order: Int[np.ndarray, " segment"],
    rate: int,
    *,
    align: bool,
) -> Float[np.ndarray, " sample"]:
    """Segments in a new order, each cross-faded with the one before it, which goes on beyond its end for that."""
    shortest = int(np.diff(edges).min())
    half = max(1, round(min(FADE * rate, shortest / 4) / 2))
    shift = int(shortest * LARGEST_SHIFT) if align else 0
    padded = np.pad(samples, half)  # index i of the samples is i + half here
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(2 * half) + 0.5) / (2 * half))
    made = np.zeros(len(padded))
    position = 0
    for place, segment in enumerate(order):
        start, length = int(edges[segment]), int(edges[segment + 1] - edges[segment])
        before = made[position : position + 2 * half]
        if place:
            start += _best_shift(padded, before, start, (-min(shift, start), min(shift, len(samples) - start - length)))
        piece = padded[start : start + length + 2 * half].copy()
        if place:
            piece[: 2 * half] = rise * piece[: 2 * half] + (1 - rise) * before
        made[position : position + len(piece)] = piece
        position += length
    return made[half:-half]


def _best_shift(
    padded: Float[np.ndarray, " padded"],
    before: Float[np.ndarray, " fade"],
    start: int,
    bounds: tuple[int, int],
) -> int:
    """The shift of a segment at which its beginning correlates best with what precedes it, the smallest of equals."""
    lowest, highest = bounds
    windows = np.lib.stride_tricks.sliding_window_view(
        padded[start + lowest : start + highest + len(before)], len(before)
    )
    norms = np.linalg.norm(windows, axis=1)
    fit = np.divide(windows @ before, norms, out=np.zeros(len(windows)), where=norms > 0)
    shifts = np.arange(lowest, highest + 1)
    nearest = np.argsort(np.abs(shifts), kind="stable")
    return int(shifts[nearest[np.argmax(fit[nearest])]])
