"""Blocks that many runs of a batch have in common, run once.

Under several lesions of the same continuations, the blocks before the first that any lesion writes to have the same
outputs. Some blocks pass on more than their output, and cannot be skipped; so before it is relied on, a model has to
give the same with and without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from modalnet.execution.edits import Edits
from modalnet.execution.engine import Engine
from modalnet.execution.layout import Layouts
from modalnet.execution.memory import is_out_of_memory
from modalnet.execution.passes import BatchResult, Readout
from modalnet.execution.plan import Plan, Pool, Prefix, Sites
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
    known
        By the towers whose blocks are skipped, whether they can be, as far as it was tried.
    """

    def __init__(self, engine: Engine, layouts: Layouts, text_tower: str) -> None:
        self.engine = engine
        self.layouts = layouts
        self.text_tower = text_tower
        self.known: dict[tuple[str, ...], bool] = {}

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
        worthwhile = self.engine.capabilities.skips_blocks and len(variants) >= FEWEST_TO_SHARE
        if not worthwhile or readout.logits != "score" or not edited:
            return ()
        sites = self._untouched(batch, edited)
        towers = tuple(site.tower.name for site in sites)
        if not sites or self.known.get(towers) is False:
            return ()
        try:
            prefixes = self._read(batch, sites)
            if towers not in self.known:
                self.known[towers] = _agree(run(prefixes), run(()))
        except Exception as error:  # whatever it is, the batch runs without shared blocks, and shows it again
            if not is_out_of_memory(error):
                self.known[towers] = False
            return ()
        return prefixes if self.known[towers] else ()

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

    def _untouched(self, batch: Batch, edited: Sequence[Edits]) -> list[Sites]:
        """What has to be read to leave out the first blocks of each tower, which none of these edits writes to.

        Nothing but the next block looks at a decoder's block, so its last one is enough; of a vision tower a decoder
        may look at several.
        """
        sites = []
        image_towers = [tower for tower in self.layouts.towers.values() if tower.modality == "image"]
        if batch.items[0].n_images and len(image_towers) == 1:
            tower = image_towers[0]
            written = [edits.first_layer(tower.name) for edits in edited]
            depth = min(tower.n_layers if layer is None else layer for layer in written)
            whole = Sites(Space(tower), tuple(range(depth)))
            size = 4 * depth * self.layouts.spans(batch, tower.name)[1] * tower.width
            if depth and size <= MOST_SHARED and len(self.layouts.stages(whole)) == 1:
                sites.append(whole)
        text = self.layouts.towers[self.text_tower]
        # An edit of another tower may change all of this one.
        layer = min(edits.first_layer(text.name) or 0 if edits.towers == [text.name] else 0 for edits in edited)
        return [*sites, Sites(Space(text), (layer - 1,))] if layer else sites


def _agree(one: BatchResult, other: BatchResult) -> bool:
    """Whether two ways to the same scores give the same."""
    import torch

    first, second = (torch.cat([logprob for logprob, _ in result.scores or ()]) for result in (one, other))
    return bool(torch.allclose(first, second, atol=1e-4, rtol=1e-4))
