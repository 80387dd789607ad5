"""Multiple-choice questions from files and datasets, with or without solved examples before each."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modalnet.errors import InputError
from modalnet.stimuli.readers import stimulus_at
from modalnet.tasks.multiple_choice import Choices, Question, check_choices, check_template, which
from modalnet.tasks.rows import Rows, draw, read_rows

BETWEEN_SHOTS = "\n\n"


def multiple_choice(
    source: Any,
    *,
    name: str | None = None,
    choices: str | Sequence[str] | None = None,
    question: str = "question",
    answer: str = "answer",
    prompt: str | None = None,
    image: str | None = None,
    template: str = "{}",
    shots: int = 0,
    n: int | None = None,
    seed: int = 0,
    per_token: bool = False,
    encoding: str = "utf-8",
    delimiter: str | None = None,
) -> Choices:
    """Multiple choice by likelihood, from a file, a list of dicts or a Hugging Face dataset.

    Parameters
    ----------
    source
        A CSV, TSV or JSON-lines file, a list of dicts, or a ``datasets.Dataset`` that you loaded.
    name
        Of the task; by default that of the file.
    choices
        The answers, the same for each item (for GLUE's classes the words that stand for them, in the order of their
        numbers); or the field that holds each item's own: a list, a dict with ``text`` and ``label`` as in ARC, or in
        a table a JSON list or texts between ``|``. None: the field ``choices``, or else the names of a dataset's
        class labels.
    question
        The field that the default prompt shows.
    answer
        The field of the right answer: its index counted from 0, its text, or its label.
    prompt
        A format string over the fields; None is ``"{question}"``, with the field that ``question`` names. An answer
        follows after a space.
    image
        The field of the image, if any; paths in a file count from its folder.
    template
        How an answer is written.
    shots
        So many other items stand before each, solved, with a blank line between: drawn from the whole source with the
        seed, in random order, another set for each item and never the item itself.
    n
        Take so many items, drawn with the seed; None takes all.
    seed
        Of the draws.
    per_token
        Compare log-probabilities per token instead of summed ones.
    encoding, delimiter
        How a file is written.

    Returns
    -------
    Choices
        An item scores 1 where the right answer is the likeliest given the prompt; answers that tie share the point.
        Chance is the mean of 1 / the number of choices. Items are called after the source and their row or line.

    Raises
    ------
    InputError
        No such file, field or choices; a row with an empty question, fewer than two choices, or an answer that is none
        of them; more shots than other items; shots with images. The message names the row.

    References
    ----------
    Brown et al. (2020). Language models are few-shot learners. NeurIPS 33, section 2.4 and appendix G.
    Wang, Singh, Michael, Hill, Levy & Bowman (2018). GLUE: a multi-task benchmark and analysis platform for natural
    language understanding. BlackboxNLP, 353-355.

    Examples
    --------
    >>> rows = [{"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}]
    >>> multiple_choice(rows, prompt="{premise} {hypothesis} True or false?", answer="label", choices=["True", "False"])
    Choices(multiple choice, 1 items)
    """
    check_template(template)
    rows = _rows(source, encoding, delimiter)
    pattern = f"{{{question}}}" if prompt is None else prompt
    reader = _Reader(rows, pattern, _fields(pattern), _choices(choices, rows, answer), answer, image, template)
    there = len(rows.cells)
    chosen = draw(n, there, seed, rows.name)
    if isinstance(shots, bool) or not isinstance(shots, int) or not 0 <= shots < there:
        raise InputError(f"shots is how many other items stand before each, 0 to {there - 1}; this is {shots!r}.")
    if shots and image is not None:
        raise InputError("shots with images would put all images before all texts; leave shots or image out.")
    questions = []
    for index in chosen:
        others = np.random.default_rng([seed, index]).permutation([i for i in range(there) if i != index])[:shots]
        questions.append(reader.question(index, [reader.solved(int(i)) for i in others]))
    return Choices(name or rows.name, questions, per_token=per_token)


@dataclass(frozen=True)
class _Reader:
    """Makes questions of rows."""

    rows: Rows
    pattern: str
    fields: list[str]
    choices: str | tuple[str, ...]
    answer: str
    image: str | None
    template: str

    def read(self, index: int) -> tuple[str, tuple[str, ...], int]:
        """Prompt, choices and the right one's index."""
        where, cells = self.rows.where(index), self.rows.cells[index]
        wanted = [*self.fields, self.answer, *([self.choices] if isinstance(self.choices, str) else [])]
        for field in wanted:
            if not isinstance(cells, Mapping) or cells.get(field) is None:
                there = ", ".join(map(str, cells)) if isinstance(cells, Mapping) else repr(cells)
                raise InputError(f"{where} has no {field!r}. It has: {there}.")
        for field in self.fields:
            if isinstance(cells[field], str) and not cells[field].strip():
                raise InputError(f"{where}: {field} is empty. Fill it, or take the row out.")
        text = self.pattern.format_map(cells)
        labels: Sequence[str] = ()
        choices: Any = self.choices
        if isinstance(choices, str):
            choices, labels = _own_choices(cells[choices])
        checked = check_choices(choices, where)
        return text, checked, which(cells[self.answer], checked, where, labels)

    def solved(self, index: int) -> str:
        """An item with its answer, for the items that it stands before."""
        text, choices, right = self.read(index)
        return f"{text}{'' if text[-1:].isspace() else ' '}{self.template.format(choices[right])}"

    def question(self, index: int, before: list[str]) -> Question:
        text, choices, right = self.read(index)
        where = self.rows.where(index)
        picture = self._picture(index, self.image) if self.image is not None else None
        item = f"{self.rows.name}:{self.rows.places[index]}"
        stimulus = stimulus_at(where, text=BETWEEN_SHOTS.join([*before, text]) or None, image=picture, id=item)
        return Question(item, stimulus, tuple(self.template.format(choice) for choice in choices), right)

    def _picture(self, index: int, field: str) -> Any:
        cell = self.rows.cells[index].get(field)
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise InputError(f"{self.rows.where(index)} has no image in {field!r}.")
        if isinstance(cell, Mapping):  # a dataset's image that is not decoded
            return cell.get("bytes") or cell.get("path")
        if isinstance(cell, str) and self.rows.path is not None:
            return self.rows.path.parent / cell.strip()
        return cell


def _rows(source: Any, encoding: str, delimiter: str | None) -> Rows:
    if isinstance(source, str | os.PathLike):
        return read_rows(Path(source), encoding, delimiter)
    if isinstance(source, Mapping):
        raise InputError(f"This is a dict of {', '.join(map(str, source))}; choose one of its splits.")
    features = getattr(source, "features", None)
    if features is not None and not hasattr(source, "__len__"):
        source = list(source)  # a stream
    elif features is None and not isinstance(source, list | tuple):
        raise InputError(
            f"Questions are a file, a list of dicts or a datasets.Dataset; this is a {type(source).__name__}."
        )
    if len(source) == 0:
        raise InputError("There are no questions: the source is empty.")
    return Rows("multiple choice", source, range(len(source)), features=features)


def _fields(pattern: str) -> list[str]:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(pattern) if field is not None]
    except (TypeError, ValueError) as error:
        raise InputError(f"prompt is a format string such as '{{question}}'; this is {pattern!r}: {error}.") from error
    bad = [field for field in fields if not field or not set(field).isdisjoint(".[")]
    if bad or not fields:
        raise InputError(f"prompt names fields, as in '{{question}}'; this is {pattern!r}.")
    return fields


def _choices(choices: Any, rows: Rows, answer: str) -> str | tuple[str, ...]:
    """The choices of all items, or the field that holds each item's."""
    if choices is None:
        first = rows.cells[0]
        names = getattr((rows.features or {}).get(answer), "names", None)
        if names is None or (isinstance(first, Mapping) and "choices" in first):
            return "choices"
        choices = names
    return choices if isinstance(choices, str) else check_choices(choices, f"{rows.name}: choices")


def _own_choices(cell: Any) -> tuple[Any, Sequence[str]]:
    """A row's choices, and their labels where it has some."""
    if isinstance(cell, Mapping):
        return cell.get("text"), [str(label) for label in cell.get("label", ())]
    if not isinstance(cell, str):
        return cell, ()
    try:
        listed = json.loads(cell)
    except ValueError:
        listed = None
    return (listed if isinstance(listed, list) else cell.split("|")), ()
