"""Multiple choice by likelihood: the answer that the model finds most likely counts as its answer.

No generated text has to be parsed, so the measure works for models that do not follow instructions, and for models
under a lesion that no longer do.
"""

from __future__ import annotations

import json
import os
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet._validation import check_int
from modalnet.errors import InputError
from modalnet.execution.likelihood import Likelihood, Request
from modalnet.stimuli.readers import stimulus_at
from modalnet.stimuli.rows import Rows, draw, read_rows, unique_names
from modalnet.stimuli.stimulus import Stimulus
from modalnet.tasks.base import LikelihoodTask, digest
from modalnet.tasks.choices import answer_index, check_choices, check_template
from modalnet.tasks.requests import continuation_request

if TYPE_CHECKING:
    from jaxtyping import Float

SHOT_SEPARATOR = "\n\n"


@dataclass(frozen=True, eq=False)
class MultipleChoiceQuestion:
    """A question with choices.

    Attributes
    ----------
    id
        Name of the item.
    stimulus
        The question: a text, an image or both.
    choices
        At least two different answers, as they are written after the question and a space.
    answer
        Index of the correct choice, from 0.
    group
        What the question has in common with others (a kind of question, a story); None for nothing.
    credits
        Score of each choice, from 0 to 1; None for 1 for the correct one and 0 for the others.
    """

    id: str
    stimulus: Stimulus
    choices: tuple[str, ...]
    answer: int
    group: str | None = None
    credits: tuple[float, ...] | None = None

    @property
    def scores(self) -> Float[np.ndarray, " choice"]:
        """Score of each choice."""
        if self.credits is not None:
            return np.array(self.credits, dtype=np.float64)
        return (np.arange(len(self.choices)) == self.answer).astype(np.float64)


class MultipleChoice(LikelihoodTask):
    """Questions that are answered with the most likely choice.

    Parameters
    ----------
    name
        Name of the task.
    questions
        The items.
    per_token
        Compare log-probabilities per token instead of their sum, which is lower for longer answers.
    """

    def __init__(self, name: str, questions: Sequence[MultipleChoiceQuestion], *, per_token: bool = False) -> None:
        self.name = name
        self.questions = tuple(questions)
        self.per_token = per_token
        self.chance = float(np.mean([question.scores.mean() for question in questions]))
        self._items = unique_names(question.id for question in questions)

    @property
    def items(self) -> tuple[str, ...]:
        return self._items

    @property
    def groups(self) -> dict[str, str] | None:
        """Item -> group of its question; None where no question has one, and the item's own name where it has none."""
        if all(question.group is None for question in self.questions):
            return None
        return {item: question.group or item for item, question in zip(self._items, self.questions, strict=True)}

    def subset(self, places: Sequence[int]) -> MultipleChoice:
        """Return the task with some of its questions, by number from 0."""
        return MultipleChoice(self.name, [self.questions[place] for place in places], per_token=self.per_token)

    def requests(self) -> list[Request]:
        return [
            continuation_request(question.stimulus, choice)
            for question in self.questions
            for choice in question.choices
        ]

    def grade(self, likelihoods: Sequence[Likelihood]) -> Float[np.ndarray, " item"]:
        remaining = iter(likelihoods)
        scores = []
        for question in self.questions:
            answers = [next(remaining) for _ in question.choices]
            values = np.array([answer.logprob / (answer.n_tokens if self.per_token else 1) for answer in answers])
            best = values == values.max()
            # Equally likely answers share the point; where a broken model gives NaN, no answer is best.
            scores.append(question.scores[best].sum() / max(best.sum(), 1))
        return np.array(scores, dtype=np.float64)

    def identity(self) -> str:
        parts = [super().identity(), self.per_token, [[q.answer, len(q.choices)] for q in self.questions]]
        credits = [q.credits for q in self.questions]
        return digest([*parts, credits] if any(credits) else parts)


def multiple_choice(
    source: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Any,
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
) -> MultipleChoice:
    """Multiple choice by likelihood, from a file, a list of dicts or a Hugging Face dataset.

    Parameters
    ----------
    source
        A CSV, TSV or JSON-lines file, a list of dicts, or a loaded ``datasets.Dataset``.
    name
        Name of the task; by default that of the file.
    choices
        The answers, the same for every item (for classification data sets such as GLUE, the words that stand for the
        classes, in the order of their numbers); or the field that holds the choices of each item: a list, a dict with
        ``text`` and ``label`` as in ARC, or in a table a JSON list or texts separated by ``|``. None uses the field
        ``choices``, or else the names of a dataset's class labels.
    question
        The field that the default prompt shows.
    answer
        The field of the correct answer: its index from 0, its text, or its label.
    prompt
        A format string over the fields; None shows the field ``question``. The answer follows after a space.
    image
        The field of the image, if any; paths in a file are relative to its folder.
    template
        Format of the answers; ``"{}."`` appends a full stop.
    shots
        Number of solved examples before each item, separated by blank lines. They are drawn from the other items of
        the whole source with the seed, in random order and anew for each item.
    n
        Number of items, drawn with the seed; None takes all.
    seed
        Seed of the draws.
    per_token
        Compare log-probabilities per token instead of their sum.
    encoding, delimiter
        Encoding of a file, and cell delimiter of a table; None is a comma in CSV and a tab in TSV files.

    Returns
    -------
    MultipleChoice
        An item scores 1 where the correct answer is the most likely one given the prompt; ties share the point. Chance
        is the mean of 1 / number of choices. Items are named after the source and their row or line.

    Raises
    ------
    InputError
        The file, a field or the choices do not exist; a row has an empty question, fewer than two choices, or an answer
        that is none of them; there are more shots than other items; shots are combined with images. The message names
        the row.

    References
    ----------
    Brown et al. (2020). Language models are few-shot learners. NeurIPS 33, section 2.4 and appendix G.
    Wang, Singh, Michael, Hill, Levy & Bowman (2018). GLUE: a multi-task benchmark and analysis platform for natural
    language understanding. BlackboxNLP, 353-355.

    Examples
    --------
    >>> rows = [{"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}]
    >>> multiple_choice(rows, prompt="{premise} {hypothesis} True or false?", answer="label", choices=["True", "False"])
    MultipleChoice(multiple choice, 1 items)
    """
    check_template(template)
    rows = _rows(source, encoding, delimiter)
    pattern = f"{{{question}}}" if prompt is None else prompt
    reader = _QuestionReader(rows, pattern, _fields(pattern), _choices(choices, rows, answer), answer, image, template)
    n_rows = len(rows.cells)
    selected = draw(n, n_rows, seed, rows.name)
    check_int("shots", shots, minimum=0, maximum=n_rows - 1)
    if shots and image is not None:
        raise InputError("`shots` cannot be combined with `image`: all images would come before all texts.")
    questions = []
    for index in selected:
        others = np.random.default_rng([seed, index]).permutation([i for i in range(n_rows) if i != index])[:shots]
        questions.append(reader.question(index, [reader.solved(int(i)) for i in others]))
    return MultipleChoice(name or rows.name, questions, per_token=per_token)


@dataclass(frozen=True)
class _QuestionReader:
    """Makes questions from rows."""

    rows: Rows
    pattern: str
    fields: list[str]
    choices: str | tuple[str, ...]
    answer: str
    image: str | None
    template: str

    def read(self, index: int) -> tuple[str, tuple[str, ...], int]:
        """Prompt, choices, and the index of the correct choice."""
        where, cells = self.rows.where(index), self.rows.cells[index]
        required = [*self.fields, self.answer, *([self.choices] if isinstance(self.choices, str) else [])]
        for field in required:
            if not isinstance(cells, Mapping) or cells.get(field) is None:
                present = ", ".join(map(str, cells)) if isinstance(cells, Mapping) else repr(cells)
                raise InputError(f"{where} has no {field!r}. It has: {present}.")
        for field in self.fields:
            if isinstance(cells[field], str) and not cells[field].strip():
                raise InputError(f"{where}: {field} is empty. Fill it in, or remove the row.")
        text = self.pattern.format_map(cells)
        labels: Sequence[str] = ()
        choices: Any = self.choices
        if isinstance(choices, str):
            choices, labels = _row_choices(cells[choices])
        checked = check_choices(choices, where)
        return text, checked, answer_index(cells[self.answer], checked, where, labels)

    def solved(self, index: int) -> str:
        """An item with its answer, as a solved example."""
        text, choices, correct = self.read(index)
        return f"{text}{'' if text[-1:].isspace() else ' '}{self.template.format(choices[correct])}"

    def question(self, index: int, shots: list[str]) -> MultipleChoiceQuestion:
        text, choices, correct = self.read(index)
        where = self.rows.where(index)
        picture = self._image(index, self.image) if self.image is not None else None
        item = f"{self.rows.name}:{self.rows.numbers[index]}"
        stimulus = stimulus_at(where, text=SHOT_SEPARATOR.join([*shots, text]) or None, image=picture, id=item)
        return MultipleChoiceQuestion(
            item, stimulus, tuple(self.template.format(choice) for choice in choices), correct
        )

    def _image(self, index: int, field: str) -> Any:
        cell = self.rows.cells[index].get(field)
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise InputError(f"{self.rows.where(index)} has no image in {field!r}.")
        if isinstance(cell, Mapping):  # an image of a dataset that is not decoded
            return cell.get("bytes") or cell.get("path")
        if isinstance(cell, str) and self.rows.path is not None:
            return self.rows.path.parent / cell.strip()
        return cell


def _rows(source: Any, encoding: str, delimiter: str | None) -> Rows:
    if isinstance(source, str | os.PathLike):
        return read_rows(Path(source), encoding, delimiter)
    if isinstance(source, Mapping):
        raise InputError(f"`source` is a dict of {', '.join(map(str, source))}; pass one of its splits.")
    features = getattr(source, "features", None)
    if features is not None and not hasattr(source, "__len__"):
        source = list(source)  # a stream
    elif features is None and not isinstance(source, list | tuple):
        raise InputError(
            f"`source` must be a file, a list of dicts or a datasets.Dataset, got a {type(source).__name__}."
        )
    if len(source) == 0:
        raise InputError("`source` is empty; at least one question is needed.")
    return Rows("multiple choice", source, range(len(source)), features=features)


def _fields(pattern: str) -> list[str]:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(pattern) if field is not None]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"`prompt` must be a format string such as '{{question}}', got {pattern!r}: {error}."
        ) from error
    bad = [field for field in fields if not field or not set(field).isdisjoint(".[")]
    if bad or not fields:
        raise InputError(f"`prompt` must name fields, as in '{{question}}', got {pattern!r}.")
    return fields


def _choices(choices: str | Sequence[str] | None, rows: Rows, answer: str) -> str | tuple[str, ...]:
    """The choices of all items, or the field that holds the choices of each item."""
    if choices is None:
        first = rows.cells[0]
        names = getattr((rows.features or {}).get(answer), "names", None)
        if names is None or (isinstance(first, Mapping) and "choices" in first):
            return "choices"
        choices = names
    return choices if isinstance(choices, str) else check_choices(choices, f"{rows.name}: choices")


def _row_choices(cell: Any) -> tuple[Any, Sequence[str]]:
    """The choices of a row, and their labels where it has labels."""
    if isinstance(cell, Mapping):
        return cell.get("text"), [str(label) for label in cell.get("label", ())]
    if not isinstance(cell, str):
        return cell, ()
    try:
        listed = json.loads(cell)
    except ValueError:
        listed = None
    return (listed if isinstance(listed, list) else cell.split("|")), ()
