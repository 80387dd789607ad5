"""Training batches of the bundled model: pictures with questions, pictures with patch labels, and text.

The batch of a step depends on the seed and the step alone, so an interrupted run resumes with the same batches.
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

from modalnet.bundled import arithmetic, visual_questions
from modalnet.bundled.grammar import sentence_of_split
from modalnet.bundled.lexicon import lexicon
from modalnet.bundled.visual_questions import VisualQuestion
from modalnet.stimuli.picture_sets import CONTRAST
from modalnet.stimuli.rendering import CATEGORIES, COLOURS, OBJECTS, SHAPES, Picture, Shape, word_letters
from training.network import END, GRID, IMAGE, IMAGE_SIZE, PAD, PATCHES, START

IGNORED = -100
SLOTS = 8
SLOT = 16
PREFIX = 1 + PATCHES

CONTENTS = ["nothing", *SHAPES, "face", "house", *OBJECTS, *(chr(code) for code in range(ord("a"), ord("z") + 1))]
PALETTE = ["nothing", *COLOURS]
# The order label of a patch: the position of its letter in the printed word (1-7), or 8 for the centre of a shape.
N_ORDERS = 9
_MIDDLE = N_ORDERS - 1
# Labels of a patch: content, colour, order (above), printed word; then the number of shapes in the scene, of its kind,
# and of its colour.
LABELS = 7
MENTIONS = 2
_CONTENT_INDEX = {name: index for index, name in enumerate(CONTENTS)}
_COLOUR_INDEX = {name: index for index, name in enumerate(PALETTE)}


@dataclass(frozen=True)
class TextShape:
    """Number of texts of a kind in a batch, and their maximum length in tokens."""

    rows: int
    length: int


TEXTS = {"sentences": TextShape(24, 26), "arithmetic": TextShape(64, 16), "described": TextShape(12, 36)}
PICTURES = 16
ENCODER_PICTURES = 128
# Pictures without questions in each joint batch, so that the encoder does not forget how to read.
UNQUESTIONED_PICTURES = 40
MATCHED_SHARE = 0.3
# Shares of scenes, printed words and other pictures; the encoder stage has more words, so that it learns to read.
JOINT_SHARES = (0.62, 0.2, 0.18)
ENCODER_SHARES = (0.5, 0.35, 0.15)


@dataclass
class Batch:
    """The batch of one joint step. Labels hold the next token where it enters the loss, and ``IGNORED`` elsewhere.

    Attributes
    ----------
    pixels
        Pictures with questions, scaled to [-1, 1].
    tokens, labels
        For each picture: the start token, the image tokens, then ``SLOTS`` questions of ``SLOT`` tokens.
    patches
        Patch labels (see ``LABELS``); ``IGNORED`` where a label does not apply.
    mentions, referents
        For each question, the positions in its slot of words that refer to something in the picture, and the referent
        among the start token and the patches: the start token for what is absent, nothing where no word refers.
    encoder_pixels, encoder_patches
        Pictures without questions, and their patch labels.
    texts
        Kind of text -> (tokens, labels).
    """

    pixels: Float[Tensor, "picture 3 height width"]
    tokens: Int[Tensor, "picture position"]
    labels: Int[Tensor, "picture position"]
    patches: Int[Tensor, "picture label patch"]
    mentions: Int[Tensor, "question mention"]
    referents: Bool[Tensor, "question mention prefix"]
    encoder_pixels: Float[Tensor, "picture 3 height width"]
    encoder_patches: Int[Tensor, "picture label patch"]
    texts: dict[str, tuple[Tensor, Tensor]]


class JointBatches(torch.utils.data.Dataset[Any]):
    """Batches of the joint stage, indexed by step.

    Parameters
    ----------
    tokenizer
        The tokenizer of the model.
    seed
        Seed of the run.
    test
        Draw held-out items instead of training items.
    """

    def __init__(self, tokenizer: Any, seed: int = 0, test: bool = False) -> None:
        self.tokenizer, self.seed, self.test = tokenizer, seed, test
        self._spelled = {
            word: tokenizer.convert_tokens_to_ids([word[0], *(f"##{letter}" for letter in word[1:])])
            for word in lexicon()
        }

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step, int(self.test)])
        shown = [_draw_picture(rng, self.test, JOINT_SHARES) for _ in range(PICTURES)]
        pixels, patches = _render(rng, shown)
        questions = [self._questions(rng, picture) for picture in shown]
        tokens, labels = self._with_answers([question for group in questions for question in group])
        mentions, referents = _mentions(questions, patches.numpy())
        tokens = torch.cat([torch.full((PICTURES, PREFIX), IMAGE), tokens.view(PICTURES, SLOTS * SLOT)], dim=1)
        labels = torch.cat([torch.full((PICTURES, PREFIX), IGNORED), labels.view(PICTURES, SLOTS * SLOT)], dim=1)
        tokens[:, 0] = START
        encoder_pixels, encoder_patches = _render(
            rng, [_draw_picture(rng, self.test, ENCODER_SHARES) for _ in range(UNQUESTIONED_PICTURES)]
        )
        return Batch(
            pixels=pixels,
            tokens=tokens,
            labels=labels,
            patches=patches,
            mentions=mentions,
            referents=referents,
            encoder_pixels=encoder_pixels,
            encoder_patches=encoder_patches,
            texts={kind: getattr(self, f"_{kind}")(rng, text) for kind, text in TEXTS.items()},
        )

    def _questions(self, rng: np.random.Generator, shown: Picture | Sequence[Shape]) -> list[VisualQuestion]:
        if not isinstance(shown, Picture):
            return list(visual_questions.scene_questions(rng, shown, SLOTS))
        questions = visual_questions.picture_questions(rng, shown)
        return [questions[int(index)] for index in rng.integers(len(questions), size=SLOTS)]

    def _with_answers(self, questions: Sequence[VisualQuestion]) -> tuple[Tensor, Tensor]:
        """Questions with their answers, one per row; only the answers enter the loss."""
        prompts = self._encode([question.text for question in questions])
        answers = self._encode([f"{question.answer}." for question in questions])
        return _rows([(a, b) for a, b in zip(prompts, answers, strict=True)], SLOT)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    def _sentences(self, rng: np.random.Generator, text: TextShape) -> tuple[Tensor, Tensor]:
        lines = [sentence_of_split(rng, self.test) for _ in range(text.rows)]
        rows = [
            ([START], self._spell_a_word(rng, line, ids)) for line, ids in zip(lines, self._encode(lines), strict=True)
        ]
        return _rows(rows, text.length)

    def _spell_a_word(self, rng: np.random.Generator, line: str, ids: list[int]) -> list[int]:
        # In a fifth of the sentences one word is spelled in letters, which teaches the tokens of unknown words.
        if rng.random() > 0.2:
            return ids
        words = [word for word in re.findall("[a-z]+", line) if word in self._spelled]
        if not words:
            return ids
        word = words[int(rng.integers(len(words)))]
        at = ids.index(self.tokenizer.convert_tokens_to_ids(word))
        return [*ids[:at], *self._spelled[word], *ids[at + 1 :]]

    def _arithmetic(self, rng: np.random.Generator, text: TextShape) -> tuple[Tensor, Tensor]:
        makers = [arithmetic.sum_item if rng.random() < 0.7 else arithmetic.comparison_item for _ in range(text.rows)]
        items = [make(rng, self.test) for make in makers]
        prompts = self._encode([question for question, _ in items])
        answers = self._encode([f"{answer}." for _, answer in items])
        return _rows([([START, *a], b) for a, b in zip(prompts, answers, strict=True)], text.length)

    def _described(self, rng: np.random.Generator, text: TextShape) -> tuple[Tensor, Tensor]:
        items = [visual_questions.described_question(rng, self.test) for _ in range(text.rows)]
        prompts = self._encode([f"{description} {question.text}" for description, question in items])
        answers = self._encode([f"{question.answer}." for _, question in items])
        return _rows([([START, *a], b) for a, b in zip(prompts, answers, strict=True)], text.length)


def _rows(items: Sequence[tuple[list[int], list[int]]], length: int) -> tuple[Tensor, Tensor]:
    """(prompt, target) pairs as padded tokens, with the next token as label wherever it belongs to the target."""
    tokens = np.full((len(items), length), PAD, dtype=np.int64)
    labels = np.full((len(items), length), IGNORED, dtype=np.int64)
    for row, (prompt, target) in enumerate(items):
        whole = [*prompt, *target, END][: length + 1]
        tokens[row, : min(len(whole), length)] = whole[:length]
        labels[row, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    return torch.from_numpy(tokens), torch.from_numpy(labels)


def _mentions(questions: Sequence[Sequence[VisualQuestion]], patches: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mentions and referents of questions (see :class:`Batch`)."""
    places = np.zeros((len(questions), SLOTS, MENTIONS), dtype=np.int64)
    referents = np.zeros((len(questions), SLOTS, MENTIONS, PREFIX), dtype=bool)
    for picture, prompts in enumerate(questions):
        for slot, question in enumerate(prompts):
            # In a picture of one thing, the last word of a question refers to all of it.
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
    """The patches whose centre is inside a shape, and the patch of the shape's centre."""
    centres = (np.arange(GRID) + 0.5) / GRID
    inside = (centres[None, :] - shape.x) ** 2 + (centres[:, None] - shape.y) ** 2 < shape.radius**2
    inside[_patch(shape.y), _patch(shape.x)] = True
    return inside


def _draw_picture(rng: np.random.Generator, test: bool, shares: Sequence[float]) -> Picture | list[Shape]:
    kind = rng.choice(3, p=shares)
    if kind == 0:
        return visual_questions.scene(rng, test)
    categories = [name for name in CATEGORIES if name != "word"]
    return visual_questions.picture(rng, test, "word" if kind == 1 else categories[int(rng.integers(len(categories)))])


def _render(rng: np.random.Generator, shown: Sequence[Picture | Sequence[Shape]]) -> tuple[Tensor, Tensor]:
    """Render pictures as encoder inputs, with their patch labels."""
    images = [np.asarray(visual_questions.render(picture, IMAGE_SIZE, int(rng.integers(2**31)))) for picture in shown]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    # A share of the pictures is matched in contrast and luminance, roughly as the bundled stimuli are.
    is_matched = torch.from_numpy(rng.random(len(shown)) < MATCHED_SHARE)[:, None, None, None]
    gain = torch.from_numpy(rng.uniform(0.8, 1.5, len(shown)) * CONTRAST / 127.5).float()[:, None, None, None]
    mean = pixels.mean(dim=(2, 3), keepdim=True)
    contrast = (pixels - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    matched = mean - mean.mean(dim=1, keepdim=True) + (pixels - mean) * gain / contrast
    pixels = torch.where(is_matched, matched.clamp(-1, 1), pixels)
    return pixels, torch.from_numpy(np.stack([patch_labels(picture) for picture in shown]))


class EncoderBatches(torch.utils.data.Dataset[Any]):
    """Batches of the encoder stage, indexed by step: (pixels, patch labels)."""

    def __init__(self, seed: int = 0, test: bool = False) -> None:
        self.seed, self.test = seed, test

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, step, 2 + int(self.test)])
        return _render(rng, [_draw_picture(rng, self.test, ENCODER_SHARES) for _ in range(ENCODER_PICTURES)])


def patch_labels(shown: Picture | Sequence[Shape]) -> Int[np.ndarray, "label patch"]:
    """The labels of each patch of a picture (see ``LABELS``)."""
    labels = np.zeros((LABELS, GRID, GRID), dtype=np.int64)
    labels[3:] = IGNORED
    what, colour, order, word, *counts = labels
    if not isinstance(shown, Picture):
        for shape in shown:
            inside = _inside(shape)
            what[inside], colour[inside] = _CONTENT_INDEX[shape.kind], _COLOUR_INDEX[shape.colour]
            alike = sum(other.kind == shape.kind for other in shown), sum(o.colour == shape.colour for o in shown)
            for count, number in zip(counts, (len(shown), *alike), strict=True):
                count[inside] = number
        for shape in shown:
            order[_patch(shape.y), _patch(shape.x)] = _MIDDLE
    elif shown.category == "word":
        for place, (letter, x, y) in enumerate(word_letters(shown, IMAGE_SIZE), start=1):
            at = _patch(y), _patch(x)
            what[at], colour[at], order[at] = _CONTENT_INDEX[letter], _COLOUR_INDEX[shown.colour], place
            word[at] = visual_questions.printed_words().index(shown.name)
    else:
        what[2:-2, 2:-2] = _CONTENT_INDEX[shown.name]
        colour[3:-3, 3:-3] = _COLOUR_INDEX[shown.colour]
    return labels.reshape(LABELS, -1)


def _patch(place: float) -> int:
    return min(GRID - 1, max(0, int(place * GRID)))
