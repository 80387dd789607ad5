"""Measures of how well conditions are matched: length and frequency of texts, luminance and contrast of images.

Units that distinguish two conditions may respond to any property in which the conditions differ. These are the
properties in which localizers match their conditions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from modalnet.stimuli.frequency import zipf_frequencies
from modalnet.stimuli.nonwords import WORD

if TYPE_CHECKING:
    from PIL.Image import Image


def text_statistics(texts: Sequence[str]) -> dict[str, float]:
    """Length and word frequency of texts; NaN where there is nothing to measure.

    Parameters
    ----------
    texts
        The texts of one condition.

    Returns
    -------
    dict
        ``mean_words``, ``sd_words`` (separated by whitespace) and ``mean_characters``, ``sd_characters`` per text;
        ``word_letters``, the mean number of letters per word; ``known_words``, the share of words among the roughly
        5,000 most common English words; ``mean_zipf``, the mean Zipf frequency (log10 of the occurrences per billion
        words) of those.
    """
    frequencies = zipf_frequencies()
    words = [word.lower().replace("’", "'") for text in texts for word in WORD.findall(text)]
    zipf = [frequencies[word] for word in words if word in frequencies]
    counts = [len(text.split()) for text in texts]
    lengths = [len(text) for text in texts]
    return {
        "mean_words": _mean(counts),
        "sd_words": _sd(counts),
        "mean_characters": _mean(lengths),
        "sd_characters": _sd(lengths),
        "word_letters": _mean([sum(map(str.isalpha, word)) for word in words]),
        "known_words": len(zipf) / len(words) if words else float("nan"),
        "mean_zipf": _mean(zipf),
    }


def image_statistics(images: Iterable[Image]) -> dict[str, float]:
    """Luminance and contrast of images, which are decoded one at a time.

    Parameters
    ----------
    images
        The RGB images of one condition.

    Returns
    -------
    dict
        ``mean_luminance``, ``sd_luminance`` over images of an image's mean luma (ITU-R 601, of the gamma-coded values,
        black 0 to white 1), and ``rms_contrast``, the mean over images of the standard deviation of luma over pixels
        (Peli, 1990).

    References
    ----------
    Peli (1990). Contrast in complex images. Journal of the Optical Society of America A 7, 2032-2040.
    """
    import numpy as np

    luminance, contrast = [], []
    for image in images:
        luma = np.asarray(image.convert("L"), dtype=np.float64) / 255
        luminance.append(float(luma.mean()))
        contrast.append(float(luma.std()))
    return {"mean_luminance": _mean(luminance), "sd_luminance": _sd(luminance), "rms_contrast": _mean(contrast)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _sd(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1); NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan")
    mean = _mean(values)
    return (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
