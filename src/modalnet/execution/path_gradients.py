"""Gradients of edited runs at many sites, of all paths or of those through one site.

Values that are swapped in pass no gradient on to what they replace. So in a run in which every sublayer before a
receiver has the values of the unedited run put in again, the gradient at a sender is that of the direct path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from modalnet.errors import ModalnetError
from modalnet.execution.batching import BatchLimit
from modalnet.execution.cell_batches import run_groups
from modalnet.execution.plan import Plan, Pool, Sites, Through
from modalnet.execution.states import logit_rows
from modalnet.execution.turns import step_by_step

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.execution.cells import Cell, State
    from modalnet.execution.edits import Edits
    from modalnet.execution.states import Measure
    from modalnet.execution.sweep import Sweep

#: By the name of a space and the number of a layer, the gradient at that site.
AtSites: TypeAlias = "dict[tuple[str, int], Float[torch.Tensor, 'token number']]"


@step_by_step
def read_path_gradients(  # noqa: PLR0917
    sweep: Sweep,
    states: Sequence[State],
    cells: Sequence[Cell],
    reads: Sequence[Sites],
    through: Sequence[Through],
    measure: Measure,
    edits: Edits | None,
    batch_size: int | Literal["auto"],
) -> Iterator[tuple[int, AtSites]]:
    """Run cells forward and backward; not in their order.

    Parameters
    ----------
    sweep
        Of the model.
    states
        The runs that the cells edit.
    cells
        Each with swaps in one tower, the same for all.
    reads
        Where gradients are taken, under the values that are swapped in.
    through
        Pairs of these sites: where there are any, the gradients are those at their first sites, of the paths through
        their second ones.
    measure
        From logits and the states that they are of to one value each; see :data:`modalnet.execution.states.Measure`.
    edits, batch_size
        As for every run.

    Yields
    ------
    tuple
        The number of a cell, and the gradient at each site at all of its stimulus' tokens.
    """
    limit = BatchLimit(batch_size, sweep.engine)
    # A backward pass keeps what every block computed on the way.
    limit.count, limit.tokens = max(1, limit.count // 4), limit.tokens / 4
    groups: dict[object, list[int]] = {}
    for number, cell in enumerate(cells):
        groups.setdefault(states[cell.state].encoded.kind, []).append(number)

    def backward(some: list[int]) -> list[AtSites]:
        return gradients_at(sweep, states, [cells[number] for number in some], reads, through, measure, edits)

    yield from run_groups(sweep, states, cells, groups.values(), limit, backward)


def gradients_at(  # noqa: PLR0917
    sweep: Sweep,
    states: Sequence[State],
    cells: Sequence[Cell],
    reads: Sequence[Sites],
    through: Sequence[Through],
    measure: Measure,
    edits: Edits | None,
) -> list[AtSites]:
    """One forward and one backward pass over cells; see :func:`read_path_gradients`."""
    import torch

    batch = sweep.encoder.collate([states[cell.state].encoded for cell in cells])
    spans, total = sweep.layouts.spans(batch, reads[0].tower.name, reads[0].layers[0])
    rows, n_text = logit_rows(sweep.layouts, batch)
    writes = list(edits.writes(batch, sweep.layouts.spans)) if edits else []
    plan = Plan(
        tuple((sites, Pool(total, numbers=True)) for sites in reads),
        torch.cat(rows),
        n_text_positions=n_text,
        root=batch.root,
        writes=(*writes, *sweep._writes(batch, cells)),
        through=tuple(through),
    )
    numbers = [cell.state for cell in cells]
    reading = sweep.engine.run(batch.inputs, plan, lambda logits: measure(logits, numbers))
    assert reading.measured is not None
    if len(reading.measured) != len(cells):
        raise ModalnetError(f"the metric returned {len(reading.measured)} values for {len(cells)} stimuli")
    found: AtSites = {}
    for pair, values in zip(through, reading.through, strict=True):
        found[pair.first[0].name, pair.first[1]] = values
    for sites in () if through else reads:
        for place, layer in enumerate(sites.layers):
            found[sites.name, layer] = reading.gradient[sites.name][place]
    return [{site: values[span.index] for site, values in found.items()} for span in spans]
