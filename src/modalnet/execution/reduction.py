"""Moments of activations, added up where the model is, so that activations need not travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from modalnet.execution.shipping import Shipped

if TYPE_CHECKING:
    import torch

#: Per space ``n`` ``[group]``, ``mean`` and ``m2`` ``[group, layer, dim]``, and ``size``, the sum of |activation|
#: ``[layer, dim]``, in float64. With observations also the cross moments of each fold, ``cross_n``, ``cross_x``,
#: ``cross_y``, ``cross_xx``, ``cross_xy`` and ``cross_yy``, as in :class:`modalnet.stats.regression.CrossMoments`.
Sums: TypeAlias = "dict[str, dict[str, torch.Tensor]]"


@dataclass
class Observations(Shipped):
    """What a linear model observes: weighted sums over the stimuli of an item, or single stimuli.

    Attributes
    ----------
    names
        Of each stimulus, the observation that it is part of.
    weights
        What each stimulus contributes to it.
    sizes
        Of each stimulus, how many stimuli its observation has; all of them run in one job.
    folds
        The fold of each stimulus.
    x
        Regressors of the observation of each stimulus.
    n_regressors, n_folds
        How many there are.
    """

    names: list[int]
    weights: list[float]
    sizes: list[int]
    folds: list[int]
    x: list[list[float]]
    n_regressors: int
    n_folds: int

    def of(self, stimuli: Sequence[int]) -> Observations:
        """Return those of some stimuli."""
        return Observations(
            [self.names[i] for i in stimuli],
            [self.weights[i] for i in stimuli],
            [self.sizes[i] for i in stimuli],
            [self.folds[i] for i in stimuli],
            [self.x[i] for i in stimuli],
            self.n_regressors,
            self.n_folds,
        )


@dataclass
class Reduction(Shipped):
    """How the vectors of one pass are reduced.

    Attributes
    ----------
    places
        Per space, of each of its layers the place among the vectors; -1 for one that has no units.
    groups
        Group of each stimulus.
    n_groups
        Number of groups.
    absolute
        Whether the moments are of |activation|.
    observations
        Of these stimuli, where cross moments are needed.
    """

    places: dict[str, list[int]]
    groups: list[int]
    n_groups: int
    absolute: bool
    observations: Observations | None = None


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

    for name, places in reduction.places.items():
        first = vectors[max(places)]
        device, none = first.device, torch.full_like(first, float("nan"))
        read = torch.stack([vectors[at].to(device) if at >= 0 else none for at in places], dim=1).double()
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
        if reduction.observations is not None:
            crossed(total, values, reduction.observations)


def crossed(total: dict[str, Any], values: torch.Tensor, observations: Observations) -> None:
    """Add a batch to the cross moments of its folds. Runs on the server.

    Parameters
    ----------
    total
        The sums of one space, which grow in place. Sums over items of which some stimuli have not run wait there, under
        ``waiting``; none is left after the last pass of a job.
    values
        ``[stimulus, layer, dim]`` in float64.
    observations
        Of these stimuli.
    """
    import torch

    k, n_folds, device = observations.n_regressors, observations.n_folds, values.device
    if "cross_n" not in total:
        total["cross_n"] = torch.zeros(n_folds, dtype=torch.int64)
        shapes = {"x": (k,), "y": values.shape[1:], "xx": (k, k), "xy": (k, *values.shape[1:]), "yy": values.shape[1:]}
        for what, shape in shapes.items():
            total["cross_" + what] = torch.zeros((n_folds, *shape), dtype=torch.float64, device=device)
    waiting = total.pop("waiting", {})
    done: dict[int, list[Any]] = {}
    for place, name in enumerate(observations.names):
        count, so_far = waiting.pop(name, (0, 0.0))
        so_far = so_far + observations.weights[place] * values[place]
        if count + 1 == observations.sizes[place]:
            done.setdefault(observations.folds[place], []).append((observations.x[place], so_far))
        else:
            waiting[name] = (count + 1, so_far)
    if waiting:
        total["waiting"] = waiting
    for fold, members in done.items():
        x = torch.tensor([row for row, _ in members], dtype=torch.float64, device=device).reshape(len(members), k)
        y = torch.stack([so_far for _, so_far in members])
        around_x, around_y = x - x.mean(0), y - y.mean(0)
        before, n = int(total["cross_n"][fold]), len(members)
        share, weight = n / (before + n), before * n / (before + n)
        dx, dy = x.mean(0) - total["cross_x"][fold], y.mean(0) - total["cross_y"][fold]
        total["cross_xx"][fold] += around_x.T @ around_x + dx[:, None] * dx * weight
        total["cross_xy"][fold] += (
            torch.tensordot(around_x, around_y, dims=([0], [0])) + dx[:, None, None] * dy * weight
        )
        total["cross_yy"][fold] += around_y.square().sum(0) + dy.square() * weight
        total["cross_x"][fold] += dx * share
        total["cross_y"][fold] += dy * share
        total["cross_n"][fold] += n
