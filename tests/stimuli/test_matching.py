"""The statistics of ``Contrast.describe()``, against NumPy and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from modalnet.errors import InputError
from modalnet.stimuli import Contrast, Stimulus
from modalnet.stimuli.frequency import zipf_frequencies
from modalnet.stimuli.matching import image_statistics, text_statistics


def test_text_statistics_by_hand() -> None:
    frequencies = zipf_frequencies()
    found = text_statistics(["The dog’s blug.", "Don’t, 42 of"])
    assert found == {
        "mean_words": 3.0,
        "sd_words": 0.0,
        "mean_characters": (15 + 12) / 2,
        "sd_characters": pytest.approx(np.std([15, 12], ddof=1)),
        "word_letters": (3 + 4 + 4 + 4 + 2) / 5,
        "known_words": 4 / 5,
        "mean_zipf": pytest.approx(np.mean([frequencies[word] for word in ("the", "dog's", "don't", "of")])),
    }


def test_what_was_not_there_is_nan() -> None:
    assert all(np.isnan(value) for value in text_statistics([]).values())
    numbers = text_statistics(["1 + 1"])
    assert numbers["mean_words"] == 3
    assert all(np.isnan(numbers[name]) for name in ("sd_words", "word_letters", "known_words", "mean_zipf"))
    assert np.isnan(text_statistics(["blug"])["mean_zipf"])
    assert text_statistics(["blug"])["known_words"] == 0


@given(st.lists(st.text("abc d", min_size=1), min_size=2))
def test_lengths_are_those_of_numpy(texts: list[str]) -> None:
    found = text_statistics(texts)
    for measure, values in (("words", [len(t.split()) for t in texts]), ("characters", [len(t) for t in texts])):
        assert found[f"mean_{measure}"] == pytest.approx(np.mean(values))
        assert found[f"sd_{measure}"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)


def test_image_statistics_by_hand() -> None:
    half = np.zeros((4, 4, 3), np.uint8)
    half[:2] = 255
    images = [Image.fromarray(half), Image.new("RGB", (2, 2), (255, 0, 0)), Image.new("RGB", (3, 3), "white")]
    found = image_statistics(images)
    luminance = [0.5, 76 / 255, 1.0]  # Pillow's luma of pure red is 0.299 * 255, rounded
    assert found["mean_luminance"] == pytest.approx(np.mean(luminance))
    assert found["sd_luminance"] == pytest.approx(np.std(luminance, ddof=1))
    assert found["rms_contrast"] == pytest.approx(0.5 / 3)


def test_images_are_measured_where_there_are_any(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pictures = [np.full((2, 2), shade) for shade in (0.0, 0.2, 0.6, 1.0)]
    text = [Stimulus(word, condition="t") for word in ("one", "two")]
    image = [Stimulus(image=[pictures[i], pictures[i + 1]], condition="i") for i in (0, 2)]
    table = Contrast([*text, *image], "t").describe().set_index("condition")
    assert table.loc["i", "mean_luminance"] == pytest.approx(np.mean([0, 0.2, 0.6, 1]))
    assert table.loc["i", "n_images"] == 4
    assert np.isnan(table.loc["t", "mean_luminance"])
    assert np.isnan(table.loc["i", "mean_words"])
    only_text = Contrast([*text, *(Stimulus(word, condition="u") for word in "ab")], "t").describe()
    assert "mean_luminance" not in only_text
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = [*text, *(Stimulus(image=tmp_path / "broken.png", condition="i") for _ in "ab")]
    assert "mean_luminance" not in Contrast(broken, "t").describe(images=False)
    with pytest.raises(InputError, match="not an image"):
        Contrast(broken, "t").describe()
