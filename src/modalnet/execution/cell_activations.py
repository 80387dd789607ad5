"""Activations in edited runs: what a site behind the swaps of a cell gets to be.

As in a sweep, the blocks before the first edited one are not run again where the model does without them: a pass that
starts from stored outputs and reads the site behind the edit runs little more than what lies between the two. For each
start and site, one cell runs whole as well, once per model; where the two differ, all of them do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from modalnet.execution.batching import BatchLimit
from modalnet.execution.cell_batches import run_groups
from modalnet.execution.memory import is_out_of_memory
from modalnet.execution.plan import Plan, Pool, Sites
from modalnet.execution.sweep import AGREE, AGREE_HALF
from modalnet.execution.turns import step_by_step

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.execution.cells import Cell, State, Swap
    from modalnet.execution.edits import Edits
    from modalnet.execution.plan import Prefix
    from modalnet.execution.skipping import Start
    from modalnet.execution.sweep import Sweep
    from modalnet.models.sites import Space

#: A layer of a space.
At: TypeAlias = "tuple[Space, int]"


@step_by_step
def read_cell_activations(  # noqa: PLR0917
    sweep: Sweep,
    states: Sequence[State],
    cells: Sequence[Cell],
    sites: Sequence[At],
    edits: Edits | None,
    batch_size: int | Literal["auto"],
) -> Iterator[tuple[int, Float[torch.Tensor, "token number"]]]:
    """Run cells up to a site of each; not in their order.

    Parameters
    ----------
    sweep
        Of the model.
    states
        The runs that the cells edit, with the residual streams of the towers that they reach.
    cells
        Each with swaps in one tower, before its site or at it.
    sites
        For each cell, the site that is read.
    edits, batch_size
        As for every run.

    Yields
    ------
    tuple
        The number of a cell, and what is at its site, at all of its stimulus' tokens.
    """
    limit = BatchLimit(batch_size, sweep.engine)
    sweep.skipping.forget_if_altered()
    groups: dict[tuple[object, str, int, str, int], list[int]] = {}
    for number, (cell, (space, layer)) in enumerate(zip(cells, sites, strict=True)):
        swap = first_swap(cell)
        key = (states[cell.state].encoded.kind, swap.space.name, swap.layer, space.name, layer)
        groups.setdefault(key, []).append(number)

    def read(some: list[int]) -> list[Float[torch.Tensor, "token number"]]:
        return _Reader(sweep, states, [cells[number] for number in some], sites[some[0]], edits).read()

    yield from run_groups(sweep, states, cells, groups.values(), limit, read)


def first_swap(cell: Cell) -> Swap:
    """The swap of a cell that a pass reaches first."""
    return min(cell.swaps, key=lambda swap: swap.space.order(swap.layer))


class _Reader:
    """Reads one site in cells that share a batch."""

    def __init__(
        self, sweep: Sweep, states: Sequence[State], cells: Sequence[Cell], at: At, edits: Edits | None
    ) -> None:
        self.sweep, self.states, self.cells, self.at, self.edits = sweep, states, cells, at, edits

    def read(self) -> list[Float[torch.Tensor, "token number"]]:
        """What is at the site in each cell; what is found out of the starts of passes is remembered."""
        known, (space, layer) = self.sweep.skipping.known_at, self.at
        for start in self._starts():
            key = start, space.name, layer
            if key not in known:
                known[key] = self._agrees(start)
            if known[key]:
                return self._pass(self.cells, start)
        return self._pass(self.cells, ())

    def _starts(self) -> list[Start]:
        """Where passes may start, most blocks skipped first."""
        swap = first_swap(self.cells[0])
        tower = swap.space.tower
        depth = swap.layer + 1 if swap.space.whole else swap.layer
        if not self.sweep.skipping.possible:
            return []
        start: Start = ((tower.name, depth),) if depth else ()
        media = self.sweep.layouts.media_tower(self.states[self.cells[0].state].encoded)
        if media is None and tower.modality == "audio":
            return []
        known = media is not None and all(media.name in self.states[cell.state].activations for cell in self.cells)
        starts = [(*start, (media.name, media.n_layers))] if known and media and tower.modality == "text" else []
        return [*starts, *([start] if start else [])]

    def _agrees(self, start: Start) -> bool:
        """Whether one cell has the same there with and without the blocks that are skipped."""
        weights = self.sweep.engine.module.parameters()
        half = next((each.dtype.itemsize < 4 for each in weights if each.is_floating_point()), False)
        (whole,) = self._pass(self.cells[:1], ())
        try:
            (found,) = self._pass(self.cells[:1], start)
        except Exception as error:  # whatever it is, the cells run whole, and show it again
            if is_out_of_memory(error):
                raise
            return False
        return bool((found - whole).abs().max() <= (AGREE_HALF if half else AGREE) * whole.abs().max())

    def _pass(self, cells: Sequence[Cell], start: Start) -> list[Float[torch.Tensor, "token number"]]:
        sweep, (space, layer) = self.sweep, self.at
        batch = sweep.encoder.collate([self.states[cell.state].encoded for cell in cells])
        prefixes: tuple[Prefix, ...] = tuple(
            sweep._prefix(batch, self.states, cells, tower, depth) for tower, depth in start
        )
        skipped = {prefix.tower.name: prefix.layer for prefix in prefixes}
        writes = list(self.edits.writes(batch, sweep.layouts.spans)) if self.edits else []
        writes += sweep._writes(batch, cells)
        spans, total = sweep.layouts.spans(batch, space.tower.name, layer)
        plan = Plan(
            ((Sites(space, (layer,)), Pool(total, numbers=True)),),
            root=batch.root,
            writes=tuple(
                one
                for one in writes
                if one.layer >= skipped.get(one.tower.name, 0) and one.space.order(one.layer) <= space.order(layer)
            ),
            prefixes=prefixes,
        )
        values = sweep.engine.run(batch.inputs, plan).activations[space.name][0]
        return [values[span.index] for span in spans]
