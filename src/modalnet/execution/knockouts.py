"""From a knockout to the attention edges that are removed in a batch.

The tokens at the ends of edges are found for each stimulus before anything runs: words of its own text and regions of
its picture become indices, and a stimulus without such tokens, or without any edge between them, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from modalnet.errors import InputError
from modalnet.execution.plan import Removal
from modalnet.interventions.edges import QUESTION, Edges, EdgeTokens, Region, Regions
from modalnet.interventions.positions import (
    PerSpace,
    PerStimulus,
    Span,
    StimulusTokens,
    TokenChoice,
    of_stimulus,
    select,
)
from modalnet.models.masks import EdgeSpace
from modalnet.models.places import Absent
from modalnet.models.sites import layers_of

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float, Int

    from modalnet.inputs.batch import Batch
    from modalnet.interventions.operations import Intervention
    from modalnet.interventions.positions import TokenRow
    from modalnet.models.towers import Tower
    from modalnet.stimuli.stimulus import Stimulus

#: From a stimulus and a tower to where its tokens are in its picture, left, top, right and bottom as shares of it.
Places = Callable[["Stimulus", str], "Float[np.ndarray, 'token 4'] | None"]


@dataclass(frozen=True)
class Knockout:
    """A knockout on one model.

    Attributes
    ----------
    label
        What messages call it.
    space, layers
        The edges of which tower, and where.
    source, target
        The tokens at their ends.
    heads
        Which heads; None for all.
    """

    label: str
    space: EdgeSpace
    layers: tuple[int, ...]
    source: StimulusTokens
    target: StimulusTokens
    heads: Bool[torch.Tensor, " head"] | None

    @property
    def tower(self) -> str:
        """Name of the tower."""
        return self.space.tower.name

    @property
    def by_owner(self) -> bool:
        """Whether each stimulus has tokens of its own."""
        return isinstance(self.source, PerStimulus) or isinstance(self.target, PerStimulus)

    def removals(
        self,
        batch: Batch,
        owners: Sequence[int],
        spans: Callable[..., tuple[Sequence[Span], int]],
    ) -> list[Removal]:
        """The edges that are removed in a batch, layer by layer."""
        known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        made = []
        for layer in self.layers:
            own, total = spans(batch, self.tower, layer)
            if total not in known:
                known[total] = self._marks(batch, owners, own, total)
            made.append(Removal(self.space, layer, *known[total], heads=self.heads))
        return made

    def later(
        self, batch: Batch, owners: Sequence[int], spans: Callable[..., tuple[Sequence[Span], int]]
    ) -> list[Removal]:
        """The same for each new token that a stimulus, alone in its batch, is continued by."""
        if self.space.tower.modality != "text" or not holds_later(self.target):
            return []
        new = holds_later(self.source)
        return [replace(each, new_sources=new, new_targets=True) for each in self.removals(batch, owners, spans)]

    def _marks(
        self, batch: Batch, owners: Sequence[int], spans: Sequence[Span], total: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Which flat positions are sources, and which targets."""
        import torch

        marks = torch.zeros(2, total, dtype=torch.bool)
        for item, owner, span in zip(batch.items, owners, spans, strict=True):
            n_scored = item.prepared.scored_in(self.tower)
            for row, choice in zip(marks, (self.source, self.target), strict=True):
                prompt = span if not n_scored or holds_later(choice) else without_last(span, n_scored)
                row[select(of_stimulus(choice, owner), prompt, tower=self.tower, label=item.label)] = True
        return marks[0], marks[1]


def holds_later(choice: StimulusTokens | PerSpace) -> bool:
    """Whether tokens of a continuation belong to a choice."""
    return choice in ("all", "text")


def without_last(span: Span, count: int) -> Span:
    """A span without its last tokens, those of a continuation."""
    kept = slice(0, len(span.index) - count)
    image, text = (None if mask is None else mask[kept] for mask in (span.image, span.text))
    return Span(span.index[kept], image=image, text=text, cls=span.cls, clear=span.clear)


def resolved(
    one: Intervention,
    edges: Callable[[str], EdgeSpace],
    stimuli: Sequence[Stimulus],
    rows: Sequence[TokenRow],
    places: Places,
) -> Knockout:
    """A knockout on one model, over the user's stimuli.

    Parameters
    ----------
    one
        The knockout.
    edges
        From a tower to its attention edges.
    stimuli, rows
        The user's stimuli, and the tokens of each in the tower.
    places
        Where tokens are in pictures.

    Raises
    ------
    InputError
        As :func:`modalnet.knockout` says.
    """
    import torch

    assert isinstance(one.target, Edges)
    given = one.target
    space = edges(given.tower)
    layers = _layers(one, given, space)
    heads = None
    if given.heads is not None:
        outside = [head for head in given.heads if any(head >= space.widths[layer] for layer in layers)]
        if outside:
            least = min(space.widths[layer] for layer in layers)
            raise InputError(f"{one}: there is no head {outside[0]} in these layers; heads are 0..{least - 1}.")
        heads = torch.zeros(space.width, dtype=torch.bool)
        heads[list(given.heads)] = True
    ends = [_tokens(str(one), tokens, given.tower, stimuli, rows, places) for tokens in (given.source, given.target)]
    made = Knockout(str(one), space, layers, ends[0], ends[1], heads)
    for index, (stimulus, row) in enumerate(zip(stimuli, rows, strict=True)):
        _check_edges(made, index, stimulus.label, row)
    return made


def _layers(one: Intervention, given: Edges, space: EdgeSpace) -> tuple[int, ...]:
    if given.layers is None:
        if not space.layers:
            space.place(0)
        return space.layers
    try:
        layers = layers_of(space, given.layers)
        for layer in layers:
            if isinstance(space.places[layer], Absent):
                raise InputError(f"in block {layer} of the {given.tower} tower {space.places[layer].reason}.")  # type: ignore[union-attr]
    except InputError as error:
        raise InputError(f"{one}: {error}") from error
    return tuple(layers)


def _tokens(  # noqa: PLR0917
    label: str,
    tokens: EdgeTokens,
    tower: str,
    stimuli: Sequence[Stimulus],
    rows: Sequence[TokenRow],
    places: Places,
) -> StimulusTokens:
    """Tokens of each stimulus by their indices, where the model alone knows which they are."""
    if isinstance(tokens, Region | Regions):
        regions = tokens.each if isinstance(tokens, Regions) else (tokens,) * len(stimuli)
        _check_number(label, regions, stimuli, "regions")
        triples = zip(regions, stimuli, rows, strict=True)
        return PerStimulus(tuple(_inside(label, *triple, tower, places) for triple in triples))
    if isinstance(tokens, PerStimulus):
        _check_number(label, tokens.each, stimuli, "lists of tokens")
    if tokens == QUESTION:
        return PerStimulus(tuple(_question(label, *pair) for pair in zip(stimuli, rows, strict=True)))
    return tokens


def _check_number(label: str, given: Sequence[object], stimuli: Sequence[Stimulus], what: str) -> None:
    if len(given) != len(stimuli):
        raise InputError(f"{label}: there are {len(given)} {what}, but {len(stimuli)} stimuli run. Give one for each.")


def _question(label: str, stimulus: Stimulus, row: TokenRow) -> tuple[int, ...]:
    found = tokens_that_read(row, stimulus.text or "") if stimulus.text else None
    if found is None:
        raise InputError(
            f"{label}: the tokens of stimulus {stimulus.label} that are its own text cannot be told apart"
            + (f" among {list(row.names)}." if stimulus.text else ": it has no text.")
            + ' Use "text", or indices.'
        )
    return found


def tokens_that_read(row: TokenRow, text: str) -> tuple[int, ...] | None:
    """The first run of tokens that together read a text, spaces aside; None where there is none.

    Tokenizers differ in whether a token includes the preceding space, in how they mark continuations, and in whether
    they keep capitals.
    """
    plain = ["" if name.startswith("<image ") else "".join(name.removeprefix("##").split()) for name in row.names]
    target = "".join(text.split())
    found = _run_of(plain, target)
    return found or _run_of([piece.casefold() for piece in plain], target.casefold())


def _run_of(pieces: Sequence[str], target: str) -> tuple[int, ...] | None:
    for first in range(len(pieces)):
        last = first
        while last < len(pieces) and len("".join(pieces[first:last])) < len(target):
            last += 1
        if pieces[first] and "".join(pieces[first:last]) == target:
            return tuple(range(first, last))
    return None


def _inside(  # noqa: PLR0917
    label: str, region: Region, stimulus: Stimulus, row: TokenRow, tower: str, places: Places
) -> tuple[int, ...]:
    sizes = stimulus.inspect().sizes
    if len(sizes) != 1:
        raise InputError(f"{label}: a region is one of a picture, and stimulus {stimulus.label} has {len(sizes)}.")
    boxes = places(stimulus, tower)
    if boxes is None:
        raise InputError(
            f"{label}: what tokens of the {tower} tower cover of the picture of stimulus {stimulus.label} cannot be "
            "measured (each may depend on all of it). Give token indices in the place of a region."
        )
    width, height = sizes[0]
    across, down = (boxes[:, 0] + boxes[:, 2]) / 2 * width, (boxes[:, 1] + boxes[:, 3]) / 2 * height
    with np.errstate(invalid="ignore"):
        there = (across >= region.left) & (across < region.right) & (down >= region.top) & (down < region.bottom)
    found = tuple(np.flatnonzero(there[: len(row)]).tolist())
    if not found:
        raise InputError(
            f"{label}: no image token of stimulus {stimulus.label} has its middle in {region}; the picture has "
            f"{width} x {height} pixels."
        )
    return found


def _check_edges(made: Knockout, index: int, label: str, row: TokenRow) -> None:
    """Refuse a stimulus without tokens at an end, or where no edge leads from sources to targets."""
    source, target = (
        _selected(made.label, of_stimulus(choice, index), made.space.tower, label, row)
        for choice in (made.source, made.target)
    )
    if holds_later(made.target):
        return  # tokens that follow attend to the sources
    edges = edges_between(target.tolist(), source.tolist())
    if not len(edges):
        raise InputError(f"{made.label}: in stimulus {label} both ends are the same token, whose edge to itself stays.")
    if made.space.causal and are_ahead(edges, row):
        raise InputError(
            f"{made.label}: no edge leads from these tokens to those in stimulus {label}, since attention is causal: "
            "all sources come after the targets. Exchange source and target."
        )


def _selected(label: str, choice: TokenChoice, tower: Tower, stimulus: str, row: TokenRow) -> torch.Tensor:
    """The places that a choice picks among the tokens of a stimulus."""
    import torch

    image, sound, text = (torch.from_numpy(np.array(row.kind(name))) for name in ("image", "audio", "text"))
    span = Span(
        torch.arange(len(row)),
        image=image,
        sound=sound,
        text=text if tower.modality == "text" else None,
        cls=torch.from_numpy(np.flatnonzero(row.cls)) if row.cls.any() else None,
    )
    try:
        return select(choice, span, tower=tower.name, label=stimulus)
    except InputError as error:
        raise InputError(f"{label}: {error}") from error


def places_of(  # noqa: PLR0917
    label: str, tokens: EdgeTokens, tower: Tower, stimulus: Stimulus, row: TokenRow, index: int, places: Places
) -> list[int]:
    """The places among the tokens of the user's stimulus number ``index`` at one end of edges.

    Raises
    ------
    InputError
        The stimulus has no such tokens.
    """
    own: EdgeTokens = tokens
    if isinstance(tokens, PerStimulus | Regions):
        own = tokens.each[index]
    choice = of_stimulus(_tokens(label, own, tower.name, [stimulus], [row], places), 0)
    return list(map(int, _selected(label, choice, tower, stimulus.label, row)))


def edges_between(targets: Sequence[int], sources: Sequence[int]) -> Int[np.ndarray, "edge 2"]:
    """The edges from each source to each target, ``(target, source)``; a token's edge to itself is none."""
    edges = np.stack(np.meshgrid(targets, sources, indexing="ij"), axis=-1).reshape(-1, 2)
    return edges[edges[:, 0] != edges[:, 1]]


def are_ahead(edges: Int[np.ndarray, "edge 2"], row: TokenRow) -> bool:
    """Whether causal attention has none of some edges, as all sources come after their targets.

    Image tokens attend to each other both ways in some causal models, so that nothing is said of these.
    """
    both = row.image[edges].all(axis=1).any()
    return not both and not bool((edges[:, 1] < edges[:, 0]).any())
