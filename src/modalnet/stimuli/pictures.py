"""Bundled picture sets: intact against scrambled pictures, and visual categories against each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modalnet._validation import check_bool, check_options
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.picture_sets import KINDS, check_count, check_size, draw
from modalnet.stimuli.scramble import box_scramble, phase_scramble, to_picture
from modalnet.stimuli.stimulus import Stimulus

if TYPE_CHECKING:
    from PIL.Image import Image

# condition -> kind of picture
CATEGORIES = {"faces": "face", "houses": "house", "objects": "object", "words": "word"}
_VISION, _CATEGORIES = 1, 2


def _noise(image: Image, seed: int) -> Image:
    """The picture's pixels in random order."""
    values = np.asarray(image)
    return to_picture(np.random.default_rng(seed).permutation(values.reshape(-1, 3)).reshape(values.shape))


def _blank(image: Image, seed: int) -> Image:
    """The picture's mean colour everywhere."""
    values = np.asarray(image)
    return to_picture(np.broadcast_to(values.mean((0, 1)), values.shape))


# condition -> function of an intact picture and a seed
CONTROLS: dict[str, Callable[[Image, int], Image]] = {
    "phase-scrambled": phase_scramble,
    "box-scrambled": box_scramble,
    "noise": _noise,
    "blank": _blank,
}


def vision(
    against: str | Sequence[str] | None = "phase-scrambled",
    *,
    n: int = 120,
    size: int = 224,
    items: bool = False,
) -> Contrast:
    """Intact pictures > scrambled versions of them: units that respond to visual objects.

    The intact pictures are drawn: faces, houses, objects, printed words and scenes of one to five shapes in turn, in
    eight colours. All are matched to one mean luminance (128 of 255) and contrast. Every other condition is made from
    them, picture by picture:

    ===================  ============================================================================================
    ``phase-scrambled``  the same amplitude spectrum in each colour channel, random phases (:func:`phase_scramble`)
    ``box-scrambled``    8 x 8 boxes in other places, the same pixels (:func:`box_scramble`)
    ``noise``            the same pixels in random order: white noise of equal luminance, contrast and colours
    ``blank``            the mean colour everywhere; a few pictures have the same one
    ===================  ============================================================================================

    The design is that of Malach et al. (1995) and Grill-Spector et al. (1998), who contrast objects with scrambled
    objects; the pictures are this package's own. ``vision(against=None)`` holds all five conditions, for response
    profiles.

    On DINOv2-S the top 1% of units by Welch's t overlap with those of fLoc's photographs (intact > scrambled) at a Dice
    coefficient of 0.11, the top 5% at 0.24; layer-matched random units at 0.01 and 0.04. On held-out pictures the top
    1% have an effect of g = 3.8.

    Parameters
    ----------
    against
        The condition, or list of conditions, to compare with; None means all four.
    n
        Pictures per condition; a multiple of 5 gives equally many of each kind. Picture *i* does not depend on ``n``.
    size
        Pixels per side, 32 to 2048. Pictures are drawn at this size; choose the input size of the model.
    items
        True makes a picture and all that is made from it one item, so that :func:`modalnet.localize` tests them as
        pairs; by default the test is Welch's, as in the literature.

    Returns
    -------
    Contrast
        Image-only stimuli. Id ``"noise-007"`` is made from ``"intact-007"``.

    Raises
    ------
    InputError
        ``against`` names an unknown condition, ``n`` or ``size`` is out of range, or ``items`` is not a bool.

    References
    ----------
    Malach, Reppas, Benson, Kwong, Jiang, Kennedy, Ledden, Brady, Rosen & Tootell (1995). Object-related activity
    revealed by functional magnetic resonance imaging in human occipital cortex. PNAS 92, 8135-8139.
    Grill-Spector, Kushnir, Hendler, Edelman, Itzchak & Malach (1998). A sequence of object-processing stages revealed
    by fMRI in the human occipital lobe. Human Brain Mapping 6, 316-328.
    """
    controls = _named("against", against, CONTROLS)
    check_count(n)
    check_size(size)
    check_bool("items", items)
    shown = {"intact": [draw(KINDS[i % len(KINDS)], i // len(KINDS), size, _VISION) for i in range(n)]}
    for name in controls:
        shown[name] = [CONTROLS[name](image, seed) for seed, image in enumerate(shown["intact"])]
    return _contrast(shown, ["intact"], controls, paired=items)


def categories(
    positive: str | Sequence[str] = "faces",
    against: str | Sequence[str] | None = None,
    *,
    n: int = 64,
    size: int = 224,
) -> Contrast:
    """One visual category > the others: faces, houses, objects and printed words.

    The design is that of the fLoc localizer, with drawings (:func:`modalnet.stimuli.floc` reads its photographs).
    Picture *i* of every category has the same background and the same one of eight colours (of hair, walls, object,
    letters). All pictures are matched to one mean luminance (128 of 255) and one contrast (24 of 255, over the three
    channels). Words fill less of a picture than the other categories, which is not matched: their contrast is
    concentrated in fewer pixels, with more grain around them, and clipping reduces it by 10%.

    Drawn faces are not photographs: on DINOv2-S the top 1% of units for drawn faces replicate on held-out drawings (g =
    2.0, split-half Dice 0.73), but overlap little with those for the photographed faces of fLoc (Dice 0.04, within the
    range of random units; 0.12 for the top 5%, random 0.06). Use :func:`modalnet.stimuli.floc` to find units for
    natural faces.

    Parameters
    ----------
    positive
        The category, or list of categories, expected to evoke the larger response: ``"faces"``, ``"houses"``,
        ``"objects"`` or ``"words"``.
    against
        The categories to compare with; None means all others.
    n
        Pictures per category; a multiple of 8 shows every colour equally often, and 64 every object in every colour.
        Picture *i* does not depend on ``n``.
    size
        Pixels per side, 32 to 2048. Pictures are drawn at this size; choose the input size of the model.

    Returns
    -------
    Contrast
        Image-only stimuli; ids ``"face-001"``, ….

    Raises
    ------
    InputError
        A category is unknown or on both sides, there is nothing to compare with, or ``n`` or ``size`` is out of range.

    References
    ----------
    Stigliani, Weiner & Grill-Spector (2015). Temporal processing capacity in high-level visual cortex is domain
    specific. Journal of Neuroscience 35, 12412-12424.
    """
    above = _named("positive", positive, CATEGORIES)
    others = [name for name in CATEGORIES if name not in above]
    below = others if against is None else _named("against", against, CATEGORIES)
    check_count(n)
    check_size(size)
    both = [name for name in CATEGORIES if name in (*above, *below)]
    shown = {name: [draw(CATEGORIES[name], i, size, _CATEGORIES) for i in range(n)] for name in both}
    return _contrast(shown, above, below)


def _contrast(
    shown: dict[str, list[Image]], positive: list[str], negative: list[str], *, paired: bool = False
) -> Contrast:
    stimuli = [
        Stimulus(
            image=image,
            condition=name,
            id=f"{CATEGORIES.get(name, name)}-{number:03d}",
            item=f"{number:03d}" if paired else None,
        )
        for name, images in shown.items()
        for number, image in enumerate(images, start=1)
    ]
    return Contrast(stimuli, positive, negative)


def _named(argument: str, names: str | Sequence[str] | None, known: Collection[str]) -> list[str]:
    """The conditions that an argument names, in a fixed order."""
    if names is None:
        return list(known)
    chosen = check_options(argument, names, known)
    return [name for name in known if name in chosen]
