"""Random pictures and questions about them: what the bundled model learns to see.

A scene holds one to five coloured shapes; every other picture shows one face, house, object or printed word. Scenes
are held out from training by their set of coloured shapes, other pictures by their whole description (category, name,
colour, mood and variant), so no test picture occurs in training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modalnet.bundled.lexicon import lexicon
from modalnet.bundled.split import held_out
from modalnet.stimuli.picture_sets import WORDS
from modalnet.stimuli.rendering import CATEGORIES, COLOURS, OBJECTS, SHAPES, Picture, Shape, draw_picture, draw_scene
from modalnet.stimuli.scenes import (
    MOST_SHAPES,
    describe,
    describe_relation,
    place_shapes,
    plural,
    relation,
    with_article,
)

if TYPE_CHECKING:
    from PIL import Image

Rng = np.random.Generator

COLOUR_NAMES = tuple(COLOURS)
COUNTS = ("zero", "one", "two", "three", "four", "five")
MAX_DESCRIBED = 3
BORDER = 0.05
SPELLED = 0.25
ZERO_COUNTS = 0.3
LETTERS_OF_A_PRINTED_WORD = range(3, 8)
PRINTED_WORDS = 160


@dataclass(frozen=True)
class VisualQuestion:
    """A question about a picture.

    Attributes
    ----------
    ability
        What answering it requires: ``"colour"``, ``"shape"``, ``"count"``, ``"position"``, ``"place"``, ``"presence"``,
        ``"category"``, ``"object"``, ``"reading"``, ``"mood"`` or ``"description"``.
    text, answer
        The question and its answer, in words.
    mentions
        (index of a word of the question, the shapes that it refers to); no shapes where it refers to something that is
        not in the picture.
    """

    ability: str
    text: str
    answer: str
    mentions: tuple[tuple[int, tuple[Shape, ...]], ...] = ()


@functools.cache
def printed_words() -> tuple[str, ...]:
    """The 160 words that the model learns to read: those of the bundled pictures and others spread over the lexicon."""
    short = [word for word in lexicon() if len(word) in LETTERS_OF_A_PRINTED_WORD]
    bundled = [word for word in WORDS if len(word) in LETTERS_OF_A_PRINTED_WORD]
    others = [word for word in short if word not in bundled]
    spread = np.linspace(0, len(others) - 1, PRINTED_WORDS - len(bundled))
    return (*bundled, *(others[round(place)] for place in spread))


def _pick(rng: Rng, items: Sequence[str]) -> str:
    return items[int(rng.integers(len(items)))]


# Scenes of shapes


def scene(rng: Rng, test: bool = False, count: int | None = None) -> list[Shape]:
    """Draw a scene of one to five shapes that do not touch, of the test set or of the training set."""
    while True:
        number = int(rng.integers(1, MOST_SHAPES + 1)) if count is None else count
        # In some scenes shapes share their kind or colour, so that there is something to count and to tell apart.
        kinds, colours = list(SHAPES), list(COLOUR_NAMES)
        if rng.random() < 0.4:
            kinds = [_pick(rng, SHAPES) for _ in range(2)]
        if rng.random() < 0.25:
            colours = [_pick(rng, COLOUR_NAMES) for _ in range(2)]
        shapes = [Shape(_pick(rng, kinds), _pick(rng, colours), *place) for place in place_shapes(rng, number)]
        if held_out("scene", *sorted(map(str, shapes))) == test:
            return shapes


def _unique(rng: Rng, shapes: Sequence[Shape], name: Callable[[Shape], str]) -> Shape | None:
    """A random shape whose name no other shape has; None where there is none."""
    names = [name(shape) for shape in shapes]
    single = [shape for shape in shapes if names.count(name(shape)) == 1]
    return single[int(rng.integers(len(single)))] if single else None


def colour_question(rng: Rng, shapes: Sequence[Shape]) -> VisualQuestion | None:
    """The colour of a shape that is the only one of its kind; None where there is none."""
    shape = _unique(rng, shapes, lambda shape: shape.kind)
    if shape is None:
        return None
    return VisualQuestion("colour", f"what colour is the {shape.kind}?", shape.colour, ((4, (shape,)),))


def shape_question(rng: Rng, shapes: Sequence[Shape]) -> VisualQuestion | None:
    """The kind of a shape that is the only one of its colour; None where there is none."""
    shape = _unique(rng, shapes, lambda shape: shape.colour)
    if shape is None:
        return None
    return VisualQuestion("shape", f"what shape is {shape.colour}?", shape.kind, ((3, (shape,)),))


def count_question(rng: Rng, shapes: Sequence[Shape]) -> VisualQuestion:
    """The number of shapes, of all or of one kind or colour; every count that the scene offers is equally likely."""
    by_count: dict[int, list[tuple[str, tuple[Shape, ...]]]] = {len(shapes): [("shapes", tuple(shapes))]}
    absent_kind = _pick(rng, [kind for kind in SHAPES if kind not in {shape.kind for shape in shapes}])
    absent_colour = _pick(rng, [colour for colour in COLOUR_NAMES if colour not in {shape.colour for shape in shapes}])
    for kind in sorted({shape.kind for shape in shapes} | {absent_kind}):
        named = tuple(shape for shape in shapes if shape.kind == kind)
        by_count.setdefault(len(named), []).append((plural(kind), named))
    for colour in sorted({shape.colour for shape in shapes} | {absent_colour}):
        named = tuple(shape for shape in shapes if shape.colour == colour)
        by_count.setdefault(len(named), []).append((f"{colour} shapes", named))
    numbers = [number for number in sorted(by_count) if number or rng.random() < ZERO_COUNTS]
    number = numbers[int(rng.integers(len(numbers)))]
    name, named = by_count[number][int(rng.integers(len(by_count[number])))]
    return VisualQuestion("count", f"how many {name} are there?", COUNTS[number], ((2, named),))


def position_question(rng: Rng, shapes: Sequence[Shape]) -> VisualQuestion | None:
    """The relative position of two uniquely named shapes; None where no pair stands clearly beside or above."""
    labels = [str(shape) for shape in shapes]
    pairs = [
        (first, second, where)
        for first in shapes
        for second in shapes
        if first is not second
        and labels.count(str(first)) == labels.count(str(second)) == 1
        and (where := relation(first, second))
    ]
    if not pairs:
        return None
    first, second, where = pairs[int(rng.integers(len(pairs)))]
    mentions = ((4, (first,)), (8, (second,)))
    return VisualQuestion("position", f"where is the {first} from the {second}?", where, mentions)


def place_question(rng: Rng, shapes: Sequence[Shape]) -> VisualQuestion | None:
    """The third of the picture that a uniquely named shape is in; None where all are near a border of thirds."""
    labels = [str(shape) for shape in shapes]
    clear = [s for s in shapes if labels.count(str(s)) == 1 and (_third(s.x) is not None and _third(s.y) is not None)]
    if not clear:
        return None
    shape = clear[int(rng.integers(len(clear)))]
    row, column = ("top ", "", "bottom ")[_third(shape.y) or 0], ("left", "", "right")[_third(shape.x) or 0]
    return VisualQuestion("place", f"where is the {shape}?", (row + column).strip() or "middle", ((4, (shape,)),))


def _third(place: float) -> int | None:
    """Which third a coordinate is in (0, 1 or 2); None near a border."""
    return None if min(abs(place - 1 / 3), abs(place - 2 / 3)) < BORDER else int(3 * place)


def presence_question(rng: Rng, shapes: Sequence[Shape]) -> VisualQuestion:
    """Whether a shape is present (yes or no equally often); an absent one shares colour or kind with one present."""
    shape = shapes[int(rng.integers(len(shapes)))]
    near = [f"{colour} {shape.kind}" for colour in COLOUR_NAMES] + [f"{shape.colour} {kind}" for kind in SHAPES]
    name_of: Callable[[Shape], str] = str
    if rng.random() < 0.4:
        near, name_of = list(SHAPES), lambda shape: shape.kind
    there = {name_of(shape) for shape in shapes}
    absent = [name for name in near if name not in there]
    name = _pick(rng, absent) if absent and rng.random() < 0.5 else _pick(rng, sorted(there))
    text = f"is there {with_article(name)}?"
    named = tuple(shape for shape in shapes if name_of(shape) == name)
    return VisualQuestion("presence", text, "yes" if named else "no", ((len(text.split()) - 1, named),))


def description_question(rng: Rng, shapes: Sequence[Shape]) -> VisualQuestion | None:
    """A description of a scene of one to three shapes, from left to right; None for larger scenes."""
    if len(shapes) > MAX_DESCRIBED:
        return None
    return VisualQuestion("description", "what is there?", describe(shapes).removeprefix("there is ").removesuffix("."))


_SCENE_QUESTIONS = {
    "colour": (colour_question, 0.17),
    "shape": (shape_question, 0.17),
    "count": (count_question, 0.18),
    "position": (position_question, 0.22),
    "place": (place_question, 0.12),
    "presence": (presence_question, 0.08),
    "description": (description_question, 0.06),
}


def scene_questions(rng: Rng, shapes: Sequence[Shape], number: int) -> Iterator[VisualQuestion]:
    """Draw questions about a scene, of every kind that it allows."""
    makers, weights = zip(*_SCENE_QUESTIONS.values(), strict=True)
    made = 0
    while made < number:
        question = makers[int(rng.choice(len(makers), p=weights))](rng, shapes)
        if question is not None:
            made += 1
            yield question


def scene_question(rng: Rng, ability: str, test: bool = False) -> tuple[list[Shape], VisualQuestion]:
    """Draw a scene and a question about it that tests one ability."""
    while True:
        shapes = scene(rng, test)
        question = _SCENE_QUESTIONS[ability][0](rng, shapes)
        if question is not None:
            return shapes, question


def described_question(rng: Rng, test: bool = False) -> tuple[str, VisualQuestion]:
    """Draw a description of a picture, or the letters of a printed word, and a question that it answers."""
    if rng.random() < SPELLED:
        shown = picture(rng, test, "word")
        return f"the letters are {' '.join(shown.name)}.", VisualQuestion("reading", "what does it say?", shown.name)
    while True:
        ability = _pick(rng, ("colour", "shape", "count", "position", "presence"))
        # A position is asked of two shapes, and is then said in so many words.
        shapes = scene(rng, test, count=2 if ability == "position" else None)
        question = _SCENE_QUESTIONS[ability][0](rng, shapes)
        if question is None:
            continue
        if ability != "position":
            return describe(shapes), question
        first, second = shapes if rng.random() < 0.5 else shapes[::-1]
        return f"{describe(shapes)} {describe_relation(first, second)}", question


# Other pictures


def picture(rng: Rng, test: bool = False, category: str | None = None) -> Picture:
    """Draw the description of a picture: a face, a house, an object or a printed word."""
    while True:
        kind = category or _pick(rng, CATEGORIES)
        name = {"object": OBJECTS, "word": printed_words()}.get(kind, (kind,))
        mood = _pick(rng, ("happy", "sad")) if kind == "face" else None
        made = Picture(kind, _pick(rng, name), _pick(rng, COLOUR_NAMES), mood, int(rng.integers(2**31)))
        # The hash is of the dataclass's repr: renaming it or its fields would change the split.
        if held_out("picture", made) == test:
            return made


def picture_questions(rng: Rng, shown: Picture) -> list[VisualQuestion]:
    """All questions about a picture."""
    questions = [VisualQuestion("category", "what is it?", shown.category)]
    if shown.category == "face":
        questions.append(VisualQuestion("mood", "is the face happy or sad?", str(shown.mood)))
        questions.append(VisualQuestion("colour", "what colour is the hair?", shown.colour))
    elif shown.category == "object":
        questions.append(VisualQuestion("object", "which object is it?", shown.name))
        questions.append(VisualQuestion("colour", f"what colour is the {shown.name}?", shown.colour))
    elif shown.category == "word":
        questions.append(VisualQuestion("reading", "what does it say?", shown.name))
        questions.append(VisualQuestion("colour", "what colour is the word?", shown.colour))
    else:
        questions.append(VisualQuestion("colour", "what colour is the house?", shown.colour))
    return questions


def render(shown: Picture | Sequence[Shape], size: int, seed: int) -> Image.Image:
    """Render a scene or another picture as an RGB image of ``size`` x ``size`` pixels, at full contrast."""
    return draw_picture(shown, size, seed) if isinstance(shown, Picture) else draw_scene(shown, size, seed)
