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
from jaxtyping import Float, Int
from torch import Tensor

from modalnet.stimuli.drawing import CATEGORIES, COLOURS, OBJECTS, SHAPES, Picture, Shape, word_letters
from modalnet.stimuli.drawn import CONTRAST
from modalnet.zoo import arithmetic, english, scenes
from modalnet.zoo.network import END, GRID, IMAGE, IMAGE_SIZE, PAD, PATCHES, START
from modalnet.zoo.scenes import Question

IGNORED = -100
SLOTS = 8
SLOT = 16
PREFIX = 1 + PATCHES

WHAT = ["nothing", *SHAPES, "face", "house", *OBJECTS, *(chr(code) for code in range(ord("a"), ord("z") + 1))]
PALETTE = ["nothing", *COLOURS]
# A patch also tells which letter of a word stands in it (1-7), or that the middle of a shape does.
ORDERS = 9
_MIDDLE = ORDERS - 1
_WHAT = {name: index for index, name in enumerate(WHAT)}
_COLOUR = {name: index for index, name in enumerate(PALETTE)}


@dataclass(frozen=True)
class Text:
    """How many texts of a kind are in one step, and how long they may be."""

    rows: int
    length: int


TEXTS = {"sentences": Text(12, 26), "arithmetic": Text(24, 16), "described": Text(12, 36)}
PICTURES = 16
GLANCES = 128
EVENED = 0.3
# Of the pictures: scenes of shapes, printed words, and the rest.
SHARES = (0.62, 0.2, 0.18)


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
        What each patch shows, in which colour, and its order: indices into ``WHAT`` and ``PALETTE``, and 0-8.
    texts
        Kind of text → (tokens, labels).
    """

    pixels: Float[Tensor, "picture 3 height width"]
    tokens: Int[Tensor, "picture position"]
    labels: Int[Tensor, "picture position"]
    patches: Int[Tensor, "picture 3 patch"]
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
        shown = [_picture(rng, self.test) for _ in range(PICTURES)]
        pixels, patches = _drawn(rng, shown)
        questions = [self._questions(rng, picture) for picture in shown]
        tokens, labels = self._answered([question for group in questions for question in group])
        tokens = torch.cat([torch.full((PICTURES, PREFIX), IMAGE), tokens.view(PICTURES, SLOTS * SLOT)], dim=1)
        labels = torch.cat([torch.full((PICTURES, PREFIX), IGNORED), labels.view(PICTURES, SLOTS * SLOT)], dim=1)
        tokens[:, 0] = START
        return Lesson(
            pixels=pixels,
            tokens=tokens,
            labels=labels,
            patches=patches,
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


def _picture(rng: np.random.Generator, test: bool) -> Picture | list[Shape]:
    kind = rng.choice(3, p=SHARES)
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
        return _drawn(rng, [_picture(rng, self.test) for _ in range(GLANCES)])


def patch_labels(shown: Picture | Sequence[Shape]) -> Int[np.ndarray, "3 patch"]:
    """What each patch of a picture shows, in which colour, and its order (see :class:`Lesson`)."""
    what, colour, order = labels = np.zeros((3, GRID, GRID), dtype=np.int64)
    centres = (np.arange(GRID) + 0.5) / GRID
    if not isinstance(shown, Picture):
        for shape in shown:
            inside = (centres[None, :] - shape.x) ** 2 + (centres[:, None] - shape.y) ** 2 < shape.radius**2
            inside[_patch(shape.y), _patch(shape.x)] = True
            what[inside], colour[inside] = _WHAT[shape.kind], _COLOUR[shape.colour]
        for shape in shown:
            order[_patch(shape.y), _patch(shape.x)] = _MIDDLE
    elif shown.category == "word":
        for place, (letter, x, y) in enumerate(word_letters(shown, IMAGE_SIZE), start=1):
            at = _patch(y), _patch(x)
            what[at], colour[at], order[at] = _WHAT[letter], _COLOUR[shown.colour], place
    else:
        what[2:-2, 2:-2] = _WHAT[shown.name]
        colour[3:-3, 3:-3] = _COLOUR[shown.colour]
    return labels.reshape(3, -1)


def _patch(place: float) -> int:
    return min(GRID - 1, max(0, int(place * GRID)))
