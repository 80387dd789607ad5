"""Questions after a sentence that announces a reward, money, or nothing: what an incentive changes in a model."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from modalnet._validation import check_int, check_option, check_seed
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.package_data import data_rows
from modalnet.stimuli.stimulus import Stimulus

Domain: TypeAlias = Literal["arithmetic", "geography"]
Incentive: TypeAlias = Literal["reward", "money", "neutral_other"]

MOST_QUESTIONS = 200
LARGEST = {"plus": 99, "minus": 99, "times": 19}
SMALLEST = {"plus": 11, "minus": 11, "times": 3}
# Four wordings of ten words each. Wording i stands before the same questions in every condition.
PREFIXES = {
    "neutral": (
        "This is the next question from a list of questions.",
        "You can now read one question and give your answer.",
        "The question that you find below is one of several.",
        "Here you have a question that comes from a textbook.",
    ),
    "neutral_other": (
        "The text that follows has been printed in black ink.",
        "Below this line you will find one question to answer.",
        "What you read next is a question in simple English.",
        "You see one more question of this kind down here.",
    ),
    "reward": (
        "A correct answer to this question earns you a reward.",
        "You will receive a special prize if you are right.",
        "Answer this one correctly and you win a great prize.",
        "There is a special reward for the right answer here.",
    ),
    "money": (
        "A correct answer to this question pays you ten dollars.",
        "You will be given cash payments if you are right.",
        "Answer this one right and you get one hundred dollars.",
        "We pay ten dollars in cash for the right answer.",
    ),
}


def incentives(
    n: int = 100, *, domain: Domain = "arithmetic", positive: Incentive = "reward", seed: int = 0
) -> Contrast:
    """Questions with an incentive > the same questions after a neutral sentence.

    One sentence of ten words stands before each question. On the negative side it is neutral; on the positive side it
    promises a reward or money, or is another neutral one, which is the control for the wording::

        A correct answer to this question earns you a reward. What is 47 plus 38?
        This is the next question from a list of questions. What is 47 plus 38?

    There are four wordings of each, in turn, so that no single word distinguishes the sides. The text that is read last
    is the same on both sides. The design is that of a localizer of reward in language models; the sentences and
    questions are this package's own.

    Parameters
    ----------
    n
        Number of questions, 2 to 200. Question *i* does not depend on ``n``.
    domain
        ``"arithmetic"``: sums, differences and products of two numbers. ``"geography"``: capitals of countries.
    positive
        What the positive side announces: ``"reward"``, ``"money"`` or ``"neutral_other"``.
    seed
        Seed of the draw of questions. The questions do not depend on `positive`, so that units can be required to
        respond in several contrasts.

    Returns
    -------
    Contrast
        Conditions `positive` and ``neutral``; ids ``"reward-001"``, …. The two versions of a question are one item, so
        that :func:`modalnet.localize` tests them as pairs.

    Raises
    ------
    InputError
        ``n`` is out of range, an option is unknown, or ``seed`` is not a non-negative integer.

    References
    ----------
    Knutson, Adams, Fong & Hommer (2001). Anticipation of increasing monetary reward selectively recruits nucleus
    accumbens. Journal of Neuroscience 21, RC159, for incentive against no incentive before the same task.
    """
    check_int("n", n, minimum=2, maximum=MOST_QUESTIONS)
    check_option("domain", domain, ("arithmetic", "geography"))
    check_option("positive", positive, tuple(name for name in PREFIXES if name != "neutral"))
    rng = np.random.default_rng([check_seed(seed), 7])
    questions = (_arithmetic(rng) if domain == "arithmetic" else _geography(rng))[:n]
    stimuli = [
        Stimulus(
            f"{PREFIXES[condition][index % len(PREFIXES[condition])]} {question}",
            condition=condition,
            id=f"{condition}-{index + 1:03d}",
            item=f"{index + 1:03d}",
        )
        for condition in (positive, "neutral")
        for index, question in enumerate(questions)
    ]
    return Contrast(stimuli, positive, "neutral")


def _arithmetic(rng: np.random.Generator) -> list[str]:
    """Different questions, the three operations in turn."""
    questions: dict[str, None] = {}
    while len(questions) < MOST_QUESTIONS:
        sign = list(LARGEST)[len(questions) % len(LARGEST)]
        first, second = sorted(rng.integers(SMALLEST[sign], LARGEST[sign] + 1, size=2).tolist(), reverse=True)
        if first != second:
            questions[f"What is {first} {sign} {second}?"] = None
    return list(questions)


def _geography(rng: np.random.Generator) -> list[str]:
    """One question about every country in random order, and then the other one."""
    rows = data_rows("capitals.tsv")
    order = rng.permutation(len(rows)).tolist()
    questions = []
    for turn in range(2):
        for place, index in enumerate(order):
            country, capital = rows[index]["country"], rows[index]["capital"]
            asked = (
                f"What is the capital of {country}?"
                if (place + turn) % 2 == 0
                else f"Which country has the capital {capital}?"
            )
            questions.append(asked)
    return questions
