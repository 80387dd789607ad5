"""Many small edits of the same runs: what patching is made of.

A *state* is one stimulus as it runs: its inputs, and what every block puts out at each of its tokens. A *cell* of a
sweep asks what the logits become with other values at some tokens of some blocks of that run. The blocks below the
first of them put out what they put out before, so they are not run again: the state stands in for them, edited where
the cell says so, and the forward pass begins behind it (see :class:`modalnet.execution.plan.Prefix`). Cells that
begin at the same block share a batch, whatever stimulus and tokens they are about.

Some models hand more from block to block than the residual stream. So the first time that blocks of a tower are
skipped, the same cells also run whole, with the edits made on the way; where both do not agree, all cells run whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from modalnet.errors import ModalnetError
from modalnet.execution.batching import BatchLimit, Question, Runner, free_memory, halves, image_tokens
from modalnet.execution.edits import Edits
from modalnet.execution.layout import is_out_of_memory
from modalnet.execution.plan import Plan, Pool, Prefix, Sites, Write
from modalnet.inputs.batch import Batch, Encoded, Prepared
from modalnet.interventions.positions import TokenChoice, TokenRow
from modalnet.models.sites import Space

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int

    from modalnet.execution.reading import Reading

# How far logits may differ between a run that skips blocks and a whole one, as a share of their spread.
AGREE, AGREE_HALF = 1e-3, 5e-2


@dataclass(frozen=True, eq=False)
class State:
    """One stimulus as it runs.

    Attributes
    ----------
    encoded
        Its inputs.
    activations
        Per space ``[layer, token, dim]`` float32, at the stimulus' own tokens.
    outcome
        What was wanted of its logits (see :class:`Outcome`); None where nothing was.
    """

    encoded: Encoded
    activations: Mapping[str, Float[torch.Tensor, "layer token dim"]]
    outcome: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Swap:
    """Other values for some tokens of one site.

    Attributes
    ----------
    space, layer
        Which site.
    tokens
        Places among the stimulus' own tokens.
    values
        ``[token, dims]``.
    dims
        Which units of the layer; None for all.
    """

    space: Space
    layer: int
    tokens: Int[torch.Tensor, " token"]
    values: Float[torch.Tensor, "token dims"]
    dims: Int[torch.Tensor, " dims"] | None = None


@dataclass(frozen=True, eq=False)
class Cell:
    """One run: of which state (its number), with what swapped; nothing for the run as it is."""

    state: int
    swaps: tuple[Swap, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What is wanted of the logits, at the rows that predict a state's continuation, or else its next token.

    Attributes
    ----------
    kind
        ``"logprob"`` of each token of the continuation, ``[row]``; the logits at some ``"columns"``, ``[row, token]``;
        all ``"logits"``, ``[row, vocab]``.
    columns
        Per state, tokens of the vocabulary; empty for the other kinds.
    """

    kind: Literal["logprob", "columns", "logits"]
    columns: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class _Asked:
    """What a sweep is about: its states, what is wanted of each run, and edits that hold for all of them."""

    states: Sequence[State]
    outcome: Outcome
    edits: Edits | None


class Sweep:
    """Runs the cells of a sweep on one model.

    Parameters
    ----------
    runner
        The model's own.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.engine, self.encoder, self.layouts = runner.engine, runner.encoder, runner.layouts
        self._skips: dict[str, bool] = {}  # whether a tower's blocks can be skipped, once it was tried

    # -- states ------------------------------------------------------------------------------------------------------

    def states(
        self,
        prepared: Sequence[Prepared],
        spaces: Sequence[Space],
        edits: Edits | None,
        batch_size: Any,
        outcome: Outcome | None = None,
    ) -> list[State]:
        """Run stimuli and store their activations in some spaces, in their order, and what is wanted of the logits."""
        sites = [Sites(space, tuple(range(space.n_layers))) for space in spaces]
        tokens: dict[str, TokenChoice] = {space.name: "all" for space in spaces}
        found: list[Any] = [None] * len(prepared)
        logits: Any = None if outcome is None else "score" if outcome.kind == "logprob" else "last"
        steps = self.runner.stream(prepared, sites, tokens, logits=logits, batch_size=batch_size, variants=[edits])
        for step in steps:
            for place, index in enumerate(step.indices):
                # A copy: a slice would keep its whole batch in memory.
                activations = {name: values[place].clone() for name, values in step.activations.items()}
                wanted = None
                if step.scores is not None:
                    wanted = step.scores[place][0].clone()
                elif step.logits is not None and outcome is not None:
                    wanted = step.logits[place].clone()
                    if outcome.kind == "columns":
                        wanted = wanted[:, list(outcome.columns[index])]
                found[index] = State(self.encoder.encode(prepared[index]), activations, wanted)
        return found

    def gradients(
        self,
        prepared: Sequence[Prepared],
        spaces: Sequence[Space],
        measure: Callable[[torch.Tensor, Sequence[int]], torch.Tensor],
        edits: Edits | None,
        batch_size: Any,
    ) -> Iterator[tuple[int, State, dict[str, torch.Tensor], torch.Tensor]]:
        """Run stimuli forward and backward; not in their order.

        Parameters
        ----------
        prepared
            Stimuli with or without continuations.
        spaces
            Where gradients are wanted.
        measure
            From logits ``[row, vocab]`` of some of the stimuli, and their indices, to one value for each.

        Yields
        ------
        tuple
            Index, state, per space the gradient of the measure ``[layer, token, dim]``, and the measure.
        """
        limit = BatchLimit(batch_size, self.engine)
        # A backward pass keeps what every block computed on the way.
        limit.count, limit.tokens = max(1, limit.count // 4), limit.tokens / 4
        sites = [Sites(space, tuple(range(space.n_layers))) for space in spaces]
        towers = list(dict.fromkeys(space.tower.name for space in spaces))
        encoded = [self.encoder.encode(item) for item in sorted(prepared, key=lambda item: item.order)]
        for items in _packed(encoded, limit, list(range(len(encoded)))):
            waiting = deque(self._side_by_side([encoded[i] for i in items], towers))
            while waiting:
                group = waiting.popleft()
                try:
                    yield from self._backward(group, sites, measure, edits)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error) or len(group) == 1:
                        raise
                    waiting.extendleft(reversed(halves(group)))
                    free_memory()

    def _backward(
        self, items: list[Encoded], sites: Sequence[Sites], measure: Any, edits: Edits | None
    ) -> list[tuple[int, State, dict[str, torch.Tensor], torch.Tensor]]:
        import torch

        batch = self.encoder.collate(items)
        spans = {site.name: self.layouts.spans(batch, site.tower.name) for site in sites}
        rows, n_text = self._rows(batch)
        indices = [item.index for item in items]
        plan = Plan(
            tuple((site, Pool(spans[site.name][1])) for site in sites),
            torch.cat(rows),
            n_text_positions=n_text,
            root=batch.root,
            writes=edits.writes(batch, self.layouts.spans) if edits else (),
        )
        reading = self.engine.run(batch.inputs, plan, lambda logits: measure(logits, indices))
        assert reading.measured is not None
        if len(reading.measured) != len(items):
            raise ModalnetError(f"the measure gave {len(reading.measured)} values for {len(items)} stimuli")
        found = []
        for place, item in enumerate(items):
            at = {name: own[place].index for name, (own, _) in spans.items()}
            state = State(item, {name: values[:, at[name]] for name, values in reading.activations.items()})
            gradient = {name: values[:, at[name]] for name, values in reading.gradient.items()}
            found.append((item.index, state, gradient, reading.measured[place]))
        return found

    def tokens(self, encoded: Encoded, tower: str) -> TokenRow:
        """The own tokens of a stimulus in a tower, without those of a continuation."""
        import numpy as np

        batch = self.encoder.collate([encoded])
        (span,), _ = self.layouts.spans(batch, tower)
        scored = encoded.prepared.scored_in(tower)
        count = len(span.index) - scored
        image = np.zeros(count, dtype=bool) if span.image is None else span.image.numpy()[:count]
        cls = np.zeros(count, dtype=bool)
        if span.cls is not None:
            cls[span.cls.numpy()] = True
        ids = self.layouts.token_ids(batch, tower)[0][:count].tolist() if self._is_text(tower) else []
        numbers = np.cumsum(image)
        names = [
            f"<image {numbers[place] - 1}>"
            if image[place]
            else self.encoder.loaded.tokenizer.decode([ids[place]])
            if ids
            else "<cls>"
            if cls[place]
            else f"<register {place}>"
            for place in range(count)
        ]
        return TokenRow(tuple(names), image, cls)

    # -- cells -------------------------------------------------------------------------------------------------------

    def run(
        self,
        states: Sequence[State],
        cells: Sequence[Cell],
        outcome: Outcome,
        edits: Edits | None,
        batch_size: Any,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the number of each cell with its outcome, not in order.

        Raises
        ------
        ModalnetError
            Where one cell alone does not fit into memory.
        """
        limit = BatchLimit(batch_size, self.engine)
        asked = _Asked(states, outcome, edits)
        groups: dict[Any, list[int]] = {}
        for number, cell in enumerate(cells):
            # Where every block runs anyway, cells may share a batch wherever they begin.
            entry = self._entry(cell) if self.engine.capabilities.skips_blocks else None
            groups.setdefault((states[cell.state].encoded.kind, entry), []).append(number)
        if self.engine.capabilities.jobs:
            yield from self._there(asked, cells, list(groups.values()), limit)
            return
        for (_, entry), numbers in groups.items():
            numbers.sort(key=lambda number: (-states[cells[number].state].encoded.n_tokens, number))
            items = [states[cells[number].state].encoded for number in numbers]
            runs_vision = entry is None or not self._is_text(entry[0])
            for places in _packed(items, limit, numbers, vision=runs_vision):
                yield from self._batch(asked, cells, places, limit)

    def _entry(self, cell: Cell) -> tuple[str, int] | None:
        """The first block that a cell writes to, where the blocks up to it need not run; None where they do."""
        # Behind a site that is not all that later layers see, blocks before it cannot be stood in for by its values.
        if not cell.swaps or not all(swap.space.whole for swap in cell.swaps):
            return None
        first = min(cell.swaps, key=lambda swap: swap.space.order(swap.layer))
        return first.space.tower.name, first.layer

    def _is_text(self, tower: str) -> bool:
        return self.layouts.towers[tower].modality == "text"

    def _there(
        self, asked: _Asked, cells: Sequence[Cell], groups: Sequence[list[int]], limit: BatchLimit
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """The cells as jobs: many passes to each."""

        def batches() -> Iterator[list[int]]:
            for numbers in groups:
                items = [asked.states[cells[number].state].encoded for number in numbers]
                for some in _packed(items, limit, numbers):
                    order = iter(some)
                    for part in self._side_by_side(
                        [asked.states[cells[n].state].encoded for n in some], self._seen(items)
                    ):
                        yield [next(order) for _ in part]

        def ask(numbers: list[int]) -> list[Question]:
            own = [cells[number] for number in numbers]
            batch = self.encoder.collate([asked.states[cell.state].encoded for cell in own])
            plan, rows = self._plan(batch, asked, own, None)
            return [Question(batch, plan, {}, rows, {}, tuple(numbers))]

        for questions, readings in self.runner.jobs(batches(), ask, self.runner.read_job, limit):
            for question, reading in zip(questions, readings, strict=True):
                yield from zip(question.name, _values(reading, asked.outcome, question.wanted), strict=True)

    def _seen(self, items: Sequence[Encoded]) -> list[str]:
        return [name for name in self.layouts.towers if self._is_text(name) or items[0].n_images]

    def _batch(
        self, asked: _Asked, cells: Sequence[Cell], numbers: list[int], limit: BatchLimit
    ) -> Iterator[tuple[int, torch.Tensor]]:
        waiting = deque([numbers])
        while waiting:
            some = waiting.popleft()
            items = [asked.states[cells[number].state].encoded for number in some]
            parts = self._side_by_side(items, self._seen(items))
            if len(parts) > 1:
                # Only the sizes matter: what is split stays in order.
                order = iter(some)
                waiting.extendleft(reversed([[next(order) for _ in part] for part in parts]))
                continue
            try:
                found = self._run(asked, [cells[number] for number in some])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(some) == 1:
                    raise ModalnetError(
                        f"stimulus {items[0].label} alone does not fit into memory. Use a smaller input, a smaller "
                        'dtype, or device_map="auto".'
                    ) from error
                limit.count = max(1, len(some) // 2)
                waiting.extendleft(reversed(halves(some)))
                free_memory()
                continue
            yield from zip(some, found, strict=True)

    def _side_by_side(self, items: list[Encoded], towers: Sequence[str]) -> list[list[Encoded]]:
        """Items in one batch, or one by one where the model does not keep them apart."""
        parts = self.layouts.group(items, towers)
        if len(parts) == 1:
            return parts
        # The layout may want another order, in which runs of equal sizes stand together; here order must stay.
        same: list[list[Encoded]] = []
        alone = any(len(part) == 1 for part in parts)
        for item in items:
            if same and not alone and same[-1][0].signature == item.signature:
                same[-1].append(item)
            else:
                same.append([item])
        return same

    def _run(self, asked: _Asked, cells: Sequence[Cell]) -> list[torch.Tensor]:
        batch = self.encoder.collate([asked.states[cell.state].encoded for cell in cells])
        entry = self._entry(cells[0])
        if entry is None or self._skips.get(entry[0]) is False:
            return self._pass(batch, asked, cells, None)
        try:
            skipping = self._pass(batch, asked, cells, entry)
        except Exception as error:  # whatever it is, the cells run whole, and show it again
            if is_out_of_memory(error) or self._skips.get(entry[0]):
                raise
            skipping = None
        if self._skips.get(entry[0]):
            return skipping  # type: ignore[return-value]
        whole = self._pass(batch, asked, cells, None)
        agree = skipping is not None and self._agree(skipping, whole)
        image = self.layouts.image_tower
        if (
            not agree
            and self._is_text(entry[0])
            and batch.items[0].n_images
            and image
            and image.name not in self._skips
        ):
            # Two towers were skipped; perhaps only the image tower cannot be.
            self._skips[image.name] = False
            return self._run(asked, cells)
        self._skips[entry[0]] = agree
        return whole

    def _pass(
        self, batch: Batch, asked: _Asked, cells: Sequence[Cell], entry: tuple[str, int] | None
    ) -> list[torch.Tensor]:
        """One forward pass over a batch of cells, from behind their entry if there is one."""
        plan, rows = self._plan(batch, asked, cells, entry)
        return _values(self.engine.run(batch.inputs, plan), asked.outcome, rows)

    def _plan(
        self, batch: Batch, asked: _Asked, cells: Sequence[Cell], entry: tuple[str, int] | None
    ) -> tuple[Plan, list[torch.Tensor]]:
        """The plan of a pass, and the rows of each cell's logits."""
        import torch

        rows, n_text = self._rows(batch)
        outcome, edits = asked.outcome, asked.edits
        prefixes = self._prefixes(batch, asked.states, cells, entry) if entry else ()
        skipped = {prefix.tower.name: prefix.layer for prefix in prefixes}
        writes = list(edits.writes(batch, self.layouts.spans)) if edits else []
        writes += self._writes(batch, cells)
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

    def _rows(self, batch: Batch) -> tuple[list[torch.Tensor], int]:
        """Flat positions whose logits predict each continuation, or the next token."""
        spans, n_text = self.layouts.head_spans(batch)
        counts = [item.prepared.n_scored for item in batch.items]
        return [
            span.index[-count - 1 : -1] if count else span.index[-1:] for span, count in zip(spans, counts, strict=True)
        ], n_text

    def _prefixes(
        self, batch: Batch, states: Sequence[State], cells: Sequence[Cell], entry: tuple[str, int]
    ) -> tuple[Prefix, ...]:
        """What stands in for the blocks up to the entry, with the swaps made in the last of them."""
        tower, layer = entry
        # A decoder block looks at nothing but the one before it. Of a vision tower a decoder may look at several.
        if self._is_text(tower):
            made = [Prefix(self.layouts.towers[tower], layer + 1, (self._hidden(batch, states, cells, tower, layer),))]
            image = self.layouts.image_tower
            seen = image is not None and all(image.name in states[cell.state].activations for cell in cells)
            if image is not None and batch.items[0].n_images and seen and self._skips.get(image.name, True):
                made.append(self.image_prefix(batch, states, cells))
            return tuple(made)
        return (self.image_prefix(batch, states, cells, layer + 1),)

    def image_prefix(
        self, batch: Batch, states: Sequence[State], cells: Sequence[Cell], depth: int | None = None
    ) -> Prefix:
        """What stands in for the first ``depth`` blocks of the image tower (None for all), swaps made."""
        tower = self.layouts.image_tower
        assert tower is not None
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
                dims = torch.arange(swap.space.width) if swap.dims is None else swap.dims
                where = own[place].index[swap.tokens]
                made.append(Write(swap.space, swap.layer, total, where, dims, None, 0.0, swap.values))
        return made

    def _agree(self, skipping: Sequence[torch.Tensor], whole: Sequence[torch.Tensor]) -> bool:
        import torch

        one, two = (torch.cat([value.flatten() for value in values]) for values in (skipping, whole))
        half = next((p.dtype.itemsize < 4 for p in self.engine.module.parameters() if p.is_floating_point()), False)
        spread = float(two.std()) if len(two) > 1 else 0.0
        return bool((one - two).abs().max() <= (AGREE_HALF if half else AGREE) * max(spread, 1.0))


def _values(reading: Reading, outcome: Outcome, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What is wanted of each cell's logits."""
    values = {"columns": reading.picked, "logprob": reading.logprob, "logits": reading.logits}[outcome.kind]
    assert values is not None
    return list(values.split([len(row) for row in rows]))


def _packed(
    items: Sequence[Encoded], limit: BatchLimit, numbers: Sequence[int], *, vision: bool = True
) -> Iterator[list[int]]:
    """Numbers of items that share a batch: of one kind, and within the limit with their padding."""
    current: list[int] = []
    kind, longest = None, 0
    for item, number in zip(items, numbers, strict=True):
        size = max(item.n_tokens, image_tokens(item) if vision else 0)
        full = len(current) >= limit.count or max(longest, size) * (len(current) + 1) > limit.tokens
        if current and (full or item.kind != kind):
            yield current
            current, longest = [], 0
        current.append(number)
        kind, longest = item.kind, max(longest, size)
    if current:
        yield current
