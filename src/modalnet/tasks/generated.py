"""Multiple-choice questions answered by generated text, from which the answer is read by a stated rule."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from modalnet._validation import check_int, check_option
from modalnet.errors import InputError
from modalnet.stimuli.stimulus import Stimulus
from modalnet.tasks.base import GenerationTask, digest
from modalnet.tasks.multiple_choice import MultipleChoice, MultipleChoiceQuestion
from modalnet.tasks.parsing import RULES, Rule, labels, name_themselves, parse_choice, plain, single_letters

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class GeneratedChoice(GenerationTask):
    """Questions of a multiple-choice task, answered by generated text. Made by :func:`generated`.

    Attributes
    ----------
    questions
        The questions, whose stimuli are the prompts.
    parse
        The rule by which answers are read.
    """

    def __init__(self, task: MultipleChoice, prompts: Sequence[Stimulus], parse: Rule, max_new_tokens: int) -> None:
        self.name = f"{task.name} (generated)"
        self.chance = task.chance
        self.max_new_tokens = max_new_tokens
        self.questions = task.questions
        self.parse: Rule = parse
        self._prompts = tuple(prompts)
        self._items = task.items
        self._groups = task.groups

    @property
    def items(self) -> tuple[str, ...]:
        return self._items

    @property
    def groups(self) -> dict[str, str] | None:
        return self._groups

    def stimuli(self) -> Sequence[Stimulus]:
        return self._prompts

    def chosen(self, texts: Sequence[str]) -> list[int | None]:
        """Index of the choice that each generated text gives; None where none can be read."""
        pairs = zip(texts, self.questions, strict=True)
        return [parse_choice(text, question.choices, self.parse) for text, question in pairs]

    def grade(self, texts: Sequence[str]) -> Float[np.ndarray, " item"]:
        pairs = zip(self.chosen(texts), self.questions, strict=True)
        return np.array([0.0 if choice is None else question.scores[choice] for choice, question in pairs])

    def unparsed(self, texts: Sequence[str]) -> Bool[np.ndarray, " item"]:
        return np.array([choice is None for choice in self.chosen(texts)])

    def identity(self) -> str:
        questions = [[list(question.choices), question.scores.tolist()] for question in self.questions]
        return digest([super().identity(), self.parse, questions])


def generated(
    task: MultipleChoice, *, parse: Rule = "first", max_new_tokens: int = 32, prompt: str | None = None
) -> GeneratedChoice:
    """Ask the questions of a multiple-choice task and read the answers from greedily generated text.

    Likelihoods of choices (:meth:`MultipleChoice.run <modalnet.tasks.Task.run>`) always give an answer. Generated text
    is what users see and what published lesion studies score, and it can hold none: such an item scores 0, and is
    counted in :attr:`TaskScores.unparsed`, since a loss of the format is not a loss of the ability.

    Parameters
    ----------
    task
        The questions, with their choices: any task made by :func:`multiple_choice`, :func:`visual_questions`,
        :func:`lexical_decision` and so on.
    parse
        The rule by which a text is read; no other rule is tried where it finds no answer.

        ============  =================================================================================================
        ``"first"``   the choice that occurs first, as whole words in either case. Negation is not understood: "not
                      real" names "real"
        ``"exact"``   the first line is a choice, in either case, but for a final full stop
        ``"letter"``  the first letter of a choice (A, B, …, or the choices themselves where these are letters) before
                      a parenthesis, full stop, comma, colon or the end of a line; the article in "A dog" is none
        ``"digit"``   the first digit from 1 to the number of choices that stands alone
        ============  =================================================================================================
    max_new_tokens
        Maximum length of an answer in tokens.
    prompt
        Format string over ``{question}`` and ``{choices}``, such as ``"{question}\\n{choices}\\nAnswer:"``. With
        ``parse="letter"`` or ``"digit"``, ``{choices}`` lists them in lines such as "A. red" or "1. red"; otherwise as
        "red, blue or green". None asks the question as it is in the task.

    Returns
    -------
    GeneratedChoice
        Items, groups and scores of the choices are those of `task`. Chance is that of guessing among the choices; a
        model whose text cannot be parsed scores less.

    Raises
    ------
    InputError
        `task` is not a multiple-choice task; ``parse`` is unknown, or does not fit the choices: ``"first"`` with single
        letters, of which "a" is an article, more choices than letters or digits, or letters and digits that neither
        the choices nor ``{choices}`` in `prompt` show; ``prompt`` has other fields, or the question has no text.

    Examples
    --------
    >>> rows = [{"question": "What colour is snow?", "choices": ["white", "green"], "answer": 0}]
    >>> task = mn.tasks.generated(mn.tasks.multiple_choice(rows), prompt="{question} {choices}?")
    >>> task.stimuli()[0].text
    'What colour is snow? white or green?'
    >>> task.grade(["It is white."]), task.unparsed(["I do not know."])
    (array([1.]), array([ True]))
    """
    if not isinstance(task, MultipleChoice):
        raise InputError(
            "`task` must be a multiple-choice task, such as mn.tasks.multiple_choice(...), got a "
            f"{type(task).__name__}."
        )
    check_option("parse", parse, RULES)
    check_int("max_new_tokens", max_new_tokens, minimum=1)
    shows = _checked_prompt(prompt)
    for item, question in zip(task.items, task.questions, strict=True):
        _check_rule(parse, question, item, shows)
    return GeneratedChoice(
        task, [_asked(question, prompt, parse) for question in task.questions], parse, max_new_tokens
    )


def _check_rule(parse: Rule, question: MultipleChoiceQuestion, item: str, shows_choices: bool) -> None:
    """Raise an InputError where a rule cannot tell the choices of a question apart."""
    choices, where = question.choices, f"`parse={parse!r}` does not fit item {item!r}, whose choices are"
    shown = f"{where} {list(choices)}"
    known = shows_choices or name_themselves(choices, parse)
    if parse == "letter" and not single_letters(choices):
        if len(choices) > len(string.ascii_uppercase):
            raise InputError(f"{where} more than there are letters: {len(choices)}.")
        if not known:
            raise InputError(f"{shown}: put {{choices}} into `prompt`, which lists them with letters.")
    elif parse == "digit":
        if len(choices) > 9:
            raise InputError(f"{where} more than there are digits: {len(choices)}.")
        if not known:
            raise InputError(f"{shown}: put {{choices}} into `prompt`, which lists them with digits.")
    elif parse == "first" and single_letters(choices):
        raise InputError(f"{shown}: a letter can be a word, such as an article; use parse='letter' or 'exact'.")
    names = [choice.lower() for choice in choices] if parse == "letter" else list(map(plain, choices))
    if len(set(names)) < len(names):
        raise InputError(f"{shown}: two are equal in lower case and without a full stop.")


def _checked_prompt(prompt: object) -> bool:
    """Validate a prompt, and tell whether it shows the choices."""
    if prompt is None:
        return False
    try:
        filled = prompt.format(question="\x00q", choices="\x00c") if isinstance(prompt, str) else ""
    except (LookupError, ValueError):
        filled = ""
    if "\x00q" not in filled:
        raise InputError(
            f"`prompt` must be a format string with {{question}}, and {{choices}} if wanted, got {prompt!r}."
        )
    return "\x00c" in filled


def _asked(question: MultipleChoiceQuestion, prompt: str | None, parse: Rule) -> Stimulus:
    stimulus = question.stimulus
    if prompt is None:
        return stimulus
    if stimulus.text is None:
        raise InputError(f"Question {question.id!r} has no text, so `prompt` has no {{question}} to show; use None.")
    text = prompt.format(question=stimulus.text, choices=_listed(question.choices, parse))
    return replace(stimulus, text=text, condition=None, item=None)


def _listed(choices: Sequence[str], parse: Rule) -> str:
    names = [choice.strip().removesuffix(".") for choice in choices]
    if parse in ("letter", "digit"):
        return "\n".join(f"{label}. {name}" for label, name in zip(labels(choices, parse), names, strict=True))
    return f"{', '.join(names[:-1])} or {names[-1]}"
