"""Scrambled images, which preserve image statistics and destroy content.

Phase scrambling preserves the contrast at every spatial frequency and orientation and destroys its location: edges,
parts and objects. Box scrambling preserves the content of each box, edges and colours included, and destroys the
arrangement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modalnet._validation import check_int, check_seed
from modalnet.errors import InputError
from modalnet.stimuli.images import load_image

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8
    from PIL.Image import Image

    from modalnet.stimuli.images import ImageLike

MINIMUM_BOXES = 2


def phase_scramble(image: ImageLike, seed: int = 0) -> Image:
    """Randomize the Fourier phases of an image and preserve its amplitude spectrum.

    The phases of one white-noise image are added to those of each colour channel. The same phases for all channels
    preserve the phase differences between channels, hence the combinations of colours; the phases of a *real* noise
    image are antisymmetric, so the result is real. The mean of each channel is unchanged.

    A scrambled image has a wider range of levels than the original, so a few values can fall outside 0..255. They are
    clipped, as is common: rescaling instead would change the mean and contrast of the whole image. The resulting error
    of the amplitude spectrum, relative to its norm without the mean, is 0.008 for the pictures of
    :func:`modalnet.stimuli.vision`, whose contrast leaves room, and for the photographs of fLoc, most of it rounding;
    0.06, with 3% of the values clipped, for strongly coloured drawings of full contrast (at worst 0.18 and 14%).
    Opposite edges of an image that do not match give the scrambled image horizontal and vertical streaks, as in every
    such spectrum.

    Parameters
    ----------
    image
        Any input of :func:`modalnet.stimuli.images.load_image`.
    seed
        Seed of the noise. Images of the same size and seed get the same added phases.

    Returns
    -------
    PIL.Image.Image
        RGB, of the same size. A grey image stays grey.

    Raises
    ------
    InputError
        The image cannot be used (see ``load_image``), or ``seed`` is not a non-negative integer.

    References
    ----------
    Dakin, Hess, Ledgeway & Achtman (2002). What causes non-monotonic tuning of fMRI response to noisy images? Current
    Biology 12, R476-R477.
    Sadr & Sinha (2004). Object recognition and Random Image Structure Evolution. Cognitive Science 28, 259-287.
    """
    rng = np.random.default_rng(check_seed(seed))
    values = np.asarray(load_image(image), dtype=np.float64)
    return to_picture(with_random_phases(values, rng))


def box_scramble(image: ImageLike, seed: int = 0, boxes: int = 8) -> Image:
    """Cut an image into a grid of boxes and permute them.

    No box stays in place. Boxes are equal and as large as possible; where a side is not a multiple of ``boxes``, up to
    ``boxes - 1`` pixels of it are left over and stay in place, half at each end. The result contains every pixel of the
    image once.

    Parameters
    ----------
    image
        Any input of :func:`modalnet.stimuli.images.load_image`.
    seed
        Seed of the permutation.
    boxes
        Boxes per side, at least 2.

    Returns
    -------
    PIL.Image.Image
        RGB, of the same size.

    Raises
    ------
    InputError
        The image cannot be used (see ``load_image``), ``seed`` is not a non-negative integer, or ``boxes`` is less than
        2 or more than the pixels of the shorter side.

    References
    ----------
    Grill-Spector, Kushnir, Hendler, Edelman, Itzchak & Malach (1998). A sequence of object-processing stages revealed
    by fMRI in the human occipital lobe. Human Brain Mapping 6, 316-328.
    Vogels (1999). Effect of image scrambling on inferior temporal cortical responses. NeuroReport 10, 1811-1816.
    """
    rng = np.random.default_rng(check_seed(seed))
    values = np.array(load_image(image))
    height, width = values.shape[:2]
    if check_int("boxes", boxes, minimum=MINIMUM_BOXES) > min(height, width):
        raise InputError(
            f"`boxes` must be at most the {min(height, width)} pixels of the shorter side of the image ({width} x "
            f"{height}), got {boxes}."
        )
    tall, wide = height // boxes, width // boxes
    top, left = height % boxes // 2, width % boxes // 2
    inner = values[top : top + boxes * tall, left : left + boxes * wide]
    inner[:] = with_boxes_moved(inner, (boxes, boxes), rng)
    return to_picture(values)


def with_random_phases(
    values: Float[np.ndarray, "height width channel"], rng: np.random.Generator
) -> Float[np.ndarray, "height width channel"]:
    """Add the phases of one noise image to every channel, without rounding or clipping."""
    height, width = values.shape[:2]
    turn = np.fft.rfft2(rng.standard_normal((height, width)))
    turn /= np.abs(turn)
    turn[0, 0] = 1
    return np.fft.irfft2(np.fft.rfft2(values, axes=(0, 1)) * turn[..., None], s=(height, width), axes=(0, 1))


def with_boxes_moved(
    values: UInt8[np.ndarray, "height width 3"], boxes: tuple[int, int], rng: np.random.Generator
) -> UInt8[np.ndarray, "height width 3"]:
    """Permute the boxes of a grid of rows and columns, whose numbers divide the sides; no box stays in place."""
    (height, width, _), (rows, columns) = values.shape, boxes
    tall, wide = height // rows, width // columns
    grid = values.reshape(rows, tall, columns, wide, 3).swapaxes(1, 2).reshape(-1, tall, wide, 3)
    moved = grid[_derangement(len(grid), rng)].reshape(rows, columns, tall, wide, 3).swapaxes(1, 2)
    return moved.reshape(values.shape)


def to_picture(values: Float[np.ndarray, "height width 3"] | UInt8[np.ndarray, "height width 3"]) -> Image:
    """Convert levels to an 8-bit RGB image: rounded, then clipped to 0..255."""
    from PIL import Image as pil

    return pil.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _derangement(n: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Draw a derangement: a permutation without fixed points, as about every third permutation is."""
    while True:
        order = rng.permutation(n)
        if not (order == np.arange(n)).any():
            return order
