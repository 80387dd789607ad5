"""Where the units inside of blocks are, checked by measurement when a space is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modalnet.execution.measurement import Measurement

if TYPE_CHECKING:
    from modalnet.inputs.batch import Encoded
    from modalnet.models.places import Absent, Place
    from modalnet.models.towers import Tower


class Sublayers(Measurement):
    """Measures the places of one model."""

    def places(self, tower: Tower, item: Encoded) -> dict[str, tuple[Place | Absent, ...]]:
        """Per kind of space that was measured, the place in each block of a tower, or why there is none."""
        return {}
