"""Runs of single stimuli: activations and gradients at every token, and the tokens themselves."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet.errors import InputError, ModalnetError
from modalnet.execution.batching import BatchLimit, batches, halves
from modalnet.execution.cells import Outcome, State
from modalnet.execution.edits import Edits
from modalnet.execution.layout import Layouts
from modalnet.execution.memory import free_memory, is_out_of_memory
from modalnet.execution.passes import Readout
from modalnet.execution.plan import Plan, Pool, Sites, Through
from modalnet.execution.stream import Runner
from modalnet.execution.turns import one_step, step_by_step
from modalnet.interventions.positions import TokenChoice, TokenRow

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int

    from modalnet.inputs.batch import Batch, Encoded, Prepared
    from modalnet.models.sites import Space
    from modalnet.models.towers import Tower

#: From logits ``[row, vocab]`` of some stimuli, and their indices, to one value for each.
Measure = Callable[["torch.Tensor", Sequence[int]], "torch.Tensor"]


@dataclass(frozen=True)
class Paths:
    """Which paths gradients take.

    Attributes
    ----------
    direct, through
        As in a :class:`~modalnet.execution.plan.Plan`.
    """

    direct: tuple[tuple[Tower, int], ...] = ()
    through: tuple[Through, ...] = ()

    @staticmethod
    def name(space: Space) -> str:
        """The name of the gradient at a space of the paths through other sites, among those of the spaces."""
        return f"{space.name} through"


EVERY_PATH = Paths()


def read_states(  # noqa: PLR0917
    runner: Runner,
    prepared: Sequence[Prepared],
    spaces: Sequence[Space],
    edits: Edits | None,
    batch_size: int | Literal["auto"],
    outcome: Outcome | None = None,
) -> list[State]:
    """Run stimuli and store their activations in some spaces, in their order, and what is taken from the logits."""
    sites = [Sites(space, tuple(range(space.n_layers))) for space in spaces]
    tokens: dict[str, TokenChoice] = {space.name: "all" for space in spaces}
    made: list[Any] = [None] * len(prepared)
    logits: Any = None if outcome is None else "score" if outcome.kind == "logprob" else "last"
    for result in runner.stream(prepared, Readout(sites, tokens, logits, [edits], numbers=True), batch_size):
        for place, index in enumerate(result.indices):
            # A copy: a slice would keep its whole batch in memory.
            activations = {name: values[place].clone() for name, values in result.activations.items()}
            taken = None
            if result.scores is not None:
                taken = result.scores[place][0].clone()
            elif result.logits is not None and outcome is not None:
                taken = result.logits[place].clone()
                if outcome.kind == "columns":
                    taken = taken[:, list(outcome.columns[index])]
            made[index] = State(runner.encoder.encode(prepared[index]), activations, taken)
        del result  # or it would be held while the next batch runs
    return made


@step_by_step
def read_gradients(  # noqa: PLR0917
    runner: Runner,
    prepared: Sequence[Prepared],
    spaces: Sequence[Space],
    measure: Measure,
    edits: Edits | None,
    batch_size: int | Literal["auto"],
    paths: Paths = EVERY_PATH,
) -> Iterator[tuple[int, State, dict[str, Float[torch.Tensor, "layer token dim"]], torch.Tensor]]:
    """Run stimuli forward and backward; not in their order.

    Parameters
    ----------
    runner
        Of the model.
    prepared
        Stimuli with or without continuations.
    spaces
        Where gradients are taken.
    measure
        See ``Measure``.
    edits, batch_size
        As for every run.
    paths
        Which paths gradients take.

    Yields
    ------
    tuple
        Index, state, per space the gradient of the measure ``[layer, token, dim]``, and the measure.
    """
    limit = BatchLimit(batch_size, runner.engine)
    # A backward pass keeps what every block computed on the way.
    limit.count, limit.tokens = max(1, limit.count // 4), limit.tokens / 4
    sites = [Sites(space, tuple(range(space.n_layers))) for space in spaces]
    towers = list(dict.fromkeys(space.tower.name for space in spaces))
    encoded = [runner.encoder.encode(item) for item in sorted(prepared, key=lambda item: item.order)]
    for items in batches(encoded, lambda item: item, limit):
        if any(item.prepared.n_scored for item in items):
            runner.layouts.causality.keep_order(items[0])
        waiting = deque(side_by_side(runner.layouts, items, towers))
        while waiting:
            group = waiting.popleft()
            try:
                yield from _backward(runner, group, sites, measure, edits, paths)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(group) == 1:
                    raise
                waiting.extendleft(reversed(halves(group)))
                free_memory()


def _backward(  # noqa: PLR0917  # one call, above
    runner: Runner,
    items: list[Encoded],
    sites: Sequence[Sites],
    measure: Measure,
    edits: Edits | None,
    paths: Paths,
) -> list[tuple[int, State, dict[str, torch.Tensor], torch.Tensor]]:
    import torch

    batch = runner.encoder.collate(items)
    spans = {site.name: runner.layouts.spans(batch, site.tower.name) for site in sites}
    rows, n_text = logit_rows(runner.layouts, batch)
    indices = [item.index for item in items]
    plan = Plan(
        tuple((site, Pool(spans[site.name][1], numbers=True)) for site in sites),
        torch.cat(rows),
        n_text_positions=n_text,
        root=batch.root,
        writes=edits.writes(batch, runner.layouts.spans) if edits else (),
        direct=paths.direct,
        through=paths.through,
    )
    reading = runner.engine.run(batch.inputs, plan, lambda logits: measure(logits, indices))
    assert reading.measured is not None
    if len(reading.measured) != len(items):
        raise ModalnetError(f"the metric returned {len(reading.measured)} values for {len(items)} stimuli")
    made = []
    for place, item in enumerate(items):
        at = {name: own[place].index for name, (own, _) in spans.items()}
        state = State(item, {name: values[:, at[name]] for name, values in reading.activations.items()})
        gradient = {name: values[:, at[name]] for name, values in reading.gradient.items()}
        for pair, values in zip(paths.through, reading.through, strict=True):
            space, layer = pair.first
            part = gradient.setdefault(paths.name(space), torch.zeros_like(gradient[space.name]))
            part[layer] = values[at[space.name]]
        made.append((item.index, state, gradient, reading.measured[place]))
    return made


@one_step
def token_row(runner: Runner, encoded: Encoded, tower: str) -> TokenRow:
    """The tokens of a stimulus in a tower, without those of a continuation."""
    batch = runner.encoder.collate([encoded])
    (span,), _ = runner.layouts.spans(batch, tower)
    count = len(span.index) - encoded.prepared.scored_in(tower)
    modality = runner.layouts.towers[tower].modality
    marked, heard, placed = span.image, span.sound, span.cls
    if span.measured is not None and modality == "audio":
        heard = span.measured("audio").sound
    elif span.measured is not None:
        marked = span.measured("image").image
        with contextlib.suppress(InputError):  # which of the learned tokens is the class token may not be known
            placed = span.measured("cls").cls
    image, sound = (np.zeros(count, dtype=bool) if mask is None else mask.numpy()[:count] for mask in (marked, heard))
    cls = np.zeros(count, dtype=bool)
    if placed is not None:
        cls[placed.numpy()] = True
    ids = runner.layouts.token_ids(batch, tower)[0][:count].tolist() if modality == "text" else []
    images, sounds = np.cumsum(image), np.cumsum(sound)
    names = [
        f"<image {images[place] - 1}>"
        if image[place]
        else f"<audio {sounds[place] - 1}>"
        if sound[place]
        else runner.encoder.loaded.tokenizer.decode([ids[place]])
        if ids and ids[place] >= 0
        else "<cls>"
        if cls[place]
        else f"<other {place}>"
        for place in range(count)
    ]
    return TokenRow(tuple(names), image, cls, sound)


def logit_rows(layouts: Layouts, batch: Batch) -> tuple[list[Int[torch.Tensor, " row"]], int]:
    """Flat positions whose logits predict each continuation, or the next token; and the total number of positions."""
    spans, n_text = layouts.head_spans(batch)
    counts = [item.prepared.n_scored for item in batch.items]
    return [
        span.index[-count - 1 : -1] if count else span.index[-1:] for span, count in zip(spans, counts, strict=True)
    ], n_text


def side_by_side(layouts: Layouts, items: list[Encoded], towers: Sequence[str]) -> list[list[Encoded]]:
    """Split items into one batch, or into single items if the model does not keep them apart; the order is kept."""
    parts = layouts.group(items, towers)
    if len(parts) == 1:
        return parts
    # The layout may reorder items to group equal sizes; here the order must be kept.
    same: list[list[Encoded]] = []
    alone = any(len(part) == 1 for part in parts)
    for item in items:
        if same and not alone and same[-1][0].signature == item.signature:
            same[-1].append(item)
        else:
            same.append([item])
    return same
