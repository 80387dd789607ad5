"""What the bundled model is shown at each step of its training: pictures with questions, and text.

Step *n* is made from the seed and *n* alone, so training can stop and go on anywhere and sees the same lessons.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from modalnet.bundled import arithmetic, english, scenes
from modalnet.bundled.network import END, GRID, IMAGE, IMAGE_SIZE, PAD, PATCHES, START
from modalnet.bundled.scenes import Question
from modalnet.stimuli.exemplars import CONTRAST
from modalnet.stimuli.rendering import CATEGORIES, COLOURS, OBJECTS, SHAPES, Picture, Shape, word_letters

IGNORED = -100
SLOTS = 8
SLOT = 16
PREFIX = 1 + PATCHES

WHAT = ["nothing", *SHAPES, "face", "house", *OBJECTS, *(chr(code) for code in range(ord("a"), ord("z") + 1))]
PALETTE = ["nothing", *COLOURS]
# A patch also tells which letter of a word stands in it (1-7), or that the middle of a shape does.
ORDERS = 9
_MIDDLE = ORDERS - 1
# Labels of a patch, in order: what it shows, in which colour, the order above, and of which printed word it is a part;
# then how many shapes the scene has in all, of this kind and of this colour.
LABELS = 7
MENTIONS = 2
_WHAT = {name: index for index, name in enumerate(WHAT)}
_COLOUR = {name: index for index, name in enumerate(PALETTE)}


@dataclass(frozen=True)
class Text:
    """How many texts of a kind are in one step, and how long they may be."""

    rows: int
    length: int


TEXTS = {"sentences": Text(24, 26), "arithmetic": Text(64, 16), "described": Text(12, 36)}
PICTURES = 16
GLANCES = 128
# Pictures without questions in each later step, so that the encoder does not forget how to read.
GLANCED = 40
EVENED = 0.3
# Of the pictures: scenes of shapes, printed words, and the rest; the encoder alone is to learn to read.
SHARES = (0.62, 0.2, 0.18)
GLANCED_SHARES = (0.5, 0.35, 0.15)


@dataclass
class Lesson:
    """One step. Labels hold the next token where it counts, and ``IGNORED`` elsewhere.

    Attributes
    ----------
    pixels
        The pictures, scaled to [-1, 1].
    tokens, labels
        For each picture: the start token, the image's places, then ``SLOTS`` questions of ``SLOT`` tokens.
    patches
        What each patch shows: see ``LABELS``; ``IGNORED`` where a label does not apply.
    mentions, referents
        For each question, the places in its slot of words that stand for something in the picture, and where that is
        among the start token and the patches: the start token for what is not there, nothing for no mention.
    glanced, glanced_patches
        More pictures, without questions, and what their patches show.
    texts
        Kind of text → (tokens, labels).
    """

    pixels: Float[Tensor, "picture 3 height width"]
    tokens: Int[Tensor, "picture position"]
    labels: Int[Tensor, "picture position"]
    patches: Int[Tensor, "picture label patch"]
    mentions: Int[Tensor, "question mention"]
    referents: Bool[Tensor, "question mention prefix"]
    glanced: Float[Tensor, "picture 3 height width"]
    glanced_patches: Int[Tensor, "picture label patch"]
    texts: dict[str, tuple[Tensor, Tensor]]


class Lessons(torch.utils.data.Dataset):
    """The lessons of a training run, by step.

    Parameters
    ----------
    tokenizer
        That of the model.
    seed
        Of the whole run.
    test
        Make lessons of held-out items only.
    """

    def __init__(self, tokenizer: Any, seed: int = 0, test: bool = False) -> None:
        self.tokenizer, self.seed, self.test = tokenizer, seed, test
        self._spelled = {
            word: tokenizer.convert_tokens_to_ids([word[0], *(f"##{letter}" for letter in word[1:])])
            for word in english.lexicon()
        }

    def __getitem__(self, step: int) -> Lesson:
        rng = np.random.default_rng([self.seed, step, int(self.test)])
        shown = [_picture(rng, self.test, SHARES) for _ in range(PICTURES)]
        pixels, patches = _drawn(rng, shown)
        questions = [self._questions(rng, picture) for picture in shown]
        tokens, labels = self._answered([question for group in questions for question in group])
        mentions, referents = _mentions(questions, patches.numpy())
        tokens = torch.cat([torch.full((PICTURES, PREFIX), IMAGE), tokens.view(PICTURES, SLOTS * SLOT)], dim=1)
        labels = torch.cat([torch.full((PICTURES, PREFIX), IGNORED), labels.view(PICTURES, SLOTS * SLOT)], dim=1)
        tokens[:, 0] = START
        glanced, glanced_patches = _drawn(rng, [_picture(rng, self.test, GLANCED_SHARES) for _ in range(GLANCED)])
        return Lesson(
            pixels=pixels,
            tokens=tokens,
            labels=labels,
            patches=patches,
            mentions=mentions,
            referents=referents,
            glanced=glanced,
            glanced_patches=glanced_patches,
            texts={kind: getattr(self, f"_{kind}")(rng, text) for kind, text in TEXTS.items()},
        )

    def _questions(self, rng: np.random.Generator, shown: Picture | Sequence[Shape]) -> list[Question]:
        if not isinstance(shown, Picture):
            return list(scenes.scene_questions(rng, shown, SLOTS))
        questions = scenes.picture_questions(rng, shown)
        return [questions[int(index)] for index in rng.integers(len(questions), size=SLOTS)]

    def _answered(self, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
        """Questions with their answers, one per row; only the answers count."""
        asked = self._encode([question.text for question in questions])
        answers = self._encode([f"{question.answer}." for question in questions])
        return _rows([(a, b) for a, b in zip(asked, answers, strict=True)], SLOT)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    def _sentences(self, rng: np.random.Generator, text: Text) -> tuple[Tensor, Tensor]:
        lines = [english.sentence_of(rng, self.test) for _ in range(text.rows)]
        rows = [
            ([START], self._perhaps_spelled(rng, line, ids))
            for line, ids in zip(lines, self._encode(lines), strict=True)
        ]
        return _rows(rows, text.length)

    def _perhaps_spelled(self, rng: np.random.Generator, line: str, ids: list[int]) -> list[int]:
        # Now and then a word is given in letters, which is how the model gets to know the letters of unknown words.
        if rng.random() > 0.2:
            return ids
        words = [word for word in re.findall("[a-z]+", line) if word in self._spelled]
        if not words:
            return ids
        word = words[int(rng.integers(len(words)))]
        at = ids.index(self.tokenizer.convert_tokens_to_ids(word))
        return [*ids[:at], *self._spelled[word], *ids[at + 1 :]]

    def _arithmetic(self, rng: np.random.Generator, text: Text) -> tuple[Tensor, Tensor]:
        makers = [arithmetic.sum_item if rng.random() < 0.7 else arithmetic.comparison_item for _ in range(text.rows)]
        items = [make(rng, self.test) for make in makers]
        asked = self._encode([question for question, _ in items])
        answers = self._encode([f"{answer}." for _, answer in items])
        return _rows([([START, *a], b) for a, b in zip(asked, answers, strict=True)], text.length)

    def _described(self, rng: np.random.Generator, text: Text) -> tuple[Tensor, Tensor]:
        items = [scenes.described_question(rng, self.test) for _ in range(text.rows)]
        asked = self._encode([f"{description} {question.text}" for description, question in items])
        answers = self._encode([f"{question.answer}." for _, question in items])
        return _rows([([START, *a], b) for a, b in zip(asked, answers, strict=True)], text.length)


def _rows(items: Sequence[tuple[list[int], list[int]]], length: int) -> tuple[Tensor, Tensor]:
    """(given, to be learned) as padded tokens, with the next token as the label wherever it is to be learned."""
    tokens = np.full((len(items), length), PAD, dtype=np.int64)
    labels = np.full((len(items), length), IGNORED, dtype=np.int64)
    for row, (given, learned) in enumerate(items):
        whole = [*given, *learned, END][: length + 1]
        tokens[row, : min(len(whole), length)] = whole[:length]
        labels[row, len(given) - 1 : len(whole) - 1] = whole[len(given) :]
    return torch.from_numpy(tokens), torch.from_numpy(labels)


def _mentions(questions: Sequence[Sequence[Question]], patches: np.ndarray) -> tuple[Tensor, Tensor]:
    """Where the questions name what is in their pictures, and where that is (see :class:`Lesson`)."""
    places = np.zeros((len(questions), SLOTS, MENTIONS), dtype=np.int64)
    referents = np.zeros((len(questions), SLOTS, MENTIONS, PREFIX), dtype=bool)
    for picture, asked in enumerate(questions):
        for slot, question in enumerate(asked):
            # In a picture of one thing, the last word of a question stands for all of it.
            whole = ((len(question.text.split()) - 1, None),)
            if question.ability == "description":
                continue
            for index, (word, shapes) in enumerate(question.mentions or whole):
                places[picture, slot, index] = word
                if shapes is None:
                    referents[picture, slot, index, 1:] = patches[picture, 0] > 0
                else:
                    for shape in shapes:
                        referents[picture, slot, index, 1:] |= _inside(shape).reshape(-1)
                    referents[picture, slot, index, 0] = not shapes
    return torch.from_numpy(places).flatten(0, 1), torch.from_numpy(referents).flatten(0, 1)


def _inside(shape: Shape) -> Bool[np.ndarray, "row column"]:
    """The patches whose middle is inside a shape, and that of its own middle."""
    centres = (np.arange(GRID) + 0.5) / GRID
    inside = (centres[None, :] - shape.x) ** 2 + (centres[:, None] - shape.y) ** 2 < shape.radius**2
    inside[_patch(shape.y), _patch(shape.x)] = True
    return inside


def _picture(rng: np.random.Generator, test: bool, shares: Sequence[float]) -> Picture | list[Shape]:
    kind = rng.choice(3, p=shares)
    if kind == 0:
        return scenes.scene(rng, test)
    categories = [name for name in CATEGORIES if name != "word"]
    return scenes.picture(rng, test, "word" if kind == 1 else categories[int(rng.integers(len(categories)))])


def _drawn(rng: np.random.Generator, shown: Sequence[Picture | Sequence[Shape]]) -> tuple[Tensor, Tensor]:
    """Pictures as the encoder takes them, and what their patches show."""
    images = [np.asarray(scenes.render(picture, IMAGE_SIZE, int(rng.integers(2**31)))) for picture in shown]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    # Some pictures are of one contrast and luminance, nearly as those of the bundled stimuli are.
    evened = torch.from_numpy(rng.random(len(shown)) < EVENED)[:, None, None, None]
    gain = torch.from_numpy(rng.uniform(0.8, 1.5, len(shown)) * CONTRAST / 127.5).float()[:, None, None, None]
    mean = pixels.mean(dim=(2, 3), keepdim=True)
    contrast = (pixels - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    matched = mean - mean.mean(dim=1, keepdim=True) + (pixels - mean) * gain / contrast
    pixels = torch.where(evened, matched.clamp(-1, 1), pixels)
    return pixels, torch.from_numpy(np.stack([patch_labels(picture) for picture in shown]))


class Glances(torch.utils.data.Dataset):
    """Pictures without questions, for the encoder's first stage: (pixels, patch labels) of each step."""

    def __init__(self, seed: int = 0, test: bool = False) -> None:
        self.seed, self.test = seed, test

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, step, 2 + int(self.test)])
        return _drawn(rng, [_picture(rng, self.test, GLANCED_SHARES) for _ in range(GLANCES)])


def patch_labels(shown: Picture | Sequence[Shape]) -> Int[np.ndarray, "label patch"]:
    """What each patch of a picture shows (see ``LABELS``)."""
    labels = np.zeros((LABELS, GRID, GRID), dtype=np.int64)
    labels[3:] = IGNORED
    what, colour, order, word, *counts = labels
    if not isinstance(shown, Picture):
        for shape in shown:
            inside = _inside(shape)
            what[inside], colour[inside] = _WHAT[shape.kind], _COLOUR[shape.colour]
            alike = sum(other.kind == shape.kind for other in shown), sum(o.colour == shape.colour for o in shown)
            for count, number in zip(counts, (len(shown), *alike), strict=True):
                count[inside] = number
        for shape in shown:
            order[_patch(shape.y), _patch(shape.x)] = _MIDDLE
    elif shown.category == "word":
        for place, (letter, x, y) in enumerate(word_letters(shown, IMAGE_SIZE), start=1):
            at = _patch(y), _patch(x)
            what[at], colour[at], order[at] = _WHAT[letter], _COLOUR[shown.colour], place
            word[at] = scenes.printed_words().index(shown.name)
    else:
        what[2:-2, 2:-2] = _WHAT[shown.name]
        colour[3:-3, 3:-3] = _COLOUR[shown.colour]
    return labels.reshape(LABELS, -1)


def _patch(place: float) -> int:
    return min(GRID - 1, max(0, int(place * GRID)))
