"""Conversion of everything that is accepted as stimuli to a list of stimuli."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from modalnet.errors import InputError
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.stimulus import Stimulus

#: One stimulus, a string (a text stimulus), any number of either, or a contrast (its stimuli, in their order).
StimuliLike: TypeAlias = Stimulus | str | Contrast | Iterable[Stimulus | str]


def as_stimuli(stimuli: StimuliLike, name: str = "stimuli") -> list[Stimulus]:
    """Convert to a list of stimuli.

    Parameters
    ----------
    stimuli
        A :class:`~modalnet.Stimulus`, a string, an iterable of both, or a :class:`~modalnet.Contrast`.
    name
        Name of the argument, for error messages.

    Returns
    -------
    list of Stimulus
        Never empty; a string has become a text stimulus.

    Raises
    ------
    InputError
        `stimuli` is empty, or it or one of its items is of another type.
    """
    if isinstance(stimuli, Contrast):
        return list(stimuli.stimuli)
    if isinstance(stimuli, str | Stimulus):
        stimuli = [stimuli]
    if not isinstance(stimuli, Iterable) or isinstance(stimuli, Mapping | bytes):
        raise InputError(
            f"`{name}` must be a Stimulus, a string, a sequence of these, or a Contrast, got {_type(stimuli)}."
        )
    converted = [Stimulus(text=item) if isinstance(item, str) else item for item in stimuli]
    if not converted:
        raise InputError(f"`{name}` is empty; at least one stimulus is needed.")
    for index, item in enumerate(converted):
        if not isinstance(item, Stimulus):
            raise InputError(f"`{name}[{index}]` must be a Stimulus or a string, got {_type(item)}.")
    return converted


def _type(value: object) -> str:
    return "None" if value is None else type(value).__name__
