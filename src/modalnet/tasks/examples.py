"""Tasks that need no files: for the bundled model, and a few for any vision-language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from modalnet.errors import InputError
from modalnet.tasks.multiple_choice import Choices, naming, visual_questions
from modalnet.tasks.pairs import MinimalPairs
from modalnet.tasks.reasoning import arithmetic

if TYPE_CHECKING:
    from modalnet.tasks.base import Task

N = 100
MOST_CHOICES = 16
KINDS = {"faces": "face", "houses": "house", "objects": "object", "words": "word"}


def bundled(n: int = N, seed: int = 0) -> dict[str, Task]:
    """Tasks that the bundled model can do, of items that it was never shown.

    Parameters
    ----------
    n
        Items of each.
    seed
        Of the draw.

    Returns
    -------
    dict
        ``grammar``: minimal pairs over the ten phenomena of its English, with each item's as its group.
        ``arithmetic``: see :func:`arithmetic`. ``colour``, ``shape``, ``count``, ``position``, ``category`` and
        ``reading``: questions about drawn pictures, answered by likelihood among all answers to that kind of question;
        among 160 printed words, each item has the right one and 15 others.

    Raises
    ------
    InputError
        ``n`` below 1, or a seed below 0.
    """
    made: dict[str, Task] = {"grammar": _grammar(n, seed), "arithmetic": arithmetic(n, seed)}
    for ability, answers in _answers().items():
        made[ability] = _pictured(ability, answers, n, seed)
    return made


def default(n: int = N, seed: int = 0) -> list[Task]:
    """Tasks for any vision-language model: language without pictures, thinking, and pictures to be named.

    Parameters
    ----------
    n
        Items of each.
    seed
        Of the draw.

    Returns
    -------
    list of Task
        Minimal pairs of English grammar; sums in words; and naming of drawn faces, houses, objects and printed words,
        equally many of each (:func:`modalnet.stimuli.categories`).

    Raises
    ------
    InputError
        ``n`` below 4 (a picture of each kind) or beyond 8,000; a seed below 0.
    """
    from modalnet.stimuli import categories

    if isinstance(n, bool) or not isinstance(n, int) or n < len(KINDS):
        raise InputError(f"n is how many items a task has, from {len(KINDS)} on; this is {n!r}.")
    # Two stimuli are the least that a side of a contrast has.
    shown = categories(n=max(-(-n // len(KINDS)), 2)).stimuli
    each = len(shown) // len(KINDS)
    # Kinds in turn, so that the first n are equally many of each.
    stimuli = [shown[kind * each + place] for place in range(each) for kind in range(len(KINDS))][:n]
    pictures = naming(stimuli, names=KINDS, template="{}.", name="category")
    return [_grammar(n, seed), arithmetic(n, seed), pictures]


def _grammar(n: int, seed: int) -> MinimalPairs:
    from modalnet.bundled import items as held_out
    from modalnet.bundled.minimal_pairs import PHENOMENA

    _check(n, seed)
    items, pairs, groups = [], [], []
    for place, phenomenon in enumerate(PHENOMENA):
        count = n // len(PHENOMENA) + (place < n % len(PHENOMENA))
        for number, pair in enumerate(held_out.pairs(phenomenon, count, held_out.SEED + seed)):
            items.append(f"{phenomenon}/{number:03d}")
            pairs.append(pair)
            groups.append(phenomenon)
    return MinimalPairs("grammar", items, pairs, groups)


def _pictured(ability: str, answers: Sequence[str], n: int, seed: int) -> Choices:
    from modalnet.bundled import items as held_out

    _check(n, seed)
    rng = np.random.default_rng([seed, 5])
    items = []
    for item in held_out.items(ability, n, held_out.SEED + seed):
        choices = list(answers)
        if len(choices) > MOST_CHOICES:
            others = rng.permutation([answer for answer in answers if answer != item.answer])
            choices = [item.answer, *map(str, others[: MOST_CHOICES - 1])]
        items.append((item.image, item.text, choices, choices.index(item.answer)))
    return visual_questions(items, name=ability, template="{}.")


def _answers() -> dict[str, tuple[str, ...]]:
    """Every answer to each kind of question."""
    from modalnet.bundled.visual_questions import COUNTS, printed_words
    from modalnet.stimuli.rendering import CATEGORIES, COLOURS, SHAPES

    return {
        "colour": tuple(COLOURS),
        "shape": SHAPES,
        "count": COUNTS,
        "position": ("left", "right", "above", "below"),
        "category": CATEGORIES,
        "reading": printed_words(),
    }


def _check(n: int, seed: int) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"n is how many items a task has, from 1 on; this is {n!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed is a whole number from 0 on; this is {seed!r}.")
