"""Tasks that need no files: for the bundled model, and for any vision-language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from modalnet._validation import check_int, check_seed
from modalnet.tasks.minimal_pairs import MinimalPairs
from modalnet.tasks.multiple_choice import MultipleChoice
from modalnet.tasks.reasoning import arithmetic
from modalnet.tasks.visual import naming, visual_questions

if TYPE_CHECKING:
    from modalnet.tasks.base import Task

N = 100
MAX_CHOICES = 16
KINDS = {"faces": "face", "houses": "house", "objects": "object", "words": "word"}


def bundled(n: int = N, seed: int = 0) -> dict[str, Task]:
    """Tasks that the bundled model can do, on held-out items.

    Parameters
    ----------
    n
        Number of items per task.
    seed
        Seed of the draw.

    Returns
    -------
    dict
        ``grammar``: minimal pairs over the ten phenomena of the bundled model's English, which are the groups of the
        items. ``arithmetic``: see :func:`arithmetic`. ``colour``, ``shape``, ``count``, ``position``, ``category`` and
        ``reading``: questions about drawn pictures, answered by likelihood among all answers to that kind of question;
        for ``reading``, among the correct word and 15 of the other 159 printed words.

    Raises
    ------
    InputError
        ``n`` is not a positive integer, or ``seed`` is not a non-negative integer.
    """
    tasks: dict[str, Task] = {"grammar": _grammar(n, seed), "arithmetic": arithmetic(n, seed)}
    for ability, answers in _answers().items():
        tasks[ability] = _visual_task(ability, answers, n, seed)
    return tasks


def default(n: int = N, seed: int = 0) -> list[Task]:
    """Tasks for any vision-language model: grammar, arithmetic, and naming of pictures.

    Parameters
    ----------
    n
        Number of items per task.
    seed
        Seed of the draw.

    Returns
    -------
    list of Task
        Minimal pairs of English grammar; sums and differences in words; and naming of drawn faces, houses, objects and
        printed words, equally many of each (:func:`modalnet.stimuli.categories`).

    Raises
    ------
    InputError
        ``n`` is less than 4 (one picture of each kind) or more than 8,000, or ``seed`` is not a non-negative integer.
    """
    from modalnet.stimuli import categories

    check_int("n", n, minimum=len(KINDS))
    # A side of a contrast has at least two stimuli.
    pictures = categories(n=max(-(-n // len(KINDS)), 2)).stimuli
    n_each = len(pictures) // len(KINDS)
    # Kinds alternate, so that the first n pictures hold equally many of each.
    stimuli = [pictures[kind * n_each + i] for i in range(n_each) for kind in range(len(KINDS))][:n]
    category = naming(stimuli, names=KINDS, template="{}.", name="category")
    return [_grammar(n, seed), arithmetic(n, seed), category]


def _grammar(n: int, seed: int) -> MinimalPairs:
    from modalnet.bundled import items as held_out
    from modalnet.bundled.minimal_pairs import PHENOMENA

    check_int("n", n, minimum=1)
    check_seed(seed)
    items, pairs, groups = [], [], []
    for index, phenomenon in enumerate(PHENOMENA):
        count = n // len(PHENOMENA) + (index < n % len(PHENOMENA))
        for number, pair in enumerate(held_out.pairs(phenomenon, count, held_out.SEED + seed)):
            items.append(f"{phenomenon}/{number:03d}")
            pairs.append(pair)
            groups.append(phenomenon)
    return MinimalPairs("grammar", items, pairs, groups)


def _visual_task(ability: str, answers: Sequence[str], n: int, seed: int) -> MultipleChoice:
    from modalnet.bundled import items as held_out

    rng = np.random.default_rng([seed, 5])
    items = []
    for item in held_out.items(ability, n, held_out.SEED + seed):
        choices = list(answers)
        if len(choices) > MAX_CHOICES:
            others = rng.permutation([answer for answer in answers if answer != item.answer])
            choices = [item.answer, *map(str, others[: MAX_CHOICES - 1])]
        items.append((item.image, item.text, choices, choices.index(item.answer)))
    return visual_questions(items, name=ability, template="{}.")


def _answers() -> dict[str, tuple[str, ...]]:
    """All answers to each kind of question."""
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
