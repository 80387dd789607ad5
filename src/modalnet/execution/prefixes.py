"""Blocks that many runs of a batch have in common, run once.

Under several lesions of the same continuations, the blocks before the first that any lesion writes to have the same
outputs. Some blocks pass on more than their output; so as many are skipped as the model was found to do without (see
:mod:`modalnet.execution.skipping`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from modalnet.execution.edits import Edits
from modalnet.execution.engine import Engine
from modalnet.execution.layout import Layouts
from modalnet.execution.memory import is_out_of_memory
from modalnet.execution.passes import BatchResult, Readout
from modalnet.execution.plan import Plan, Pool, Prefix, Sites
from modalnet.execution.skipping import Skipping
from modalnet.models.sites import Space

if TYPE_CHECKING:
    from modalnet.inputs.batch import Batch

# The pass that a prefix is read in is paid back by the third that starts from it.
FEWEST_TO_SHARE = 3
# Bytes that the blocks of a vision tower may take which are read once for many runs of a batch.
MOST_SHARED = 1 << 29


class SharedPrefixes:
    """Reads the outputs of shared blocks, where skipping them is known to be right.

    Parameters
    ----------
    engine, layouts
        Of the model.
    text_tower
        The tower that scores continuations.

    Attributes
    ----------
    skipping
        From which blocks the model's passes may start.
    """

    def __init__(self, engine: Engine, layouts: Layouts, text_tower: str) -> None:
        self.engine = engine
        self.layouts = layouts
        self.text_tower = text_tower
        self.skipping = Skipping(engine)

    def of(
        self,
        batch: Batch,
        readout: Readout,
        variants: Sequence[int],
        run: Callable[[tuple[Prefix, ...]], BatchResult],
    ) -> tuple[Prefix, ...]:
        """The outputs of the blocks before the first that any variant writes to; none where running them is no gain.

        Parameters
        ----------
        batch, readout
            What runs.
        variants
            The numbers of the variants that it runs under.
        run
            Runs the batch under one of them, with or without prefixes.
        """
        edited = [edits for edits in (readout.variants[variant] for variant in variants) if edits]
        worthwhile = self.skipping.possible and len(variants) >= FEWEST_TO_SHARE
        if not worthwhile or readout.logits != "score" or not edited:
            return ()
        known, whole = self.skipping.known, None
        for sites in self._candidates(batch, edited):
            start = tuple((site.tower.name, site.layers[-1] + 1) for site in sites)
            if known.get(start) is False:
                continue
            try:
                prefixes = self._read(batch, sites)
                if start not in known:
                    whole = whole or run(())
                    known[start] = _agree(run(prefixes), whole)
            except Exception as error:  # whatever it is, the batch runs without these prefixes, and shows it again
                if is_out_of_memory(error):
                    return ()
                known[start] = False
            if known[start]:
                return prefixes
        return ()

    def _read(self, batch: Batch, sites: Sequence[Sites]) -> tuple[Prefix, ...]:
        reads = tuple((site, Pool(self.layouts.spans(batch, site.tower.name)[1])) for site in sites)
        reading = self.engine.run(batch.inputs, Plan(reads, root=batch.root))
        return tuple(
            Prefix(
                site.tower,
                site.layers[-1] + 1,
                tuple(layer.reshape(reading.shapes[site.name]) for layer in reading.activations[site.name]),
            )
            for site in sites
        )

    def _candidates(self, batch: Batch, edited: Sequence[Edits]) -> Iterator[list[Sites]]:
        """What could be read to leave out blocks that none of these edits writes to, most blocks first.

        Where a model does not do without some blocks of its text tower, it may do without half of them.
        """
        vision, depth = self._vision(batch, edited), self._text_depth(edited)
        text = Space(self.layouts.towers[self.text_tower])
        for seen in [vision, []] if vision else [[]]:
            layer = depth
            while layer:
                yield [*seen, Sites(text, (layer - 1,))]
                layer //= 2
            if seen:
                yield seen

    def _text_depth(self, edited: Sequence[Edits]) -> int:
        """How many of the first blocks of the text tower none of these edits changes."""
        # An edit of another tower may change all of this one.
        return min(
            edits.first_layer(self.text_tower) or 0 if edits.towers == [self.text_tower] else 0 for edits in edited
        )

    def _vision(self, batch: Batch, edited: Sequence[Edits]) -> list[Sites]:
        """The first blocks of the vision tower that none of these edits writes to; none where they are no gain.

        Nothing but the next block looks at a decoder's block, so its last one is enough; of a vision tower a decoder
        may look at several.
        """
        image_towers = [tower for tower in self.layouts.towers.values() if tower.modality == "image"]
        if not batch.items[0].n_images or len(image_towers) != 1:
            return []
        tower = image_towers[0]
        written = [edits.first_layer(tower.name) for edits in edited]
        depth = min(tower.n_layers if layer is None else layer for layer in written)
        whole = Sites(Space(tower), tuple(range(depth)))
        size = 4 * depth * self.layouts.spans(batch, tower.name)[1] * tower.width
        if not depth or size > MOST_SHARED or len(self.layouts.stages(whole)) != 1:
            return []
        return [whole]


def _agree(one: BatchResult, other: BatchResult) -> bool:
    """Whether two ways to the same scores give the same."""
    import torch

    first, second = (torch.cat([logprob for logprob, _ in result.scores or ()]) for result in (one, other))
    return bool(torch.allclose(first, second, atol=1e-4, rtol=1e-4))
