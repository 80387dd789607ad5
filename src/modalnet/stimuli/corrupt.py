"""Corruptions: a stimulus in which the relevant content is removed or replaced, and all else is preserved.

Activation patching compares a clean stimulus with a corrupted one. The more alike the two are, the more precisely the
difference shows what was lost: replacing one thing by another of its kind is preferable to noise (Zhang & Nanda
2024). Each function takes a stimulus and returns a new one with images of the same size.

References
----------
Zhang & Nanda (2024). Towards best practices of activation patching in language models: metrics and methods. ICLR.
arXiv 2309.16042.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Float

from modalnet._validation import check_int, check_number, check_seed
from modalnet.errors import InputError
from modalnet.stimuli.images import load_image
from modalnet.stimuli.scramble import phase_scramble as scrambled
from modalnet.stimuli.stimulus import Stimulus

if TYPE_CHECKING:
    from PIL.Image import Image

    from modalnet.stimuli.images import ImageLike

Box: TypeAlias = tuple[float, float, float, float]
Levels: TypeAlias = Float[np.ndarray, "height width 3"]


def swap_image(stimulus: Stimulus, other: Stimulus | ImageLike) -> Stimulus:
    """Replace the image by another, resized to the same size; the text is unchanged.

    Parameters
    ----------
    stimulus
        A stimulus with one image.
    other
        Another stimulus with one image, or an image.

    Raises
    ------
    InputError
        A stimulus does not have exactly one image, or the image cannot be used.
    """
    picture = _only_image(other) if isinstance(other, Stimulus) else load_image(other)
    return replace(stimulus, image=picture.resize(_only_image(stimulus).size))


def grey(stimulus: Stimulus, level: int | None = None) -> Stimulus:
    """Replace every image by a uniform grey.

    Parameters
    ----------
    stimulus
        A stimulus with images.
    level
        Grey level, 0 to 255; None uses the mean luminance of each image (Rec. 601).

    Raises
    ------
    InputError
        The stimulus has no image, or `level` is out of range.
    """
    _check_level(level)

    def flat(values: Levels, _: int) -> Levels:
        # Rec. 601 luma, as Pillow's mode "L".
        grey_level = (values.mean((0, 1)) @ np.array([0.299, 0.587, 0.114])) if level is None else level
        return np.full_like(values, round(float(grey_level)))

    return _map_images(stimulus, flat)


def noise(stimulus: Stimulus, scale: float = 64.0, seed: int = 0) -> Stimulus:
    """Add Gaussian noise to every image, and clip the result to 0..255.

    Parameters
    ----------
    stimulus
        A stimulus with images.
    scale
        Standard deviation in levels (of 256).
    seed
        Seed of the noise.

    Raises
    ------
    InputError
        The stimulus has no image, `scale` is not a positive number, or `seed` is not a non-negative integer.
    """
    check_number("scale", scale, above=0)
    check_seed(seed)

    def noisy(values: Levels, number: int) -> Levels:
        drawn = np.random.default_rng([seed, number]).normal(0, scale, values.shape)
        return np.clip(np.rint(values + drawn), 0, 255)

    return _map_images(stimulus, noisy)


def phase_scramble(stimulus: Stimulus, seed: int = 0) -> Stimulus:
    """Phase-scramble every image: see :func:`modalnet.stimuli.phase_scramble`."""
    _check_images(stimulus)
    return _replace_images(
        stimulus, [scrambled(picture, seed + number) for number, picture in enumerate(stimulus.images())]
    )


def occlude(stimulus: Stimulus, box: Box, level: int | None = None) -> Stimulus:
    """Cover a rectangle of every image.

    Parameters
    ----------
    stimulus
        A stimulus with images.
    box
        Left, top, right and bottom edge as fractions of width and height, from 0 to 1.
    level
        Grey level of the rectangle, 0 to 255; None uses the mean colour of the rest of the image.

    Raises
    ------
    InputError
        The stimulus has no image, or `box` is not such a rectangle or contains no pixel.
    """
    try:
        left, top, right, bottom = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise InputError(f"`box` must be (left, top, right, bottom) as fractions from 0 to 1, got {box!r}.") from error
    _check_level(level)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise InputError(
            f"`box` must be (left, top, right, bottom) with 0 <= left < right <= 1 and 0 <= top < bottom <= 1, "
            f"got {box!r}."
        )

    def covered(values: Levels, _: int) -> Levels:
        height, width = values.shape[:2]
        inside = np.zeros((height, width), dtype=bool)
        inside[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
        if not inside.any():
            raise InputError(f"`box` {box!r} contains no pixel of an image of {width} x {height}.")
        made = values.copy()
        rest = values[~inside] if not inside.all() else values.reshape(-1, 3)
        made[inside] = np.rint(rest.mean(0)) if level is None else level
        return made

    return _map_images(stimulus, covered)


def resize(stimulus: Stimulus, size: tuple[int, int]) -> Stimulus:
    """Resize every image, so that the images of a pair have the same number of tokens.

    Parameters
    ----------
    stimulus
        A stimulus with images.
    size
        (width, height) in pixels.

    Raises
    ------
    InputError
        The stimulus has no image, or `size` is not two positive integers.
    """
    if not isinstance(size, tuple | list) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise InputError(f"`size` must be (width, height) in pixels, got {size!r}.")
    _check_images(stimulus)
    return _replace_images(stimulus, [picture.resize((size[0], size[1])) for picture in stimulus.images()])


def swap_text(stimulus: Stimulus, old: str, new: str) -> Stimulus:
    """Replace every occurrence of ``old`` in the text, as a whole word, by ``new``.

    Raises
    ------
    InputError
        The stimulus has no text, or `old` does not occur in it.
    """
    text = _text(stimulus)
    made, count = re.subn(rf"(?<!\w){re.escape(old)}(?!\w)", lambda _: new, text)
    if not count:
        raise InputError(f"The text of stimulus {stimulus.label} does not contain {old!r}.")
    return replace(stimulus, text=made)


def mask_text(stimulus: Stimulus, words: str | Sequence[str], mask: str = "_") -> Stimulus:
    """Replace words of the text, every occurrence of each, by ``mask``; raises as :func:`swap_text`."""
    made = stimulus
    for word in [words] if isinstance(words, str) else words:
        made = swap_text(made, word, mask)
    return made


def shuffle_text(stimulus: Stimulus, seed: int = 0) -> Stimulus:
    """Shuffle the words of the text into another order; whitespace stays in place.

    Raises
    ------
    InputError
        The stimulus has no text or fewer than two different words, or `seed` is not a non-negative integer.
    """
    check_seed(seed)
    pieces = re.split(r"(\s+)", _text(stimulus))
    positions = [index for index, piece in enumerate(pieces) if piece and not piece.isspace()]
    words = [pieces[index] for index in positions]
    if len(set(words)) < 2:
        raise InputError(f"The text of stimulus {stimulus.label} has fewer than two different words to shuffle.")
    rng = np.random.default_rng(seed)
    shuffled = words
    while shuffled == words:
        shuffled = [words[i] for i in rng.permutation(len(words))]
    for index, word in zip(positions, shuffled, strict=True):
        pieces[index] = word
    return replace(stimulus, text="".join(pieces))


def _map_images(stimulus: Stimulus, change: Callable[[Levels, int], Levels]) -> Stimulus:
    from PIL import Image as pil

    _check_images(stimulus)
    made = [
        pil.fromarray(change(np.asarray(picture, dtype=np.float64), number).astype(np.uint8))
        for number, picture in enumerate(stimulus.images())
    ]
    return _replace_images(stimulus, made)


def _replace_images(stimulus: Stimulus, pictures: list[Image]) -> Stimulus:
    return replace(stimulus, image=pictures if isinstance(stimulus.image, tuple) else pictures[0])


def _check_images(stimulus: Stimulus) -> None:
    if not isinstance(stimulus, Stimulus) or not stimulus.n_images:
        label = stimulus.label if isinstance(stimulus, Stimulus) else f"a {type(stimulus).__name__}"
        raise InputError(f"`stimulus` must have an image; {label} has none.")


def _only_image(stimulus: Stimulus) -> Image:
    _check_images(stimulus)
    if stimulus.n_images != 1:
        raise InputError(f"`stimulus` must have one image; {stimulus.label} has {stimulus.n_images}.")
    return stimulus.images()[0]


def _text(stimulus: Stimulus) -> str:
    if not isinstance(stimulus, Stimulus) or stimulus.text is None:
        label = stimulus.label if isinstance(stimulus, Stimulus) else f"a {type(stimulus).__name__}"
        raise InputError(f"`stimulus` must have text; {label} has none.")
    return stimulus.text


def _check_level(level: int | None) -> None:
    if level is not None:
        check_int("level", level, minimum=0, maximum=255)
