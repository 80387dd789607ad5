"""Exact match: does the model write the right answer by itself?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.stimuli import Stimulus
from modalnet.stimuli.readers import stimulus_at
from modalnet.tasks.base import GenerationTask, digest
from modalnet.tasks.requests import unique

if TYPE_CHECKING:
    from jaxtyping import Float


class ExactMatch(GenerationTask):
    """Is what the model writes one of the accepted answers? Made by :func:`exact_match`."""

    def __init__(
        self, name: str, stimuli: Sequence[Stimulus], answers: Sequence[frozenset[str]], max_new_tokens: int
    ) -> None:
        self.name = name
        self.max_new_tokens = max_new_tokens
        self._stimuli, self._answers = tuple(stimuli), tuple(answers)
        self._items = unique([stimulus.id or str(index) for index, stimulus in enumerate(stimuli)])

    @property
    def items(self) -> tuple[str, ...]:
        return self._items

    def stimuli(self) -> Sequence[Stimulus]:
        return self._stimuli

    def grade(self, texts: Sequence[str]) -> Float[np.ndarray, " item"]:
        pairs = zip(texts, self._answers, strict=True)
        return np.array([float(plain(text) in accepted) for text, accepted in pairs])

    def identity(self) -> str:
        return digest([super().identity(), [sorted(accepted) for accepted in self._answers]])


def exact_match(
    items: Sequence[tuple[Stimulus | str, str | Sequence[str]]],
    *,
    max_new_tokens: int = 16,
    name: str = "exact match",
) -> ExactMatch:
    """Captions and answers that the model writes, compared word for word.

    Parameters
    ----------
    items
        (stimulus, answer) of each; a plain string is a text stimulus, and the answer may be a list of accepted ones.
    max_new_tokens
        How long an answer may be.
    name
        Of the task.

    Returns
    -------
    ExactMatch
        An item scores 1 where the text that the model writes, greedily, is one of the accepted answers. Before they
        are compared, both are stripped of surrounding space, cut at the first line break, lower-cased, and relieved of
        one full stop at the end (after the exact match of Rajpurkar et al. 2016, which also drops articles and other
        punctuation; here "a dog" is not "dog"). There is no chance level.

    Raises
    ------
    InputError
        No items; an item that is no such pair; an empty answer; ``max_new_tokens`` below 1.

    References
    ----------
    Rajpurkar, Zhang, Lopyrev & Liang (2016). SQuAD: 100,000+ questions for machine comprehension of text. EMNLP,
    2383-2392.
    """
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens is a whole number from 1 on; this is {max_new_tokens!r}.")
    if not isinstance(items, list | tuple) or not items:
        raise InputError(f"{name}: items are a list of (stimulus, answer), and not an empty one.")
    stimuli, answers = [], []
    for index, item in enumerate(items):
        where = f"{name}, item {index}"
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise InputError(f"{where} is (stimulus, answer); this is {repr(item)[:80]}.")
        stimulus, accepted = item
        stimuli.append(stimulus if isinstance(stimulus, Stimulus) else stimulus_at(where, text=stimulus))
        answers.append(_accepted(accepted, where))
    return ExactMatch(name, stimuli, answers, max_new_tokens)


def plain(text: str) -> str:
    """What is compared of an answer: its first line, lower-cased, without a full stop at its end."""
    return text.strip().partition("\n")[0].strip().lower().removesuffix(".").rstrip()


def _accepted(answer: Any, where: str) -> frozenset[str]:
    listed = [answer] if isinstance(answer, str) else answer
    fits = isinstance(listed, list | tuple | set | frozenset) and bool(listed)
    if not fits or not all(isinstance(one, str) and plain(one) for one in listed):
        raise InputError(f"{where}: the answer is a text, or several, none of them empty; this is {repr(answer)[:80]}.")
    return frozenset(plain(one) for one in listed)
