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
from modalnet.interventions.edges import Edges
from modalnet.interventions.operations import Direction, Intervention, Site
from modalnet.interventions.positions import (
    KINDS,
    PerSpace,
    PerStimulus,
    StimulusTokens,
    of_stimulus,
    places_among,
    shown,
)
from modalnet.interventions.sources import Recorded, Source
from modalnet.models.sites import Space, get_space, layers_of
from modalnet.stimuli.stimulus import content_seed
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
        One of the two: which of the layer's numbers (those of its units, in their order), or which orthonormal
        directions, ``[axis, dim]``.
    place, n_layers
        Its row in values that are given for several layers, and how many those are.
    """

    space: Space
    layer: int
    dims: Int[np.ndarray, " dims"] | None
    vector: Float[np.ndarray, "axis dim"] | None
    place: int
    n_layers: int

    @property
    def width(self) -> int:
        return len(self.vector) if self.vector is not None else 0 if self.dims is None else len(self.dims)

    def of(self, values: Float[torch.Tensor, "token dim"]) -> Float[torch.Tensor, "token dims"]:
        """These units' values among all of a layer, or the components along these directions."""
        import torch

        if self.vector is not None:
            return values @ torch.from_numpy(self.vector.copy()).T
        return values[:, torch.from_numpy(self.dims)]


@dataclass(frozen=True)
class Positions:
    """The positions of a batch that an intervention is on.

    Attributes
    ----------
    labels
        Of each stimulus, for messages.
    owners
        For each stimulus, the index of the stimulus that the user gave: sources go by that one.
    contents
        For each stimulus, a number that stands for what it contains: draws go by that one.
    positions
        Per stimulus its positions.
    """

    labels: Sequence[str] = ()
    owners: Sequence[int] = ()
    contents: Sequence[int] = ()
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
    assert not isinstance(target, Edges)
    if isinstance(target, Units):
        parts = [
            (get_space(spaces, name), layer, np.flatnonzero(mask[layer]), len(mask))
            for name, mask in target.mask.items()
            for layer in np.flatnonzero(mask.any(axis=1)).tolist()
        ]
        for space in {part[0].name: part[0] for part in parts}.values():
            _check_vectors(one, space)
            given = one.values.get(space.name) if isinstance(one.values, Mapping) else None
            if given is not None and given.shape[-1] != space.n_numbers:
                raise _misfit(one, space, given)
        for space, layer, units, _ in parts:
            _check_left(one, space, layer, len(units))
        return [Part(space, layer, space.numbers(units), None, layer, depth) for space, layer, units, depth in parts]
    where = target if isinstance(target, Site) else target.site
    space = get_space(spaces, where.space, f"{one}: the model")
    try:
        layers = layers_of(space, where.layer)
        places = [space.place(layer) for layer in layers]
    except InputError as error:
        raise InputError(f"{one}: {error}") from error
    if isinstance(target, Site):
        _check_vectors(one, space)
        for layer in layers:
            _check_left(one, space, layer, space.widths[layer])
    given = one.values[space.name] if isinstance(one.values, Mapping) else None
    along = one.kind in ("add", "set_to") and isinstance(target, Direction)
    values = [] if given is None or along else [given]
    for array in [*values, *([target.vector] if isinstance(target, Direction) else [])]:
        counts = {place.width * place.size for place in places}
        if counts != {array.shape[-1]}:
            raise _misfit(one, space, array)
    if values and given is not None and given.ndim > 1 and given.shape[-2] != len(layers):
        raise InputError(f"{one}: it is on {len(layers)} layers, got values of shape {given.shape}.")
    axes = np.atleast_2d(target.vector) if isinstance(target, Direction) else None
    found = {layer: place for place, layer in enumerate(layers)}
    made = []
    for layer in sorted(found):
        dims = np.arange(space.widths[layer] * space.size) if axes is None else None
        made.append(Part(space, layer, dims, axes, found[layer], len(layers)))
    return made


def _check_left(one: Intervention, space: Space, layer: int, n_units: int) -> None:
    """Refuse to leave a router no expert."""
    if space.kind == "experts" and one.kind == "zero" and n_units == space.widths[layer]:
        raise InputError(
            f"{one}: all {n_units} experts of {space.name}[{layer}] are left out, so the router has none to choose. "
            "Leave some, or lesion what the mixture adds: "
            f'modalnet.zero(modalnet.site("{space.tower.name}.mlp", {layer})).'
        )


def _misfit(one: Intervention, space: Space, array: np.ndarray) -> InputError:
    each = f" of {space.size} numbers each" if space.size > 1 else ""
    widths = " or ".join(map(str, sorted(set(space.widths) - {0})))
    return InputError(f"{one}: a layer of {space.name} has {widths} units{each}, got values of shape {array.shape}.")


def _check_vectors(one: Intervention, space: Space) -> None:
    """Refuse a single number for units that are vectors: which vector of that length is meant is not said."""
    if space.size > 1 and one.kind in ("add", "set_to") and not isinstance(one.values, Mapping):
        raise InputError(
            f"{one}: a unit of {space.name} is a vector of {space.size} numbers, got a single number. Give an array of "
            f"{space.n_numbers} numbers for a site (unit by unit), a direction, or use scale() or zero()."
        )


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
        Where the sources of a patch do not fit in number; where values were read at other tokens.
    """
    import torch

    _check_tokens(one)
    if one.kind in ("zero", "scale", "apply"):
        # A function is no factor, and is called where it is.
        factor = {"zero": 0.0, "apply": 1.0}.get(one.kind, one.values)
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


def _check_tokens(one: Intervention) -> None:
    """Refuse values that were read at other tokens than those that they are to be put in at."""
    for space, tokens, spared in one.taken_at:
        if space in one.spaces and (tokens, spared) != (one.tokens, one.spared):
            what = "means are taken over" if one.kind == "mean" else "donors are"
            first = f", the first {spared} spared," if spared else ""
            raise InputError(
                f"{one}: its {what} {shown(tokens)}{first} of {space}. Read them with the tokens and spare_first of "
                "the intervention, or pass dict(over) to use them as they are."
            )


def _constant(one: Intervention, part: Part) -> torch.Tensor:
    import torch

    if not isinstance(one.values, Mapping):
        return torch.full((part.width,), float(one.values))
    values = one.values[part.space.name]
    if values.ndim == 1:
        return torch.from_numpy(np.array(values, dtype=np.float32))
    return part.of(torch.from_numpy(np.array(values[part.place], dtype=np.float32))[None])[0]


def _given(one: Intervention, part: Part) -> Float[torch.Tensor, "donor dims"]:
    """The donors that an intervention was given, at the units of one layer."""
    import torch

    return part.of(torch.from_numpy(np.array(one.values[part.space.name][:, part.place], dtype=np.float32)))


def _rows(
    one: Intervention, places: Mapping[SiteKey, Part], read: Read
) -> Iterator[tuple[int, dict[SiteKey, Float[torch.Tensor, "token dims"]]]]:
    """Per stimulus or source of the intervention: its values at every site that is written to."""
    # A patch in one layer may take what another layer of the source has.
    shifted = one.source_layer
    layers = {
        name: [shifted] if shifted is not None else sorted({layer for space, layer in places if space == name})
        for name in one.spaces
    }
    unnamed = isinstance(one.values, Recorded) and not one.values.layers
    outside = isinstance(one.values, Recorded | Source)
    try:
        for index, activations in _read(one, layers, read):
            found = {}
            for (name, layer), part in places.items():
                at = part.place if unnamed else 0 if shifted is not None else layers[name].index(layer)
                found[name, layer] = part.of(_layer_of(activations[name], at, part, counted=unnamed))
            yield index, found
    except InputError as error:
        raise InputError(f"{one}: {error}") if outside else error from error


def _layer_of(
    values: Float[torch.Tensor, "layer token dim"], at: int, part: Part, *, counted: bool
) -> Float[torch.Tensor, "token dim"]:
    """One layer of a source, which may be another model or an array, if it fits what is patched."""
    if counted and len(values) != part.n_layers:
        raise InputError(f"its source has {len(values)} layers of {part.space.name}, and {part.n_layers} are needed.")
    if values.shape[-1] != part.space.n_numbers:
        each = f" of {part.space.size} numbers each" if part.space.size > 1 else ""
        raise InputError(
            f"its source has {values.shape[-1]} units in a layer of {part.space.name}, and {part.space.width}{each} "
            "are needed."
            + (
                " A run has the length of each; read it with vectors=True, or patch from stimuli."
                if values.shape[-1] == part.space.width
                else ""
            )
        )
    return values[at]


def _read(
    one: Intervention, layers: Mapping[str, list[int]], read: Read
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    tokens = _source_tokens(one)
    if one.kind == "patch":
        if isinstance(one.values, Recorded):
            return one.values.read(layers)
        choice, spared = ("all", 0) if isinstance(tokens, PerStimulus) else (tokens, _source_spared(one))
        if isinstance(one.values, Source):
            return one.values.reader.read_apart(one.values.stimuli, layers, choice, spared)
        # A patch takes its source token by token; what a sink has there is left in place where it is spared.
        return read(one.values, layers, choice, spared, False)
    if isinstance(tokens, PerStimulus):
        raise InputError(
            f"{one}: which tokens of its reference stimuli it should take is not known. Give "
            f"over=model.{'means' if one.kind == 'mean' else 'donors'}(...) as a plain dict."
        )
    return read(one.values, layers, tokens, one.spared, not one.keeps_sinks)


def _source_tokens(one: Intervention) -> StimulusTokens:
    assert not isinstance(one.tokens, PerSpace)
    return one.tokens if one.source_at is None else one.source_at


def _source_spared(one: Intervention) -> int:
    return one.spared if one.source_at is None else 0


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
    contents = [content_seed(stimulus) for stimulus in one.values]
    kept: dict[tuple[str, int], list[tuple[int, torch.Tensor]]] = {place: [] for place in places}
    for index, values in _rows(one, places, read):
        for name in {name for name, _ in values}:
            rng = np.random.default_rng([one.seed, contents[index]])
            tokens = next(len(rows) for (tower, _), rows in values.items() if tower == name)
            drawn = torch.from_numpy(rng.permutation(tokens)[:each].copy())
            for (tower, layer), rows in values.items():
                if tower == name:
                    kept[tower, layer].append((contents[index], rows[drawn]))
    _check_any(one, {place: sum(len(rows) for _, rows in found) for place, found in kept.items()})
    # Batches come in another order than stimuli, and users list donors in any: which is which depends on neither.
    return {place: torch.cat([rows for _, rows in sorted(found, key=lambda f: f[0])]) for place, found in kept.items()}


def _drawn(
    one: Intervention, donors: Float[torch.Tensor, "donor dims"], at: Positions
) -> Float[torch.Tensor, "position dims"]:
    import torch

    chosen = [
        np.random.default_rng([one.seed, 1, content]).integers(len(donors), size=len(positions))
        for content, positions in zip(at.contents, at.positions, strict=True)
    ]
    return donors[torch.from_numpy(np.concatenate(chosen))]


def _patched(
    one: Intervention, part: Part, sources: Mapping[int, Mapping[SiteKey, torch.Tensor]], at: Positions
) -> Float[torch.Tensor, "position dims"]:
    import torch

    rows = []
    for label, owner, positions in zip(at.labels, at.owners, at.positions, strict=True):
        index = owner if len(sources) > 1 else 0
        source = _picked(one, part, index, owner, sources[index][part.space.name, part.layer], len(positions))
        if len(source) != len(positions):
            raise InputError(
                f"{one}: stimulus {label} has {len(positions)} such tokens in the {part.space.tower.name} tower, but "
                f"its source has {len(source)}. Use sources of the same length, or patch at tokens that both have, "
                'such as .at("last").'
            )
        rows.append(source)
    return torch.cat(rows)


def _picked(  # noqa: PLR0917  # one call, above
    one: Intervention, part: Part, index: int, owner: int, rows: Float[torch.Tensor, "token dims"], count: int
) -> Float[torch.Tensor, "position dims"]:
    """The rows of one source that one stimulus is patched with, from what was read of the source."""
    tokens, name, recorded = _source_tokens(one), part.space.name, one.values
    if isinstance(recorded, Recorded) and name in recorded.pooled:
        pooled = recorded.pooled[name]
        if pooled is not None and _each(pooled) != _each(tokens):
            raise InputError(
                f'{one}: its source was read at {shown(pooled)} of {name}. Read it with tokens="all", patch at the '
                "same tokens, or name them as source_at=."
            )
        return rows.expand(count, -1)
    apart = isinstance(tokens, PerStimulus)
    picks = recorded.whole or one.source_at is not None if isinstance(recorded, Recorded) else apart
    if not picks:
        return rows
    choice = of_stimulus(tokens, index if one.source_at is not None else owner)
    label, tower, spared = f"{index} of its source", part.space.tower.name, _source_spared(one)
    kind = choice in KINDS and isinstance(recorded, Recorded)
    if kind and (roles := recorded.roles(index, name)) is not None:
        held = np.flatnonzero(roles.kind(str(choice))).tolist()
        return rows[[place for place in held if place >= spared]]
    return rows[places_among(choice, len(rows), tower=tower, label=label, spare_first=spared)]


def _each(tokens: StimulusTokens) -> StimulusTokens:
    return "all" if tokens == "mean" else tokens
