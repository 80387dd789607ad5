"""How tasks put their questions: a text from its beginning, or something after a stimulus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modalnet.errors import InputError
from modalnet.execution.likelihood import Request
from modalnet.stimuli import Contrast, Stimulus


def alone(text: str, cuts: tuple[int, ...] = ()) -> Request:
    """How likely is a whole text, its first word included?"""
    return Request(None, text, cuts)


def after(stimulus: Stimulus, text: str) -> Request:
    """How likely is a text as the next words of a stimulus? A space comes between, where none is there."""
    spaced = stimulus.text is not None and stimulus.text[-1:].isspace()
    return Request(stimulus, text if spaced else f" {text}")


def listed_stimuli(source: Any, task: str) -> tuple[Stimulus, ...]:
    """The stimuli of a contrast or a list, never none of them."""
    stimuli = source.stimuli if isinstance(source, Contrast) else source
    if not isinstance(stimuli, list | tuple):
        raise InputError(f"{task} takes a Contrast or a list of Stimulus objects; this is a {type(source).__name__}.")
    for index, stimulus in enumerate(stimuli):
        if not isinstance(stimulus, Stimulus):
            raise InputError(f"{task} takes Stimulus objects; item {index} is a {type(stimulus).__name__}.")
    if not stimuli:
        raise InputError(f"{task} needs stimuli; the list is empty.")
    return tuple(stimuli)


def unique(names: Sequence[str]) -> tuple[str, ...]:
    """Item names as they are, those that come again with ``#2``, ``#3``, ... after them."""
    seen: dict[str, int] = {}
    made: dict[str, None] = {}
    for name in names:
        new = name
        while new in made:
            seen[name] = seen.get(name, 1) + 1
            new = f"{name}#{seen[name]}"
        made[new] = None
    return tuple(made)
