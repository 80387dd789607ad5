"""Sweeps: many small edits of the same runs, as in activation patching.

A *state* is the run of one stimulus: its inputs, and the output of every block at each of its tokens. A *cell* of a
sweep asks for the logits of that run with other values at some tokens of some blocks. The blocks before the first
edited one have the same outputs as in the state, so they are not run again: the forward pass starts from the stored
outputs, edited as the cell specifies (see :class:`modalnet.execution.plan.Prefix`). Cells that start at the same block
share a batch, whatever their stimuli and tokens.

Some models pass more from block to block than the residual stream. Therefore one cell of each block that cells start
at also runs in full, with the edits made during the pass, before the others; where the logits differ, cells run in full
(see :mod:`modalnet.execution.skipping`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from modalnet.execution.batching import BatchLimit, batches, halves
from modalnet.execution.cells import Cell, EdgeCut, Outcome, State, Swap
from modalnet.execution.edits import Edits
from modalnet.execution.jobs import JobQueue
from modalnet.execution.memory import free_memory, is_out_of_memory, too_large
from modalnet.execution.passes import Pass
from modalnet.execution.plan import Plan, Prefix, Removal, Write
from modalnet.execution.skipping import Start
from modalnet.execution.states import logit_rows, side_by_side
from modalnet.execution.stream import Runner
from modalnet.execution.turns import step_by_step

if TYPE_CHECKING:
    import torch

    from modalnet.execution.reading import Reading
    from modalnet.inputs.batch import Batch, Encoded
    from modalnet.models.masks import EdgeSpace
    from modalnet.models.towers import Tower

# How far logits may differ between a run that skips blocks and a whole one, as a share of their spread.
AGREE, AGREE_HALF = 1e-3, 5e-2
# Of the logits of models in full precision; small ones may hardly differ.
LEAST_SPREAD = 0.1
# Beyond this a logit says that a token is ruled out, not how likely it is.
RULED_OUT = 1e30

#: The first block that some cells write to, where the blocks up to it need not run; None where they do.
Entry: TypeAlias = "tuple[str, int] | None"
#: Cells by the kind of their inputs and where they enter.
Groups: TypeAlias = "dict[tuple[Any, Entry], list[int]]"
#: Runs the cells of one batch, by their numbers.
Run: TypeAlias = "Callable[[list[int]], list[torch.Tensor]]"


@dataclass(frozen=True)
class Design:
    """What all runs of a sweep have in common: the states, what is taken from the logits, and edits of every run."""

    states: Sequence[State]
    outcome: Outcome
    edits: Edits | None

    def encoded(self, cell: Cell) -> Encoded:
        """The inputs of a cell's state."""
        return self.states[cell.state].encoded


class Sweep:
    """Runs the cells of a sweep on one model.

    Parameters
    ----------
    runner
        Of the model.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.engine, self.encoder, self.layouts = runner.engine, runner.encoder, runner.layouts
        self.skipping = runner.shared.skipping

    @step_by_step
    def run(
        self,
        states: Sequence[State],
        cells: Sequence[Cell],
        outcome: Outcome,
        edits: Edits | None,
        batch_size: int | Literal["auto"],
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the number of each cell with its outcome, not in order.

        Raises
        ------
        ModalnetError
            Where one cell alone does not fit into memory.
        """
        limit = BatchLimit(batch_size, self.engine)
        design = Design(states, outcome, edits)
        self.skipping.forget_if_altered()
        groups: Groups = {}
        for number, cell in enumerate(cells):
            # Where every block runs anyway, cells may share a batch wherever they begin.
            entry = self._entry(cell, states[cell.state]) if self.skipping.possible else None
            groups.setdefault((design.encoded(cell).kind, entry), []).append(number)
        if self.engine.capabilities.jobs:
            yield from self._as_jobs(design, cells, list(groups.values()), limit)
            return
        for numbers in groups.values():
            numbers.sort(key=lambda number: (-design.encoded(cells[number]).n_tokens, number))
        wholes = self._wholes(design, cells, groups, limit)
        for (_, entry), numbers in groups.items():

            def run(some: list[int], entry: Entry = entry) -> list[torch.Tensor]:
                return self._run(design, cells, some, entry, wholes)

            runs_vision = entry is None or not self._is_text(entry[0])
            for batch in batches(numbers, lambda number: design.encoded(cells[number]), limit, vision=runs_vision):
                yield from self._batch(design, cells, batch, limit, run)

    def _wholes(
        self, design: Design, cells: Sequence[Cell], groups: Groups, limit: BatchLimit
    ) -> dict[int, torch.Tensor]:
        """The outcome of one cell of each group that enters where no pass was started before, run whole."""
        firsts: dict[Any, list[int]] = {}
        for (kind, entry), numbers in groups.items():
            first = cells[numbers[0]]
            if entry is not None and not self._is_known(entry, self._seeing(design, [first])):
                firsts.setdefault(kind, []).append(numbers[0])

        def run(some: list[int]) -> list[torch.Tensor]:
            return self._whole(design, [cells[number] for number in some])

        found: dict[int, torch.Tensor] = {}
        for numbers in firsts.values():
            for batch in batches(numbers, lambda number: design.encoded(cells[number]), limit):
                found.update(self._batch(design, cells, batch, limit, run))
        return found

    def _entry(self, cell: Cell, state: State) -> tuple[str, int] | None:
        """A tower, and how many of its first blocks need not run for a cell; None where all do.

        Where the first site that is written to is what its block puts out, that is all that later blocks see. Inside of
        a block it is not, and that block has to run.
        """
        edits: list[Swap | EdgeCut] = [*cell.swaps, *cell.cuts]
        if not edits:
            return None
        first = min(edits, key=lambda edit: edit.space.order(edit.layer))
        tower = first.space.tower.name
        depth = first.layer + 1 if first.space.whole else first.layer
        return (tower, depth) if tower in state.activations else None

    def _is_text(self, tower: str) -> bool:
        return self.layouts.towers[tower].modality == "text"

    def _as_jobs(
        self, design: Design, cells: Sequence[Cell], groups: Sequence[list[int]], limit: BatchLimit
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """The cells as jobs: many passes to each."""

        def batched() -> Iterator[list[int]]:
            for numbers in groups:
                for some in batches(numbers, lambda number: design.encoded(cells[number]), limit):
                    yield from self._apart(design, cells, some)

        def passes(numbers: list[int]) -> list[Pass]:
            own = [cells[number] for number in numbers]
            batch = self.encoder.collate([design.encoded(cell) for cell in own])
            plan, rows = self._plan(batch, design, own, ())
            return [Pass(batch, plan, tuple(numbers), rows)]

        for sent, readings in JobQueue(batched(), passes, self.runner.read_job, limit, self.engine):
            for each, reading in zip(sent, readings, strict=True):
                yield from zip(each.label, _values(reading, design.outcome, each.logit_positions), strict=True)

    def _apart(self, design: Design, cells: Sequence[Cell], numbers: list[int]) -> list[list[int]]:
        """Cells in one batch, or split where the model does not keep their stimuli apart; in their order."""
        items = [design.encoded(cells[number]) for number in numbers]
        # Only the sizes matter: what is split stays in order.
        order = iter(numbers)
        return [[next(order) for _ in part] for part in side_by_side(self.layouts, items, self._seen(items))]

    def _seen(self, items: Sequence[Encoded]) -> list[str]:
        held = {"text": True, "image": items[0].n_images > 0, "audio": items[0].n_sounds > 0}
        return [name for name, tower in self.layouts.towers.items() if held[tower.modality]]

    def _batch(
        self, design: Design, cells: Sequence[Cell], numbers: list[int], limit: BatchLimit, run: Run
    ) -> Iterator[tuple[int, torch.Tensor]]:
        waiting = deque([numbers])
        while waiting:
            some = waiting.popleft()
            parts = self._apart(design, cells, some)
            if len(parts) > 1:
                waiting.extendleft(reversed(parts))
                continue
            try:
                values = run(some)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(some) == 1:
                    raise too_large(design.encoded(cells[some[0]]).label) from error
                limit.count = max(1, len(some) // 2)
                waiting.extendleft(reversed(halves(some)))
                free_memory()
                continue
            yield from zip(some, values, strict=True)

    def _run(
        self,
        design: Design,
        cells: Sequence[Cell],
        numbers: list[int],
        entry: Entry,
        wholes: Mapping[int, torch.Tensor],
    ) -> list[torch.Tensor]:
        """The cells of one batch, without the blocks that the model does without."""
        own = [cells[number] for number in numbers]
        batch = self.encoder.collate([design.encoded(cell) for cell in own])
        known = self.skipping.known
        for start in () if entry is None else self._starts(entry, self._seeing(design, own)):
            if known.get(start) is False:
                continue
            prefixes = tuple(self._prefix(batch, design.states, own, tower, depth) for tower, depth in start)
            if known.get(start):
                return self._pass(batch, design, own, prefixes)
            whole = wholes.get(numbers[0])
            whole = self._whole(design, own[:1])[0] if whole is None else whole
            try:
                values = self._pass(batch, design, own, prefixes)
                known[start] = self._agree(values[0], whole, wholes)
            except Exception as error:  # whatever it is, the cells run whole, and show it again
                if is_out_of_memory(error):
                    raise
                known[start] = False
            if known[start]:
                return values
        return self._pass(batch, design, own, ())

    def _seeing(self, design: Design, cells: Sequence[Cell]) -> Tower | None:
        """The tower that reads the images or sounds, where what it puts out for all of these cells is known."""
        media = self.layouts.media_tower(design.encoded(cells[0]))
        known = media is not None and all(media.name in design.states[cell.state].activations for cell in cells)
        return media if known else None

    def _starts(self, entry: tuple[str, int], media: Tower | None) -> list[Start]:
        """Where passes that enter at a block may start, most blocks skipped first."""
        tower, depth = entry
        start: Start = ((tower, depth),) if depth else ()
        if media is None and self.layouts.towers[tower].modality == "audio":
            return []
        if media is None or not self._is_text(tower):
            return [start] if start else []
        seen: Start = ((media.name, media.n_layers),)
        both = (*start, *seen)
        known = self.skipping.known
        if known.get(start) and known.get(both) is False:
            known[seen] = False  # it is the other tower that the model does not do without
        found = [start] if known.get(seen) is False else [both, start]
        return [one for one in found if one]

    def _is_known(self, entry: tuple[str, int], media: Tower | None) -> bool:
        """Whether it is known where passes that enter at a block start."""
        answers = [self.skipping.known.get(start) for start in self._starts(entry, media)]
        return next((answer for answer in answers if answer is not False), False) is not None

    def _whole(self, design: Design, cells: Sequence[Cell]) -> list[torch.Tensor]:
        batch = self.encoder.collate([design.encoded(cell) for cell in cells])
        return self._pass(batch, design, cells, ())

    def _pass(
        self, batch: Batch, design: Design, cells: Sequence[Cell], prefixes: tuple[Prefix, ...]
    ) -> list[torch.Tensor]:
        """One forward pass over a batch of cells."""
        plan, rows = self._plan(batch, design, cells, prefixes)
        return _values(self.engine.run(batch.inputs, plan), design.outcome, rows)

    def _plan(
        self, batch: Batch, design: Design, cells: Sequence[Cell], prefixes: tuple[Prefix, ...]
    ) -> tuple[Plan, list[torch.Tensor]]:
        """The plan of a pass, and the rows of each cell's logits."""
        import torch

        rows, n_text = logit_rows(self.layouts, batch)
        outcome, edits = design.outcome, design.edits
        skipped = {prefix.tower.name: prefix.layer for prefix in prefixes}
        writes: list[Write | Removal] = list(edits.writes(batch, self.layouts.spans)) if edits else []
        writes += [*self._writes(batch, cells), *self._removals(batch, cells)]
        flat = torch.cat(rows)
        columns = targets = None
        if outcome.kind == "columns":
            columns = torch.cat(
                [
                    torch.tensor(outcome.columns[cell.state]).expand(len(row), -1)
                    for cell, row in zip(cells, rows, strict=True)
                ]
            )
        elif outcome.kind == "logprob":
            ids = self.layouts.token_ids(batch, self.encoder.text_tower)
            targets = torch.cat([one[-len(row) :] for one, row in zip(ids, rows, strict=True)])
        plan = Plan(
            (),
            flat,
            targets,
            n_text,
            batch.root,
            tuple(one for one in writes if one.layer >= skipped.get(one.tower.name, 0)),
            prefixes,
            columns,
        )
        return plan, rows

    def _prefix(self, batch: Batch, states: Sequence[State], cells: Sequence[Cell], tower: str, depth: int) -> Prefix:
        """What stands in for the first blocks of a tower, with the swaps made in them."""
        if not self._is_text(tower):
            return self.media_prefix(batch, states, cells, self.layouts.towers[tower], depth)
        # A decoder block looks at nothing but the one before it. Of a vision tower a decoder may look at several.
        return Prefix(self.layouts.towers[tower], depth, (self._hidden(batch, states, cells, tower, depth - 1),))

    def media_prefix(
        self, batch: Batch, states: Sequence[State], cells: Sequence[Cell], tower: Tower, depth: int | None = None
    ) -> Prefix:
        """What stands in for the first ``depth`` blocks of a tower of images or sounds (None for all), swaps made."""
        depth = tower.n_layers if depth is None else depth
        outputs = tuple(self._hidden(batch, states, cells, tower.name, layer) for layer in range(depth))
        return Prefix(tower, depth, outputs)

    def _hidden(
        self, batch: Batch, states: Sequence[State], cells: Sequence[Cell], tower: str, layer: int
    ) -> torch.Tensor:
        """What a block puts out in a batch, put together from the states of its stimuli and what the cells swap."""
        import torch

        spans, total = self.layouts.spans(batch, tower)
        flat = torch.zeros(total, self.layouts.towers[tower].width)
        for cell, span in zip(cells, spans, strict=True):
            flat[span.index] = states[cell.state].activations[tower][layer]
            for swap in cell.swaps:
                if (swap.space.name, swap.layer) == (tower, layer):
                    where = span.index[swap.tokens]
                    if swap.dims is None:
                        flat[where] = swap.values
                    else:
                        flat[where[:, None], swap.dims[None, :]] = swap.values
        return flat.reshape(*self.layouts.shape(batch, tower), -1)

    def _writes(self, batch: Batch, cells: Sequence[Cell]) -> list[Write]:
        """The swaps as edits on the way."""
        import torch

        towers = {swap.space.tower.name for cell in cells for swap in cell.swaps}
        spans = {name: self.layouts.spans(batch, name) for name in towers}
        made = []
        for place, cell in enumerate(cells):
            for swap in cell.swaps:
                own, total = spans[swap.space.tower.name]
                count = swap.space.widths[swap.layer] * swap.space.size
                dims = torch.arange(count) if swap.dims is None else swap.dims
                where = own[place].index[swap.tokens]
                made.append(Write(swap.space, swap.layer, total, where, dims, None, 0.0, swap.values[:, : len(dims)]))
        return made

    def _removals(self, batch: Batch, cells: Sequence[Cell]) -> list[Removal]:
        """The edges that the cells remove, layer by layer."""
        import torch

        found: dict[tuple[EdgeSpace, int], list[torch.Tensor]] = {}
        for place, cell in enumerate(cells):
            for cut in cell.cuts:
                span = self.layouts.spans(batch, cut.space.tower.name, cut.layer)[0][place]
                ends = [span.index[tokens] for tokens in (cut.targets, cut.sources)]
                found.setdefault((cut.space, cut.layer), []).append(torch.stack(ends, dim=1))
        made = []
        for (space, layer), edges in found.items():
            nothing = torch.zeros(self.layouts.spans(batch, space.tower.name, layer)[1], dtype=torch.bool)
            made.append(Removal(space, layer, nothing, nothing, edges=torch.cat(edges)))
        return made

    def _agree(self, skipping: torch.Tensor, whole: torch.Tensor, wholes: Mapping[int, torch.Tensor]) -> bool:
        """Whether a cell has the same outcome with and without the blocks that it skips."""
        import torch

        half = next((p.dtype.itemsize < 4 for p in self.engine.module.parameters() if p.is_floating_point()), False)
        values = torch.cat([value.flatten() for value in (whole, *wholes.values())])
        values = values[values.abs() < RULED_OUT]
        spread = float(values.std()) if len(values) > 1 else 0.0
        close = AGREE_HALF * max(spread, 1.0) if half else AGREE * max(spread, LEAST_SPREAD)
        return bool((skipping - whole).abs().max() <= close)


def _values(reading: Reading, outcome: Outcome, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What is wanted of each cell's logits."""
    values = {"columns": reading.picked, "logprob": reading.logprob, "logits": reading.logits}[outcome.kind]
    assert values is not None
    return list(values.split([len(row) for row in rows]))
