"""Corruptions: a stimulus with what matters taken out or changed, and everything else left as it was.

Activation patching compares a clean stimulus with a corrupt one. The more alike the two are, the more exactly the
difference says what was lost, so swapping one thing for another of its kind is the first choice, and noise the last
(Zhang & Nanda 2024). Every function here takes one stimulus and gives a new one, of the same picture size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modalnet.errors import InputError
from modalnet.stimuli.images import load_image
from modalnet.stimuli.scramble import phase_scramble as scrambled
from modalnet.stimuli.stimulus import Stimulus

Box = tuple[float, float, float, float]


def swap_image(stimulus: Stimulus, other: Any) -> Stimulus:
    """The same text with another picture, scaled to the size of its own.

    Parameters
    ----------
    stimulus
        With one picture.
    other
        A stimulus with one picture, or a picture.
    """
    picture = _one_picture(other) if isinstance(other, Stimulus) else load_image(other)
    return replace(stimulus, image=picture.resize(_one_picture(stimulus).size))


def grey(stimulus: Stimulus, level: int | None = None) -> Stimulus:
    """Every picture becomes one grey: ``level`` 0..255, or its own mean luminance if None."""
    if level is not None and (isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= 255):
        raise InputError(f"level is a whole number from 0 to 255, or None; this is {level!r}.")

    def flat(values: np.ndarray, _: int) -> np.ndarray:
        # Rec. 601 luma, as Pillow's mode "L".
        own = (values.mean((0, 1)) @ np.array([0.299, 0.587, 0.114])) if level is None else level
        return np.full_like(values, round(float(own)))

    return _pictures(stimulus, flat)


def noise(stimulus: Stimulus, scale: float = 64.0, seed: int = 0) -> Stimulus:
    """Gaussian noise is added to every picture, with a standard deviation of ``scale`` levels of 256; then clipped."""
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not scale > 0 or not np.isfinite(scale):
        raise InputError(f"scale is a standard deviation above 0, in levels of 256; this is {scale!r}.")
    _check_seed(seed)

    def noisy(values: np.ndarray, number: int) -> np.ndarray:
        drawn = np.random.default_rng([seed, number]).normal(0, scale, values.shape)
        return np.clip(np.rint(values + drawn), 0, 255)

    return _pictures(stimulus, noisy)


def phase_scramble(stimulus: Stimulus, seed: int = 0) -> Stimulus:
    """Every picture is phase-scrambled: see :func:`modalnet.stimuli.phase_scramble`."""
    _with_pictures(stimulus)
    return _with(stimulus, [scrambled(picture, seed + number) for number, picture in enumerate(stimulus.images())])


def occlude(stimulus: Stimulus, box: Box, level: int | None = None) -> Stimulus:
    """A rectangle of every picture is covered.

    Parameters
    ----------
    stimulus
        With pictures.
    box
        Left, top, right and bottom as shares of width and height, from 0 to 1.
    level
        The grey that covers it; None for the mean colour of the rest of the picture.
    """
    try:
        left, top, right, bottom = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise InputError(f"box is (left, top, right, bottom) as shares from 0 to 1; this is {box!r}.") from error
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise InputError(f"box is (left, top, right, bottom) with 0 <= left < right <= 1, also down; this is {box!r}.")

    def covered(values: np.ndarray, _: int) -> np.ndarray:
        height, width = values.shape[:2]
        inside = np.zeros((height, width), dtype=bool)
        inside[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
        if not inside.any():
            raise InputError(f"box {box!r} covers no pixel of a picture of {width} x {height}.")
        made = values.copy()
        rest = values[~inside] if not inside.all() else values.reshape(-1, 3)
        made[inside] = np.rint(rest.mean(0)) if level is None else level
        return made

    return _pictures(stimulus, covered)


def resize(stimulus: Stimulus, size: tuple[int, int]) -> Stimulus:
    """Every picture scaled to ``size`` (width, height) in pixels, so that pairs share their places."""
    if not isinstance(size, tuple | list) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise InputError(f"size is (width, height) in pixels; this is {size!r}.")
    _with_pictures(stimulus)
    return _with(stimulus, [picture.resize((size[0], size[1])) for picture in stimulus.images()])


def swap_text(stimulus: Stimulus, old: str, new: str) -> Stimulus:
    """Every ``old`` in the text, as a whole word, becomes ``new``."""
    text = _text(stimulus)
    made, count = re.subn(rf"(?<!\w){re.escape(old)}(?!\w)", lambda _: new, text)
    if not count:
        raise InputError(f"the text of stimulus {stimulus.label} has no {old!r}.")
    return replace(stimulus, text=made)


def mask_text(stimulus: Stimulus, words: str | Sequence[str], mask: str = "_") -> Stimulus:
    """Words of the text become ``mask``, each of them."""
    made = stimulus
    for word in [words] if isinstance(words, str) else words:
        made = swap_text(made, word, mask)
    return made


def shuffle_text(stimulus: Stimulus, seed: int = 0) -> Stimulus:
    """The words of the text in a random order that is not theirs; white space stays where it is."""
    _check_seed(seed)
    pieces = re.split(r"(\s+)", _text(stimulus))
    places = [place for place, piece in enumerate(pieces) if piece and not piece.isspace()]
    words = [pieces[place] for place in places]
    if len(set(words)) < 2:
        raise InputError(f"the text of stimulus {stimulus.label} has no two different words to shuffle.")
    rng = np.random.default_rng(seed)
    drawn = words
    while drawn == words:
        drawn = [words[i] for i in rng.permutation(len(words))]
    for place, word in zip(places, drawn, strict=True):
        pieces[place] = word
    return replace(stimulus, text="".join(pieces))


def _pictures(stimulus: Stimulus, change: Callable[[np.ndarray, int], np.ndarray]) -> Stimulus:
    from PIL import Image

    _with_pictures(stimulus)
    made = [
        Image.fromarray(change(np.asarray(picture, dtype=np.float64), number).astype(np.uint8))
        for number, picture in enumerate(stimulus.images())
    ]
    return _with(stimulus, made)


def _with(stimulus: Stimulus, pictures: list[Any]) -> Stimulus:
    return replace(stimulus, image=pictures if isinstance(stimulus.image, tuple) else pictures[0])


def _with_pictures(stimulus: Stimulus) -> None:
    if not isinstance(stimulus, Stimulus) or not stimulus.n_images:
        label = stimulus.label if isinstance(stimulus, Stimulus) else f"a {type(stimulus).__name__}"
        raise InputError(f"a stimulus with a picture is expected; {label} has none.")


def _one_picture(stimulus: Stimulus) -> Any:
    _with_pictures(stimulus)
    if stimulus.n_images != 1:
        raise InputError(f"stimulus {stimulus.label} has {stimulus.n_images} pictures; one is expected.")
    return stimulus.images()[0]


def _text(stimulus: Stimulus) -> str:
    if not isinstance(stimulus, Stimulus) or stimulus.text is None:
        label = stimulus.label if isinstance(stimulus, Stimulus) else f"a {type(stimulus).__name__}"
        raise InputError(f"a stimulus with a text is expected; {label} has none.")
    return stimulus.text


def _check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed is a whole number from 0; this is {seed!r}.")
