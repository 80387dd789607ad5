"""The drawn pictures of the bundled sets, matched in luminance and contrast.

Picture *j* of a kind does not depend on the number of pictures. Pictures with the same number have the same background
and the same main colour in every kind, so any number of pictures is balanced in colours and backgrounds across kinds,
as far as the common luminance and contrast preserve them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modalnet._validation import check_int
from modalnet.stimuli.rendering import CATEGORIES, COLOURS, OBJECTS, SHAPES, Picture, draw_picture, draw_scene
from modalnet.stimuli.scenes import MOST_SHAPES, scene
from modalnet.stimuli.scramble import to_picture

if TYPE_CHECKING:
    from PIL.Image import Image

COLOUR_NAMES = tuple(COLOURS)
KINDS = (*CATEGORIES, "scene")
# Common words that name no colour, no shape and none of the drawn objects.
_WORD_LIST = (
    "garden river bridge hill field market street park shop beach barn village town city museum island desert morning "
    "night winter spring summer autumn week doctor nurse teacher farmer baker cousin friend guest pilot worker guard "
    "captain horse fox wolf lion monkey goat frog duck rabbit spider bear turtle cow book letter key cake coat basket "
    "violin piano clock candle table window apple banana potato carrot egg cheese water milk bread money rain sugar"
)
WORDS = tuple(_WORD_LIST.split())

# Mean luminance, and root mean square contrast over the three channels, in levels (0..255). A printed word reaches this
# contrast without clipping, and it leaves room for phase scrambling.
LUMINANCE = 128.0
CONTRAST = 24.0
# Weights of red, green and blue in luminance (ITU-R BT.601, as in Pillow's mode L).
LUMA = np.array([0.299, 0.587, 0.114])

MINIMUM_SIZE, MAXIMUM_SIZE = 32, 2048
MINIMUM_N = 2


def draw(kind: str, number: int, size: int, series: int) -> Image:
    """Draw a picture of a kind, at the common luminance and contrast.

    Parameters
    ----------
    kind
        One of ``KINDS``.
    number
        Index of the picture, from 0. The main colour cycles with it; each full cycle changes the mood or object.
    size
        Pixels per side.
    series
        Each series has other pictures.
    """
    seed = (series, number)
    if kind == "scene":
        rng = np.random.default_rng((*seed, KINDS.index(kind)))
        kinds = [str(shape) for shape in rng.choice(SHAPES, size=number % MOST_SHAPES + 1)]
        return match_luminance(draw_scene(scene(rng, kinds, number), size, seed))
    cycle, colour = divmod(number, len(COLOUR_NAMES))
    name = {"object": OBJECTS[(number + cycle) % len(OBJECTS)], "word": WORDS[number % len(WORDS)]}.get(kind, kind)
    mood = ("happy", "sad")[cycle % 2] if kind == "face" else None
    variant = int(np.random.default_rng((*seed, KINDS.index(kind))).integers(2**31))
    return match_luminance(draw_picture(Picture(kind, name, COLOUR_NAMES[colour], mood, variant), size, seed))


def match_luminance(image: Image, level: float = CONTRAST) -> Image:
    """Match an image to the common mean luminance and contrast, with one gain and offset for all pixels and channels.

    Parameters
    ----------
    image
        The image.
    level
        Root mean square contrast over the channels, in levels (0..255).

    References
    ----------
    Willenbockel, Sadr, Fiset, Horne, Gosselin & Tanaka (2010). Controlling low-level image properties: the SHINE
    toolbox. Behavior Research Methods 42, 671-684.
    """
    values = np.asarray(image, dtype=np.float64)
    mean = values.mean((0, 1))
    contrast = np.sqrt(values.var((0, 1)).mean())
    return to_picture((values - mean) * (level / contrast) + mean - mean @ LUMA + LUMINANCE)


def check_count(n: object) -> None:
    """Validate a number of stimuli per condition."""
    check_int("n", n, minimum=MINIMUM_N)


def check_size(size: object) -> None:
    """Validate the size of pictures, in pixels per side."""
    check_int("size", size, minimum=MINIMUM_SIZE, maximum=MAXIMUM_SIZE)
