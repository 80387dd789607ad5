"""Results of a forward pass: the values that a trace saved, decoded according to its plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modalnet.errors import ModalnetError

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float, Int

    from modalnet.execution.plan import Plan


class LayoutError(ModalnetError):
    """A tower has a different number of positions than the plan assumes."""


class RowsError(LayoutError):
    """A text tower does not keep each stimulus of a batch in a row of its own."""


@dataclass(frozen=True)
class TokenDistribution:
    """What was taken of the distribution of the next token at some rows, on the CPU.

    Attributes
    ----------
    ids, logprob
        ``[row, k]``: the likeliest tokens, likeliest first, and their natural-log probabilities.
    token_logprob, token_rank
        ``[row, token]``: of the tokens that were asked for, the same and the rank, from 1.
    divergence
        ``[row]``: KL(other || row) in nats, from the distribution of another row.
    """

    ids: Int[torch.Tensor, "row k"]
    logprob: Float[torch.Tensor, "row k"]
    token_logprob: Float[torch.Tensor, "row token"]
    token_rank: Int[torch.Tensor, "row token"]
    divergence: Float[torch.Tensor, " row"]


@dataclass
class Reading:
    """The values of one forward pass.

    Attributes
    ----------
    activations
        Per space, float32 on the CPU: ``[stimulus, layer, dim]`` where the plan pools, otherwise
        ``[layer, position, dim]`` with every flat position.
    shapes
        Per space, the shape of a site's activations in this batch.
    logits
        ``[position, vocab]`` at the plan's logit rows, float32 on the CPU; None where they were not requested.
    logprob, likeliest
        ``[target]`` at the plan's logit rows: of its targets, the natural-log probability, and whether no token is
        likelier; None where the plan has no targets.
    picked
        ``[position, token]``: the logits at the plan's columns; None where it has none.
    gradient
        Per space, ``[layer, position, dim]``: of the measure with respect to each position that is read.
    measured
        ``[value]``: the values of the measure.
    inward
        In the shape of an input: of the measure with respect to it; None where it was not requested.
    through
        For each of the plan's pairs of sites, the gradient at the first of the paths through the second.
    next_tokens
        At the plan's logit rows; None where it was not requested.
    """

    activations: dict[str, Float[torch.Tensor, "_ _ dim"]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    logits: Float[torch.Tensor, "position vocab"] | None = None
    logprob: Float[torch.Tensor, " target"] | None = None
    likeliest: Bool[torch.Tensor, " target"] | None = None
    picked: Float[torch.Tensor, "position token"] | None = None
    gradient: dict[str, Float[torch.Tensor, "layer position dim"]] = field(default_factory=dict)
    measured: Float[torch.Tensor, " value"] | None = None
    inward: Float[torch.Tensor, "..."] | None = None
    through: list[Float[torch.Tensor, "position number"]] = field(default_factory=list)
    next_tokens: TokenDistribution | None = None


def decode(plan: Plan, saved: Mapping[str, Any]) -> Reading:
    """Decode what a forward pass saved.

    Parameters
    ----------
    plan
        The plan of the pass.
    saved
        As :func:`modalnet.execution.trace.forward` returns it.

    Raises
    ------
    LayoutError
        Where the pass found another layout than the plan was made for.
    """
    import torch

    check_layout(saved)
    values = saved["values"]
    reading = _stacked(plan, saved["vectors"], saved["shapes"])
    if plan.logit_rows is not None:
        if not values:
            raise LayoutError("the input of the LM head is not one vector per text token")
        if saved["gradients"]:
            reading.measured = values[0].cpu()
            n_sites = len(saved["shapes"])
            reading.gradient = _stacked(plan, saved["gradients"][:n_sites], saved["shapes"]).activations
            reading.through = [gradient.cpu() for gradient in saved["gradients"][n_sites:]]
        elif plan.next_tokens is not None:
            reading.next_tokens = TokenDistribution(*(value.cpu() for value in values))
        elif plan.columns is not None:
            reading.picked = values[0].cpu()
        elif plan.targets is None:
            reading.logits = values[0].cpu()
        else:
            reading.logprob = torch.cat(values).cpu()
            reading.likeliest = torch.cat(saved["likeliest"]).cpu()
    return reading


def check_layout(saved: Mapping[str, Any]) -> None:
    """Raise a LayoutError if a trace found a different layout than its plan assumes."""
    for name, found, expected in saved["wrong"]:
        kind = RowsError if found.endswith("rows") else LayoutError
        raise kind(f"the {name} tower holds {found}, {expected} were expected")


def _stacked(
    plan: Plan, vectors: Sequence[Float[torch.Tensor, "row dim"]], shapes: Sequence[tuple[int, ...]]
) -> Reading:
    """The vectors of a trace by space, on the CPU, in one transfer per space."""
    import torch

    reading = Reading()
    sites = plan.sites()
    for name, places in plan.places().items():
        pool = next(pool for sites, pool in plan.reads if sites.name == name)
        held = [(*sites[place], shapes[place]) for place in places if place >= 0]
        for space, layer, shape in held:
            columns = space.place(layer).columns
            if shape[-1] != columns:
                raise ModalnetError(
                    f"Layer {layer} of {name} has {shape[-1]} activations per token, but {columns} were expected. "
                    "Please report this model."
                )
        # The experts of some layers see all rows as one.
        if pool.index is None and len({math.prod(shape[:-1]) for _, _, shape in held}) > 1:
            raise LayoutError(f"layers of {name} have shapes {[shape[:-1] for _, _, shape in held]}")
        first = vectors[max(places)]
        none = first.new_full(first.shape, 0.0 if pool.numbers else float("nan"))
        stacked = torch.stack([vectors[place].to(first.device) if place >= 0 else none for place in places]).cpu()
        reading.activations[name] = stacked if pool.index is None else stacked.transpose(0, 1).contiguous()
        reading.shapes[name] = held[0][2]
    return reading
