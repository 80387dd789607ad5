"""What a published protocol fixes of a localization: reading, prompt, towers and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modalnet._validation import check_option
from modalnet.errors import InputError
from modalnet.models.sites import KINDS, RESIDUAL
from modalnet.protocols.registry import find_localizer
from modalnet.stimuli.contrast import Contrast

if TYPE_CHECKING:
    from modalnet.interventions.positions import TokensLike
    from modalnet.model import Model
    from modalnet.protocols.protocol import Protocol


@dataclass(frozen=True)
class Reading:
    """How texts are encoded and activations pooled.

    Attributes
    ----------
    max_tokens
        Number of tokens to which texts are truncated; None for no truncation.
    tokens
        As the ``tokens`` argument of :func:`modalnet.localize`.
    magnitude
        ``"absolute"`` or ``"signed"``.
    raw
        Whether texts are encoded without a chat template.
    """

    max_tokens: int | None
    tokens: TokensLike
    magnitude: str
    raw: bool


def reading_of(
    contrast: Contrast, protocol: str | Protocol | None, tokens: TokensLike, magnitude: str | None
) -> Reading:
    """What a protocol fixes, or what the arguments say."""
    if magnitude is not None:
        check_option("magnitude", magnitude, ("absolute", "signed"))
    if protocol is None:
        return Reading(None, tokens, magnitude or "absolute", False)
    known, fixed = find_localizer(protocol)
    if tokens not in (None, fixed.tokens) or magnitude not in (None, fixed.magnitude):
        raise InputError(
            f"`protocol` {known.id!r} fixes `tokens` to {fixed.tokens!r} and `magnitude` to {fixed.magnitude!r}, got "
            f"{tokens!r} and {magnitude!r}. Leave them out, or leave out `protocol`."
        )
    other = next((stimulus for stimulus in contrast.stimuli if stimulus.n_media), None)
    if fixed.modality == "text" and other is not None:
        what = "an image" if other.n_images else "a sound"
        raise InputError(f"`protocol` {known.id!r} is defined for text alone; stimulus {other.label} has {what}.")
    bare = next((stimulus for stimulus in contrast.stimuli if not stimulus.n_images), None)
    if fixed.modality == "image" and bare is not None:
        raise InputError(f"`protocol` {known.id!r} is defined for pictures; stimulus {bare.label} has none.")
    return Reading(fixed.max_tokens, fixed.tokens, fixed.magnitude, fixed.raw)


def as_published(
    model: Model,
    contrast: Contrast,
    protocol: str | Protocol,
    towers: str | Sequence[str] | None,
    units: str | Sequence[str],
) -> tuple[Contrast, str | Sequence[str] | None, str | Sequence[str]]:
    """The stimuli with the prompt of a protocol, and its towers and units where no others are given.

    Raises
    ------
    InputError
        If the model reads no pictures, or lacks the tower or the kind of units of the protocol.
    """
    known, fixed = find_localizer(protocol)
    if fixed.modality == "image" and not any(tower.modality == "image" for tower in model.towers.values()):
        raise InputError(f"`protocol` {known.id!r} is defined for pictures, which {model.name} does not read.")
    if fixed.prompt and any(stimulus.text is None for stimulus in contrast.stimuli):
        stimuli = [replace(each, text=fixed.prompt) if each.text is None else each for each in contrast.stimuli]
        contrast = Contrast(stimuli, contrast.positive, contrast.negative, contrast.name)
    if units != RESIDUAL:
        return contrast, towers, units
    towers = towers or fixed.towers or None
    if fixed.towers and towers == fixed.towers and towers not in model.towers:
        raise InputError(
            f"`protocol` {known.id!r} tests units of the {towers} tower; {model.name} has {', '.join(model.towers)}. "
            "Name others as `towers`."
        )
    spaces = {space.kind for space in model.spaces.values() if towers is None or space.tower.name in towers}
    if fixed.units not in spaces:
        having = [kind for kind in KINDS if kind in spaces]
        raise InputError(
            f"`protocol` {known.id!r} tests {fixed.units!r} units, {KINDS[fixed.units].what}, which {model.name} does "
            f"not have{f' in its {towers} tower' if isinstance(towers, str) else ''}; it has {', '.join(having)}. "
            "Name others as `units`."
        )
    return contrast, towers, fixed.units
