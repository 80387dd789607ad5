"""Exact match: whether the text that the model generates is an accepted answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from modalnet._validation import check_int
from modalnet.errors import InputError
from modalnet.stimuli.readers import stimulus_at
from modalnet.stimuli.rows import unique_names
from modalnet.stimuli.stimulus import Stimulus
from modalnet.tasks.base import GenerationTask, digest

if TYPE_CHECKING:
    from jaxtyping import Float


class ExactMatch(GenerationTask):
    """Generated answers, scored by exact match with the accepted ones. Made by :func:`exact_match`."""

    def __init__(
        self, name: str, stimuli: Sequence[Stimulus], answers: Sequence[frozenset[str]], max_new_tokens: int
    ) -> None:
        self.name = name
        self.max_new_tokens = max_new_tokens
        self._stimuli, self._answers = tuple(stimuli), tuple(answers)
        self._items = unique_names(stimulus.id or str(index) for index, stimulus in enumerate(stimuli))

    @property
    def items(self) -> tuple[str, ...]:
        return self._items

    def stimuli(self) -> Sequence[Stimulus]:
        return self._stimuli

    def grade(self, texts: Sequence[str]) -> Float[np.ndarray, " item"]:
        pairs = zip(texts, self._answers, strict=True)
        return np.array([float(normalize(text) in accepted) for text, accepted in pairs])

    def identity(self) -> str:
        return digest([super().identity(), [sorted(accepted) for accepted in self._answers]])


def exact_match(
    items: Sequence[tuple[Stimulus | str, str | Sequence[str]]],
    *,
    max_new_tokens: int = 16,
    name: str = "exact match",
) -> ExactMatch:
    """Captions and answers that the model generates, scored by exact match.

    Parameters
    ----------
    items
        (stimulus, answer) per item. A string is a text stimulus; the answer may be a list of accepted ones.
    max_new_tokens
        Maximum length of an answer in tokens.
    name
        Name of the task.

    Returns
    -------
    ExactMatch
        An item scores 1 where the greedily generated text is an accepted answer. Both are first normalized: stripped
        of surrounding whitespace, cut at the first line break, lower-cased, and stripped of one final full stop (after
        the exact match of Rajpurkar et al. 2016, which also drops articles and other punctuation; here "a dog" does
        not match "dog"). There is no chance level.

    Raises
    ------
    InputError
        There are no items; an item is not (stimulus, answer); an answer is empty; ``max_new_tokens`` is not a positive
        integer.

    References
    ----------
    Rajpurkar, Zhang, Lopyrev & Liang (2016). SQuAD: 100,000+ questions for machine comprehension of text. EMNLP,
    2383-2392.
    """
    check_int("max_new_tokens", max_new_tokens, minimum=1)
    if not isinstance(items, list | tuple) or not items:
        raise InputError("`items` must be a non-empty list of (stimulus, answer).")
    stimuli, answers = [], []
    for index, item in enumerate(items):
        where = f"{name}, item {index}"
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise InputError(f"{where} must be (stimulus, answer), got {repr(item)[:80]}.")
        stimulus, accepted = item
        stimuli.append(stimulus if isinstance(stimulus, Stimulus) else stimulus_at(where, text=stimulus))
        answers.append(_accepted(accepted, where))
    return ExactMatch(name, stimuli, answers, max_new_tokens)


def normalize(text: str) -> str:
    """Normalize an answer: its first line, lower-cased, without a final full stop."""
    return text.strip().partition("\n")[0].strip().lower().removesuffix(".").rstrip()


def _accepted(answer: object, where: str) -> frozenset[str]:
    answers = [answer] if isinstance(answer, str) else answer
    if isinstance(answers, list | tuple | set | frozenset) and answers:
        texts = [normalize(text) if isinstance(text, str) else "" for text in answers]
        if all(texts):
            return frozenset(texts)
    raise InputError(f"{where}: the answer must be one or several non-empty strings, got {repr(answer)[:80]}.")
