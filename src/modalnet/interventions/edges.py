"""Attention edges as the target of an intervention, and the tokens at their ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from modalnet._validation import check_number, refusal
from modalnet.errors import InputError
from modalnet.interventions.positions import EXPECTED, PerStimulus, TokenChoice, check_choices, shown
from modalnet.models.sites import LayerChoice

if TYPE_CHECKING:
    import numpy as np
    import torch

#: The tokens that a stimulus' own text is made of, without those of a chat template.
QUESTION = "question"


@dataclass(frozen=True)
class Region:
    """The image tokens inside a rectangle of a picture: those whose middle lies in it; made by :func:`region`.

    Attributes
    ----------
    left, top, right, bottom
        In pixels of the picture as it was given.
    """

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        for name in ("left", "top", "right", "bottom"):
            check_number(name, getattr(self, name))
        if self.left >= self.right or self.top >= self.bottom:
            raise InputError(
                "A region is region(left, top, right, bottom) in pixels, with left < right and top < bottom; got "
                f"{self.left}, {self.top}, {self.right}, {self.bottom}."
            )

    def __str__(self) -> str:
        return f"the region {self.left:g}, {self.top:g} to {self.right:g}, {self.bottom:g}"


@dataclass(frozen=True)
class Regions:
    """A region of each stimulus of a run."""

    each: tuple[Region, ...]

    def __str__(self) -> str:
        return f"a region of each of {len(self.each)} stimuli"


#: Tokens at one end of edges: those of other interventions, those of the stimulus' text, or of a part of its picture.
EdgeTokens: TypeAlias = "TokenChoice | PerStimulus | Region | Regions"
#: What is accepted there.
EdgeTokensLike: TypeAlias = "str | int | slice | Sequence[Any] | np.ndarray | torch.Tensor | Region"


@dataclass(frozen=True)
class Edges:
    """Attention edges of a tower: the target of a knockout.

    Attributes
    ----------
    tower
        Name of the tower.
    layers
        In which of its layers; None for all that have attention heads.
    source, target
        The tokens that are attended to, and those that attend to them.
    heads
        Of which attention heads; None for all.
    """

    tower: str
    layers: LayerChoice | None
    source: EdgeTokens
    target: EdgeTokens
    heads: tuple[int, ...] | None = None

    def __str__(self) -> str:
        where = "all layers" if self.layers is None else f"layers {_written(self.layers)}"
        heads = "" if self.heads is None else f", heads {', '.join(map(str, self.heads))}"
        return f"{self.tower}, {where}{heads}: {named(self.source)} -> {named(self.target)}"


def check_edge_tokens(name: str, given: Any) -> EdgeTokens:
    """The tokens at one end of edges; an InputError for what are none."""
    if isinstance(given, Region) or (isinstance(given, str) and given == QUESTION):
        return given
    if isinstance(given, list | tuple) and given and all(isinstance(one, Region) for one in given):
        return Regions(tuple(given))
    try:
        choice = check_choices(given)
    except InputError as error:
        expected = f"{EXPECTED}, '{QUESTION}', a region of the picture, or a list of these for each stimulus"
        raise refusal(name, expected, given) from error
    return "all" if choice == "mean" else choice


def named(tokens: EdgeTokens) -> str:
    """Tokens as messages name them."""
    return str(tokens) if isinstance(tokens, Region | Regions) else shown(tokens)


def _written(layers: LayerChoice) -> str:
    return str(layers) if isinstance(layers, int | str) else ", ".join(map(str, layers))
