"""Perplexity: how well a model predicts texts, token by token."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from modalnet._validation import check_option
from modalnet.errors import InputError
from modalnet.execution.likelihood import Likelihood, Request
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.conversion import as_stimuli
from modalnet.stimuli.readers import stimulus_at
from modalnet.stimuli.rows import unique_names
from modalnet.stimuli.stimulus import Stimulus
from modalnet.stimuli.tables import read_text
from modalnet.tasks.base import LikelihoodTask, Measure
from modalnet.tasks.requests import continuation_request, text_request

if TYPE_CHECKING:
    from jaxtyping import Float

Split: TypeAlias = Literal["auto", "lines", "paragraphs"]
_BLANK_LINE = re.compile(r"\n\s*\n")


class Perplexity(LikelihoodTask):
    """Texts, scored by their mean log-probability per token. Made by :func:`perplexity`."""

    measure: Measure = "nats per token"

    def __init__(self, name: str, stimuli: Sequence[Stimulus]) -> None:
        self.name = name
        self._stimuli = tuple(stimuli)
        self._items = unique_names(stimulus.id or str(index) for index, stimulus in enumerate(stimuli))

    @property
    def items(self) -> tuple[str, ...]:
        return self._items

    def requests(self) -> list[Request]:
        return [
            continuation_request(replace(stimulus, text=None), stimulus.text or "")
            if stimulus.n_media
            else text_request(stimulus.text or "")
            for stimulus in self._stimuli
        ]

    def grade(self, likelihoods: Sequence[Likelihood]) -> Float[np.ndarray, " item"]:
        for item, likelihood in zip(self._items, likelihoods, strict=True):
            if not likelihood.n_tokens:
                raise InputError(f"Text {item} of {self.name!r} has a single token, so no token can be predicted.")
        return np.array([likelihood.logprob / likelihood.n_tokens for likelihood in likelihoods])


def perplexity(
    texts: str | os.PathLike[str] | Contrast | Sequence[str | Stimulus],
    *,
    name: str = "perplexity",
    split: Split = "auto",
    encoding: str = "utf-8",
) -> Perplexity:
    """Perplexity of texts: how well a model predicts them.

    Parameters
    ----------
    texts
        A list of texts or of stimuli with text, a contrast, or the path of a ``.txt`` file. The text of a stimulus with
        an image is predicted after the image.
    name
        Name of the task.
    split
        What counts as one text of a file: each of its ``"lines"``, or the ``"paragraphs"`` between blank lines, with
        line breaks replaced by spaces. ``"auto"`` uses paragraphs where there is a blank line, and lines otherwise.
    encoding
        Encoding of the file.

    Returns
    -------
    Perplexity
        An item's score is the mean over its tokens of log p(token | preceding tokens), in nats; the measure is ``"nats
        per token"``, and there is no chance level. ``scores.perplexity`` is exp of the negative mean over texts, in
        which each text weighs equally, whatever its length (Jelinek et al. 1977).

    Raises
    ------
    InputError
        The file does not exist or has another encoding; there are no texts; a text is empty; a stimulus has no text.

    References
    ----------
    Jelinek, Mercer, Bahl & Baker (1977). Perplexity: a measure of the difficulty of speech recognition tasks. Journal
    of the Acoustical Society of America 62, S63.
    """
    if isinstance(texts, os.PathLike) or (isinstance(texts, str) and texts.lower().endswith(".txt")):
        return Perplexity(name, _from_file(Path(texts), split, encoding))
    if isinstance(texts, str):
        raise InputError("`texts` must be a list, a Contrast or the path of a .txt file; put a single text in a list.")
    if isinstance(texts, list | tuple) and texts and all(isinstance(text, str) for text in texts):
        return Perplexity(name, [stimulus_at(f"text {i}", text=text) for i, text in enumerate(texts)])
    stimuli = as_stimuli(texts, "texts")
    for stimulus in stimuli:
        if stimulus.text is None:
            raise InputError(f"Stimulus {stimulus.label} has no text; perplexity needs one.")
    return Perplexity(name, stimuli)


def _from_file(path: Path, split: Split, encoding: str) -> list[Stimulus]:
    check_option("split", split, get_args(Split))
    whole = read_text(path, encoding).replace("\r\n", "\n").strip()
    blocks = _BLANK_LINE.split(whole)
    parts = whole.split("\n") if split == "lines" or (split == "auto" and len(blocks) == 1) else blocks
    texts = [" ".join(part.split()) for part in parts if part.strip()]
    if not texts:
        raise InputError(f"{path} is empty; it must contain text.")
    return [Stimulus(text, id=f"{path.stem}:{number}") for number, text in enumerate(texts, start=1)]
