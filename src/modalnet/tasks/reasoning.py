"""Thinking about other minds, and sums: questions from the package's own texts."""

from __future__ import annotations

from typing import Literal

import numpy as np

from modalnet.errors import InputError
from modalnet.stimuli import Stimulus
from modalnet.stimuli.bundled import data_rows
from modalnet.tasks.multiple_choice import Choices, Question, check_template
from modalnet.tasks.rows import draw

STORY = "{story}\nTrue or false: {statement}\nAnswer:"
NEAR = (1, -1, 2, -2, 10, -10)
WRONG = 3


def theory_of_mind(
    stories: Literal["belief", "photo"] = "belief", *, prompt: str = STORY, n: int | None = None, seed: int = 0
) -> Choices:
    """Is the statement about a story true or false?

    Parameters
    ----------
    stories
        ``"belief"``: a person in the story has missed what happened. ``"photo"``: a picture or list has, which asks
        for the same without a mind, as a control.
    prompt
        How ``{story}`` and ``{statement}`` are put together.
    n
        Take so many of the 24, drawn with the seed; None takes all.
    seed
        Of the draw.

    Returns
    -------
    Choices
        Between "True" and "False". The stories are those of :func:`modalnet.stimuli.theory_of_mind`: 15 of 24
        statements are about the belief or picture and 9 about the world, 12 true and 12 false, so a model that always
        says one of the two is at chance, 0.5. Item ``belief-007`` is the pair of ``photo-007``.

    Raises
    ------
    InputError
        Other stories; a prompt with other fields; ``n`` out of range.

    References
    ----------
    Saxe & Kanwisher (2003). People thinking about thinking people: the role of the temporo-parietal junction in
    "theory of mind". NeuroImage 19, 1835-1842.
    Dodell-Feder, Koster-Hale, Bedny & Saxe (2011). fMRI item analysis in a theory of mind task. NeuroImage 55,
    705-712.
    """
    if stories not in ("belief", "photo"):
        raise InputError(f"stories is 'belief' or 'photo'; this is {stories!r}.")
    rows = [row for row in data_rows("stories.tsv") if row["condition"] == stories]
    try:
        texts = [prompt.format(story=row["story"], statement=row["statement"]) for row in rows]
    except (AttributeError, LookupError, ValueError) as error:
        raise InputError(f"prompt puts {{story}} and {{statement}} together; this is {prompt!r}.") from error
    if not all(row["story"] in text and row["statement"] in text for row, text in zip(rows, texts, strict=True)):
        raise InputError(f"prompt shows both {{story}} and {{statement}}; this is {prompt!r}.")
    answers = ("True", "False")
    # The same pairs are drawn of both kinds of stories.
    chosen = draw(n, len(rows), seed, "the stories")
    made = []
    for i in chosen:
        item = f"{stories}-{i + 1:03d}"
        made.append(Question(item, Stimulus(texts[i], id=item), answers, answers.index(rows[i]["answer"])))
    return Choices("theory of mind" if stories == "belief" else "false photographs", made)


def arithmetic(n: int = 200, seed: int = 0, *, prompt: str = "{}", template: str = "{}.") -> Choices:
    """Sums and differences in words, among near wrong results.

    Parameters
    ----------
    n
        How many.
    seed
        Of the draw.
    prompt
        How the question is written: ``"Question: {}\\nAnswer:"``.
    template
        How an answer is written. The full stop belongs to it, or "forty" would be the beginning of "forty two".

    Returns
    -------
    Choices
        Items such as "what is seven plus five?", of terms to fifty and results to ninety-nine, none of them shown to
        the bundled model in its training. Beside the right result stand three wrong ones, one, two or ten away. Chance
        is 0.25.

    Raises
    ------
    InputError
        ``n`` below 1; a seed below 0; a prompt or template without ``{}``.

    References
    ----------
    Brown et al. (2020). Language models are few-shot learners. NeurIPS 33, section 3.9.1 (arithmetic) and 2.4 (choice
    by likelihood).
    """
    from modalnet.bundled.arithmetic import in_words, sum_item

    check_template(template)
    check_template(prompt, "prompt")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"n is how many sums, from 1 on; this is {n!r}.")
    draw(None, n, seed, "sums")  # checks the seed
    number = {in_words(value): value for value in range(100)}
    rng = np.random.default_rng([seed, 4])
    made = []
    for index in range(n):
        text, right = sum_item(rng, test=True)
        near = [number[right] + step for step in NEAR if number[right] + step in number.values()]
        wrong = [in_words(int(value)) for value in rng.permutation(near)[:WRONG]]
        choices = [right, *wrong]
        order = rng.permutation(len(choices))
        written = tuple(template.format(choices[i]) for i in order)
        made.append(Question(f"sum-{index:03d}", Stimulus(prompt.format(text)), written, int(np.argmin(order))))
    return Choices("arithmetic", made)
