"""Sets of attention edges between groups of tokens, and random edges to compare them with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from modalnet._validation import refusal
from modalnet.errors import InputError
from modalnet.execution.knockouts import edges_between, places_of
from modalnet.interventions.edges import EdgeTokens, Region, Regions, check_edge_tokens, named
from modalnet.interventions.positions import PerStimulus
from modalnet.patching.token_alignment import Grid

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from modalnet.execution.knockouts import Places
    from modalnet.interventions.positions import TokenRow
    from modalnet.models.towers import Tower
    from modalnet.stimuli import Stimulus

#: Edges as they are given: pairs of source and target, with or without a name for each.
EdgesLike: TypeAlias = "Mapping[str, tuple[Any, Any]] | Sequence[tuple[Any, Any]] | None"
LAST = "last"


@dataclass(frozen=True)
class EdgeSet:
    """The edges from one group of tokens to another.

    Attributes
    ----------
    name
        What tables and figures call it.
    source, target
        The tokens that are attended to, and those that attend to them.
    """

    name: str
    source: EdgeTokens
    target: EdgeTokens


def check_edge_sets(edges: EdgesLike, stimuli: Sequence[Stimulus]) -> tuple[EdgeSet, ...]:
    """The sets of edges that were asked for; None for those between pictures, questions and the last token.

    Raises
    ------
    InputError
        For something else than pairs of tokens.
    """
    if edges is None:
        pictures = all(stimulus.kind == "image+text" for stimulus in stimuli)
        edges = [("image", "question"), ("image", LAST), ("question", LAST)] if pictures else [("question", LAST)]
    expected = '(source, target) pairs such as ("image", "last"), or a mapping from names to these'
    pairs = list(edges.values()) if isinstance(edges, Mapping) else edges
    if not isinstance(pairs, list | tuple) or not pairs or not all(_is_pair(pair) for pair in pairs):
        raise refusal("edges", expected, edges)
    given = list(edges) if isinstance(edges, Mapping) else [""] * len(pairs)
    cells = [cell for name, pair in zip(given, pairs, strict=True) for cell in _cells(name, pair, stimuli)]
    ends = [(check_edge_tokens("source", source), check_edge_tokens("target", target)) for _, source, target in cells]
    names = [
        name or f"{named(one)} to {named(two)}".replace(" tokens", "")
        for (name, *_), (one, two) in zip(cells, ends, strict=True)
    ]
    if len(set(names)) < len(names):
        raise InputError(f"`edges` must have different names, got {', '.join(names)}. Give a mapping from names.")
    for name, pair in zip(names, ends, strict=True):
        for each in (end.each for end in pair if isinstance(end, PerStimulus | Regions)):
            if len(each) != len(stimuli):
                raise InputError(f"`edges`: {name} has tokens for {len(each)} stimuli, but there are {len(stimuli)}.")
    return tuple(EdgeSet(name, *pair) for name, pair in zip(names, ends, strict=True))


def _cells(name: str, ends: tuple[Any, Any], stimuli: Sequence[Stimulus]) -> Iterator[tuple[str, Any, Any]]:
    """A pair of groups as it is; one for each cell where an end is a grid over the pictures."""
    place = next((place for place, end in enumerate(ends) if isinstance(end, Grid)), None)
    if place is None:
        yield (name, *ends)
        return
    grid, other = ends[place], ends[1 - place]
    for row, column in itertools.product(range(grid.rows), range(grid.columns)):
        regions = [_cell(grid, row, column, stimulus) for stimulus in stimuli]
        cell, beside = f"cell {row}, {column}", other if isinstance(other, str) else "others"
        written = f"{name}, {cell}" if name else f"{cell} to {beside}" if place == 0 else f"{beside} to {cell}"
        yield from _cells(written, (regions, other) if place == 0 else (other, regions), stimuli)


def _cell(grid: Grid, row: int, column: int, stimulus: Stimulus) -> Region:
    """One cell of a grid over the picture of a stimulus, in pixels."""
    sizes = stimulus.inspect().sizes
    if len(sizes) != 1:
        raise InputError(f"`edges`: a Grid is one over a picture, and stimulus {stimulus.label} has {len(sizes)}.")
    width, height = sizes[0][0] / grid.columns, sizes[0][1] / grid.rows
    return Region(column * width, row * height, (column + 1) * width, (row + 1) * height)


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2


def pairs_of(  # noqa: PLR0917
    sets: Sequence[EdgeSet], tower: Tower, stimulus: Stimulus, row: TokenRow, index: int, places: Places
) -> list[Int[np.ndarray, "edge 2"]]:
    """The edges of each set in one stimulus: places of the token that attends and of the one attended to.

    The last token is a target where it is named alone, and belongs to no other group of targets.
    """
    found = []
    for one in sets:
        label = f"edges from {one.name}"
        source, target = (
            places_of(label, tokens, tower, stimulus, row, index, places) for tokens in (one.source, one.target)
        )
        if one.target != LAST and len(target) > 1:
            target = [token for token in target if token != len(row) - 1]
        found.append(edges_between(target, source))
    return found


def equal_number(
    allowed: Bool[np.ndarray, "target source"], edges: Int[np.ndarray, "edge 2"], rng: np.random.Generator
) -> Int[np.ndarray, "drawn 2"]:
    """As many random edges among those that are allowed and not in a set; all of these where there are fewer."""
    others = _others(allowed, edges)
    return others[rng.choice(len(others), size=min(len(edges), len(others)), replace=False)]


def equal_attention(
    allowed: Bool[np.ndarray, "target source"],
    weights: Float[np.ndarray, "target source"],
    edges: Int[np.ndarray, "edge 2"],
    rng: np.random.Generator,
) -> Int[np.ndarray, "drawn 2"]:
    """Random edges that together carry as much attention as a set: as many of a random order as come nearest to it."""
    others = rng.permutation(_others(allowed, edges))
    mass = weights[edges[:, 0], edges[:, 1]].sum()
    reached = np.concatenate([[0.0], np.cumsum(weights[others[:, 0], others[:, 1]])])
    return others[: int(np.abs(reached - mass).argmin())]


def _others(allowed: Bool[np.ndarray, "target source"], edges: Int[np.ndarray, "edge 2"]) -> Int[np.ndarray, "drawn 2"]:
    left = allowed.copy()
    left[edges[:, 0], edges[:, 1]] = False
    np.fill_diagonal(left, val=False)
    return np.argwhere(left)
