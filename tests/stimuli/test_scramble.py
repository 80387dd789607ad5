"""Scrambled pictures keep what they say they keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from modalnet.errors import InputError
from modalnet.stimuli import box_scramble, phase_scramble
from modalnet.stimuli.scramble import with_random_phases

SIZES = [(32, 32), (33, 32), (32, 33), (31, 45), (1, 7), (64, 20)]
SCRAMBLES = [phase_scramble, box_scramble]


def picture(height: int, width: int, seed: int = 0, lowest: int = 0, highest: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(lowest, highest, (height, width, 3)).astype(np.uint8)


def smooth(size: int = 96) -> np.ndarray:
    """A picture with things in it: mostly low frequencies, and room to the ends of the scale."""
    coarse = Image.fromarray(picture(6, 6, seed=3, lowest=60, highest=190))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def amplitudes(values: np.ndarray) -> np.ndarray:
    """The full two-sided spectrum: the code under test uses the one-sided one."""
    return np.abs(np.fft.fft2(values.astype(np.float64), axes=(0, 1)))


# --- phases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_the_amplitude_spectrum_is_exactly_that_of_the_picture(size: tuple[int, int]) -> None:
    values = picture(*size).astype(np.float64)
    scrambled = with_random_phases(values, np.random.default_rng(1))
    assert scrambled.shape == values.shape
    np.testing.assert_allclose(amplitudes(scrambled), amplitudes(values), rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(scrambled.mean((0, 1)), values.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(scrambled.std((0, 1)), values.std((0, 1)), rtol=1e-9)
    assert np.abs(scrambled - values).mean() > 5


def test_all_channels_turn_by_the_same_phases() -> None:
    """So the phase differences between channels, on which the joint colours hang, are those of the picture."""
    values = smooth().astype(np.float64)
    scrambled = with_random_phases(values, np.random.default_rng(1))
    before, after = (np.fft.fft2(each, axes=(0, 1)) for each in (values, scrambled))
    for one, other in ((0, 1), (1, 2)):
        cross = before[..., one] * before[..., other].conj()
        np.testing.assert_allclose(after[..., one] * after[..., other].conj(), cross, atol=1e-7 * np.abs(cross).max())
    # hence the covariance of the colours too
    flat = [np.cov(each.reshape(-1, 3).T) for each in (values, scrambled)]
    np.testing.assert_allclose(flat[1], flat[0], rtol=1e-9)


def test_the_phases_added_are_uniform() -> None:
    values = picture(64, 64).astype(np.float64)
    scrambled = with_random_phases(values, np.random.default_rng(1))
    turn = np.angle(np.fft.rfft2(scrambled[..., 0]) / np.fft.rfft2(values[..., 0]))[:, 1:32]
    counts, _ = np.histogram(turn, bins=8, range=(-np.pi, np.pi))
    assert counts.sum() == turn.size
    assert np.abs(counts / turn.size - 1 / 8).max() < 0.03


def test_eight_bits_leave_the_spectrum_nearly_what_it_was() -> None:
    values = smooth()
    scrambled = np.asarray(phase_scramble(values, seed=5))
    before, after = amplitudes(values), amplitudes(scrambled)
    before[0, 0] = after[0, 0] = 0
    assert np.linalg.norm(after - before) / np.linalg.norm(before) < 0.02
    assert np.abs(scrambled.mean((0, 1)) - values.mean((0, 1))).max() < 0.1
    # far from the picture itself
    assert abs(np.corrcoef(values.ravel(), scrambled.ravel())[0, 1]) < 0.5


def test_values_beyond_the_scale_are_clipped_and_not_wrapped() -> None:
    values = np.zeros((64, 64, 3), np.uint8)
    values[:, :32] = 255
    exact = with_random_phases(values.astype(np.float64), np.random.default_rng(0))
    assert exact.min() < -5
    assert exact.max() > 260
    np.testing.assert_array_equal(np.asarray(phase_scramble(values)), np.rint(exact).clip(0, 255))


def test_a_grey_picture_stays_grey_and_an_even_one_even() -> None:
    grey = np.asarray(phase_scramble(smooth()[..., 0]))
    assert np.ptp(grey, axis=2).max() == 0
    assert grey.std() > 1
    np.testing.assert_array_equal(np.asarray(phase_scramble(np.full((8, 9), 77, np.uint8))), 77)


# --- boxes ----------------------------------------------------------------------------------------------------------


def boxes_of(values: np.ndarray, tall: int, wide: int, top: int = 0, left: int = 0) -> list[bytes]:
    rows = range(top, values.shape[0] - tall + 1, tall)
    return [
        values[y : y + tall, x : x + wide].tobytes()
        for y in rows
        for x in range(left, values.shape[1] - wide + 1, wide)
    ]


@given(boxes=st.integers(2, 9), height=st.integers(9, 40), width=st.integers(9, 40), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_every_box_moves_and_is_there_once(boxes: int, height: int, width: int, seed: int) -> None:
    values = picture(height, width, seed=1)
    scrambled = np.asarray(box_scramble(values, seed=seed, boxes=boxes))
    tall, wide, top, left = height // boxes, width // boxes, height % boxes // 2, width % boxes // 2
    bottom, right = top + tall * boxes, left + wide * boxes
    before, after = (boxes_of(each[:bottom, :right], tall, wide, top, left) for each in (values, scrambled))
    assert len(before) == boxes**2
    assert sorted(before) == sorted(after)
    assert all(one != other for one, other in zip(before, after, strict=True))
    margin = np.ones((height, width), bool)
    margin[top:bottom, left:right] = False
    np.testing.assert_array_equal(scrambled[margin], values[margin])


def test_two_pictures_of_one_pixel_per_box() -> None:
    values = picture(4, 4)
    scrambled = np.asarray(box_scramble(values, boxes=4))
    assert (scrambled != values).any(axis=2).all()


# --- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scramble", SCRAMBLES)
def test_a_seed_settles_it(scramble) -> None:
    values = smooth()
    first, again, other = (np.asarray(scramble(values, seed=seed)) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


@pytest.mark.parametrize("scramble", SCRAMBLES)
def test_any_kind_of_picture_goes_in_and_is_left_alone(scramble, tmp_path: Path) -> None:
    values = smooth()
    kept = values.copy()
    path = tmp_path / "picture.png"
    Image.fromarray(values).save(path)
    made = [scramble(each, 3) for each in (values, path, str(path), path.read_bytes(), Image.open(path))]
    assert {(each.mode, each.size) for each in made} == {("RGB", (96, 96))}
    assert len({each.tobytes() for each in made}) == 1
    np.testing.assert_array_equal(values, kept)
    assert scramble(values[:40, :70]).size == (70, 40)


@pytest.mark.parametrize("scramble", SCRAMBLES)
@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, True])
def test_a_seed_is_a_whole_number(scramble, seed) -> None:
    with pytest.raises(InputError, match=r"`seed` must be a non-negative integer, got"):
        scramble(smooth(), seed=seed)


@pytest.mark.parametrize("scramble", SCRAMBLES)
def test_what_is_no_picture_is_refused(scramble, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image file"):
        scramble(tmp_path / "missing.png")
    with pytest.raises(InputError, match="is not an image"):
        scramble(np.zeros((5, 5, 2), np.uint8))


@pytest.mark.parametrize("boxes", [1, 0, 21, 2.5, "8", True])
def test_the_boxes_must_fit(boxes) -> None:
    message = r"`boxes` must be an integer of at least 2, got"
    if boxes == 21:
        message = r"`boxes` must be at most the 20 pixels of the shorter side of the image \(30 x 20\), got 21"
    with pytest.raises(InputError, match=message):
        box_scramble(picture(20, 30), boxes=boxes)
