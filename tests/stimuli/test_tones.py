"""Tones have the frequency, level, duration and ramps that they are said to have."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from modalnet.errors import InputError
from modalnet.stimuli import Contrast, Stimulus, tone_frequencies, tones
from modalnet.stimuli.sound_sets import LEVEL, rms


def samples(stimulus: Stimulus) -> np.ndarray:
    return stimulus.sounds()[0].samples.astype(np.float64)


def spectrum(values: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    power = np.abs(np.fft.rfft(values * np.hanning(len(values)))) ** 2
    return np.fft.rfftfreq(len(values), 1 / rate), power


def test_the_default_covers_six_octaves_evenly() -> None:
    made = tones(n_per_frequency=2)
    hertz = tone_frequencies(made)
    assert len(made) == 32
    assert (hertz[0], hertz[-1]) == (100, 7000)
    np.testing.assert_allclose(np.diff(np.log2(hertz[::2])), np.log2(70) / 15, atol=0.01)
    assert [stimulus.condition for stimulus in made[:3]] == ["100 Hz", "100 Hz", "133 Hz"]
    assert len({stimulus.id for stimulus in made}) == len(made)
    assert all(stimulus.kind == "audio" for stimulus in made)


@pytest.mark.parametrize(("rate", "duration"), [(16_000, 1.0), (8000, 0.3), (44_100, 0.5)])
def test_pure_tones_have_one_frequency_and_one_level(rate: int, duration: float) -> None:
    made = tones([125, 1000.5, 3300], 3, duration=duration, rate=rate)
    for stimulus, frequency in zip(made, tone_frequencies(made), strict=True):
        (sound,) = stimulus.sounds()
        assert (sound.rate, len(sound.samples)) == (rate, round(rate * duration))
        assert rms(sound.samples) == pytest.approx(LEVEL, rel=1e-6)
        hertz, power = spectrum(samples(stimulus), rate)
        near = np.abs(hertz - frequency) < 4 / duration
        assert power[near].sum() > 0.9999 * power.sum()
        assert abs(hertz[power.argmax()] - frequency) <= 1 / duration


def test_ramps_of_ten_milliseconds() -> None:
    values = samples(tones([1000], 1)[0])
    peak = np.abs(values[1000:-1000]).max()
    for ends in (values, values[::-1]):
        assert np.abs(ends[:16]).max() < 0.03 * peak  # the first millisecond
        assert np.abs(ends[72:88]).max() == pytest.approx(0.5 * peak, rel=0.15)
        assert np.abs(ends[160:176]).max() == pytest.approx(peak, rel=0.02)


def test_repetitions_differ_in_phase() -> None:
    made = [samples(stimulus) for stimulus in tones([440], 12)]
    phases = np.array([np.angle(np.fft.rfft(each)[440]) for each in made])
    assert len(np.unique(phases.round(4))) == 12
    assert abs(np.exp(1j * phases).mean()) < 0.8


@pytest.mark.parametrize("bandwidth", [0.1, 1 / 3, 1.0])
def test_bands_of_noise_lie_around_their_frequency(bandwidth: float) -> None:
    made = tones([300, 2000], 2, bandwidth=bandwidth)
    for stimulus, frequency in zip(made, tone_frequencies(made), strict=True):
        hertz, power = spectrum(samples(stimulus), 16_000)
        inside = (hertz > frequency * 2 ** (-bandwidth / 2) - 3) & (hertz < frequency * 2 ** (bandwidth / 2) + 3)
        assert power[inside].sum() > 0.999 * power.sum()
        assert rms(samples(stimulus)) == pytest.approx(LEVEL, rel=1e-6)
    assert abs(np.corrcoef(samples(made[0]), samples(made[1]))[0, 1]) < 0.5
    below, above = (power[(hertz > low) & (hertz < high)].sum() for low, high in ((0, 2000), (2000, 8000)))
    assert 0.2 < below / (below + above) < 0.8


def test_a_band_narrower_than_a_component_is_a_tone() -> None:
    values = samples(tones([441], 1, bandwidth=1e-6, duration=0.1)[0])
    assert rms(values) == pytest.approx(LEVEL, rel=1e-6)


def test_level_jitter_stays_in_its_range() -> None:
    made = tones([200, 400, 800], 20, level_jitter=6)
    decibels = np.array([20 * np.log10(rms(samples(stimulus)) / LEVEL) for stimulus in made])
    assert np.abs(decibels).max() <= 3.0001
    assert decibels.max() > 2
    assert decibels.min() < -2
    assert max(np.abs(samples(stimulus)).max() for stimulus in tones([200], 20, level_jitter=12)) < 1


def test_the_seed_decides() -> None:
    first, again, other = ([samples(s) for s in tones([200, 400], 2, seed=seed)] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    for one, another in zip(first, other, strict=True):
        assert np.abs(one - another).max() > 0.001
    more = [samples(s) for s in tones([200, 400], 5, seed=0)]
    np.testing.assert_array_equal(more[:2], first[:2])


def test_another_process_gives_the_same_tones() -> None:
    program = (
        "from modalnet.stimuli import tones\n"
        "print([s.inspect().digest for b in (None, 0.5) for s in tones([200, 900], 2, bandwidth=b, level_jitter=3)])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env={**os.environ}
    )
    here = [s.inspect().digest for b in (None, 0.5) for s in tones([200, 900], 2, bandwidth=b, level_jitter=3)]
    assert run.stdout.strip() == str(here)


def test_frequencies_make_a_parametric_contrast() -> None:
    made = tones([200, 400, 800], 2)
    contrast = Contrast(made, regressor=np.log2(tone_frequencies(made)).tolist())
    assert contrast.n == {"200 Hz": 2, "400 Hz": 2, "800 Hz": 2}
    assert tone_frequencies([]).shape == (0,)


def test_every_kind_of_number_is_a_frequency() -> None:
    for given in ([440, 880.0], (440, 880), np.array([440, 880]), np.array([440, 880], dtype=np.float32)):
        assert tone_frequencies(tones(given, 1)).tolist() == [440, 880]


def test_a_slow_rate_has_tones_below_its_half() -> None:
    for bandwidth in (None, 0.5, 2.0):
        assert tone_frequencies(tones(rate=4000, n_per_frequency=1, bandwidth=bandwidth)).max() < 2000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frequencies": []}, "a list of numbers in Hz or None"),
        ({"frequencies": "440"}, "a list of numbers in Hz or None"),
        ({"frequencies": 440}, "a list of numbers in Hz or None"),
        ({"frequencies": [440, "880"]}, "`frequencies` must be a finite number"),
        ({"frequencies": [0]}, "`frequencies` must be a finite number above 0"),
        ({"frequencies": [-100]}, "`frequencies` must be a finite number above 0"),
        ({"frequencies": [float("nan")]}, "`frequencies` must be a finite number"),
        ({"frequencies": [8000]}, r"below 8000 Hz \(half the rate\), got 8000"),
        ({"frequencies": [7000], "bandwidth": 1}, "with its band of 1 octaves, got 7000"),
        ({"frequencies": [10], "duration": 0.05}, r"from 20 Hz \(one period in 0.05 s\)"),
        ({"frequencies": [440, 441, 440]}, "got 440 more than once"),
        ({"n_per_frequency": 0}, "`n_per_frequency` must be a positive integer"),
        ({"duration": 0.01}, "`duration` must be"),
        ({"duration": float("inf")}, "`duration` must be"),
        ({"rate": 0}, "`rate` must be"),
        ({"rate": 16000.5}, "`rate` must be"),
        ({"bandwidth": 0}, "`bandwidth` must be"),
        ({"bandwidth": 3}, "`bandwidth` must be"),
        ({"level_jitter": -1}, "`level_jitter` must be"),
        ({"level_jitter": 20}, "`level_jitter` must be"),
        ({"seed": -1}, "`seed` must be a non-negative integer"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tones(**arguments)


def test_other_stimuli_have_no_frequency() -> None:
    for condition in ("birds", "x Hz", None):
        with pytest.raises(InputError, match="conditions such as '440 Hz', got"):
            tone_frequencies([Stimulus("text", condition=condition)])
    with pytest.raises(InputError, match="conditions such as '440 Hz', got"):
        tone_frequencies(["440 Hz"])
