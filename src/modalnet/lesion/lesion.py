"""What a cell of a lesion study lesions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Control = Literal["", "layer", "activation", "least"]  # "" = the network itself


@dataclass(frozen=True)
class Lesion:
    """One lesion.

    Attributes
    ----------
    network
        The network, or the one that this control belongs to.
    fraction
        Its size as a share of all units that it was chosen from.
    operation
        What was done to the units: ``"zero"`` or ``"mean"``.
    control
        ``""``: the network itself. ``"layer"``: random units, as many in every layer. ``"activation"``: the same, and
        alike in mean |activation|. ``"least"``: the units that the network's contrast drives least.
    draw
        Which of the random draws.
    """

    network: str
    fraction: float
    operation: str
    control: Control = ""
    draw: int = 0
