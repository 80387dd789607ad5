"""AtP*: attribution patching with two corrections for effects that one gradient misses (Kramár et al. 2024).

*GradDrop.* Direct and indirect effects of a node may cancel in its gradient, so that a small error of either hides it.
The gradient is taken once for every block, each time without the paths through what that block adds to the stream, and
the magnitudes of these effects are averaged (their equation 11). It is for every node.

*The QK fix.* Where a softmax is saturated, the gradient through an attention's queries and keys says little. There the
attention is run again on its changed input, and the change of what it puts out takes the place of the linear one. In
the paper this is for query and key nodes. Of the spaces of modalnet it is for those that enter an attention: the
residual stream at the output of a block (which the attention of the next block reads) and at its input (``pre``). The
whole attention is rerun, norm and values included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from modalnet.errors import InputError
from modalnet.execution.cells import Cell, Swap
from modalnet.execution.plan import Through
from modalnet.execution.states import Paths
from modalnet.models.sites import RESIDUAL, absent_everywhere
from modalnet.patching.estimates import Chunk, Estimated

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float

    from modalnet.execution.cells import State
    from modalnet.model import Model
    from modalnet.models.sites import Space
    from modalnet.models.towers import Tower
    from modalnet.patching.metrics import Measure
    from modalnet.patching.pairs import Layout

#: Of each pair, patched space, layer and column: how much more the attention's output changes than by its slope.
Changes: TypeAlias = "dict[tuple[int, str, int, int], Float[torch.Tensor, 'token number']]"

# Pairs that run together: the change of an attention's output is kept for each column and layer.
TOGETHER = 4
#: Kinds of spaces that are the stream from block to block. All others lie inside of a block.
STREAM = (RESIDUAL, "pre")


@dataclass(frozen=True, eq=False)
class Corrections:
    """Which gradients are taken for some patched spaces.

    Attributes
    ----------
    blocks
        The blocks that are passed by, one for each gradient.
    counted
        Per space [block, layer]: which of these gradients count at a layer. A block passes no gradient on to what lies
        inside of it when it is passed by.
    behind
        For sites that enter an attention, the site of what this attention adds to the stream.
    """

    blocks: list[tuple[Tower, int]]
    counted: dict[str, Bool[np.ndarray, "block layer"]]
    behind: dict[tuple[str, int], tuple[Space, int]]

    @classmethod
    def of(cls, model: Model, layout: Layout) -> Corrections:
        """Find out which gradients are taken.

        Raises
        ------
        InputError
            If a correction has nothing to correct: a tower whose blocks have no attention, or a single block; or one
            that merges patches between blocks.
        """
        spaces = [model.spaces[name] for name in layout.layers]
        first = min(space.tower.order for space in spaces)
        reached = model._executor.reached([*layout.clean, *layout.corrupt])
        towers = [model.towers[name] for name in reached if model.towers[name].order >= first]
        for tower in towers:
            if len(model._executor.runner.layouts.firsts(tower.name)) > 1:
                raise InputError(
                    f"method='atp*' cannot pass by the blocks of the {tower.name} tower, which merges patches between "
                    "them. Use method='gradient' or 'integrated'."
                )
        attentions = [name for tower in towers if (name := f"{tower.name}.attention") in model.spaces]
        model._executor.measure(attentions, model._executor.prepare([*layout.clean, *layout.corrupt]))
        blocks = [(tower, layer) for tower in towers for layer in range(tower.n_layers)]
        counted = {space.name: _counted(space, blocks) for space in spaces}
        behind: dict[tuple[str, int], tuple[Space, int]] = {}
        for space in spaces:
            if space.kind in STREAM:
                behind |= _behind(model, space, layout.layers[space.name])
        return cls(blocks, counted, behind)


def _counted(space: Space, blocks: Sequence[tuple[Tower, int]]) -> Bool[np.ndarray, "block layer"]:
    """Which gradients count at the layers of a space."""
    counted = np.zeros((len(blocks), space.n_layers), dtype=bool)
    for number, (tower, layer) in enumerate(blocks):
        counted[number] = tower.order >= space.tower.order
        if tower.name == space.tower.name and space.kind not in STREAM:
            counted[number, layer] = False
    if not counted.any(0).all():
        raise InputError(
            f"method='atp*' averages over gradients that pass by one block at a time, but no other block is behind or "
            f"before those of {space.name}. Use method='gradient' or 'integrated'."
        )
    return counted


def _behind(model: Model, space: Space, layers: Sequence[int]) -> dict[tuple[str, int], tuple[Space, int]]:
    """The attention that each of some layers of the stream enters; none behind the last block."""
    attention = model.spaces.get(f"{space.tower.name}.attention")
    if attention is None or not attention.layers:
        reason = "they have none" if attention is None else absent_everywhere(attention)
        raise InputError(
            f"method='atp*' reruns the attention that {space.name} enters, but what the attention of its blocks adds "
            f"cannot be read: {reason}. Use method='gradient' or 'integrated'."
        )
    ahead = 1 if space.kind == RESIDUAL else 0
    return {(space.name, layer): (attention, layer + ahead) for layer in layers if layer + ahead in attention.layers}


def star_estimates(
    model: Model, measure: Measure, layout: Layout, direction: str, batch_size: int | Literal["auto"]
) -> Iterator[Estimated]:
    """Yield the estimates of every pair, not in order; their changes are magnitudes.

    Raises
    ------
    InputError
        See :meth:`Corrections.of`.
    """
    corrections = Corrections.of(model, layout)
    for start in range(0, len(layout.clean), TOGETHER):
        some = list(range(start, min(start + TOGETHER, len(layout.clean))))
        yield from _Star(model, measure, layout, direction, batch_size, some).run(corrections)
        measure.reference.clear()


class _Star(Chunk):
    """Some pairs, whose effects are estimated with the corrections."""

    def run(self, corrections: Corrections) -> Iterator[Estimated]:
        """Yield the estimates of each pair."""
        base, source = self.sides
        attentions = list(dict.fromkeys(space.name for space, _ in corrections.behind.values()))
        stream = [name for name in self.model._executor.reached_spaces(self.stimuli(base))]
        sources = self.states(source)
        bases = self.states(base, [*stream, *attentions])
        changes = self._reruns(bases, sources, corrections)
        found = [
            Estimated(
                pair,
                self.measure.value(bases[place].outcome, pair),
                self.measure.value(sources[place].outcome, pair),
                {name: self._nothing(name, pair) for name in self.layout.layers},
                {name: np.zeros((len(own), self.model.spaces[name].width)) for name, own in self.layout.layers.items()},
            )
            for place, pair in enumerate(self.some)
        ]
        for number, block in enumerate(corrections.blocks):
            pairs = [
                Through((self.model.spaces[name], layer), at) for (name, layer), at in self._sites(corrections).items()
            ]
            run = self.model._executor.gradients(
                self.stimuli(base), self.measured(base), paths=Paths((block,), tuple(pairs)), **self.options(attentions)
            )
            for place, state, slopes, _ in run:
                self._add(found[place], place, number, corrections, (state, sources[place], slopes), changes)
        yield from found

    def _nothing(self, name: str, pair: int) -> Float[np.ndarray, "layer column"]:
        """No effect at the columns that a pair has, and NaN at others."""
        row = [0.0 if match else np.nan for match in self.matches(name, pair)]
        return np.tile(row, (len(self.layout.layers[name]), 1))

    def _sites(self, corrections: Corrections) -> dict[tuple[str, int], tuple[Space, int]]:
        """The attentions behind patched sites, with their places as they were measured."""
        return {key: (self.model.spaces[space.name], layer) for key, (space, layer) in corrections.behind.items()}

    def _reruns(self, bases: Sequence[State], sources: Sequence[State], corrections: Corrections) -> Changes:
        """The change of what each attention puts out when a column before it is patched."""
        cells: list[Cell] = []
        sites: list[tuple[Space, int]] = []
        keys: list[tuple[int, str, int, int]] = []
        for (name, layer), site in self._sites(corrections).items():
            for place, pair in enumerate(self.some):
                for column, match in enumerate(self.matches(name, pair)):
                    if match:
                        into, out_of = self.tokens(match)
                        values = sources[place].activations[name][layer][out_of]
                        cells.append(Cell(place, (Swap(self.model.spaces[name], layer, into, values),)))
                        sites.append(site)
                        keys.append((place, name, layer, column))
        found = {}
        run = self.model._executor.cell_activations(bases, cells, sites, batch_size=self.batch_size)
        for number, values in run:
            space, layer = sites[number]
            found[keys[number]] = values - bases[cells[number].state].activations[space.name][layer]
        return found

    def _add(  # noqa: PLR0917
        self,
        found: Estimated,
        place: int,
        number: int,
        corrections: Corrections,
        run: tuple[State, State, dict[str, Float[torch.Tensor, "layer token number"]]],
        changes: Changes,
    ) -> None:
        """Add the magnitudes of the effects of one gradient of a pair to their mean."""
        state, source, slopes = run
        sites = self._sites(corrections)
        for name, layers in self.layout.layers.items():
            space, counted = self.model.spaces[name], corrections.counted[name]
            weights = (counted[number] / counted.sum(0))[list(layers)]
            through = slopes.get(Paths.name(space))
            for column, match in enumerate(self.matches(name, found.pair)):
                if not match:
                    continue
                linear = slopes[name] if through is None else slopes[name] - through
                effect = self.products(name, match, state, source, linear).sum(1)[list(layers)]
                for at, layer in enumerate(layers):
                    if (name, layer) in sites:
                        attention, behind = sites[name, layer]
                        slope = slopes[attention.name][behind].double()
                        effect[at] += float((changes[place, name, layer, column].double() * slope).sum())
                found.columns[name][:, column] += weights * np.abs(effect)
            everywhere = self.everywhere(name, found.pair)
            units = self.products(name, everywhere, state, source, slopes[name])[list(layers)]
            found.units[name][:] += weights[:, None] * np.abs(units)
