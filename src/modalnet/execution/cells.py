"""The runs of a sweep as data: states, and the cells that swap activations in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int

    from modalnet.inputs.batch import Encoded
    from modalnet.models.masks import EdgeSpace
    from modalnet.models.sites import Space


@dataclass(frozen=True, eq=False)
class State:
    """One stimulus as it runs.

    Attributes
    ----------
    encoded
        Its inputs.
    activations
        Per space ``[layer, token, number]`` float32, at the stimulus' own tokens; all numbers of a unit.
    outcome
        What was taken from its logits (see :class:`Outcome`); None for nothing.
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
        Which of the layer's numbers; None for all.
    """

    space: Space
    layer: int
    tokens: Int[torch.Tensor, " token"]
    values: Float[torch.Tensor, "token dims"]
    dims: Int[torch.Tensor, " dims"] | None = None


@dataclass(frozen=True, eq=False)
class EdgeCut:
    """Attention edges of one layer that are removed, one by one.

    Attributes
    ----------
    space, layer
        The edges of which tower, and where.
    targets, sources
        Of each edge the token that attends and the one that is attended to, by their places among the stimulus' tokens.
    """

    space: EdgeSpace
    layer: int
    targets: Int[torch.Tensor, " edge"]
    sources: Int[torch.Tensor, " edge"]


@dataclass(frozen=True, eq=False)
class Cell:
    """One run: the number of its state, the swaps in it, and edges that are removed; none for the run as it is."""

    state: int
    swaps: tuple[Swap, ...] = ()
    cuts: tuple[EdgeCut, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What is taken from the logits, at the rows that predict a state's continuation, or else its next token.

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
