"""Reasoning tasks from bundled texts: theory of mind, and arithmetic."""

from __future__ import annotations

from typing import Literal

import numpy as np

from modalnet._validation import check_int, check_option, check_seed
from modalnet.errors import InputError
from modalnet.stimuli.package_data import data_rows
from modalnet.stimuli.rows import draw
from modalnet.stimuli.stimulus import Stimulus
from modalnet.tasks.choices import check_template
from modalnet.tasks.multiple_choice import MultipleChoice, MultipleChoiceQuestion

STORY = "{story}\nTrue or false: {statement}\nAnswer:"
NEAR = (1, -1, 2, -2, 10, -10)
N_DISTRACTORS = 3


def theory_of_mind(
    stories: Literal["belief", "photo"] = "belief", *, prompt: str = STORY, n: int | None = None, seed: int = 0
) -> MultipleChoice:
    """Judge whether a statement about a story is true or false.

    Parameters
    ----------
    stories
        ``"belief"``: a person in the story is unaware of a change. ``"photo"``: a picture or list is out of date, a
        control that requires the same inference without a mind.
    prompt
        Format string that combines ``{story}`` and ``{statement}``.
    n
        Number of items out of 24, drawn with the seed; None takes all.
    seed
        Seed of the draw.

    Returns
    -------
    MultipleChoice
        Between "True" and "False". The stories are those of :func:`modalnet.stimuli.theory_of_mind`: 15 of 24
        statements are about the belief or picture and 9 about the world; 12 are true and 12 false, so a model that
        always gives the same answer scores at chance, 0.5. Item ``belief-007`` is paired with ``photo-007``.

    Raises
    ------
    InputError
        An option is unknown, the prompt has other fields, or ``n`` is out of range.

    References
    ----------
    Saxe & Kanwisher (2003). People thinking about thinking people: the role of the temporo-parietal junction in
    "theory of mind". NeuroImage 19, 1835-1842.
    Dodell-Feder, Koster-Hale, Bedny & Saxe (2011). fMRI item analysis in a theory of mind task. NeuroImage 55,
    705-712.
    """
    check_option("stories", stories, ("belief", "photo"))
    rows = [row for row in data_rows("stories.tsv") if row["condition"] == stories]
    try:
        texts = [prompt.format(story=row["story"], statement=row["statement"]) for row in rows]
    except (AttributeError, LookupError, ValueError) as error:
        raise InputError(f"`prompt` must combine {{story}} and {{statement}}, got {prompt!r}.") from error
    if not all(row["story"] in text and row["statement"] in text for row, text in zip(rows, texts, strict=True)):
        raise InputError(f"`prompt` must contain {{story}} and {{statement}}, got {prompt!r}.")
    answers = ("True", "False")
    questions = []
    # The source has one name for both kinds of stories, so that both draw the same pairs.
    for i in draw(n, len(rows), seed, "the stories"):
        item = f"{stories}-{i + 1:03d}"
        questions.append(
            MultipleChoiceQuestion(item, Stimulus(texts[i], id=item), answers, answers.index(rows[i]["answer"]))
        )
    return MultipleChoice("theory of mind" if stories == "belief" else "false photographs", questions)


def arithmetic(n: int = 200, seed: int = 0, *, prompt: str = "{}", template: str = "{}.") -> MultipleChoice:
    """Sums and differences in words, among close distractors.

    Parameters
    ----------
    n
        Number of items.
    seed
        Seed of the draw.
    prompt
        Format of the question, such as ``"Question: {}\\nAnswer:"``.
    template
        Format of the answers. The full stop is needed: "forty" would otherwise be a prefix of "forty two".

    Returns
    -------
    MultipleChoice
        Items such as "what is seven plus five?", with terms up to 50 and results up to 99, none of which occurred in
        the training of the bundled model. The three distractors differ from the correct result by one, two or ten.
        Chance is 0.25.

    Raises
    ------
    InputError
        ``n`` is not a positive integer, ``seed`` is not a non-negative integer, or ``prompt`` or ``template`` has no
        ``{}``.

    References
    ----------
    Brown et al. (2020). Language models are few-shot learners. NeurIPS 33, section 3.9.1 (arithmetic) and 2.4 (choice
    by likelihood).
    """
    from modalnet.bundled.arithmetic import in_words, sum_item

    check_template(template)
    check_template(prompt, "prompt")
    check_int("n", n, minimum=1)
    check_seed(seed)
    number = {in_words(value): value for value in range(100)}
    rng = np.random.default_rng([seed, 4])
    questions = []
    for index in range(n):
        text, correct = sum_item(rng, test=True)
        near = [number[correct] + step for step in NEAR if number[correct] + step in number.values()]
        distractors = [in_words(int(value)) for value in rng.permutation(near)[:N_DISTRACTORS]]
        choices = [correct, *distractors]
        order = rng.permutation(len(choices))
        written = tuple(template.format(choices[i]) for i in order)
        stimulus = Stimulus(prompt.format(text))
        questions.append(MultipleChoiceQuestion(f"sum-{index:03d}", stimulus, written, int(np.argmin(order))))
    return MultipleChoice("arithmetic", questions)
