"""The sets of units of a lesion study: every network at every size, its random controls, and what is left without a
dimension.

Controls are matched where the lesion acts: in the mean absolute activation (``"activation"``) or the standard deviation
(``"variance"``) of units at the tokens of the tasks that are lesioned. ``"readout"`` matches the length of the weights
by which the LM head reads a dimension. Any other quantity per unit can be given by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from modalnet.errors import InputError
from modalnet.lesion.design import Design
from modalnet.lesion.lesion import LEAST, WITHOUT, Control
from modalnet.lesion.reference import PerUnit
from modalnet.stats.controls import (
    MATCHES as DRAWN,
    check_matches,
    distinct_dimensions,
    draw,
    draw_each,
    match_ratios,
    mean_overlap,
    warn_of_poor_match,
)
from modalnet.units import Units

if TYPE_CHECKING:
    from modalnet.model import Model

MATCHES: tuple[Control, ...] = (*DRAWN, "variance", "readout")


class Sized(NamedTuple):
    """A network at one size.

    Attributes
    ----------
    fraction
        The share of the units that it was chosen from.
    units, least
        Its units, and as many of the least selective ones; None for fixed units, which have none.
    """

    fraction: float
    units: Units
    least: Units | None


@dataclass(frozen=True)
class Sets:
    """The sets of one network at one size.

    Attributes
    ----------
    fraction
        Its size, as a share of the units that it was chosen from.
    members
        (kind of control, draw, units), the network itself first.
    design
        What is known of them.
    """

    fraction: float
    members: list[tuple[Control, int, Units]]
    design: Design


@dataclass(frozen=True)
class Controls:
    """How the controls of networks are chosen.

    Attributes
    ----------
    n, match, seed
        As for :func:`modalnet.lesion_study`.
    least
        Whether the least selective units are lesioned as well.
    leave_out
        How many dimensions are left out, one at a time.
    values
        Kind of control → the quantity of every unit that it is matched in.
    """

    n: int
    match: tuple[Control, ...]
    seed: int
    least: bool
    leave_out: int
    values: Mapping[Control, PerUnit]

    def sets(self, name: str, one: Sized) -> Sets:
        """The sets of a network at one of its sizes."""
        units = one.units
        members: list[tuple[Control, int, Units]] = [("", 0, units)]
        overlap = {}
        for kind in self.match if self.n else ():
            drawn = self._draw(units, kind, name)
            if drawn is None:
                continue
            overlap[kind] = mean_overlap(drawn)
            members += [(kind, number, one) for number, one in enumerate(drawn)]
            if kind == "activation":
                known = self._with_activity(units)
                warn_of_poor_match(match_ratios(known, [self._with_activity(one) for one in drawn]), kind, name)
        if self.least and one.least is not None:
            members.append((LEAST, 0, one.least))
        dimensions = distinct_dimensions(units)
        left_out = [] if len(dimensions) < 2 else self._largest(units, dimensions)
        members += [(WITHOUT, number, _without(units, *one)) for number, one in enumerate(left_out)]
        names = tuple(f"{space}[{dim}]" for space, dim in left_out)
        return Sets(one.fraction, members, Design(len(dimensions), names, overlap))

    def _draw(self, units: Units, kind: Control, name: str) -> list[Units] | None:
        """The draws of a kind; None, with a warning, where what they are matched in is not known."""
        values = self.values.get(kind)
        if values is None:
            return draw(units, self.n, seed=self.seed, match=kind)
        spaces = [space for space, mask in units.mask.items() if mask.any()]
        missing = [space for space in spaces if space not in values]
        if missing and kind == "activation":
            # No task reaches that tower, so that its units' activations are known from the localizer alone.
            return draw_each(units, self.n, seed=self.seed, match=[kind], name=name).get(kind)
        if missing:
            raise InputError(
                f"Controls matched by {kind!r} need a value of every unit of {missing[0]}, which has none. Choose "
                "other kinds in `match`, or a task whose stimuli reach that tower."
            )
        # What is matched takes the place of the mean absolute activation, and only there.
        drawn = draw(_with(units, values), self.n, seed=self.seed, match="activation")
        return [_units(units, one.mask) for one in drawn]

    def _with_activity(self, units: Units) -> Units:
        """The same units with the mean absolute activation at the tasks' tokens."""
        values = self.values.get("activation")
        return units if values is None else _with(units, values)

    def _largest(self, units: Units, dimensions: Mapping[tuple[str, int], int]) -> list[tuple[str, int]]:
        """The dimensions with the largest mean absolute activation over their units, or with the most units."""
        mean_abs = self._with_activity(units).mean_abs

        def size(one: tuple[str, int]) -> float:
            space, dim = one
            if mean_abs is None:
                return dimensions[one]
            return float(mean_abs[space][units.mask[space][:, dim], dim].sum())

        return sorted(dimensions, key=size, reverse=True)[: self.leave_out]


def sizes_of(
    network: Any,
    fractions: Sequence[float],
    by: Literal["t", "effect_size", "mean_effect"],
    exclude_massive: float | None,
) -> list[Sized]:
    """The units of a network at each of its sizes; fixed units have one."""
    if isinstance(network, Units):
        return [Sized(network.count / network.n_units, network, None)]
    opposite = getattr(network, "least_selective", None) or getattr(network, "bottom", None)
    choice: dict[str, Any] = {} if by == "t" else {"by": by}
    if exclude_massive is not None:
        choice["exclude"] = network.massive(exclude_massive)
    return [
        Sized(float(size), network.top(fraction=size, **choice), opposite(fraction=size) if opposite else None)
        for size in fractions
    ]


def check_kinds(match: Any, match_on: Mapping[str, Any] | None) -> tuple[Control, ...]:
    """The kinds of controls that are wanted, the user's own after the others; an InputError for unknown ones."""
    own = tuple(match_on or ())
    taken = next((name for name in own if name in {*MATCHES, "", LEAST, WITHOUT}), None)
    if taken is not None:
        raise InputError(f"`match_on` must have names of its own, got {taken!r}, which is a kind of control already.")
    return (*check_matches(match, known=MATCHES), *own)


def quantities(model: Model, kinds: Sequence[Control], match_on: Mapping[str, Any] | None) -> dict[Control, PerUnit]:
    """The quantity per unit of the kinds that need no task: read-out weights, and those of the user's own kinds.

    These are arrays by space, or the |t| of a localization.

    Raises
    ------
    InputError
        For what is neither, and for arrays whose shape is not that of a space; as for :func:`readout_lengths`.
    """
    found: dict[Control, PerUnit] = {"readout": readout_lengths(model)} if "readout" in kinds else {}
    for name, given in (match_on or {}).items():
        values = getattr(given, "t", given)
        if not isinstance(values, Mapping):
            raise InputError(
                f"`match_on[{name!r}]` must be a localization, or a mapping from spaces to arrays [layer, unit], got "
                f"{type(given).__name__}."
            )
        found[name] = {space: np.abs(np.asarray(each, dtype=np.float64)) for space, each in values.items()}
        for space, each in found[name].items():
            shape = model.spaces[space].shape if space in model.spaces else None
            if each.shape != shape:
                raise InputError(
                    f"`match_on[{name!r}]` must have an array of shape {shape} for {space!r}, got {each.shape}."
                )
    return found


def readout_lengths(model: Model) -> PerUnit:
    """The length of the weights by which the LM head reads each dimension, the same in every layer of the decoder.

    Raises
    ------
    InputError
        Where the model has no LM head, or its weights are not here.
    """
    module = model.module
    head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    weight = getattr(head, "weight", None)
    space = model._executor.encoder.text_tower
    if weight is None or weight.device.type == "meta" or weight.shape[-1] != model.spaces[space].width:
        raise InputError(
            f'match="readout" requires the weights of an LM head over {space} in this process, which {model.name} does '
            "not have. Choose another kind of control."
        )
    lengths: Float[np.ndarray, " dim"] = weight.detach().double().norm(dim=0).cpu().numpy()
    return {space: np.broadcast_to(lengths, model.spaces[space].shape)}


def _with(units: Units, values: PerUnit) -> Units:
    """The same units with another quantity as their mean absolute activation, where they have any unit."""
    full = {space: values.get(space, np.ones(mask.shape)) for space, mask in units.mask.items()}
    return Units(units.mask, mean_abs=full, model=units.model, selected_on=(), widths=units.widths)


def _without(units: Units, space: str, dim: int) -> Units:
    mask = {name: each.copy() for name, each in units.mask.items()}
    mask[space][:, dim] = False
    return _units(units, mask)


def _units(units: Units, mask: Mapping[str, np.ndarray]) -> Units:
    """Others beside a network."""
    return Units(mask, mean_abs=units.mean_abs, model=units.model, selected_on=(), widths=units.widths)
