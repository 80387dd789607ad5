"""Gradients in edited runs: the cells of a sweep, run forward and backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from modalnet.execution.batching import BatchLimit
from modalnet.execution.cell_batches import run_groups
from modalnet.execution.path_gradients import gradients_at
from modalnet.execution.plan import Sites
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
        own = [cells[number] for number in some]
        swap = own[0].swaps[0]
        site = Sites(swap.space, (swap.layer,))
        found = gradients_at(sweep, states, own, [site], (), measure, edits)
        return [gradients[swap.space.name, swap.layer] for gradients in found]

    yield from run_groups(sweep, states, cells, groups.values(), limit, backward)
