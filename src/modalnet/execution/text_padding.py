"""On which side texts of a batch may be padded, measured on the model.

Padding that follows a text cannot reach it through causal attention, and a mask hides it from others. But some classes
count positions from the padding, and recurrences carry a state through it. So before texts of different lengths share
a batch, the shortest runs alone and beside the longest, and its activations in the last block of each text tower must
agree; nothing runs where padding follows the texts and attention is declared causal. Where they do not agree, the other
side is tried; where neither does, texts of different lengths run in batches of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from modalnet._warnings import warn
from modalnet.errors import InputError, ModalnetError
from modalnet.execution.causality import known_causality
from modalnet.execution.measurement import Measurement
from modalnet.execution.memory import is_out_of_memory
from modalnet.execution.plan import Plan, Pool, Sites
from modalnet.models.sites import Space

if TYPE_CHECKING:
    import torch

    from modalnet.execution.engine import Engine
    from modalnet.inputs.batch import Batch, Encoded
    from modalnet.inputs.encoding import Encoder
    from modalnet.interventions.positions import Span
    from modalnet.models.towers import Tower

Side = Literal["right", "left"]
OTHER: dict[Side, Side] = {"right": "left", "left": "right"}
# The mean relative difference of a token, in float32 and in half precision, up to which activations agree.
CLOSE, CLOSE_IN_HALF = 1e-3, 5e-2


class TextPadding(Measurement):
    """Measures on which side the texts of one model may be padded, once per kind of input."""

    def __init__(
        self,
        engine: Engine,
        encoder: Encoder,
        towers: dict[str, Tower],
        spans: Callable[[Batch, str, int], tuple[list[Span], int]],
    ) -> None:
        super().__init__(engine, encoder, towers, spans)
        self._fits: dict[Any, bool] = {}

    def fits(self, items: Sequence[Encoded]) -> bool:
        """Whether texts of these lengths may share a batch; the side is then the one on which they may be padded.

        Parameters
        ----------
        items
            Stimuli of one kind.

        Raises
        ------
        InputError
            If the user chose a side on which padding changes what the model computes.
        """
        short, long = (choose(items, key=lambda item: item.n_tokens) for choose in (min, max))
        if short.n_tokens == long.n_tokens:
            return True
        if short.kind not in self._fits:
            self._fits[short.kind] = self._cannot_matter(short) or self._settled(short, long)
        return self._fits[short.kind]

    def _cannot_matter(self, item: Encoded) -> bool:
        """Whether padding follows the texts, and the modules declare that no token attends to later ones."""
        towers = [tower for tower in self.towers.values() if tower.modality == "text"]
        return self.encoder.collator.side([item]) == "right" and all(
            known_causality(tower, self.encoder) is True for tower in towers
        )

    def _settled(self, short: Encoded, long: Encoded) -> bool:
        """Choose the side for a kind of input; whether there is one."""
        collator, kind = self.encoder.collator, short.kind
        given = collator.padding_side
        try:
            alone = self._last_block([short])
            for side in (given,) if collator.chosen else (given, OTHER[given]):
                collator.sides[kind] = side
                if self._agrees(alone, self._last_block([short, long])):
                    return True
        except (ModalnetError, RuntimeError, ValueError, IndexError, TypeError) as error:
            collator.sides.pop(kind, None)
            if is_out_of_memory(error):
                raise
            return True  # the passes that the user asks for raise the same error, or do not depend on this one
        collator.sides.pop(kind, None)
        name = self.encoder.loaded.name
        if collator.chosen:
            raise InputError(
                f"{name} gives other activations for a text that is padded on the {given} than for the text alone, so "
                f'`padding_side` must be "{OTHER[given]}" here, or omitted, got "{given}".'
            )
        warn(f"{name} gives other activations for padded texts, so texts of different lengths run in other batches.")
        return False

    def _last_block(self, items: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """The last block of each text tower at the tokens of the first stimulus."""
        batch = self.encoder.collate(items)
        reached = [tower for tower in self.towers.values() if tower.modality == "text"]
        if batch.root:  # half of a dual encoder
            reached = [tower for tower in reached if tower.root == batch.root]
        plan = Plan(tuple((Sites(Space(one), (one.n_layers - 1,)), Pool(0)) for one in reached), root=batch.root)
        reading = self.engine.run(batch.inputs, plan)
        return {
            tower.name: reading.activations[tower.name][0][self.spans(batch, tower.name, 0)[0][0].index]
            for tower in reached
        }

    def _agrees(self, alone: dict[str, torch.Tensor], padded: dict[str, torch.Tensor]) -> bool:
        half = next((p.dtype.itemsize < 4 for p in self.engine.module.parameters() if p.is_floating_point()), False)
        for name, one in alone.items():
            difference = (padded[name] - one).norm(dim=1) / one.norm(dim=1).clamp(min=1e-12)
            if not bool(difference.clamp(max=1).mean() <= (CLOSE_IN_HALF if half else CLOSE)):
                return False
        return True
