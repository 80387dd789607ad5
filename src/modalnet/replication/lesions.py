"""Lesions as published protocols make them, from units to interventions.

A referee ablates units to the mean that ordinary tokens have. Published lesions put in other values, and one acts on
other places than its units. Each is an intervention like any other, made here from a
:class:`modalnet.protocols.ProtocolLesion`:

=========================  ===========================================================================================
``"zero"``                 0 at all tokens
``"zero positions"``       0 in all units of a layer, at the token positions whose number is that of a selected unit
``"task mean"``            the unit's mean over all tokens of the task's stimuli, at all tokens
``"scalar mean"``          one number for all units: the mean of all units of all layers on positive stimuli
``"condition mean"``       the unit's mean over the stimuli of one condition, read as its localizer reads, at all tokens
``"category difference"``  the unit's mean over the other categories minus that over its own is added at all tokens
``"experts"``              the router's logit of an expert is minus infinity
=========================  ===========================================================================================

All hold in generation, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float

from modalnet._validation import check_shared, check_type
from modalnet.errors import InputError
from modalnet.interventions.operations import Intervention, add, apply, mean, set_to, site, zero
from modalnet.localization.localizer import localize
from modalnet.localization.result import Localization
from modalnet.model import Model
from modalnet.models.sites import Space
from modalnet.models.towers import tower_of
from modalnet.protocols.protocol import Protocol, ProtocolLesion
from modalnet.results.cache import CacheLike
from modalnet.stimuli.contrast import Contrast
from modalnet.units import Units

if TYPE_CHECKING:
    import torch

    from modalnet.stimuli.conversion import StimuliLike

EXPERTS = ".experts"


def published_lesion(
    model: Model,
    units: Units,
    lesion: ProtocolLesion,
    *,
    protocol: Protocol | None = None,
    contrasts: Mapping[str, Contrast] | None = None,
    task_stimuli: StimuliLike | None = None,
    batch_size: int | Literal["auto"] = "auto",
    cache: CacheLike = True,
    progress: bool = True,
) -> list[Intervention]:
    """Make the interventions of a published lesion.

    Parameters
    ----------
    model
        The model.
    units
        The units; random ones are lesioned in the same way. For ``"experts"`` those of a mixture of experts.
    lesion
        What is done to them: ``protocol.lesion``, or one of ``protocol.other_lesions``.
    protocol
        For lesions to a value that contrasts give (``"scalar mean"``, ``"condition mean"``, ``"category difference"``):
        the protocol, which says how activations are read.
    contrasts
        For the same: the contrasts that selected the network, by name.
    task_stimuli
        For ``"task mean"``: the prompts of the task, with their answers.
    batch_size, cache, progress
        As for :func:`modalnet.localize`, where activations are read.

    Returns
    -------
    list of Intervention
        On all tokens; empty for ``"none"``.

    Raises
    ------
    InputError
        If there are no units, they are of another kind than the lesion is of, or what it needs is missing; for
        ``"edges"``, which are no units.
    """
    check_type("units", units, Units, "Units")
    check_type("lesion", lesion, ProtocolLesion, "a modalnet.protocols.ProtocolLesion")
    check_shared(batch_size=batch_size, cache=cache, progress=progress)
    operation = lesion.operation
    if operation == "none":
        return []
    if operation == "edges":
        raise InputError(
            "A lesion of attention edges has no units. Use modalnet.information_flow or modalnet.knockout."
        )
    if not units.count:
        raise InputError("The set of units to lesion is empty.")
    experts = [space for space, mask in units.mask.items() if mask.any() and space.endswith(EXPERTS)]
    if operation == "experts" and experts != _spaces(units):
        raise InputError(f"`units` must be experts for this lesion, got units of {', '.join(_spaces(units))}.")
    if operation in ("zero", "experts"):  # to zero an expert is to let the router choose again without it
        return [zero(units)]
    if operation == "zero positions":
        return [_zero_positions(space, units.mask[space]) for space in _spaces(units)]
    if operation == "task mean":
        return [_task_mean(model, units, task_stimuli)]
    read = _localized(model, units, operation, protocol, contrasts, batch_size, cache, progress)
    return [_MADE[operation](units, lesion, read)]


def expert_space(model: Model) -> Space:
    """The space of a mixture's router; of several towers with one, that of the last.

    Raises
    ------
    InputError
        If the model has no experts.
    """
    spaces = [space for name, space in model.spaces.items() if name.endswith(EXPERTS)]
    if not spaces:
        raise InputError(f"{model.name} is no mixture of experts; its spaces are {', '.join(model.spaces)}.")
    return spaces[-1]


def expert_units(model: Model, number: int) -> Units:
    """Return one expert in all layers of a mixture of experts, as units.

    Raises
    ------
    InputError
        If the model has no experts, or not as many.
    """
    space = expert_space(model)
    if not 0 <= number < space.width:
        raise InputError(f"`number` must be that of one of {space.width} experts, from 0, got {number!r}.")
    everything = model.units(space.name)
    mask = {name: np.zeros_like(one) for name, one in everything.mask.items()}
    mask[space.name][:, number] = everything.mask[space.name][:, number]
    return Units(mask, widths=everything.widths)


def _spaces(units: Units) -> list[str]:
    return [space for space, mask in units.mask.items() if mask.any()]


# -- lesions that need no activations ----------------------------------------------------------------------------------


def _zero_positions(space: str, mask: Bool[np.ndarray, "layer unit"]) -> Intervention:
    """Whole layers are zeroed at the positions that selected units number."""
    selected = np.flatnonzero(mask.any(1)).tolist()
    return apply(site(space, selected), _without_positions(mask), name="zero positions of selected units")


def _without_positions(mask: Bool[np.ndarray, "layer unit"]) -> Callable[..., torch.Tensor]:
    """A function of activations that zeroes whole tokens.

    It counts tokens from the first that it is given. In a generation a new token comes alone, so it is number 0, as in
    a forward pass with cached keys and values.
    """

    def zeroed(x: Float[torch.Tensor, "token unit"], *, layer: int) -> Float[torch.Tensor, "token unit"]:
        import torch

        named = np.flatnonzero(mask[layer][: len(x)])
        return x.index_fill(0, torch.as_tensor(named, device=x.device), 0.0)

    return zeroed


def _task_mean(model: Model, units: Units, stimuli: StimuliLike | None) -> Intervention:
    """The mean over all tokens of a stimulus, attention sinks included, and then over stimuli."""
    if stimuli is None:
        raise InputError("`task_stimuli` must be the prompts of the task for a lesion to the task's mean, got None.")
    return mean(units, over=model.means(stimuli, spaces=_spaces(units), tokens="all", spare_sinks=False))


# -- lesions to values that contrasts give -----------------------------------------------------------------------------


def _localized(  # noqa: PLR0917  # one call, above
    model: Model,
    units: Units,
    operation: str,
    protocol: Protocol | None,
    contrasts: Mapping[str, Contrast] | None,
    batch_size: int | Literal["auto"],
    cache: CacheLike,
    progress: bool,
) -> list[Localization]:
    """The signed activations of the lesioned spaces on the stimuli of contrasts, read as the protocol reads them."""
    if protocol is None or protocol.localizer is None or not contrasts:
        raise InputError(
            f"A lesion of the kind {operation!r} needs `protocol`, with a localizer, and `contrasts`, from which its "
            "values are computed."
        )
    found = []
    for name, contrast in contrasts.items():
        known = protocol.for_contrast(name) if name in {each.name for each in protocol.contrasts} else protocol
        assert known.localizer is not None
        signed = replace(known, localizer=replace(known.localizer, magnitude="signed"))
        found.append(
            localize(
                model,
                contrast,
                protocol=signed,
                units=_spaces(units),
                towers=list(dict.fromkeys(map(tower_of, _spaces(units)))),
                batch_size=batch_size,
                cache=cache,
                progress=progress,
            )
        )
    return found


def _scalar_mean(units: Units, lesion: ProtocolLesion, read: Sequence[Localization]) -> Intervention:
    """One number: the mean over positive stimuli, layers and units."""
    sums = [(each.moments("positive", space), each.exists[space]) for each in read for space in each.spaces]
    total = sum(float(moments.mean[there].sum()) * moments.n for moments, there in sums)
    return set_to(units, total / sum(int(there.sum()) * moments.n for moments, there in sums))


def _condition_mean(units: Units, lesion: ProtocolLesion, read: Sequence[Localization]) -> Intervention:
    """The mean over the stimuli of one condition in all contrasts that have it."""
    having = [each for each in read if lesion.condition in each.n]
    if not having:
        known = ", ".join(dict.fromkeys(name for each in read for name in each.n))
        raise InputError(f"`contrasts` must have stimuli of the condition {lesion.condition!r}, got {known}.")
    weights = [each.n[lesion.condition] for each in having]
    values = {
        space: np.average([each.means[lesion.condition][space] for each in having], axis=0, weights=weights)
        for space in _spaces(units)
    }
    return set_to(units, values)


def _category_difference(units: Units, lesion: ProtocolLesion, read: Sequence[Localization]) -> Intervention:
    """The mean over the other categories, each counted once, minus that over the network's own."""
    if len(read) != 1:
        raise InputError(f"`contrasts` must be the one that selected the network for this lesion, got {len(read)}.")
    (localization,) = read
    contrast = localization.meta["contrast"]
    own, others = (
        {
            space: np.mean([localization.means[name][space] for name in contrast[side]], axis=0)
            for space in _spaces(units)
        }
        for side in ("positive", "negative")
    )
    return add(units, {space: others[space] - own[space] for space in own})


_MADE: Mapping[str, Callable[[Units, ProtocolLesion, Sequence[Localization]], Intervention]] = {
    "scalar mean": _scalar_mean,
    "condition mean": _condition_mean,
    "category difference": _category_difference,
}
