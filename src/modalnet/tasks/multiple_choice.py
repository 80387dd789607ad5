"""Multiple choice by likelihood: which of some answers does the model find the likeliest?

No answer has to be parsed, so the measure works for a model that does not follow instructions, and for one under a
lesion that no longer would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.execution.likelihood import Likelihood, Request
from modalnet.stimuli import Contrast, Stimulus
from modalnet.stimuli.readers import stimulus_at
from modalnet.tasks.base import LikelihoodTask, digest
from modalnet.tasks.requests import after, listed_stimuli, unique

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Question:
    """A stimulus with some answers.

    Attributes
    ----------
    id
        What the item is called.
    stimulus
        The question: a text, an image or both.
    choices
        At least two answers, all different, as they are written after the question and a space.
    answer
        Which of them is right, counted from 0.
    """

    id: str
    stimulus: Stimulus
    choices: tuple[str, ...]
    answer: int


class Choices(LikelihoodTask):
    """Questions whose likeliest answer is taken for the model's. Made by the functions of this room.

    Parameters
    ----------
    name
        Of the task.
    questions
        The items.
    per_token
        Compare log-probabilities per token instead of summed ones, which are lower for longer answers.
    """

    def __init__(self, name: str, questions: Sequence[Question], *, per_token: bool = False) -> None:
        self.name = name
        self.questions = tuple(questions)
        self.per_token = per_token
        self.chance = float(np.mean([1 / len(question.choices) for question in questions]))
        self._items = unique([question.id for question in questions])

    @property
    def items(self) -> tuple[str, ...]:
        return self._items

    def requests(self) -> list[Request]:
        return [after(question.stimulus, choice) for question in self.questions for choice in question.choices]

    def grade(self, likelihoods: Sequence[Likelihood]) -> Float[np.ndarray, " item"]:
        answers = iter(likelihoods)
        scores = []
        for question in self.questions:
            own = [next(answers) for _ in question.choices]
            values = np.array([one.logprob / (one.n_tokens if self.per_token else 1) for one in own])
            best = values == values.max()
            # Answers that are equally likely share the point; where a broken model gives NaN, none is best.
            scores.append(best[question.answer] / max(best.sum(), 1))
        return np.array(scores, dtype=np.float64)

    def identity(self) -> str:
        return digest([super().identity(), self.per_token, [[q.answer, len(q.choices)] for q in self.questions]])


def visual_questions(
    items: Sequence[tuple[Any, str, Sequence[str], int | str]],
    *,
    name: str = "visual questions",
    template: str = "{}",
    per_token: bool = False,
) -> Choices:
    """Questions about pictures, answered by likelihood.

    Parameters
    ----------
    items
        (image, question, choices, answer) of each: an image as for :class:`modalnet.Stimulus`, at least two answers,
        and the right one or its index. An image of None leaves the question alone.
    name
        Of the task.
    template
        How an answer is written: ``"{}."`` ends it with a full stop.
    per_token
        Compare log-probabilities per token instead of summed ones.

    Returns
    -------
    Choices
        An item scores 1 where the right answer is the likeliest, summed over its tokens (Brown et al. 2020); answers
        that tie share the point. Chance is the mean of 1 / the number of choices.

    Raises
    ------
    InputError
        No items; an item that is no such four; a question without text; an image that cannot be used; fewer than two
        choices, equal ones, an answer that is none of them. The message names the item.

    References
    ----------
    Antol, Agrawal, Lu, Mitchell, Batra, Zitnick & Parikh (2015). VQA: visual question answering. ICCV, 2425-2433.
    Brown et al. (2020). Language models are few-shot learners. NeurIPS 33, section 2.4.
    """
    check_template(template)
    if not isinstance(items, list | tuple) or not items:
        raise InputError("Visual questions are a list of (image, question, choices, answer), and not an empty one.")
    made = []
    for index, item in enumerate(items):
        where = f"{name}, item {index}"
        if not isinstance(item, list | tuple) or len(item) != 4:
            raise InputError(f"{where} is (image, question, choices, answer); this is a {type(item).__name__}.")
        image, text, given, answer = item
        choices = check_choices(given, where)
        stimulus = stimulus_at(where, text=text, image=image, id=str(index))
        right = which(answer, choices, where)
        made.append(Question(str(index), stimulus, tuple(template.format(choice) for choice in choices), right))
    return Choices(name, made, per_token=per_token)


def naming(
    source: Contrast | Sequence[Stimulus],
    *,
    question: str | None = "what is it?",
    names: Mapping[str, str] | Sequence[str] | None = None,
    template: str = "{}",
    name: str = "naming",
    per_token: bool = False,
) -> Choices:
    """Naming pictures: is the right name the likeliest of all names?

    Parameters
    ----------
    source
        A contrast or a list of stimuli, each with an image and a condition.
    question
        What is asked, the same of each picture; None keeps the stimuli's own texts.
    names
        What the conditions are called; or a list of names, the conditions among them, to add others that are never
        right. None: the conditions are the names.
    template
        How a name is written: ``"a {}."``.
    name
        Of the task.
    per_token
        Compare log-probabilities per token instead of summed ones.

    Returns
    -------
    Choices
        Scored as in :func:`visual_questions`; items are called after the stimuli.

    Raises
    ------
    InputError
        No stimuli; one without image or condition; a condition without name; fewer than two names.

    References
    ----------
    Snodgrass & Vanderwart (1980). A standardized set of 260 pictures: norms for name agreement, image agreement,
    familiarity, and visual complexity. Journal of Experimental Psychology: Human Learning and Memory 6, 174-215.
    Brown et al. (2020). Language models are few-shot learners. NeurIPS 33, section 2.4.
    """
    check_template(template)
    stimuli = listed_stimuli(source, "naming")
    conditions = []
    for stimulus in stimuli:
        if not stimulus.n_images:
            raise InputError(f"Stimulus {stimulus.label} has no image; naming is of pictures.")
        if stimulus.condition is None:
            raise InputError(f"Stimulus {stimulus.label} has no condition, which would be its name.")
        conditions.append(stimulus.condition)
    called = _called(names, list(dict.fromkeys(conditions)))
    given = list(names) if isinstance(names, list | tuple) else list(called.values())
    choices = check_choices(list(dict.fromkeys(given)), "naming: the names")
    written = tuple(template.format(choice) for choice in choices)
    made = []
    for index, (stimulus, condition) in enumerate(zip(stimuli, conditions, strict=True)):
        item = stimulus.id or str(index)
        asked = Stimulus(question or stimulus.text, image=stimulus.image, id=item)
        made.append(Question(item, asked, written, choices.index(called[condition].strip())))
    return Choices(name, made, per_token=per_token)


def check_template(template: Any, argument: str = "template") -> None:
    """A template has one place to fill."""
    try:
        fits = "\x00" in template.format("\x00")
    except (AttributeError, IndexError, KeyError, ValueError):
        fits = False
    if not fits:
        raise InputError(f"{argument} has one place to fill, {{}}, as in 'a {{}}.'; this is {template!r}.")


def check_choices(given: Any, where: str) -> tuple[str, ...]:
    """At least two texts, none empty and all different, without surrounding spaces."""
    if not isinstance(given, list | tuple | np.ndarray):
        raise InputError(f"{where}: the choices are a list of texts; this is {repr(given)[:80]}.")
    for choice in given:
        if not isinstance(choice, str) or not choice.strip():
            raise InputError(f"{where}: a choice is a text that is not empty; this is {choice!r}.")
    choices = tuple(choice.strip() for choice in given)
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise InputError(f"{where}: there are at least two choices, all different; these are {list(choices)}.")
    return choices


def which(answer: Any, choices: Sequence[str], where: str, labels: Sequence[str] = ()) -> int:
    """The index of the right choice, given as such, as the choice itself, or as its label."""
    index: Any = None
    if isinstance(answer, str):
        text = answer.strip()
        if text in choices:
            return list(choices).index(text)
        if text in labels:
            return list(labels).index(text)
        index = int(text) if text.isdecimal() else None
    elif isinstance(answer, int | np.integer | np.bool_) or (isinstance(answer, float) and answer.is_integer()):
        index = int(answer)
    if index is None or not 0 <= index < len(choices):
        hint = " (-1 marks a split without answers)" if index == -1 else ""
        raise InputError(
            f"{where}: the answer is one of {list(choices)}, or its index counted from 0; this is {answer!r}{hint}."
        )
    return index


def _called(names: Any, conditions: list[str]) -> dict[str, str]:
    """Condition → name."""
    called = {condition: condition for condition in conditions}
    if isinstance(names, Mapping):
        called = dict(names)
    elif names is not None and not isinstance(names, list | tuple):
        raise InputError(f"names is a list, or a dict from conditions to names; this is a {type(names).__name__}.")
    known = called if not isinstance(names, list | tuple) else names
    missing = [condition for condition in conditions if condition not in known]
    if missing:
        raise InputError(f"Conditions without a name: {', '.join(missing)}. There are: {', '.join(map(str, known))}.")
    bad = [name for name in called.values() if not isinstance(name, str) or not name.strip()]
    if bad:
        raise InputError(f"A name is a text that is not empty; this is {bad[0]!r}.")
    return called
