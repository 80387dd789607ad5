"""How well conditions are matched, in numbers: length and frequency of texts, luminance and contrast of images.

Units that differ between two conditions may follow whatever else differs between them. These are the properties
that localizers match their conditions in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from modalnet.stimuli.frequency import zipf_frequencies
from modalnet.stimuli.nonwords import WORD

if TYPE_CHECKING:
    from PIL.Image import Image


def text_statistics(texts: Sequence[str]) -> dict[str, float]:
    """Length and frequency of texts; every value is NaN where nothing was there to measure.

    Parameters
    ----------
    texts
        Those of one condition.

    Returns
    -------
    dict
        ``mean_words``, ``sd_words`` (split at spaces) and ``mean_characters``, ``sd_characters`` per text;
        ``word_letters``, the mean letters per word; ``known_words``, the share of words among the some 5,000 most
        common ones of English; ``mean_zipf``, the mean Zipf frequency (log10 of the occurrences in a thousand
        million words) of those.
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
    """Luminance and contrast of images, one decoded at a time.

    Parameters
    ----------
    images
        Those of one condition, in RGB.

    Returns
    -------
    dict
        ``mean_luminance``, ``sd_luminance`` over images of an image's mean luma (ITU-R 601, of the gamma-coded
        values, black 0 to white 1), and ``rms_contrast``, the mean over images of the standard deviation of the luma
        over an image's pixels (Peli, 1990).
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
    """The standard deviation of a sample (n - 1); NaN for less than two values."""
    if len(values) < 2:
        return float("nan")
    mean = _mean(values)
    return (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
