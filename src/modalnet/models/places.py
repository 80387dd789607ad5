"""Where in one block the units of a space are: which module's output or input, and which of its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

Side = Literal["output", "input"]


@dataclass(frozen=True, eq=False)
class Place:
    """The units of one space in one block.

    Attributes
    ----------
    path
        Of the module, inside the block; empty for the block itself.
    side
        Whether the module's ``"output"`` or its ``"input"`` is read and written.
    width
        Number of units.
    size
        How many numbers one unit has, which lie side by side: a head has those of its part.
    start
        The first of the units' numbers among the columns of the module, where a projection is fused with another.
    columns
        How many numbers the module's vector has for each token.
    scale
        What the module's numbers are multiplied by before they are added to the stream: a number, or one per column.
    base
        Module inside the block, and its side, whose numbers are added to those of this one; what is written goes into
        this one. None for most spaces.
    order
        Sorts the places of a block as a forward pass reaches them; the block's own input is -1, its output 100.
    """

    path: str
    side: Side
    width: int
    columns: int
    size: int = 1
    start: int = 0
    scale: float | Float[np.ndarray, " column"] = 1.0
    base: tuple[str, Side] | None = None
    order: float = 0.0


@dataclass(frozen=True)
class Absent:
    """Why a block has no units of a space.

    Attributes
    ----------
    reason
        A clause for messages, such as ``"it is a state-space mixer without attention heads"``.
    """

    reason: str


#: The places of one space in one block that its structure allows, likeliest first; or why there is none.
Candidates: TypeAlias = "tuple[Place, ...] | Absent"
