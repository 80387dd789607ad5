"""Validation of what the multiple-choice tasks share: templates, choices and answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modalnet.errors import InputError


def check_template(template: object, name: str = "template") -> str:
    """Return a format string with one placeholder, ``{}``.

    Raises
    ------
    InputError
        `template` is not a string or has another placeholder.
    """
    try:
        fits = isinstance(template, str) and "\x00" in template.format("\x00")
    except (IndexError, KeyError, ValueError):
        fits = False
    if not fits:
        raise InputError(f"`{name}` must be a string with one placeholder {{}}, such as 'a {{}}.', got {template!r}.")
    return str(template)


def check_choices(choices: object, where: str) -> tuple[str, ...]:
    """Return choices without surrounding whitespace.

    Raises
    ------
    InputError
        There are fewer than two choices, two are equal, or one is empty or not a string; the message begins with
        `where`.
    """
    if not isinstance(choices, list | tuple | np.ndarray):
        raise InputError(f"{where}: the choices must be a list of strings, got {repr(choices)[:80]}.")
    for choice in choices:
        if not isinstance(choice, str) or not choice.strip():
            raise InputError(f"{where}: a choice must be a non-empty string, got {choice!r}.")
    stripped = tuple(choice.strip() for choice in choices)
    if len(stripped) < 2 or len(set(stripped)) < len(stripped):
        raise InputError(f"{where}: at least two different choices are needed, got {list(stripped)}.")
    return stripped


def answer_index(answer: object, choices: Sequence[str], where: str, labels: Sequence[str] = ()) -> int:
    """Return the index of the correct choice.

    Parameters
    ----------
    answer
        The index from 0, the choice itself, or its label.
    choices, labels
        The choices, and a label for each where they have labels.
    where
        Location of the item, for the error message.

    Raises
    ------
    InputError
        `answer` is none of the choices.
    """
    index: int | None = None
    if isinstance(answer, str):
        text = answer.strip()
        if text in choices:
            return list(choices).index(text)
        if text in labels:
            return list(labels).index(text)
        index = int(text) if text.isdecimal() else None
    elif isinstance(answer, int | np.integer | np.bool_) or (isinstance(answer, float) and answer.is_integer()):
        index = int(answer)
    if index is None or not 0 <= index < len(choices):
        hint = " -1 marks a split without answers." if index == -1 else ""
        raise InputError(
            f"{where}: the answer must be one of {list(choices)}, or its index from 0, got {answer!r}.{hint}"
        )
    return index
