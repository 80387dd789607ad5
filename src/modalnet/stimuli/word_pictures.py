"""Grey pictures of printed words, scrambled words, faces and line drawings: the contrast of the visual word form area.

Reading is localized by words against other pictures. Where conditions differ in the size of their pictures, models that
cut a picture into patches of a fixed size give them different numbers of tokens; here all pictures have one size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from modalnet._validation import check_bool, check_int, check_options, check_seed
from modalnet.errors import InputError
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.drawing import Drawing, random_frame
from modalnet.stimuli.drawn_things import OBJECT_DRAWINGS
from modalnet.stimuli.picture_sets import COLOUR_NAMES, LUMA, MINIMUM_N, check_size, match_luminance
from modalnet.stimuli.printed_words import LOCALIZER_WORDS
from modalnet.stimuli.rendering import OBJECTS, Picture, draw_picture, word_box
from modalnet.stimuli.scramble import to_picture, with_boxes_moved
from modalnet.stimuli.stimulus import Stimulus

if TYPE_CHECKING:
    from jaxtyping import Bool
    from PIL.Image import Image

Control: TypeAlias = Literal["scrambled_words", "faces", "line_drawings"]

SINGULAR = {
    "words": "word",
    "scrambled_words": "scrambled-word",
    "faces": "face",
    "line_drawings": "line-drawing",
}
# Root mean square contrast, in levels. The thinnest words and drawings reach it without clipping.
LEVEL = 16.0
INKS = ("black", "white")
# Boxes of a scrambled word over its height: parts of letters remain, and no letter.
ROWS = 4
LINE_WIDTH = 0.012
_SERIES = 4


def word_pictures(
    n: int = 96,
    *,
    size: int = 224,
    negative: Control | Sequence[Control] = ("scrambled_words", "faces", "line_drawings"),
    items: bool = False,
    seed: int = 0,
) -> Contrast:
    """Printed words > scrambled words, faces and line drawings: units of reading.

    All pictures are grey, have one size, and are matched to one mean luminance (128 of 255) and one contrast (16 of
    255). The positive side and each of the others:

    ===================  ============================================================================================
    ``words``            a common English noun in black or white letters of varying size and place
    ``scrambled_words``  the same picture with the boxes of a grid over the word in other places: the same pixels in
                         the same part of the picture
    ``faces``            drawn faces
    ``line_drawings``    drawn objects as outlines, in black or white
    ===================  ============================================================================================

    The conditions are those of the localizer of the visual word form area in Saygin et al. (2016). In a published set
    for models the sizes of the pictures differ between conditions, and with them the number of image tokens; here they
    are equal. The scrambled words are matched most closely; faces and drawings fill more of a picture than words.

    Parameters
    ----------
    n
        Pictures per condition, 2 to 114, each of another word. Picture *i* does not depend on ``n``.
    size
        Pixels per side of the square pictures, 32 to 2048; choose the input size of the model.
    negative
        The condition, or list of conditions, to compare with.
    items
        True makes a word and its scrambled version one item, so that :func:`modalnet.localize` tests them as pairs;
        only with ``negative="scrambled_words"``. By default the test is Welch's.
    seed
        Seed of the order of the words and of what varies in the pictures.

    Returns
    -------
    Contrast
        Image-only stimuli; id ``"scrambled-word-007"`` is made from ``"word-007"``.

    Raises
    ------
    InputError
        ``negative`` names an unknown condition, ``n`` or ``size`` is out of range, ``seed`` is not a non-negative
        integer, or ``items`` is True with other conditions than the scrambled words.

    References
    ----------
    Saygin, Osher, Norton, Youssoufian, Beach, Feather, Gaab, Gabrieli & Kanwisher (2016). Connectivity precedes
    function in the development of the visual word form area. Nature Neuroscience 19, 1250-1255.
    Cohen, Dehaene, Naccache, Lehéricy, Dehaene-Lambertz, Hénaff & Michel (2000). The visual word form area. Brain 123,
    291-307.
    """
    check_int("n", n, minimum=MINIMUM_N, maximum=len(LOCALIZER_WORDS))
    check_size(size)
    check_seed(seed)
    known = tuple(name for name in SINGULAR if name != "words")
    chosen = check_options("negative", negative, known)
    controls = [name for name in known if name in chosen]
    if check_bool("items", items) and controls != ["scrambled_words"]:
        raise InputError(f"`items=True` needs negative='scrambled_words': other pictures have no word, got {controls}.")
    order = np.random.default_rng([_SERIES, seed]).permutation(len(LOCALIZER_WORDS))
    words = [LOCALIZER_WORDS[place] for place in order[:n]]
    stimuli = []
    for condition in ("words", *controls):
        for number, word in enumerate(words):
            name = f"{number + 1:03d}"
            image = _PICTURES[condition](word, number, size, seed)
            item = name if items else None
            stimuli.append(Stimulus(image=image, condition=condition, id=f"{SINGULAR[condition]}-{name}", item=item))
    return Contrast(stimuli, "words", controls)


def draw_word(word: str, number: int, size: int, seed: Sequence[int]) -> tuple[Image, tuple[int, int, int, int]]:
    """Draw a grey picture of a printed word, and give the box that the word takes up, in pixels.

    Parameters
    ----------
    word
        The word.
    number
        Number of the picture: ink alternates with it.
    size
        Pixels per side.
    seed
        Seed of size, place and ground.
    """
    variant = int(np.random.default_rng([*seed, number]).integers(2**31))
    picture = Picture("word", word, INKS[number % len(INKS)], variant=variant)
    return _grey(draw_picture(picture, size, [*seed, number])), word_box(picture, size)


def _word(word: str, number: int, size: int, seed: int) -> Image:
    return draw_word(word, number, size, (_SERIES, seed))[0]


def _scrambled_word(word: str, number: int, size: int, seed: int) -> Image:
    image, (left, top, right, bottom) = draw_word(word, number, size, (_SERIES, seed))
    values = np.array(image)
    # Nearly square boxes that cover the word.
    side = max(1, round((bottom - top) / ROWS))
    rows, columns = (min(-(-length // side), size // side) for length in (bottom - top, right - left))
    tall, wide = rows * side, columns * side
    left, top = min(left, size - wide), min(top, size - tall)
    inside = values[top : top + tall, left : left + wide]
    inside[:] = with_boxes_moved(inside, (rows, columns), np.random.default_rng([_SERIES, seed, number, 1]))
    return to_picture(values)


def _face(word: str, number: int, size: int, seed: int) -> Image:
    cycle, colour = divmod(number, len(COLOUR_NAMES))
    variant = int(np.random.default_rng([_SERIES, seed, number, 2]).integers(2**31))
    picture = Picture("face", "face", COLOUR_NAMES[colour], ("happy", "sad")[cycle % 2], variant)
    return _grey(draw_picture(picture, size, [_SERIES, seed, number]))


def _line_drawing(word: str, number: int, size: int, seed: int) -> Image:
    """The outlines of an object and its parts."""
    from PIL import Image as pil, ImageFilter

    rng = np.random.default_rng([_SERIES, seed, number, 3])
    cycle, place = divmod(number, len(OBJECTS))
    name = OBJECTS[(place + cycle) % len(OBJECTS)]
    object_ = Picture("object", name, COLOUR_NAMES[number % len(COLOUR_NAMES)])
    filled = Drawing(size, rng)
    OBJECT_DRAWINGS[name](filled, object_, rng, random_frame(rng))
    edges = pil.fromarray(_edges(filled.image).astype(np.uint8) * 255)
    thickness = 2 * round(LINE_WIDTH * filled.side / 2) + 1
    lines = edges.filter(ImageFilter.MaxFilter(thickness))
    # The ground is that of the word and the face with the same number.
    drawing = Drawing(size, np.random.default_rng([_SERIES, seed, number]))
    drawing.image.paste(drawing.colour(INKS[number % len(INKS)]), mask=lines)
    return _grey(drawing.finish())


def _edges(image: Image) -> Bool[np.ndarray, "height width"]:
    """Pixels whose colour differs from that of the next one to the right or below."""
    values = np.asarray(image).astype(np.int16)
    edges = np.zeros(values.shape[:2], dtype=bool)
    edges[:, :-1] |= (values[:, 1:] != values[:, :-1]).any(-1)
    edges[:-1] |= (values[1:] != values[:-1]).any(-1)
    return edges


def _grey(image: Image) -> Image:
    """A picture's luminance in all channels, at the common mean and contrast."""
    luminance = np.asarray(image, dtype=np.float64) @ LUMA
    return match_luminance(to_picture(np.repeat(luminance[..., None], 3, axis=-1)), LEVEL)


_PICTURES: dict[str, Callable[[str, int, int, int], Image]] = {
    "words": _word,
    "scrambled_words": _scrambled_word,
    "faces": _face,
    "line_drawings": _line_drawing,
}
