"""Gradients in edited runs: the cells of a sweep, run forward and backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from modalnet.errors import ModalnetError
from modalnet.execution.batching import BatchLimit
from modalnet.execution.cell_batches import run_groups
from modalnet.execution.plan import Plan, Pool, Sites
from modalnet.execution.states import logit_rows
from modalnet.execution.turns import step_by_step

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.execution.cells import Cell, State
    from modalnet.execution.edits import Edits
    from modalnet.execution.states import Measure
    from modalnet.execution.sweep import Sweep


@step_by_step
def read_cell_gradients(  # noqa: PLR0917
    sweep: Sweep,
    states: Sequence[State],
    cells: Sequence[Cell],
    measure: Measure,
    edits: Edits | None,
    batch_size: int | Literal["auto"],
) -> Iterator[tuple[int, Float[torch.Tensor, "token number"]]]:
    """Run cells forward and backward; not in their order.

    Parameters
    ----------
    sweep
        Of the model.
    states
        The runs that the cells edit.
    cells
        Each with one swap, at whose site the gradient is taken, under the values that are swapped in.
    measure
        From logits and the states that they are of to one value each; see :data:`modalnet.execution.states.Measure`.
    edits, batch_size
        As for every run.

    Yields
    ------
    tuple
        The number of a cell, and the gradient of the measure at all of its stimulus' tokens.
    """
    limit = BatchLimit(batch_size, sweep.engine)
    # A backward pass keeps what every block computed on the way.
    limit.count, limit.tokens = max(1, limit.count // 4), limit.tokens / 4
    groups: dict[tuple[object, str, int], list[int]] = {}
    for number, cell in enumerate(cells):
        (swap,) = cell.swaps
        key = (states[cell.state].encoded.kind, swap.space.name, swap.layer)
        groups.setdefault(key, []).append(number)

    def backward(some: list[int]) -> list[Float[torch.Tensor, "token number"]]:
        return _backward(sweep, states, [cells[number] for number in some], measure, edits)

    yield from run_groups(sweep, states, cells, groups.values(), limit, backward)


def _backward(
    sweep: Sweep, states: Sequence[State], cells: Sequence[Cell], measure: Measure, edits: Edits | None
) -> list[Float[torch.Tensor, "token number"]]:
    """One forward and one backward pass over cells that swap at one site."""
    import torch

    batch = sweep.encoder.collate([states[cell.state].encoded for cell in cells])
    space, layer = cells[0].swaps[0].space, cells[0].swaps[0].layer
    spans, total = sweep.layouts.spans(batch, space.tower.name, layer)
    rows, n_text = logit_rows(sweep.layouts, batch)
    writes = list(edits.writes(batch, sweep.layouts.spans)) if edits else []
    plan = Plan(
        ((Sites(space, (layer,)), Pool(total, numbers=True)),),
        torch.cat(rows),
        n_text_positions=n_text,
        root=batch.root,
        writes=(*writes, *sweep._writes(batch, cells)),
    )
    numbers = [cell.state for cell in cells]
    reading = sweep.engine.run(batch.inputs, plan, lambda logits: measure(logits, numbers))
    assert reading.measured is not None
    if len(reading.measured) != len(cells):
        raise ModalnetError(f"the metric returned {len(reading.measured)} values for {len(cells)} stimuli")
    return [reading.gradient[space.name][0, span.index] for span in spans]
