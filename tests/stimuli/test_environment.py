"""Environmental sounds: matched in duration and level, different within and between categories."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from modalnet.errors import InputError
from modalnet.stimuli import Contrast, Stimulus, environment
from modalnet.stimuli.environment import SOURCES
from modalnet.stimuli.sound_sets import LEVEL, rms

N = 10


@pytest.fixture(scope="module")
def sounds() -> Contrast:
    return environment(n=N)


def samples(stimulus: Stimulus) -> np.ndarray:
    (sound,) = stimulus.sounds()
    assert sound.rate == 16_000
    return sound.samples.astype(np.float64)


def of(contrast: Contrast, category: str) -> list[np.ndarray]:
    return [samples(stimulus) for stimulus in contrast.stimuli if stimulus.condition == category]


def features(values: np.ndarray) -> np.ndarray:
    """Energy in bands, in dB, and how much the envelope varies."""
    power = np.abs(np.fft.rfft(values)) ** 2
    hertz = np.fft.rfftfreq(len(values), 1 / 16_000)
    edges = np.geomspace(60, 8000, 13)
    bands = [power[(hertz >= low) & (hertz < high)].sum() for low, high in pairwise(edges)]
    envelope = np.sqrt(np.mean(values[: len(values) // 320 * 320].reshape(-1, 320) ** 2, axis=1))
    spread = envelope.std() / envelope.mean()
    return np.append(10 * np.log10(np.maximum(np.array(bands) / power.sum(), 1e-5)) / 10, 3 * spread)


def test_all_have_one_duration_and_one_level(sounds: Contrast) -> None:
    assert len(SOURCES) >= 6
    assert len(sounds) == N * len(SOURCES)
    for stimulus in sounds.stimuli:
        values = samples(stimulus)
        assert len(values) == 32_000
        assert rms(values) == pytest.approx(LEVEL, rel=1e-6)
        assert np.abs(values).max() < 1
        assert abs(values.mean()) < 0.1 * LEVEL
        assert np.abs(values[[0, -1]]).max() < 0.001  # ramps


@pytest.mark.parametrize("duration", [0.5, 3.3])
def test_other_durations(duration: float) -> None:
    for stimulus in environment(n=3, duration=duration).stimuli:
        values = samples(stimulus)
        assert len(values) == round(16_000 * duration)
        assert rms(values) == pytest.approx(LEVEL, rel=1e-6)
        assert np.abs(values).max() < 1.4


def test_sounds_of_a_category_differ(sounds: Contrast) -> None:
    for category in SOURCES:
        heard = of(sounds, category)
        for place, one in enumerate(heard):
            for other in heard[place + 1 :]:
                assert abs(np.corrcoef(one, other)[0, 1]) < 0.5, category


def test_categories_can_be_told_apart(sounds: Contrast) -> None:
    """A new sound is nearest to the mean of its own category, by spectrum and modulation."""
    means = {name: np.mean([features(values) for values in of(sounds, name)], axis=0) for name in SOURCES}
    right = []
    for stimulus in environment(n=N, seed=1).stimuli:
        here = features(samples(stimulus))
        right.append(min(means, key=lambda name: np.linalg.norm(means[name] - here)) == stimulus.condition)
    assert np.mean(right) > 0.75


def test_the_return_is_like_that_of_categories() -> None:
    contrast = environment("footsteps", ["wind", "rain"], n=2)
    assert contrast.name == "footsteps > rain,wind"
    assert [s.id for s in contrast.stimuli] == [
        "rain-001", "rain-002", "wind-001", "wind-002", "footsteps-001", "footsteps-002",
    ]  # fmt: skip
    two = environment(["engine", "alarm"], n=2)
    assert two.positive == ("engine", "alarm")
    assert len(two.negative) == len(SOURCES) - 2


def test_the_seed_decides_and_the_number_does_not() -> None:
    few, again, more, other = (
        {s.id: samples(s) for s in environment(n=n, seed=seed, duration=0.5).stimuli}
        for n, seed in ((2, 0), (2, 0), (4, 0), (2, 1))
    )
    for name, values in few.items():
        np.testing.assert_array_equal(values, again[name])
        np.testing.assert_array_equal(values, more[name])
        assert np.abs(values - other[name]).max() > 0.01


def test_another_process_gives_the_same_sounds() -> None:
    program = (
        "from modalnet.stimuli import environment\n"
        "print([s.inspect().digest for s in environment(n=2, duration=0.5).stimuli])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env={**os.environ}
    )
    assert run.stdout.strip() == str([s.inspect().digest for s in environment(n=2, duration=0.5).stimuli])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positive": "bird"}, "`positive` must be one of"),
        ({"positive": "bell"}, "Did you mean 'bells'"),
        ({"positive": []}, "`positive` must name at least one"),
        ({"against": "speech"}, "`against` must be one of"),
        ({"positive": "rain", "against": "rain"}, "both sides"),
        ({"positive": list(SOURCES)}, "negative side names no condition"),
        ({"n": 1}, "`n` must be an integer of at least 2"),
        ({"duration": 0.1}, "`duration` must be a finite number at least 0.5"),
        ({"duration": 61}, "`duration` must be"),
        ({"seed": -1}, "`seed` must be a non-negative integer"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        environment(**arguments)
