"""Moments of activations, added up where the model is, so that activations need not travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from modalnet.execution.shipping import Shipped

if TYPE_CHECKING:
    import torch

#: Per space ``n`` ``[group]``, ``mean`` and ``m2`` ``[group, layer, dim]``, and ``size``, the sum of |activation|
#: ``[layer, dim]``, in float64.
Sums: TypeAlias = "dict[str, dict[str, torch.Tensor]]"


@dataclass
class Reduction(Shipped):
    """How the vectors of one pass are reduced.

    Attributes
    ----------
    names
        Of each vector, the name of its space.
    groups
        Group of each stimulus.
    n_groups
        Number of groups.
    absolute
        Whether the moments are of |activation|.
    """

    names: list[str]
    groups: list[int]
    n_groups: int
    absolute: bool


def gathered(sums: Sums, vectors: Sequence[torch.Tensor], reduction: Reduction) -> None:
    """Add a batch to the moments of its groups. Runs on the server.

    Parameters
    ----------
    sums
        Grows in place.
    vectors
        Per site that was read, ``[stimulus, dim]``.
    reduction
        How they are reduced.
    """
    import torch

    for name in dict.fromkeys(reduction.names):
        layers = [vectors[place] for place, other in enumerate(reduction.names) if other == name]
        device = layers[0].device
        read = torch.stack([layer.to(device) for layer in layers], dim=1).double()
        size = read.abs()
        values = size if reduction.absolute else read
        if name not in sums:
            shape = (reduction.n_groups, *values.shape[1:])
            sums[name] = {
                "n": torch.zeros(reduction.n_groups, dtype=torch.int64),
                "mean": torch.zeros(shape, dtype=torch.float64, device=device),
                "m2": torch.zeros(shape, dtype=torch.float64, device=device),
                "size": torch.zeros(shape[1:], dtype=torch.float64, device=device),
            }
        total = sums[name]
        total["size"] += size.sum(0)
        for group in sorted(set(reduction.groups)):
            part = values[[place for place, member in enumerate(reduction.groups) if member == group]]
            mean = part.mean(0)
            m2 = (part - mean).square().sum(0)
            before, n = int(total["n"][group]), len(part)
            delta = mean - total["mean"][group]
            total["mean"][group] += delta * (n / (before + n))
            total["m2"][group] += m2 + delta.square() * (before * n / (before + n))
            total["n"][group] += n
