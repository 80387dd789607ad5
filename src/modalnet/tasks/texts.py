"""Perplexity: how well a model predicts texts, token by token."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from modalnet.errors import InputError
from modalnet.execution.likelihood import Likelihood, Request
from modalnet.stimuli import Contrast, Stimulus
from modalnet.stimuli.readers import stimulus_at
from modalnet.stimuli.tables import read_text
from modalnet.tasks.base import LikelihoodTask, Measure
from modalnet.tasks.requests import after, alone, listed_stimuli, unique

if TYPE_CHECKING:
    from jaxtyping import Float

Split: TypeAlias = Literal["auto", "lines", "paragraphs"]
_BLANK_LINE = re.compile(r"\n\s*\n")


class Texts(LikelihoodTask):
    """Mean log-probability per token of each text. Made by :func:`perplexity`."""

    measure: Measure = "nats per token"

    def __init__(self, name: str, stimuli: Sequence[Stimulus]) -> None:
        self.name = name
        self._stimuli = tuple(stimuli)
        self._items = unique([stimulus.id or str(index) for index, stimulus in enumerate(stimuli)])

    @property
    def items(self) -> tuple[str, ...]:
        return self._items

    def requests(self) -> list[Request]:
        return [
            after(Stimulus(image=one.image, id=one.id), one.text or "") if one.n_images else alone(one.text or "")
            for one in self._stimuli
        ]

    def grade(self, likelihoods: Sequence[Likelihood]) -> Float[np.ndarray, " item"]:
        for item, one in zip(self._items, likelihoods, strict=True):
            if not one.n_tokens:
                raise InputError(f"Text {item} of {self.name!r} is a single token, which nothing comes before.")
        return np.array([one.logprob / one.n_tokens for one in likelihoods])


def perplexity(
    texts: str | os.PathLike[str] | Contrast | Sequence[str | Stimulus],
    *,
    name: str = "perplexity",
    split: Split = "auto",
    encoding: str = "utf-8",
) -> Texts:
    """How well a model predicts texts.

    Parameters
    ----------
    texts
        A list of texts or of stimuli with texts, a contrast, or the path of a ``.txt`` file. Of a stimulus with an
        image the text is predicted after the image.
    name
        Of the task.
    split
        What one text of a file is: each of its ``"lines"``, or the ``"paragraphs"`` between blank lines, their line
        breaks made spaces. ``"auto"``: paragraphs where there is a blank line, else lines.
    encoding
        How a file is written.

    Returns
    -------
    Texts
        An item's score is the mean over its tokens of log p(token | tokens before), in nats; the measure is ``"nats
        per token"``, and there is no chance level. ``scores.perplexity`` is exp of the negative mean over texts, which
        weighs each text alike, however long (Jelinek et al. 1977).

    Raises
    ------
    InputError
        No such file; another encoding; no texts; an empty one; a stimulus without text.

    References
    ----------
    Jelinek, Mercer, Bahl & Baker (1977). Perplexity: a measure of the difficulty of speech recognition tasks. Journal
    of the Acoustical Society of America 62, S63.
    """
    if isinstance(texts, os.PathLike) or (isinstance(texts, str) and texts.lower().endswith(".txt")):
        return Texts(name, _from_file(Path(texts), split, encoding))
    if isinstance(texts, str):
        raise InputError("Texts are a list, a Contrast or the path of a .txt file; put a single text in a list.")
    given: list[object] = list(texts) if isinstance(texts, list | tuple) else []
    if given and all(isinstance(text, str) for text in given):
        return Texts(name, [stimulus_at(f"text {i}", text=text) for i, text in enumerate(given)])
    stimuli = listed_stimuli(texts, "perplexity")
    for stimulus in stimuli:
        if stimulus.text is None:
            raise InputError(f"Stimulus {stimulus.label} has no text; a perplexity is of texts.")
    return Texts(name, stimuli)


def _from_file(path: Path, split: Split, encoding: str) -> list[Stimulus]:
    if split not in ("auto", "lines", "paragraphs"):
        raise InputError(f"split is 'auto', 'lines' or 'paragraphs'; this is {split!r}.")
    whole = read_text(path, encoding).replace("\r\n", "\n").strip()
    blocks = _BLANK_LINE.split(whole)
    parts = whole.split("\n") if split == "lines" or (split == "auto" and len(blocks) == 1) else blocks
    texts = [" ".join(part.split()) for part in parts if part.strip()]
    if not texts:
        raise InputError(f"{path} is empty; texts were expected.")
    return [Stimulus(text, id=f"{path.stem}:{number}") for number, text in enumerate(texts, start=1)]
