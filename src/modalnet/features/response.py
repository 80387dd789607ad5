"""The response of a set of units to a stimulus: unit by unit, and as a network.

The response of a network is the mean over its units. A few units of a transformer are hundreds of times as active as
others and would dominate a plain mean, so each unit is first divided by its mean absolute activation, if the units
carry it, as those that a localization selects do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np

from modalnet._validation import check_option
from modalnet.activations import check_units
from modalnet.errors import InputError
from modalnet.interventions.positions import TokenChoice, TokensLike, choose
from modalnet.model import Model
from modalnet.units import Units, UnitsLike, as_units

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.inputs.batch import Prepared
    from modalnet.stimuli import Stimulus

Magnitude = Literal["absolute", "signed"]
MAGNITUDES = ("absolute", "signed")
#: One unit: (space, layer, index).
Unit: TypeAlias = tuple[str, int, int]
Array = TypeVar("Array", bound=Any)  # of numpy or torch


@dataclass(frozen=True, eq=False)
class Response:
    """Which units are read, and how their activations become one response.

    Attributes
    ----------
    units
        (space, layer, index) of each unit, in forward order.
    layers
        Per space, in forward order, the layers that are read.
    magnitude
        ``"absolute"`` or ``"signed"``.
    scale
        ``[unit]``: what each unit is divided by in the network's mean.
    scaled
        Whether ``scale`` is the units' mean absolute activation; otherwise it is 1.
    """

    units: tuple[Unit, ...]
    layers: dict[str, tuple[int, ...]]
    magnitude: str
    scale: Float[np.ndarray, " unit"]
    scaled: bool

    def activations(
        self, values: Mapping[str, Float[torch.Tensor, "stimulus layer dim"]]
    ) -> Float[torch.Tensor, "stimulus unit"]:
        """Pick the units' activations from those of the layers that were read, given per space."""
        import torch

        parts = []
        for space, layers in self.layers.items():
            units = [unit for unit in self.units if unit[0] == space]
            rows = [layers.index(layer) for _, layer, _ in units]
            parts.append(values[space][:, rows, [index for _, _, index in units]])
        return torch.cat(parts, dim=1)

    def magnitudes(self, activations: Array) -> Array:
        """Return the absolute activations, or the signed ones as they are."""
        positive: Array = abs(activations)
        return positive if self.magnitude == "absolute" else activations

    def network(self, magnitudes: Array) -> Array:
        """Average ``[stimulus, unit]`` over the units, each divided by its scale, to ``[stimulus]``."""
        weights = 1 / (self.scale * len(self.scale))
        averaged: Any
        if isinstance(magnitudes, np.ndarray):
            averaged = magnitudes @ weights
        else:
            import torch

            averaged = magnitudes @ torch.from_numpy(weights).to(magnitudes)
        return averaged


def response_of(model: Model, units: UnitsLike | Unit, magnitude: Magnitude, *, scaled: bool | None = None) -> Response:
    """Describe what is read for some units.

    Parameters
    ----------
    model
        The model.
    units
        Units of the model, or one unit as (space, layer, index).
    magnitude
        See :class:`Response`.
    scaled
        Whether each unit is divided by its mean absolute activation; if None, where the units carry it.

    Raises
    ------
    InputError
        For an empty set, or units of another model.
    """
    check_option("magnitude", magnitude, MAGNITUDES)
    chosen = units_of(model, units)
    if scaled and chosen.mean_abs is None:
        raise InputError(
            "`scaled=True` requires the mean absolute activation of every unit, which these units lack. Units selected "
            "from a localization (localization.top(...)) have it; otherwise pass `mean_abs` to Units."
        )
    mean_abs = None if scaled is False else chosen.mean_abs
    order = list(model.spaces)
    listed = sorted(chosen.indices(), key=lambda unit: (order.index(unit[0]), *unit[1:]))
    layers = {name: tuple(sorted({layer for space, layer, _ in listed if space == name})) for name in order}
    scale = np.array([1.0 if mean_abs is None else mean_abs[space][layer, index] for space, layer, index in listed])
    # A unit that is never active, or whose mean absolute activation is unknown, is not scaled.
    scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
    read = {name: rows for name, rows in layers.items() if rows}
    return Response(tuple(listed), read, magnitude, scale, mean_abs is not None)


def units_of(model: Model, units: UnitsLike | Unit) -> Units:
    """Return units of a model, from units, a localization or one (space, layer, index).

    Raises
    ------
    InputError
        For anything else, an empty set, or units of another model.
    """
    if isinstance(units, tuple) and len(units) == 3 and isinstance(units[0], str):
        return Units.from_indices({name: space.shape for name, space in model.spaces.items()}, [units])
    chosen = as_units(units)
    check_units(model, chosen)
    return chosen


def token_choices(
    model: Model, layers: Mapping[str, Sequence[int]], stimuli: Sequence[Stimulus], tokens: TokensLike
) -> dict[str, TokenChoice]:
    """Choose the tokens that activations are pooled over, as :func:`modalnet.localize` does."""
    alone = model._executor.alone(stimuli)
    spaces = [model.spaces[name] for name in layers]
    choices = choose(tokens, spaces, alone=alone, causal=model._executor.is_causal)
    for space, choice in choices.items():
        if choice == "all":
            raise InputError(
                f'tokens="all" does not pool the tokens of {space}, but a unit needs one value per stimulus. Use '
                '"mean" for the mean over all tokens.'
            )
    return choices


def check_reach(model: Model, spaces: Iterable[str], stimuli: Sequence[Stimulus]) -> None:
    """Raise an InputError if a tower with units is not reached by all stimuli."""
    reached = model._executor.reached(stimuli)
    for tower in (model.spaces[name].tower for name in spaces):
        if tower.name not in reached:
            raise InputError(
                f"Some units are in the {tower.name} tower, which not all stimuli reach. Use stimuli with "
                f"{tower.noun}, or omit these units."
            )


def stream_activations(
    model: Model,
    responses: Sequence[Response],
    prepared: Sequence[Prepared],
    tokens: Mapping[str, TokenChoice],
    batch_size: int | Literal["auto"] = "auto",
) -> Iterator[tuple[list[int], list[Float[np.ndarray, "stimulus unit"]]]]:
    """Yield the activations of several sets of units batch by batch.

    Yields
    ------
    indices, activations
        Indices of the batch's stimuli, and ``[stimulus, unit]`` for each set of units.
    """
    layers = {
        space: sorted({layer for response in responses for layer in response.layers.get(space, ())})
        for space in tokens  # in forward order
    }
    # What each response reads, among all that is read.
    within = [
        replace(
            response,
            units=tuple((space, layers[space].index(layer), index) for space, layer, index in response.units),
            layers={space: tuple(range(len(layers[space]))) for space in response.layers},
        )
        for response in responses
    ]
    for batch in model._executor.stream(prepared, layers, tokens, batch_size=batch_size):
        found = [response.activations(batch.activations).double().numpy() for response in within]
        indices = batch.indices
        del batch  # or it would be held while the next one runs
        yield indices, found
        del found
