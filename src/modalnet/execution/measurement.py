"""What a measurement of the text towers of one model needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modalnet.execution.engine import Engine
    from modalnet.inputs.batch import Batch
    from modalnet.inputs.encoding import Encoder
    from modalnet.interventions.positions import Span
    from modalnet.models.towers import Tower


class Measurement:
    """Runs short passes of one model.

    Parameters
    ----------
    engine, encoder, towers
        Those of the model.
    spans
        The positions of each stimulus in a block of a tower, from a batch, a tower and a layer.
    """

    def __init__(
        self,
        engine: Engine,
        encoder: Encoder,
        towers: dict[str, Tower],
        spans: Callable[[Batch, str, int], tuple[list[Span], int]],
    ) -> None:
        self.engine = engine
        self.encoder = encoder
        self.towers = towers
        self.spans = spans
