"""A localized contrast under permutations of its labels: the observations of its test, and the permutations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from modalnet._validation import check_type
from modalnet.errors import InputError
from modalnet.localization.design import Design, design_of
from modalnet.stats.label_permutation import PermutedLabels
from modalnet.stimuli.contrast import Contrast


def check_contrast(contrast: object) -> None:
    """Refuse anything but a contrast."""
    remedy = "Make one with modalnet.Contrast(stimuli, positive=..., negative=...) or modalnet.stimuli.language()."
    check_type("contrast", contrast, Contrast, "a Contrast", remedy)


@dataclass(frozen=True, eq=False)
class PermutedContrast:
    """The test of a localization under permuted labels.

    Attributes
    ----------
    design
        How the contrast is tested.
    labels
        Its permutations, the first being the contrast itself.
    """

    design: Design
    labels: PermutedLabels

    def observations(self, values: Float[np.ndarray, "stimulus unit"]) -> Float[np.ndarray, "observation unit"]:
        """What the test observes: the stimuli's activations, or the differences within items."""
        if self.design.test != "paired":
            return values.astype(np.float64)
        found = np.zeros((len(self.design.x), values.shape[1]))
        np.add.at(found, self.design.of_stimulus, self.design.weights[:, None] * values)
        return found


def permuted_contrast(  # noqa: PLR0917  # one call, of a localization
    contrast: Contrast,
    test: str,
    known: set[str],
    names: tuple[list[str], list[str]],
    n_permutations: int,
    seed: int,
) -> PermutedContrast:
    """Draw permutations of the labels of the contrast that made a localization.

    Parameters
    ----------
    contrast
        The contrast.
    test, known, names
        Of the localization: its test, the digests of its stimuli, and its positive and negative conditions.
    n_permutations, seed
        How many permutations, and their seed.

    Raises
    ------
    InputError
        If the localization is of other stimuli or conditions, or was tested otherwise.
    """
    if {stimulus.inspect().digest for stimulus in contrast.stimuli} != known:
        raise InputError("the localization was made of other stimuli than the contrast's")
    if (list(contrast.positive), list(contrast.negative)) != names:
        raise InputError("the localization has other conditions than the contrast")
    design = design_of(contrast, paired=test == "paired")
    if design.test != test:
        raise InputError(f"the localization's test is {test}, and that of the contrast {design.test}")
    x = design.x
    if test == "welch":
        x = np.array([[float(side == "positive")] for side in contrast.sides])
    return PermutedContrast(design, PermutedLabels.draw(test, x, n_permutations, seed))
