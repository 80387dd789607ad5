"""Activations per space that know at which tokens they were read.

A mean over all tokens is no mean of last tokens. What :meth:`modalnet.Model.means` and
:func:`modalnet.activations.donors` give is a dict of arrays that carries the choice, so that an intervention at other
tokens refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from modalnet.interventions.positions import TokenChoice


class ReadValues(dict[str, np.ndarray]):
    """Space → array, with the tokens that the arrays are about; a plain dict of them is about any.

    Parameters
    ----------
    values
        Space → array.
    tokens
        Space → token choice; the mean over all tokens is ``"all"``, as for an intervention.
    spare_first
        How many tokens at the start of each stimulus were left out.
    """

    def __init__(
        self,
        values: Mapping[str, np.ndarray] | None = None,
        tokens: Mapping[str, TokenChoice] | None = None,
        spare_first: int = 0,
    ) -> None:
        super().__init__(values or {})
        self.tokens = {space: "all" if choice == "mean" else choice for space, choice in (tokens or {}).items()}
        self.spare_first = spare_first

    @property
    def taken_at(self) -> tuple[tuple[str, TokenChoice, int], ...]:
        """(space, tokens, spared) of each space whose tokens are known."""
        return tuple((space, choice, self.spare_first) for space, choice in self.tokens.items())
