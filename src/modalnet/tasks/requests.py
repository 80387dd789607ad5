"""Requests: whole texts, and continuations of a stimulus, as tasks ask for their likelihood."""

from __future__ import annotations

from modalnet.execution.likelihood import Request
from modalnet.stimuli.stimulus import Stimulus


def text_request(text: str, cuts: tuple[int, ...] = ()) -> Request:
    """Request the likelihood of a whole text, its first word included.

    Parameters
    ----------
    text
        The text.
    cuts
        Character positions at which the text is cut into segments that are scored separately.
    """
    return Request(None, text, cuts)


def continuation_request(stimulus: Stimulus, text: str) -> Request:
    """Request the likelihood of a text as the continuation of a stimulus, after a space unless one is there."""
    ends_in_space = stimulus.text is not None and stimulus.text[-1:].isspace()
    return Request(stimulus, text if ends_in_space else f" {text}")
