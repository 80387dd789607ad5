"""What a cell of a lesion study lesions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

#: What was lesioned: ``""`` is the network itself, ``"least"`` the units that its contrast drives least, ``"without"``
#: the network without one dimension, and any other name a kind of random control.
Control: TypeAlias = str
LEAST, WITHOUT = "least", "without"

SLOPE = "slope"  # an operation of tables and verdicts: the drop per unit of dose, over graded lesions
ALL_SIZES = -1.0  # a size of verdicts: the mean over all sizes of a network


def dose(operation: str) -> float | None:
    """Return the dose of a graded lesion: 1 for ``"zero"``, 1 - f for ``"scale f"``; None for other operations."""
    if operation == "zero":
        return 1.0
    return 1.0 - float(operation.removeprefix("scale ")) if operation.startswith("scale ") else None


#: Network, size, operation and kind of control: what draws of one control share.
SetOfDraws: TypeAlias = tuple[str, float, str, Control]


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
        What was done to the units: ``"zero"``, ``"mean"``, ``"resample"``, or ``"scale 0.25"`` for a factor.
    control
        ``""``: the network itself. The name of a kind of random control, such as ``"layer"`` or ``"activation"`` (see
        :mod:`modalnet.stats.controls`). ``"least"``: the units that the network's contrast drives least. ``"without"``:
        the network without one dimension.
    draw
        Which of the random draws, or of the dimensions left out.
    """

    network: str
    fraction: float
    operation: str
    control: Control = ""
    draw: int = 0

    def controls(self, kind: Control) -> SetOfDraws:
        """The draws of a kind of control that belong to this lesion of a network, for :func:`draws_by_set`."""
        return self.network, self.fraction, self.operation, kind

    @property
    def is_random(self) -> bool:
        """Whether this is a draw of a random control."""
        return self.control not in {"", LEAST, WITHOUT}


def draws_by_set(lesions: Iterable[Lesion]) -> dict[SetOfDraws, list[Lesion]]:
    """Return the lesions of each network and control, in the order of their draws."""
    found: dict[SetOfDraws, list[Lesion]] = {}
    for one in lesions:
        found.setdefault(one.controls(one.control), []).append(one)
    return {key: sorted(some, key=lambda one: one.draw) for key, some in found.items()}
