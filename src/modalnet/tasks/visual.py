"""Questions about pictures and naming of pictures, answered by likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.stimuli.conversion import as_stimuli
from modalnet.stimuli.readers import stimulus_at
from modalnet.stimuli.stimulus import Stimulus
from modalnet.tasks.choices import answer_index, check_choices, check_template
from modalnet.tasks.multiple_choice import MultipleChoice, MultipleChoiceQuestion

if TYPE_CHECKING:
    from modalnet.stimuli.contrast import Contrast
    from modalnet.stimuli.images import ImageLike


def visual_questions(
    items: Sequence[tuple[ImageLike | None, str, Sequence[str], int | str]],
    *,
    name: str = "visual questions",
    template: str = "{}",
    per_token: bool = False,
) -> MultipleChoice:
    """Questions about pictures, answered by likelihood.

    Parameters
    ----------
    items
        (image, question, choices, answer) per item: an image as for :class:`modalnet.Stimulus`, at least two choices,
        and the correct one or its index from 0. With image None, the question is asked without a picture.
    name
        Name of the task.
    template
        Format of the answers; ``"{}."`` appends a full stop.
    per_token
        Compare log-probabilities per token instead of their sum.

    Returns
    -------
    MultipleChoice
        An item scores 1 where the correct answer has the highest log-probability, summed over its tokens (Brown et al.
        2020); ties share the point. Chance is the mean of 1 / number of choices.

    Raises
    ------
    InputError
        There are no items; an item is not (image, question, choices, answer); a question is empty; an image cannot be
        used; there are fewer than two choices, equal ones, or the answer is none of them. The message names the item.

    References
    ----------
    Antol, Agrawal, Lu, Mitchell, Batra, Zitnick & Parikh (2015). VQA: visual question answering. ICCV, 2425-2433.
    Brown et al. (2020). Language models are few-shot learners. NeurIPS 33, section 2.4.
    """
    check_template(template)
    if not isinstance(items, list | tuple) or not items:
        raise InputError("`items` must be a non-empty list of (image, question, choices, answer).")
    questions = []
    for index, item in enumerate(items):
        where = f"{name}, item {index}"
        if not isinstance(item, list | tuple) or len(item) != 4:
            raise InputError(f"{where} must be (image, question, choices, answer), got a {type(item).__name__}.")
        image, text, choices, answer = item
        checked = check_choices(choices, where)
        stimulus = stimulus_at(where, text=text, image=image, id=str(index))
        correct = answer_index(answer, checked, where)
        written = tuple(template.format(choice) for choice in checked)
        questions.append(MultipleChoiceQuestion(str(index), stimulus, written, correct))
    return MultipleChoice(name, questions, per_token=per_token)


def naming(
    source: Contrast | Sequence[Stimulus],
    *,
    question: str | None = "what is it?",
    names: Mapping[str, str] | Sequence[str] | None = None,
    template: str = "{}",
    name: str = "naming",
    per_token: bool = False,
) -> MultipleChoice:
    """Naming of pictures: the choices are the names of all conditions.

    Parameters
    ----------
    source
        A contrast or a list of stimuli, each with an image and a condition.
    question
        The question, the same for every picture; None keeps the stimuli's own texts.
    names
        Condition -> name; or a list of names that includes the conditions and may add distractors. None uses the
        conditions as names.
    template
        Format of the names, such as ``"a {}."``.
    name
        Name of the task.
    per_token
        Compare log-probabilities per token instead of their sum.

    Returns
    -------
    MultipleChoice
        Scored as in :func:`visual_questions`; items are named after the stimuli.

    Raises
    ------
    InputError
        There are no stimuli; one has no image or no condition; a condition has no name; there are fewer than two names.

    References
    ----------
    Snodgrass & Vanderwart (1980). A standardized set of 260 pictures: norms for name agreement, image agreement,
    familiarity, and visual complexity. Journal of Experimental Psychology: Human Learning and Memory 6, 174-215.
    Brown et al. (2020). Language models are few-shot learners. NeurIPS 33, section 2.4.
    """
    check_template(template)
    stimuli = as_stimuli(source, "source")
    conditions = []
    for stimulus in stimuli:
        if not stimulus.n_images:
            raise InputError(f"Stimulus {stimulus.label} has no image; the naming task needs one.")
        if stimulus.condition is None:
            raise InputError(f"Stimulus {stimulus.label} has no condition; the naming task uses it as the name.")
        conditions.append(stimulus.condition)
    name_of = _names(names, list(dict.fromkeys(conditions)))
    all_names = list(names) if isinstance(names, list | tuple) else list(name_of.values())
    choices = check_choices(list(dict.fromkeys(all_names)), "`names`")
    written = tuple(template.format(choice) for choice in choices)
    questions = []
    for index, (stimulus, condition) in enumerate(zip(stimuli, conditions, strict=True)):
        item = stimulus.id or str(index)
        prompt = replace(stimulus, text=question or stimulus.text, condition=None, id=item, item=None)
        correct = choices.index(name_of[condition].strip())
        questions.append(MultipleChoiceQuestion(item, prompt, written, correct))
    return MultipleChoice(name, questions, per_token=per_token)


def _names(names: Any, conditions: list[str]) -> dict[str, str]:
    """Condition -> name."""
    name_of = {condition: condition for condition in conditions}
    if isinstance(names, Mapping):
        name_of = dict(names)
    elif names is not None and not isinstance(names, list | tuple):
        raise InputError(f"`names` must be a list, or a dict from conditions to names, got a {type(names).__name__}.")
    known = names if isinstance(names, list | tuple) else name_of
    missing = [condition for condition in conditions if condition not in known]
    if missing:
        raise InputError(f"`names` lacks the conditions {', '.join(missing)}; it has {', '.join(map(str, known))}.")
    for value in name_of.values():
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"`names` must hold non-empty strings, got {value!r}.")
    return name_of
