"""From interventions to the writes of a batch.

An intervention names units and tokens; a write names dims of a block and flat positions of a batch. In between stand
the values that have to be computed first: means, donors and sources are run once, before the first batch, and only the
units that are written to are kept of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.execution.plan import Write
from modalnet.inputs.batch import Batch, Encoded
from modalnet.interventions.operations import Direction, Intervention, Site
from modalnet.interventions.positions import Span, select
from modalnet.models.sites import Space, get_space
from modalnet.units import Units

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int

# Tokens that a resample ablation draws from; more change nothing but memory.
DONOR_TOKENS = 512

#: Runs stimuli and yields, stimulus by stimulus, (index, {space: [layer, token, dim]}) at chosen tokens.
Read = Callable[..., Iterator[tuple[int, dict[str, "torch.Tensor"]]]]


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


class Edits:
    """Interventions on one model, with their values.

    Parameters
    ----------
    interventions
        In the order in which they apply.
    spaces
        Those of the model.
    read
        Runs stimuli without any intervention; see ``Read``.
    owners
        For each stimulus that runs, which of the user's it belongs to: patch sources and draws go by that one.

    Raises
    ------
    InputError
        A space, layer or shape that the model does not have; sources that do not fit in number.
    """

    def __init__(
        self, interventions: Sequence[Intervention], spaces: Mapping[str, Space], read: Read, owners: Sequence[int]
    ) -> None:
        self.interventions = tuple(interventions)
        self.owners = tuple(owners)
        self.parts = [_parts(one, spaces) for one in self.interventions]
        self._values = [
            _compute(one, parts, read, len(set(owners)))
            for one, parts in zip(self.interventions, self.parts, strict=True)
        ]

    @property
    def towers(self) -> list[str]:
        """Names of the towers that are written to."""
        return list(dict.fromkeys(part.space.tower.name for parts in self.parts for part in parts))

    @property
    def by_owner(self) -> bool:
        """Whether the same tokens of two stimuli may be edited differently: by draws, or by sources of their own."""
        return any(
            one.kind == "resample" or (one.kind == "patch" and len(one.values) > 1) for one in self.interventions
        )

    def first_layer(self, tower: str) -> int | None:
        """The first block of a tower that is written to; None where none is."""
        written = (part for parts in self.parts for part in parts)
        return min((part.layer for part in written if part.space.tower.name == tower), default=None)

    def writes(self, batch: Batch, spans: Callable[..., tuple[Sequence[Span], int]]) -> tuple[Write, ...]:
        """The writes for one batch; ``spans`` gives the positions in a block, from a batch, a tower and a layer."""
        made = []
        for one, parts, values in zip(self.interventions, self.parts, self._values, strict=True):
            for name in dict.fromkeys(part.space.tower.name for part in parts):
                whose = [self.owners[item.index] for item in batch.items]
                known: dict[int, Any] = {}
                for part in (part for part in parts if part.space.tower.name == name):
                    own, total = spans(batch, name, part.layer)
                    if total not in known:  # most towers hold the same positions in every block
                        known[total] = [
                            select(
                                one.tokens,
                                _reach(one, span, item.prepared.scored_in(name)),
                                tower=name,
                                label=item.label,
                                spare_first=one.spared,
                            )
                            for item, span in zip(batch.items, own, strict=True)
                        ]
                    picked = known[total]
                    made.append(_write(part, picked, total, values(part, batch.items, picked, whose)))
        return tuple(write for write in made if len(write.rows))

    def constants(self) -> Iterator[tuple[Intervention, Part, float, Float[torch.Tensor, " dims"]]]:
        """Each block that is written to, with the factor and the summand, where the stimuli have no say in them."""
        for one, parts, values in zip(self.interventions, self.parts, self._values, strict=True):
            for part in parts:
                yield one, part, *values(part, (), (), ())

    def later(
        self, batch: Batch, spans: Callable[[Batch, str], tuple[Sequence[Span], int]], steps: int
    ) -> tuple[Write, ...]:
        """The writes for each new token that a stimulus, alone in its batch, is continued by.

        A continuation that is written is treated as one that is scored: an intervention on all tokens, or on those of
        text, holds for it, and other choices are places in the prompt.
        """
        import torch

        made = []
        for one, parts, values in zip(self.interventions, self.parts, self._values, strict=True):
            if one.kind == "patch" or one.tokens not in ("all", "text"):
                continue
            # The encoder of an encoder-decoder model runs once.
            for part in parts:
                tower = part.space.tower
                if tower.modality != "text" or (batch.written and not tower.is_decoder):
                    continue
                (span,), _ = spans(batch, tower.name)
                places = select(one.tokens, span, tower=tower.name, label=batch.items[0].label, spare_first=one.spared)
                # Draws go on where those of the prompt ended.
                whole = torch.cat([places, places.new_zeros(steps)])
                a, b = values(part, batch.items, [whole], [self.owners[batch.items[0].index]])
                one_token = torch.zeros(1, dtype=torch.long)
                made.append(_write(part, [one_token], 1, (a, b[-steps:] if b.ndim == 2 else b)))
        return tuple(made)


def _reach(one: Intervention, span: Span, n_scored: int) -> Span:
    """What the tokens of an intervention are counted in.

    A lesion of all tokens holds for a continuation too; places that count from an end are places in the prompt, and a
    patch source has nothing to set against a continuation.
    """
    if not n_scored or (one.kind != "patch" and one.tokens in ("all", "text")):
        return span
    kept = slice(0, len(span.index) - n_scored)
    image, text = (None if mask is None else mask[kept] for mask in (span.image, span.text))
    return Span(span.index[kept], image=image, text=text, cls=span.cls, clear=span.clear)


def _write(part: Part, picked: Sequence[torch.Tensor], total: int, affine: tuple[float, torch.Tensor]) -> Write:
    import torch

    a, b = affine
    dims = None if part.dims is None else torch.from_numpy(part.dims)
    vector = None if part.vector is None else torch.from_numpy(np.array(part.vector))
    return Write(part.space, part.layer, total, torch.cat(list(picked)), dims, vector, a, b)


def _parts(one: Intervention, spaces: Mapping[str, Space]) -> list[Part]:
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
        raise InputError(f"{one}: {space.name} has layers 0..{space.n_layers - 1}.")
    layer = where.layer % space.n_layers
    vectors = [target.vector] if isinstance(target, Direction) else []
    vectors += list(one.values.values()) if isinstance(one.values, Mapping) else []
    for vector in vectors:
        if vector.shape != (space.width,):
            raise InputError(f"{one}: a layer of {space.name} has {space.width} units; got {vector.shape}.")
    if isinstance(target, Direction):
        return [Part(space, layer, None, target.vector)]
    return [Part(space, layer, np.arange(space.width), None)]


#: (part, items of the batch, their positions, whose they are) → factor and summand.
_Affine = Callable[[Part, Sequence[Encoded], Sequence["torch.Tensor"], Sequence[int]], tuple[float, "torch.Tensor"]]


def _compute(one: Intervention, parts: Sequence[Part], read: Read, n_stimuli: int) -> _Affine:
    """The values of an intervention, as a function of where they go."""
    import torch

    if one.kind in ("zero", "scale"):
        factor = 0.0 if one.kind == "zero" else one.values
        return lambda part, items, picked, whose: (factor, torch.zeros(part.width))
    if one.kind in ("add", "set_to") or isinstance(one.values, Mapping):
        factor = 1.0 if one.kind == "add" else 0.0
        return lambda part, items, picked, whose: (factor, _constant(one, part))
    layers = {name: sorted({p.layer for p in parts if p.space.name == name}) for name in one.spaces}
    places = {(p.space.name, p.layer): p for p in parts}
    if one.kind == "mean":
        means = _means(one, places, layers, read)
        return lambda part, items, picked, whose: (0.0, means[part.space.name, part.layer])
    if one.kind == "resample":
        donors = _donors(one, places, layers, read)
        return lambda part, items, picked, whose: (0.0, _drawn(one, donors[part.space.name, part.layer], picked, whose))
    if len(one.values) not in (1, n_stimuli):
        raise InputError(
            f"{one}: a patch takes one source for all, or one for each of the {n_stimuli} stimuli; got "
            f"{len(one.values)}."
        )
    sources = dict(_rows(one, places, layers, read))
    return lambda part, items, picked, whose: (
        0.0,
        _patched(one, part, sources, list(zip(items, whose, strict=True)), picked),
    )


def _constant(one: Intervention, part: Part) -> torch.Tensor:
    import torch

    if not isinstance(one.values, Mapping):
        return torch.full((part.width,), float(one.values))
    values = one.values[part.space.name]
    chosen = values if values.ndim == 1 else values[part.layer][part.dims]
    return torch.from_numpy(np.array(chosen, dtype=np.float32))


_Places = Mapping[tuple[str, int], Part]


def _rows(
    one: Intervention, places: _Places, layers: Mapping[str, list[int]], read: Read
) -> Iterator[tuple[int, dict[tuple[str, int], torch.Tensor]]]:
    """Per stimulus of the intervention: its values at every block that is written to, [token, dims]."""
    for index, residual in read(one.values, layers, one.tokens, one.spared):
        yield (
            index,
            {
                (name, layer): places[name, layer].of(values[at])
                for name, values in residual.items()
                for at, layer in enumerate(layers[name])
            },
        )


def _means(one: Intervention, places: _Places, layers: Any, read: Read) -> dict[tuple[str, int], torch.Tensor]:
    import torch

    sums = {place: torch.zeros(part.width, dtype=torch.float64) for place, part in places.items()}
    count = 0
    for _, values in _rows(one, places, layers, read):
        count += 1
        for place, rows in values.items():
            sums[place] += rows.double().mean(0)
    return {place: (total / count).float() for place, total in sums.items()}


def _donors(one: Intervention, places: _Places, layers: Any, read: Read) -> dict[tuple[str, int], torch.Tensor]:
    """Rows of donor tokens, [donor, dims]; row i of every block is the same token."""
    import torch

    each = max(1, -(-DONOR_TOKENS // len(one.values)))
    kept: dict[tuple[str, int], list[tuple[int, torch.Tensor]]] = {place: [] for place in places}
    for index, values in _rows(one, places, layers, read):
        for name in {name for name, _ in values}:
            rng = np.random.default_rng([one.seed, index])
            tokens = next(len(rows) for (tower, _), rows in values.items() if tower == name)
            drawn = torch.from_numpy(rng.permutation(tokens)[:each].copy())
            for (tower, layer), rows in values.items():
                if tower == name:
                    kept[tower, layer].append((index, rows[drawn]))
    # Batches come in another order than stimuli; which donor is which must not depend on it.
    return {place: torch.cat([rows for _, rows in sorted(found, key=lambda f: f[0])]) for place, found in kept.items()}


def _drawn(
    one: Intervention, donors: torch.Tensor, picked: Sequence[torch.Tensor], whose: Sequence[int]
) -> torch.Tensor:
    import torch

    chosen = [
        np.random.default_rng([one.seed, 1, owner]).integers(len(donors), size=len(positions))
        for owner, positions in zip(whose, picked, strict=True)
    ]
    return donors[torch.from_numpy(np.concatenate(chosen))]


def _patched(
    one: Intervention,
    part: Part,
    sources: Mapping[int, Mapping[tuple[str, int], torch.Tensor]],
    stimuli: Sequence[tuple[Encoded, int]],
    picked: Sequence[torch.Tensor],
) -> torch.Tensor:
    import torch

    rows = []
    for (item, owner), positions in zip(stimuli, picked, strict=True):
        source = sources[owner if len(sources) > 1 else 0][part.space.name, part.layer]
        if len(source) != len(positions):
            raise InputError(
                f"{one}: stimulus {item.label} has {len(positions)} such tokens in the {part.space.tower.name} tower, "
                f"its source has {len(source)}. Give sources of the same length, or patch at tokens that both have, "
                'such as .at("last").'
            )
        rows.append(source)
    return torch.cat(rows)


def flatten(interventions: Any) -> list[Intervention]:
    """Interventions from arguments that may be interventions or sequences of them."""
    found: list[Intervention] = []
    for one in interventions:
        if isinstance(one, Intervention):
            found.append(one)
        elif isinstance(one, list | tuple):
            found += flatten(one)
        else:
            raise InputError(
                f"An intervention is expected, such as modalnet.zero(units); this is a {type(one).__name__}."
            )
    return found
