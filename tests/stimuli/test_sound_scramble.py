"""Scrambled sounds keep what they say they keep."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from modalnet.errors import InputError
from modalnet.stimuli import Sound
from modalnet.stimuli.sound_scramble import (
    MINIMUM_SAMPLES,
    MINIMUM_SEGMENTS,
    border_cochleagrams,
    phase_scramble_sound,
    quilt,
    quilt_order,
    segment_edges,
    with_random_sound_phases,
)
from modalnet.stimuli.sound_sets import rms

RATE = 16_000


def voice(seconds: float = 2.0, rate: int = RATE, seed: int = 0) -> Sound:
    """A sound that changes as speech does: a voice of varying pitch and formants, in syllables with pauses."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 110 + 20 * np.sin(2 * np.pi * 1.5 * time)
    pulses = np.cumsum(pitch) / rate % 1 < pitch / rate
    spectrum = np.fft.rfft(pulses + 0.01 * rng.standard_normal(len(time)))
    hertz = np.fft.rfftfreq(len(time), 1 / rate)
    vowels = [
        np.fft.irfft(spectrum * sum(np.exp(-(((hertz - f) / 120) ** 2)) for f in formants), n=len(time))
        for formants in ((300, 2300), (700, 1200), (350, 800))
    ]
    mixed = sum(vowel * np.clip(np.sin(2 * np.pi * (2.3 * time + k / 3)), 0, 1) for k, vowel in enumerate(vowels))
    envelope = np.clip(np.sin(2 * np.pi * 4 * time), 0, 1)
    samples = mixed * envelope
    return Sound((0.05 * samples / rms(samples)).astype(np.float32), rate)


def magnitudes(samples: np.ndarray) -> np.ndarray:
    """The full two-sided spectrum: the code under test uses the one-sided one."""
    return np.abs(np.fft.fft(samples.astype(np.float64)))


def envelope(samples: np.ndarray, rate: int = RATE) -> np.ndarray:
    width = rate // 50
    return np.convolve(np.abs(samples), np.ones(width) / width, mode="same")


def changes(samples: np.ndarray, rate: int = RATE, segment: float = 0.03) -> np.ndarray:
    """How much a sound changes from each of its segments to the next."""
    heard = samples.astype(np.float64)
    beginnings, ends = border_cochleagrams(heard, rate, segment_edges(len(heard), rate, segment))
    return np.linalg.norm(beginnings[1:] - ends[:-1], axis=1)


# --- phases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 4, 15, 16, 1000, 1001, 16_384])
def test_the_magnitude_spectrum_is_exactly_that_of_the_sound(length: int) -> None:
    samples = np.random.default_rng(length).standard_normal(length)
    scrambled = with_random_sound_phases(samples, np.random.default_rng(1))
    assert scrambled.shape == samples.shape
    np.testing.assert_allclose(magnitudes(scrambled), magnitudes(samples), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(scrambled.mean(), samples.mean(), rtol=1e-9)
    np.testing.assert_allclose(rms(scrambled), rms(samples), rtol=1e-12)


def test_a_scrambled_sound_has_the_spectrum_and_not_the_envelope() -> None:
    sound = voice()
    scrambled = phase_scramble_sound(sound)
    assert scrambled.rate == sound.rate
    assert scrambled.samples.dtype == np.float32
    before, after = magnitudes(sound.samples), magnitudes(scrambled.samples)
    assert np.abs(after - before).max() < 1e-6 * before.max()
    envelopes = [envelope(phase_scramble_sound(sound, seed).samples) for seed in range(12)]
    alike = [np.corrcoef(envelope(sound.samples), each)[0, 1] for each in envelopes]
    assert abs(np.mean(alike)) < 0.15
    assert np.abs(alike).max() < 0.5
    assert abs(np.corrcoef(sound.samples, scrambled.samples)[0, 1]) < 0.05
    # steady: the envelope varies much less than that of the voice
    spread = [np.std(envelope(each.samples)) / np.mean(envelope(each.samples)) for each in (sound, scrambled)]
    assert spread[1] < 0.6 * spread[0]


def test_phases_are_uniform_and_independent() -> None:
    samples = voice(4.0).samples.astype(np.float64)
    before, after = (
        np.fft.rfft(each)[1:-1] for each in (samples, with_random_sound_phases(samples, np.random.default_rng(3)))
    )
    loud = np.abs(before) > 1e-3 * np.abs(before).max()
    turn = np.angle(after[loud] / before[loud])
    assert abs(np.exp(1j * turn).mean()) < 4 / np.sqrt(loud.sum())
    assert abs((np.exp(1j * turn[1:]) * np.exp(-1j * turn[:-1])).mean()) < 4 / np.sqrt(loud.sum())


# --- quilts ---------------------------------------------------------------------------------------------------------


def test_the_order_is_a_permutation_without_an_original_neighbour() -> None:
    for n in range(2, 40):
        for seed in range(10):
            rng = np.random.default_rng([n, seed])
            borders = rng.standard_normal((2, n, 3))
            order = quilt_order(*borders, rng)
            assert sorted(order) == list(range(n))
            assert not (np.diff(order) == 1).any(), order


def test_the_order_of_silence_is_random() -> None:
    """All changes are equal: ties are broken by the seed, not by the original order."""
    order = quilt_order(np.zeros((30, 4)), np.zeros((30, 4)), np.random.default_rng(0))
    assert abs(np.corrcoef(order, np.arange(30))[0, 1]) < 0.5


def test_the_next_segment_is_the_one_that_changes_as_the_original_does() -> None:
    beginnings = np.array([[0.0], [1.0], [5.0], [5.9], [20.0]])
    ends = beginnings
    for seed in range(100):
        order = quilt_order(beginnings, ends, np.random.default_rng(seed))
        if order[0] == 1:  # changes by 4 to its successor; 0 is 1 away, 3 is 4.9, 4 is 19
            assert order[1] == 3
            return
    pytest.fail("no seed drew the second segment")


@pytest.mark.parametrize("segment", [0.03, 0.06, 0.12])
def test_a_quilt_changes_at_borders_as_the_sound_does(segment: float) -> None:
    sound = voice(3.0)
    made = quilt(sound, segment)
    original = changes(sound.samples, segment=segment).mean()
    assert changes(made.samples, segment=segment).mean() < 1.4 * original
    # in random order the segments of the same sound change more
    beginnings, ends = border_cochleagrams(
        sound.samples.astype(np.float64), RATE, segment_edges(len(sound.samples), RATE, segment)
    )
    order = np.random.default_rng(0).permutation(len(beginnings))
    shuffled = np.linalg.norm(beginnings[order][1:] - ends[order][:-1], axis=1).mean()
    assert changes(made.samples, segment=segment).mean() < 0.85 * shuffled
    # no clicks: the largest step from sample to sample is about that of the sound
    assert np.abs(np.diff(made.samples)).max() < 1.5 * np.abs(np.diff(sound.samples)).max()


def test_a_quilt_has_the_segments_of_the_sound_elsewhere() -> None:
    """The middle of each segment of the quilt is found in the sound, up to the gain, and rarely where it stood."""
    sound = voice()
    made = quilt(sound, seed=1)
    edges = segment_edges(len(sound.samples), RATE, 0.03)
    windows = np.lib.stride_tricks.sliding_window_view(sound.samples.astype(np.float64), 240)
    norms = np.linalg.norm(windows, axis=1)
    found, moved = [], []
    for start in edges[:-1]:
        middle = made.samples[start + 120 : start + 360].astype(np.float64)
        if np.linalg.norm(middle) < 0.1 * np.sqrt(240) * 0.05:
            continue
        fit = windows @ middle / (norms * np.linalg.norm(middle) + 1e-12)
        found.append(fit.max())
        moved.append(abs(int(fit.argmax()) - start - 120) > 480)
    assert min(found) > 0.999
    assert np.mean(moved) > 0.8
    # hence nearly the same long-term spectrum
    powers = [
        np.add.reduceat(np.abs(np.fft.rfft(each.samples)) ** 2, np.arange(0, 8000, 400)) for each in (sound, made)
    ]
    loud = powers[0] > 1e-3 * powers[0].max()
    assert np.abs(10 * np.log10(powers[1][loud] / powers[0][loud])).max() < 2
    assert abs(np.corrcoef(envelope(sound.samples), envelope(made.samples))[0, 1]) < 0.5


def test_pitch_periods_are_aligned_at_borders() -> None:
    """Of a steady tone a quilt is a steady tone, where cross-fades without shifts would cancel."""
    tone = np.sin(2 * np.pi * 123.4 * np.arange(2 * RATE) / RATE) * 0.1
    made = quilt((tone, RATE))
    inner = made.samples[400:-400].reshape(-1, 400)  # 25 ms, three periods
    assert inner.std(axis=1).min() > 0.9 * 0.1 / np.sqrt(2)
    spectrum = np.abs(np.fft.rfft(made.samples * np.hanning(len(made.samples)))) ** 2
    hertz = np.fft.rfftfreq(len(made.samples), 1 / RATE)
    assert spectrum[np.abs(hertz - 123.4) < 10].sum() > 0.9 * spectrum.sum()


def test_one_click_in_silence_is_not_lost() -> None:
    for place in range(0, RATE, 977):
        samples = np.zeros(RATE, dtype=np.float32)
        samples[place] = 0.5
        made = quilt((samples, RATE))
        assert rms(made.samples) == pytest.approx(rms(samples), rel=1e-5)


def test_silence_stays_silent() -> None:
    silence = np.zeros(RATE, dtype=np.float32)
    assert not quilt((silence, RATE)).samples.any()
    assert not phase_scramble_sound((silence, RATE)).samples.any()


# --- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scramble", [phase_scramble_sound, quilt])
def test_the_seed_decides(scramble) -> None:
    sound = voice(1.0)
    first, again, other = (scramble(sound, seed=seed).samples for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_another_process_gives_the_same_samples() -> None:
    program = (
        "import numpy as np, hashlib; from modalnet.stimuli.sound_scramble import phase_scramble_sound, quilt\n"
        "x = (0.1 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)\n"
        "both = [f((x, 8000), seed=5).samples.tobytes() for f in (phase_scramble_sound, quilt)]\n"
        "print(*[hashlib.sha256(each).hexdigest() for each in both])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


@pytest.mark.parametrize("scramble", [phase_scramble_sound, quilt])
def test_any_source_of_sound_is_taken(scramble, tmp_path) -> None:
    soundfile = pytest.importorskip("soundfile")
    sound = voice(0.5)
    soundfile.write(tmp_path / "voice.wav", sound.samples, RATE, subtype="FLOAT")
    expected = scramble(sound).samples
    np.testing.assert_array_equal(scramble(tmp_path / "voice.wav").samples, expected)
    np.testing.assert_array_equal(scramble((sound.samples, RATE)).samples, expected)
    both = np.stack([sound.samples, sound.samples], axis=1)
    np.testing.assert_allclose(scramble((both, RATE)).samples, expected, atol=1e-6)


durations = st.floats(0.001, 5.0)
rates = st.sampled_from([4000, 8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
seeds = st.integers(0, 2**40)


def drawn(seconds: float, rate: int, seed: int) -> np.ndarray:
    """Noise of a random level, with random gaps."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(max(1, round(seconds * rate))) * 10 ** rng.uniform(-4, -0.7)
    gate = np.repeat(rng.random(len(samples) // 100 + 1) < 0.7, 100)[: len(samples)]
    return np.clip(samples * gate, -1, 1).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(durations, rates, seeds)
def test_scrambling_any_sound_keeps_length_level_and_rate(seconds: float, rate: int, seed: int) -> None:
    samples = drawn(seconds, rate, seed)
    made = phase_scramble_sound((samples, rate), seed=seed)
    assert (len(made.samples), made.rate) == (len(samples), rate)
    assert np.isfinite(made.samples).all()
    assert rms(made.samples) == pytest.approx(rms(samples), rel=1e-5, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(durations, rates, st.floats(0.002, 0.2), seeds)
def test_quilting_any_sound_keeps_length_level_and_rate_or_says_why_not(
    seconds: float, rate: int, segment: float, seed: int
) -> None:
    samples = drawn(seconds, rate, seed)
    length = round(segment * rate)
    if length < MINIMUM_SAMPLES or len(samples) < MINIMUM_SEGMENTS * length:
        with pytest.raises(InputError, match="segment"):
            quilt((samples, rate), segment, seed)
        return
    made = quilt((samples, rate), segment, seed)
    assert (len(made.samples), made.rate) == (len(samples), rate)
    assert np.isfinite(made.samples).all()
    assert rms(made.samples) == pytest.approx(rms(samples), rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("segment", [0, -0.03, float("nan"), float("inf"), "30 ms", None, True])
def test_bad_segments(segment) -> None:
    with pytest.raises(InputError, match="`segment` must be"):
        quilt(voice(0.5), segment)


def test_too_short_sounds_and_segments() -> None:
    with pytest.raises(InputError, match=r"at least 4 segments; it has 0.1 s, less than 4 times 0.03 s"):
        quilt(voice(0.1))
    with pytest.raises(InputError, match=r"at least 8 samples, 0.0005 s at 16000 Hz"):
        quilt(voice(0.5), 0.0001)


@pytest.mark.parametrize("scramble", [phase_scramble_sound, quilt])
def test_bad_seeds_and_sounds(scramble) -> None:
    for seed in (-1, 0.5, "0", None):
        with pytest.raises(InputError, match="`seed` must be a non-negative integer"):
            scramble(voice(0.5), seed=seed)
    with pytest.raises(InputError, match="without a rate"):
        scramble(np.zeros(RATE))
    with pytest.raises(InputError, match="NaN"):
        scramble((np.full(RATE, np.nan), RATE))
