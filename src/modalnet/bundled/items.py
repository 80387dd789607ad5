"""Held-out items for the abilities of the bundled model: questions with answers, and minimal pairs.

Items are drawn from the test side of the split (:mod:`modalnet.bundled.split`), so none occurred in training. The same
seed gives the same items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modalnet.bundled import arithmetic, visual_questions
from modalnet.bundled.minimal_pairs import PHENOMENA, minimal_pair

if TYPE_CHECKING:
    from PIL.Image import Image

#: Pixels per side of the pictures, which is what the bundled model reads.
IMAGE_SIZE = 64
N_ITEMS = 200
SEED = 20_000


@dataclass(frozen=True)
class Item:
    """A question with its answer, and the picture that it is about, if any."""

    text: str
    answer: str
    image: Image | None = None


def _scene_items(ability: str) -> Callable[[np.random.Generator], Item]:
    def make(rng: np.random.Generator) -> Item:
        shapes, question = visual_questions.scene_question(rng, ability, test=True)
        return Item(
            question.text, question.answer, visual_questions.render(shapes, IMAGE_SIZE, int(rng.integers(2**31)))
        )

    return make


def _picture_items(ability: str, category: str | None) -> Callable[[np.random.Generator], Item]:
    def make(rng: np.random.Generator) -> Item:
        shown = visual_questions.picture(rng, test=True, category=category)
        question = next(q for q in visual_questions.picture_questions(rng, shown) if q.ability == ability)
        return Item(
            question.text, question.answer, visual_questions.render(shown, IMAGE_SIZE, int(rng.integers(2**31)))
        )

    return make


def _description_item(rng: np.random.Generator) -> Item:
    description, question = visual_questions.described_question(rng, test=True)
    return Item(f"{description} {question.text}", question.answer)


ABILITIES: dict[str, Callable[[np.random.Generator], Item]] = {
    "colour": _scene_items("colour"),
    "shape": _scene_items("shape"),
    "count": _scene_items("count"),
    "position": _scene_items("position"),
    "place": _scene_items("place"),
    "presence": _scene_items("presence"),
    "category": _picture_items("category", None),
    "object": _picture_items("object", "object"),
    "mood": _picture_items("mood", "face"),
    "reading": _picture_items("reading", "word"),
    "described": _description_item,
    "sums": lambda rng: Item(*arithmetic.sum_item(rng, test=True)),
    "comparisons": lambda rng: Item(*arithmetic.comparison_item(rng, test=True)),
}


def items(ability: str, n: int = N_ITEMS, seed: int = SEED) -> list[Item]:
    """Draw held-out items of an ability.

    Parameters
    ----------
    ability
        A key of ``ABILITIES``.
    n
        Number of items.
    seed
        Seed of the draw.
    """
    rng = np.random.default_rng([seed, list(ABILITIES).index(ability)])
    return [ABILITIES[ability](rng) for _ in range(n)]


def pairs(phenomenon: str, n: int = N_ITEMS, seed: int = SEED) -> list[tuple[str, str]]:
    """Draw different held-out minimal pairs of a phenomenon: (grammatical, ungrammatical)."""
    rng = np.random.default_rng([seed, 1000 + list(PHENOMENA).index(phenomenon)])
    made: dict[tuple[str, str], None] = {}
    while len(made) < n:
        made[minimal_pair(rng, phenomenon)] = None
    return list(made)
