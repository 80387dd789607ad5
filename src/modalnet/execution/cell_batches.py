"""Cells with swaps in one tower each, run batch by batch; a batch that does not fit into memory is halved."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from modalnet.execution.batching import BatchLimit, batches, halves
from modalnet.execution.memory import free_memory, is_out_of_memory
from modalnet.execution.states import side_by_side

if TYPE_CHECKING:
    from modalnet.execution.cells import Cell, State
    from modalnet.execution.sweep import Sweep

_Found = TypeVar("_Found")


def run_groups(  # noqa: PLR0917
    sweep: Sweep,
    states: Sequence[State],
    cells: Sequence[Cell],
    groups: Iterable[list[int]],
    limit: BatchLimit,
    run: Callable[[list[int]], Sequence[_Found]],
) -> Iterator[tuple[int, _Found]]:
    """Yield the number of each cell and what ``run`` found for it, not in order.

    Parameters
    ----------
    sweep, states, cells
        Of the model; the runs that the cells edit; each with swaps in one tower.
    groups
        Numbers of cells that may share a batch, with swaps in one tower.
    limit
        Of batches.
    run
        From the numbers of the cells of a batch to something for each.
    """
    for numbers in groups:
        numbers.sort(key=lambda number: (-states[cells[number].state].encoded.n_tokens, number))
        tower = cells[numbers[0]].swaps[0].space.tower.name
        for batch in batches(numbers, lambda number: states[cells[number].state].encoded, limit):
            items = [states[cells[number].state].encoded for number in batch]
            order = iter(batch)
            waiting = deque([[next(order) for _ in part] for part in side_by_side(sweep.layouts, items, [tower])])
            while waiting:
                some = waiting.popleft()
                try:
                    found = run(some)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error) or len(some) == 1:
                        raise
                    limit.count = max(1, len(some) // 2)
                    waiting.extendleft(reversed(halves(some)))
                    free_memory()
                    continue
                yield from zip(some, found, strict=True)
