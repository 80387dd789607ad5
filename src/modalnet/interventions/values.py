"""The values of interventions: which sites each one edits, and the factor and summand there.

Means, donors and sources of patches are computed from runs of their own, once, before the first batch; only the units
that are written to are stored. The runs themselves are handed in as a function, so this room runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from modalnet.errors import InputError
from modalnet.interventions.operations import Direction, Intervention, Site
from modalnet.models.sites import Space, get_space
from modalnet.units import Units

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int

# Tokens that a resample ablation draws from; more change nothing but memory.
DONOR_TOKENS = 512

#: Runs stimuli without any intervention and yields, stimulus by stimulus, (index, {space: [layer, token, dim]}) at
#: chosen tokens; called with the stimuli, layers per space, the token choice, how many first tokens are left out, and
#: whether sink tokens are.
Read: TypeAlias = "Callable[..., Iterator[tuple[int, dict[str, torch.Tensor]]]]"
#: A site: name of its space, and layer.
SiteKey: TypeAlias = tuple[str, int]


@dataclass(frozen=True)
class Part:
    """What an intervention does to one site.

    Attributes
    ----------
    space, layer
        Which site.
    dims, vector
        One of the two: which units of the layer, or which direction.
    """

    space: Space
    layer: int
    dims: Int[np.ndarray, " dims"] | None
    vector: Float[np.ndarray, " dim"] | None

    @property
    def width(self) -> int:
        return 1 if self.dims is None else len(self.dims)

    def of(self, values: Float[torch.Tensor, "token dim"]) -> Float[torch.Tensor, "token dims"]:
        """These units' (or this direction's) values among all of a layer."""
        import torch

        if self.dims is None:
            return values @ torch.from_numpy(np.array(self.vector))[:, None]
        return values[:, torch.from_numpy(self.dims)]


@dataclass(frozen=True)
class Positions:
    """The positions of a batch that an intervention is on.

    Attributes
    ----------
    labels
        Of each stimulus, for messages.
    owners
        For each stimulus, the index of the stimulus that the user gave: sources and draws go by that one.
    positions
        Per stimulus its positions.
    """

    labels: Sequence[str] = ()
    owners: Sequence[int] = ()
    positions: Sequence[Int[torch.Tensor, " position"]] = ()


#: From a site and the positions to the factor and the summand, ``[dims]`` or ``[position, dims]``.
Affine: TypeAlias = "Callable[[Part, Positions], tuple[float, torch.Tensor]]"


def parts_of(one: Intervention, spaces: Mapping[str, Space]) -> list[Part]:
    """The sites that an intervention edits.

    Raises
    ------
    InputError
        For a space, layer or shape that the model does not have.
    """
    target = one.target
    if isinstance(target, Units):
        return [
            Part(get_space(spaces, name), layer, np.flatnonzero(mask[layer]), None)
            for name, mask in target.mask.items()
            for layer in np.flatnonzero(mask.any(axis=1)).tolist()
        ]
    where = target if isinstance(target, Site) else target.site
    space = get_space(spaces, where.space, f"{one}: the model")
    if not -space.n_layers <= where.layer < space.n_layers:
        raise InputError(f"{one}: the layer does not exist; {space.name} has layers 0..{space.n_layers - 1}.")
    layer = where.layer % space.n_layers
    vectors = [target.vector] if isinstance(target, Direction) else []
    vectors += list(one.values.values()) if isinstance(one.values, Mapping) else []
    for vector in vectors:
        if vector.shape != (space.width,):
            raise InputError(
                f"{one}: a layer of {space.name} has {space.width} units, got values of shape {vector.shape}."
            )
    if isinstance(target, Direction):
        return [Part(space, layer, None, target.vector)]
    return [Part(space, layer, np.arange(space.width), None)]


def values_of(one: Intervention, parts: Sequence[Part], read: Read, n_stimuli: int) -> Affine:
    """The values of an intervention, as a function of where they go.

    Parameters
    ----------
    one, parts
        The intervention, and the sites that it edits.
    read
        See ``Read``.
    n_stimuli
        Number of stimuli that the user gave.

    Raises
    ------
    InputError
        Where the sources of a patch do not fit in number.
    """
    import torch

    if one.kind in ("zero", "scale"):
        factor = 0.0 if one.kind == "zero" else one.values
        return lambda part, at: (factor, torch.zeros(part.width))
    if one.kind == "resample" and isinstance(one.values, Mapping):
        return lambda part, at: (0.0, _drawn(one, _given(one, part), at))
    if one.kind in ("add", "set_to") or isinstance(one.values, Mapping):
        factor = 1.0 if one.kind == "add" else 0.0
        return lambda part, at: (factor, _constant(one, part))
    places = {(part.space.name, part.layer): part for part in parts}
    if one.kind == "mean":
        means = _means(one, places, read)
        return lambda part, at: (0.0, means[part.space.name, part.layer])
    if one.kind == "resample":
        donors = _donors(one, places, read)
        return lambda part, at: (0.0, _drawn(one, donors[part.space.name, part.layer], at))
    if len(one.values) not in (1, n_stimuli):
        raise InputError(
            f"{one}: a patch requires one source for all stimuli, or one for each of {n_stimuli}; got "
            f"{len(one.values)}."
        )
    sources = dict(_rows(one, places, read))
    return lambda part, at: (0.0, _patched(one, part, sources, at))


def _constant(one: Intervention, part: Part) -> torch.Tensor:
    import torch

    if not isinstance(one.values, Mapping):
        return torch.full((part.width,), float(one.values))
    values = one.values[part.space.name]
    chosen = values if values.ndim == 1 else values[part.layer][part.dims]
    return torch.from_numpy(np.array(chosen, dtype=np.float32))


def _given(one: Intervention, part: Part) -> Float[torch.Tensor, "donor dims"]:
    """The donors that an intervention was given, at the units of one layer."""
    import torch

    return torch.from_numpy(np.array(one.values[part.space.name][:, part.layer][:, part.dims], dtype=np.float32))


def _rows(
    one: Intervention, places: Mapping[SiteKey, Part], read: Read
) -> Iterator[tuple[int, dict[SiteKey, Float[torch.Tensor, "token dims"]]]]:
    """Per stimulus of the intervention: its values at every site that is written to."""
    layers = {name: sorted({layer for space, layer in places if space == name}) for name in one.spaces}
    # A patch takes its source token by token; what a sink has there is left in place where it is spared.
    without_sinks = one.kind != "patch" and not one.keeps_sinks
    for index, activations in read(one.values, layers, one.tokens, one.spared, without_sinks):
        yield (
            index,
            {
                (name, layer): places[name, layer].of(values[at])
                for name, values in activations.items()
                for at, layer in enumerate(layers[name])
            },
        )


def _means(
    one: Intervention, places: Mapping[SiteKey, Part], read: Read
) -> dict[SiteKey, Float[torch.Tensor, " dims"]]:
    import torch

    sums = {place: torch.zeros(part.width, dtype=torch.float64) for place, part in places.items()}
    counts = dict.fromkeys(places, 0)
    for _, values in _rows(one, places, read):
        for place, rows in values.items():
            # A stimulus all of whose tokens are left out says nothing.
            if len(rows):
                sums[place] += rows.double().mean(0)
                counts[place] += 1
    _check_any(one, counts)
    return {place: (total / counts[place]).float() for place, total in sums.items()}


def _check_any(one: Intervention, counts: Mapping[SiteKey, int]) -> None:
    """Refuse a reference that has no token for some site."""
    for (space, _), count in counts.items():
        if not count:
            sinks = "" if one.keeps_sinks else f" or are sinks; spare_sinks=False of modalnet.{one.kind}() keeps these"
            raise InputError(f"{one}: its reference stimuli have no token left in {space}: all are spared{sinks}.")


def _donors(
    one: Intervention, places: Mapping[SiteKey, Part], read: Read
) -> dict[SiteKey, Float[torch.Tensor, "donor dims"]]:
    """Rows of donor tokens; row i of every site is the same token."""
    import torch

    each = max(1, -(-DONOR_TOKENS // len(one.values)))
    kept: dict[tuple[str, int], list[tuple[int, torch.Tensor]]] = {place: [] for place in places}
    for index, values in _rows(one, places, read):
        for name in {name for name, _ in values}:
            rng = np.random.default_rng([one.seed, index])
            tokens = next(len(rows) for (tower, _), rows in values.items() if tower == name)
            drawn = torch.from_numpy(rng.permutation(tokens)[:each].copy())
            for (tower, layer), rows in values.items():
                if tower == name:
                    kept[tower, layer].append((index, rows[drawn]))
    _check_any(one, {place: sum(len(rows) for _, rows in found) for place, found in kept.items()})
    # Batches come in another order than stimuli; which donor is which must not depend on it.
    return {place: torch.cat([rows for _, rows in sorted(found, key=lambda f: f[0])]) for place, found in kept.items()}


def _drawn(
    one: Intervention, donors: Float[torch.Tensor, "donor dims"], at: Positions
) -> Float[torch.Tensor, "position dims"]:
    import torch

    chosen = [
        np.random.default_rng([one.seed, 1, owner]).integers(len(donors), size=len(positions))
        for owner, positions in zip(at.owners, at.positions, strict=True)
    ]
    return donors[torch.from_numpy(np.concatenate(chosen))]


def _patched(
    one: Intervention, part: Part, sources: Mapping[int, Mapping[SiteKey, torch.Tensor]], at: Positions
) -> Float[torch.Tensor, "position dims"]:
    import torch

    rows = []
    for label, owner, positions in zip(at.labels, at.owners, at.positions, strict=True):
        source = sources[owner if len(sources) > 1 else 0][part.space.name, part.layer]
        if len(source) != len(positions):
            raise InputError(
                f"{one}: stimulus {label} has {len(positions)} such tokens in the {part.space.tower.name} tower, but "
                f"its source has {len(source)}. Use sources of the same length, or patch at tokens that both have, "
                'such as .at("last").'
            )
        rows.append(source)
    return torch.cat(rows)
