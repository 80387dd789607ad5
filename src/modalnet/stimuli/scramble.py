"""Scrambled pictures: what a picture is made of stays, what it shows goes.

Two ways, for two questions. Phase scrambling keeps how much contrast there is at every spatial frequency and
orientation, and destroys where it is: edges, parts and things. Box scrambling keeps the parts within each box, edges
and colours included, and destroys their arrangement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modalnet.errors import InputError
from modalnet.stimuli.images import load_image

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from PIL.Image import Image

    from modalnet.stimuli.images import ImageLike

FEWEST_BOXES = 2


def phase_scramble(image: ImageLike, seed: int = 0) -> Image:
    """The picture with its Fourier phases randomized and its amplitude spectrum kept.

    The phases of one white-noise picture are added to those of each colour channel. One field for all channels keeps
    the phase differences between them, hence the colours that go together; the phases of a *real* noise picture are
    antisymmetric, hence the result is real. The mean of a channel is not touched.

    A scrambled picture takes more levels than its original, so a few values can fall outside 0..255. They are clipped,
    as is common: rescaling instead would change mean and contrast of the whole picture. How far the amplitude spectra
    then differ, as a fraction of the norm without the mean: 0.008 for the pictures of :func:`modalnet.stimuli.vision`,
    whose contrast leaves room, and for the photographs of fLoc, most of it rounding; 0.06, with 3% of the values
    clipped, for strongly coloured drawings of full contrast (0.18 and 14% at the worst). Opposite edges of a picture
    that do not match give the scrambled one horizontal and vertical streaks, as in every such spectrum.

    Parameters
    ----------
    image
        Anything that :func:`modalnet.stimuli.images.load_image` reads.
    seed
        Settles the noise. Pictures of one size and seed get the same phases added.

    Returns
    -------
    PIL.Image.Image
        RGB, of the same size. A grey picture stays grey.

    Raises
    ------
    InputError
        No image, as ``load_image`` says, or a seed that is no whole number from 0.

    References
    ----------
    Dakin, Hess, Ledgeway & Achtman (2002). What causes non-monotonic tuning of fMRI response to noisy images? Current
    Biology 12, R476-R477. Sadr & Sinha (2004). Object recognition and Random Image Structure Evolution. Cognitive
    Science 28, 259-287.
    """
    rng = _generator(seed)
    values = np.asarray(load_image(image), dtype=np.float64)
    return to_picture(with_random_phases(values, rng))


def box_scramble(image: ImageLike, seed: int = 0, boxes: int = 8) -> Image:
    """The picture cut into a grid of boxes that change places.

    No box stays in its place. Boxes are equal and as large as fits, so where a side is not a multiple of ``boxes``,
    up to ``boxes - 1`` pixels of it are left over; they stay where they are, half at each end. Every pixel of the
    picture is in the result once.

    Parameters
    ----------
    image
        Anything that :func:`modalnet.stimuli.images.load_image` reads.
    seed
        Settles the places.
    boxes
        Boxes per side, at least 2.

    Returns
    -------
    PIL.Image.Image
        RGB, of the same size.

    Raises
    ------
    InputError
        No image, as ``load_image`` says; a seed that is no whole number from 0; fewer boxes than 2, or more than the
        shorter side has pixels.

    References
    ----------
    Grill-Spector, Kushnir, Hendler, Edelman, Itzchak & Malach (1998). A sequence of object-processing stages revealed
    by fMRI in the human occipital lobe. Human Brain Mapping 6, 316-328. Vogels (1999). Effect of image scrambling on
    inferior temporal cortical responses. NeuroReport 10, 1811-1816.
    """
    rng = _generator(seed)
    values = np.array(load_image(image))
    height, width = values.shape[:2]
    if not _is_whole(boxes) or not FEWEST_BOXES <= boxes <= min(height, width):
        raise InputError(
            f"boxes is the number of boxes per side, {FEWEST_BOXES} to the {min(height, width)} pixels of the shorter "
            f"side of this picture ({width} x {height}); this is {boxes!r}."
        )
    tall, wide = height // boxes, width // boxes
    top, left = height % boxes // 2, width % boxes // 2
    inner = values[top : top + boxes * tall, left : left + boxes * wide]
    grid = inner.reshape(boxes, tall, boxes, wide, 3).swapaxes(1, 2).reshape(-1, tall, wide, 3)
    moved = grid[_nowhere_the_same(len(grid), rng)].reshape(boxes, boxes, tall, wide, 3).swapaxes(1, 2)
    inner[:] = moved.reshape(inner.shape)
    return to_picture(values)


def with_random_phases(
    values: Float[np.ndarray, "height width channel"], rng: np.random.Generator
) -> Float[np.ndarray, "height width channel"]:
    """The phases of one noise picture added to every channel; neither rounded nor clipped."""
    height, width = values.shape[:2]
    turn = np.fft.rfft2(rng.standard_normal((height, width)))
    turn /= np.abs(turn)
    turn[0, 0] = 1
    return np.fft.irfft2(np.fft.rfft2(values, axes=(0, 1)) * turn[..., None], s=(height, width), axes=(0, 1))


def to_picture(values: Float[np.ndarray, "height width 3"] | UInt8[np.ndarray, "height width 3"]) -> Image:
    """Levels as an 8-bit RGB picture: rounded, then clipped to 0..255."""
    from PIL import Image as pil

    return pil.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _nowhere_the_same(n: int, rng: np.random.Generator) -> np.ndarray:
    """A permutation that leaves nothing in place; about every third permutation is one."""
    while True:
        order = rng.permutation(n)
        if not (order == np.arange(n)).any():
            return order


def _generator(seed: object) -> np.random.Generator:
    if not _is_whole(seed) or seed < 0:  # type: ignore[operator]
        raise InputError(f"seed is a whole number from 0; this is {seed!r}.")
    return np.random.default_rng(seed)  # type: ignore[arg-type]


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
