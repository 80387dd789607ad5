"""Where a patch takes activations from, other than from stimuli on the model that it patches.

A :class:`Source` runs stimuli on a view of a model, under the interventions of that view, or on another checkpoint. A
:class:`Recorded` holds activations that were read before: those of a run, or arrays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from modalnet.errors import InputError
from modalnet.interventions.content import content_digest, real_array
from modalnet.interventions.positions import StimulusTokens, TokenChoice

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.interventions.positions import TokenRow
    from modalnet.results.cache import Identity
    from modalnet.stimuli.stimulus import Stimulus


class Reader(Protocol):
    """What runs stimuli of a source: a model under its own interventions."""

    @property
    def name(self) -> str: ...

    def identity(self) -> Identity:
        """What decides its numbers."""
        ...

    def read_apart(
        self, stimuli: Sequence[Stimulus], layers: Mapping[str, Sequence[int]], tokens: TokenChoice, spare_first: int
    ) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """(index, {space: [layer, token, dim]}) of each stimulus at chosen tokens, not in order."""
        ...


@dataclass(frozen=True, eq=False)
class Source:
    """Stimuli on a model, under the interventions of its view; made by :meth:`modalnet.Model.on`.

    Attributes
    ----------
    reader
        Runs them.
    stimuli
        One for all that are patched, or one for each.
    """

    reader: Reader
    stimuli: tuple[Stimulus, ...]

    def __len__(self) -> int:
        return len(self.stimuli)

    @property
    def digest(self) -> str:
        """A hash of the model as it is now, its interventions and the stimuli."""
        numbers = json.dumps(self.reader.identity().numbers, sort_keys=True, default=str)
        parts = [numbers, *(stimulus.inspect().digest for stimulus in self.stimuli)]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def not_stored(self) -> str:
        """Why results that depend on it are not stored; empty where they are."""
        return self.reader.identity().reason

    def __str__(self) -> str:
        return f"{_count(len(self.stimuli), 'stimulus', 'stimuli')} on {self.reader.name}"

    __repr__ = __str__


@runtime_checkable
class HasActivations(Protocol):
    """A run, as far as a patch reads it."""

    activations: dict[str, Any]
    layers: dict[str, tuple[int, ...]]
    tokens: dict[str, StimulusTokens]


@dataclass(frozen=True, eq=False)
class Recorded:
    """Activations that were read before.

    Attributes
    ----------
    rows
        Per source and space, float32 ``[layer, token, dim]``.
    layers
        Per space the layers along the layer axis; a space that is missing has what the target of the patch names: all
        of them for units, those of a site in its order.
    pooled
        Per space whose tokens were pooled into one row, which; None where that is not known. That row is put in at
        every token that is patched.
    whole
        Whether the rows of other spaces are all tokens of a stimulus, from which those that are patched are picked;
        otherwise they are those that are patched.
    run
        The run that read them, which knows what the tokens are; None for arrays.
    """

    rows: tuple[dict[str, Float[np.ndarray, "layer token dim"]], ...]
    layers: Mapping[str, tuple[int, ...]]
    pooled: Mapping[str, StimulusTokens | None]
    whole: bool = False
    run: HasActivations | None = None
    what: str = "an array"

    def roles(self, index: int, space: str) -> TokenRow | None:
        """The tokens of a source in a space, which are named when this is asked; None where they are not known."""
        rows: Sequence[Mapping[str, TokenRow]] = getattr(self.run, "token_rows", ())
        return rows[index][space] if rows else None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        """A hash of the activations and of what they are about."""
        parts: list[Any] = [sorted(self.layers.items()), sorted((name, repr(one)) for name, one in self.pooled.items())]
        parts += [(name, content_digest(array)) for row in self.rows for name, array in sorted(row.items())]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def __str__(self) -> str:
        return self.what

    __repr__ = __str__

    def read(
        self, layers: Mapping[str, Sequence[int]]
    ) -> Iterator[tuple[int, dict[str, Float[torch.Tensor, "layer token dim"]]]]:
        """(index, {space: [layer, token, dim]}) of each source at some layers, or at all where they have no names.

        Raises
        ------
        InputError
            Where a space or a layer was not read.
        """
        import torch

        for index, row in enumerate(self.rows):
            found = {}
            for name, wanted in layers.items():
                if name not in row:
                    raise InputError(f"it has no activations of {name}; it has {', '.join(row)}.")
                held = self.layers.get(name)
                missing = [layer for layer in wanted if held is not None and layer not in held]
                if missing:
                    raise InputError(f"layer {missing[0]} of {name} was not read; it has layers {list(held or ())}.")
                kept = row[name] if held is None else row[name][[held.index(layer) for layer in wanted]]
                found[name] = torch.from_numpy(kept.copy())
            yield index, found


def recorded_run(run: HasActivations) -> Recorded:
    """What a run read.

    Raises
    ------
    InputError
        Where it read nothing.
    """
    if not run.activations:
        raise InputError('`source` is a run without activations (read=[]). Read them with tokens="all".')
    pooled = {name: choice for name, choice in run.tokens.items() if choice != "all"}
    counts = [len(values) for values in run.activations.values()]
    rows = []
    for index in range(counts[0]):
        read = {name: real_array("source", values[index]) for name, values in run.activations.items()}
        for name, vectors in getattr(run, "vectors", {}).items():
            array = real_array("source", vectors[index])
            read[name] = array.reshape(*array.shape[:-2], -1)
        rows.append({name: array[:, None] if name in pooled else array for name, array in read.items()})
    what = f"a run of {_count(counts[0], 'stimulus', 'stimuli')}"
    return Recorded(tuple(rows), dict(run.layers), pooled, True, run, what)


def recorded_arrays(given: Sequence[Mapping[str, Any]], *, one_layer: bool) -> Recorded:
    """Arrays per source and space.

    Parameters
    ----------
    given
        Per source and space: ``[layer, dim]`` for every token that is patched, or ``[layer, token, dim]``; without the
        layers where there is one.
    one_layer
        Whether there is.

    Raises
    ------
    InputError
        For arrays of other shapes, or that are not finite.
    """
    rows: list[dict[str, np.ndarray]] = []
    pooled: dict[str, StimulusTokens | None] = {}
    for each in given:
        row = {}
        for name, values in each.items():
            array = real_array("source", values)[None] if one_layer else real_array("source", values)
            if array.ndim not in (2, 3) or not array.size or not np.isfinite(array).all():
                shapes = "[dim] or [token, dim]" if one_layer else "[layer, dim] or [layer, token, dim]"
                raise InputError(f"`source` must be finite, {shapes}, got shape {np.shape(values)} for {name}.")
            if array.ndim == 2:
                pooled[name] = None
                array = array[:, None]
            row[name] = array
        rows.append(row)
    return Recorded(tuple(rows), {}, pooled)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
