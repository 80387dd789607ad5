"""Where the study's models and stimuli come from, and which pictures train the projector and which test it.

Models and stimuli are those of the real-data tests (tests/helpers/assets.py), or what the options of a command name.
Every fifth picture of a category, and the third after it, is held out: 24 of 40 train and 16 test. Drawn scenes and
pictures are held out by what they show (modalnet.bundled.split).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.real_material import of_tests

from modalnet.bundled import visual_questions
from modalnet.stimuli.published import INTACT
from modalnet.stimuli.readers import by_prefix, image_stimuli, images_in
from modalnet.stimuli.rendering import COLOURS, SHAPES

if TYPE_CHECKING:
    from PIL.Image import Image

    from modalnet import Stimulus

NAMING = "What is this?"
HELD_OUT = (0, 3)
EVERY = 5


@dataclass(frozen=True)
class Shown:
    """A picture with a question and its answer, one word."""

    image: Image
    question: str
    answer: str
    kind: str


def asset(what: str, given: str | Path | None = None) -> Path:
    """A folder: the given one, or that of the real-data tests (a model is built on first use).

    Parameters
    ----------
    what
        ``"dinov2"``, ``"gemma"``, or the name of a data set.
    given
        A folder that is used instead.
    """
    if given is not None:
        path = Path(given).expanduser()
        if not path.exists():
            raise SystemExit(f"There is no {path}. Name the folder of {what}.")
        return path
    return of_tests(what, f"the folder of {what}")


def floc_pictures(folder: Path, *, test: bool, scrambled: bool = False) -> list[Stimulus]:
    """Pictures of fLoc's intact categories, those that train the projector or those that test it."""
    groups = by_prefix(folder, images_in(folder))
    wanted = (*INTACT, "scrambled") if scrambled else INTACT
    chosen = {name: [path for place, path in enumerate(groups[name]) if is_test(place) == test] for name in wanted}
    return image_stimuli(folder, chosen)


def is_test(place: int) -> bool:
    """Whether the picture at a place in its category is held out."""
    return place % EVERY in HELD_OUT


def drawn(rng: np.random.Generator, *, test: bool, size: int = 224) -> Shown:
    """A drawn scene of one or two shapes, asked for a colour or a shape; or a drawn thing, to be named."""
    if rng.random() < 1 / 3:
        shown = visual_questions.picture(rng, test)
        name = shown.name if shown.category == "object" else shown.category
        return Shown(visual_questions.render(shown, size, int(rng.integers(2**31))), NAMING, name, "drawn thing")
    while True:
        shapes = visual_questions.scene(rng, test, count=int(rng.integers(1, 3)))
        ask = visual_questions.colour_question if rng.random() < 0.5 else visual_questions.shape_question
        question = ask(rng, shapes)
        if question is not None:
            image = visual_questions.render(shapes, size, int(rng.integers(2**31)))
            return Shown(image, question.text, question.answer, question.ability)


def many_drawn(n: int, seed: int, *, test: bool, size: int = 224) -> Iterator[Shown]:
    """Drawn pictures, each from its own number, so that the first n do not depend on n."""
    for number in range(n):
        yield drawn(np.random.default_rng([seed, test, number]), test=test, size=size)


def answers(kind: str) -> tuple[str, ...]:
    """Every answer to a kind of question."""
    from modalnet.stimuli.rendering import OBJECTS

    return {
        "colour": tuple(COLOURS),
        "shape": SHAPES,
        "drawn thing": ("face", "house", "word", *OBJECTS),
    }[kind]


def naming_task(stimuli: Any, names: Any, name: str) -> Any:
    """Naming by likelihood, in the words that the projector was trained with."""
    from modalnet import tasks

    return tasks.naming(list(stimuli), question=NAMING, names=list(names), name=name)
