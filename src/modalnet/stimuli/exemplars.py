"""The drawn pictures of the bundled sets: which ones there are, numbered, and brought to one luminance and contrast.

Picture *j* of a kind is the same whatever the number of pictures asked for. Across kinds, the pictures of one number
are drawn on the same ground with the same main colour, so any number of pictures has the same colours and grounds in
every kind, as far as the common luminance and contrast then leave them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modalnet.errors import InputError
from modalnet.stimuli.rendering import CATEGORIES, COLOURS, OBJECTS, SHAPES, Picture, draw_picture, draw_scene
from modalnet.stimuli.scenes import MOST_SHAPES, scene
from modalnet.stimuli.scramble import to_picture

if TYPE_CHECKING:
    from PIL.Image import Image

COLOUR_NAMES = tuple(COLOURS)
KINDS = (*CATEGORIES, "scene")
# Common words that name no colour, shape, or thing that is also drawn.
_LISTED = (
    "garden river bridge hill field market street park shop beach barn village town city museum island desert morning "
    "night winter spring summer autumn week doctor nurse teacher farmer baker cousin friend guest pilot worker guard "
    "captain horse fox wolf lion monkey goat frog duck rabbit spider bear turtle cow book letter key cake coat basket "
    "violin piano clock candle table window apple banana potato carrot egg cheese water milk bread money rain sugar"
)
WORDS = tuple(_LISTED.split())

# Mean luminance, and root mean square contrast over the three channels, in levels of 0..255. The contrast is one that
# a printed word reaches without clipping and that leaves room for phase scrambling.
LUMINANCE = 128.0
CONTRAST = 24.0
# Weights of red, green and blue in luminance (ITU-R BT.601, as Pillow's mode L has them).
LUMA = np.array([0.299, 0.587, 0.114])

SMALLEST, LARGEST = 32, 2048
FEWEST = 2


def draw(kind: str, number: int, size: int, series: int) -> Image:
    """Picture ``number`` of a kind, at the luminance and contrast of all.

    Parameters
    ----------
    kind
        One of ``KINDS``.
    number
        From 0. The main colour goes round with it, every eighth time with the next mood or object.
    size
        Pixels per side.
    series
        Another series has other pictures.
    """
    seed = (series, number)
    if kind == "scene":
        rng = np.random.default_rng((*seed, KINDS.index(kind)))
        kinds = [str(shape) for shape in rng.choice(SHAPES, size=number % MOST_SHAPES + 1)]
        return evened(draw_scene(scene(rng, kinds, number), size, seed))
    turn, colour = divmod(number, len(COLOUR_NAMES))
    name = {"object": OBJECTS[(number + turn) % len(OBJECTS)], "word": WORDS[number % len(WORDS)]}.get(kind, kind)
    mood = ("happy", "sad")[turn % 2] if kind == "face" else None
    variant = int(np.random.default_rng((*seed, KINDS.index(kind))).integers(2**31))
    return evened(draw_picture(Picture(kind, name, COLOUR_NAMES[colour], mood, variant), size, seed))


def evened(image: Image) -> Image:
    """The picture at the common mean luminance and contrast: one gain and one shift for all pixels and channels.

    References
    ----------
    Willenbockel, Sadr, Fiset, Horne, Gosselin & Tanaka (2010). Controlling low-level image properties: the SHINE
    toolbox. Behavior Research Methods 42, 671-684.
    """
    values = np.asarray(image, dtype=np.float64)
    mean = values.mean((0, 1))
    contrast = np.sqrt(values.var((0, 1)).mean())
    return to_picture((values - mean) * (CONTRAST / contrast) + mean - mean @ LUMA + LUMINANCE)


def check_count(n: object) -> None:
    """Refuse a number of stimuli per condition that makes no contrast."""
    if not isinstance(n, int) or isinstance(n, bool) or n < FEWEST:
        raise InputError(f"n is the number of stimuli per condition, a whole number from {FEWEST}; this is {n!r}.")


def check_size(size: object) -> None:
    """Refuse a size in which nothing can be drawn, or that is no number of pixels."""
    if not isinstance(size, int) or isinstance(size, bool) or not SMALLEST <= size <= LARGEST:
        raise InputError(
            f"size is the side of the square pictures in pixels, {SMALLEST} to {LARGEST}: best what the model reads; "
            f"this is {size!r}."
        )
