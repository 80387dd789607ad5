"""What is known of a lesion besides its scores: which units it takes, and what it puts into the stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BEYOND = 3.0  # standard deviations: a value that hardly any ordinary token has


@dataclass(frozen=True)
class Design:
    """The sets of units at one size of a network.

    Attributes
    ----------
    n_dimensions
        Number of distinct dimensions of the network: (space, dimension) pairs, over all layers. Units of one dimension
        in several layers are not independent, since the residual stream carries it on.
    left_out
        The dimensions that are left out one at a time, as ``"decoder[163]"``.
    overlap
        Kind of random control → the mean overlap (Dice) of two of its draws.
    """

    n_dimensions: int
    left_out: tuple[str, ...] = ()
    overlap: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Activity:
    """The lesioned units at the tokens of a task on which they are lesioned, in the intact model.

    Attributes
    ----------
    mean_abs
        Their mean absolute activation at ordinary tokens.
    sink_mean_abs
        The same at sink tokens, where these are lesioned; NaN where they are spared or there are none.
    inserted
        How far the inserted value lies from the unit's values at ordinary tokens: the root mean square distance from
        their mean in standard deviations of the unit, the median over units. 1 is what another ordinary token has.
    inserted_max
        The same of the unit for which it is largest.
    """

    mean_abs: float
    sink_mean_abs: float
    inserted: float
    inserted_max: float
