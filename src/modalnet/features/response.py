"""How a set of units responds to a stimulus: unit by unit, and as a network.

The response of a network is the mean over its units. A few units of a transformer are hundreds of times as active as
others, and a plain mean would be theirs; so each unit is first divided by its mean |activation|, where the units carry
it, as those that a localization selects do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet.activations import check_units
from modalnet.errors import InputError
from modalnet.interventions.positions import TokenChoice, choose
from modalnet.model import Model
from modalnet.units import Units, as_units

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.inputs.batch import Prepared
    from modalnet.stimuli import Stimulus

MAGNITUDES = ("absolute", "signed")


@dataclass(frozen=True, eq=False)
class Response:
    """What is read of a model, and what is made of it.

    Attributes
    ----------
    units
        (tower, layer, dim) of each, in that order.
    layers
        Per tower, in forward order, the layers that are read.
    magnitude
        ``"absolute"`` or ``"signed"``.
    sizes
        ``[unit]``: what each is divided by in the network's mean.
    scaled
        Whether these are the units' mean |activation|; otherwise they are 1.
    """

    units: tuple[tuple[str, int, int], ...]
    layers: dict[str, tuple[int, ...]]
    magnitude: str
    sizes: Float[np.ndarray, " unit"]
    scaled: bool

    def raw(self, residual: Mapping[str, Any]) -> Float[torch.Tensor, "stimulus unit"]:
        """The units' activations, from those of the layers that are read: per tower ``[stimulus, layer, dim]``."""
        import torch

        parts = []
        for tower, layers in self.layers.items():
            own = [unit for unit in self.units if unit[0] == tower]
            at = [layers.index(layer) for _, layer, _ in own]
            parts.append(residual[tower][:, at, [dim for _, _, dim in own]])
        return torch.cat(parts, dim=1)

    def sized(self, raw: Any) -> Any:
        """The activation that counts: itself, or its size."""
        return abs(raw) if self.magnitude == "absolute" else raw

    def network(self, sized: Any) -> Any:
        """``[stimulus]``: the network's response, from ``[stimulus, unit]``."""
        weights = 1 / (self.sizes * len(self.sizes))
        if isinstance(sized, np.ndarray):
            return sized @ weights
        import torch

        return sized @ torch.from_numpy(weights).to(sized)


def respond(model: Model, units: Any, magnitude: str, *, scaled: bool | None = None) -> Response:
    """What is read for some units.

    Parameters
    ----------
    model
        The model.
    units
        Units of it, or one as (tower, layer, dim).
    magnitude
        See :class:`Response`.
    scaled
        Whether each unit counts relative to its mean |activation|; None: where that is known.

    Raises
    ------
    InputError
        For no units, or units of another model.
    """
    if magnitude not in MAGNITUDES:
        raise InputError(f'magnitude={magnitude!r} is not known. Give "absolute" or "signed".')
    chosen = units_of(model, units)
    if scaled and chosen.mean_abs is None:
        raise InputError(
            "scaled=True needs the mean absolute activation of every unit, and these units carry none. Units that a "
            "localization selects (localization.top(...)) do; or pass mean_abs= to Units."
        )
    mean_abs = None if scaled is False else chosen.mean_abs
    order = list(model.spaces)
    listed = sorted(chosen.indices(), key=lambda unit: (order.index(unit[0]), *unit[1:]))
    layers = {t: tuple(sorted({layer for tower, layer, _ in listed if tower == t})) for t in order}
    sizes = np.array([1.0 if mean_abs is None else mean_abs[t][layer, dim] for t, layer, dim in listed])
    # A unit that is never active, or whose size is not known, counts as it is.
    sizes = np.where(np.isfinite(sizes) & (sizes > 0), sizes, 1.0)
    return Response(tuple(listed), {t: own for t, own in layers.items() if own}, magnitude, sizes, mean_abs is not None)


def units_of(model: Model, units: Any) -> Units:
    """Units of a model, from units or one (tower, layer, dim); an InputError for anything else."""
    shapes = {name: space.shape for name, space in model.spaces.items()}
    if isinstance(units, tuple) and len(units) == 3 and isinstance(units[0], str):
        return Units.from_indices(shapes, [units])
    chosen = as_units(units)
    check_units(model, chosen)
    return chosen


def token_choices(
    model: Model, layers: Mapping[str, Sequence[int]], stimuli: Sequence[Stimulus], tokens: Any
) -> dict[str, TokenChoice]:
    """The tokens that activations are pooled over, as :func:`modalnet.localize` chooses them."""
    pictures = model._executor.has_image_tokens and all(stimulus.text is None for stimulus in stimuli)
    choices = choose(tokens, [model.spaces[name] for name in layers], pictures=pictures)
    for tower, choice in choices.items():
        if choice == "all":
            raise InputError(
                f'tokens="all" keeps the tokens of the {tower} tower apart, but a unit has one value per stimulus. Use '
                '"mean" to pool over all of them.'
            )
    return choices


def check_reach(model: Model, spaces: Iterable[str], stimuli: Sequence[Stimulus]) -> None:
    """An InputError where the tower of a space is not reached by all stimuli."""
    reached = model._executor.reached(stimuli)
    for tower in (model.spaces[name].tower for name in spaces):
        if tower.name not in reached:
            raise InputError(
                f"some of these units are in the {tower.name} tower, which not all stimuli reach: give stimuli with "
                f"{tower.noun}, or leave these units out."
            )


def watch(
    model: Model,
    responses: Sequence[Response],
    prepared: Sequence[Prepared],
    tokens: Mapping[str, TokenChoice],
    batch_size: int | Literal["auto"] = "auto",
) -> Iterator[tuple[list[int], list[Float[np.ndarray, "stimulus unit"]]]]:
    """Yield the activations of units batch by batch: places of the stimuli, and ``[stimulus, unit]`` per response."""
    layers = {
        tower: sorted({layer for one in responses for layer in one.layers.get(tower, ())})
        for tower in tokens  # in forward order
    }
    # What each response reads, among all that is read.
    within = [
        replace(
            one,
            units=tuple((tower, layers[tower].index(layer), dim) for tower, layer, dim in one.units),
            layers={tower: tuple(range(len(layers[tower]))) for tower in one.layers},
        )
        for one in responses
    ]
    for step in model._executor.stream(prepared, layers, tokens, batch_size=batch_size):
        yield step.indices, [one.raw(step.activations).double().numpy() for one in within]
