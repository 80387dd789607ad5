"""Hard against easy sums: the demand that the multiple-demand network answers to."""

from __future__ import annotations

import random
from collections.abc import Callable

from modalnet.stimuli.bundled import numbered
from modalnet.stimuli.contrast import Contrast

N = 100
RANGES = {"hard": (100, 199), "easy": (1, 19)}


def multiple_demand(n: int | None = None) -> Contrast:
    """Hard > easy arithmetic, the contrast for the multiple-demand network.

    Built as the localizer of AlKhamissi et al. (2025) builds its own: a sum or a difference of two numbers from 100
    to 199 (hard) or from 1 to 19 (easy), in digits, with its answer, which may be negative::

        Question: Solve 145 - 127?
        Answer: 18

    Two things are stricter here. No two problems are the same. And problem *i* has the same operation, and an answer
    of the same sign, on both sides; half of the problems are sums. Hard and easy are equal in words, not in digits:
    that is in the nature of the published contrast, and a control that has as many digits is the user's to add.

    Parameters
    ----------
    n
        Take the first ``n`` of each condition, 2 to 100; None takes all.

    Returns
    -------
    Contrast
        Conditions ``hard`` and ``easy``; ids ``"hard-001"``, …

    Raises
    ------
    InputError
        ``n`` is out of range.

    References
    ----------
    Fedorenko, Duncan & Kanwisher (2013). Broad domain generality in focal regions of frontal and parietal cortex.
    PNAS 110, 16616-16621.
    AlKhamissi, Tuckute, Bosselut & Schrimpf (2025). The LLM Language Network: a neuroscientific approach for
    identifying causally task-relevant units. arXiv 2411.02280.
    """
    rng = random.Random("modalnet multiple demand")
    taken: set[str] = set()
    groups: dict[str, list[str]] = {condition: [] for condition in RANGES}
    for sign in _alternating("+-", rng):
        # The first problem of the pair is any; the second one follows its sign.
        negative: bool | None = None
        for condition, (low, high) in RANGES.items():
            text, negative = _problem(sign, range(low, high + 1), negative, taken=taken, rng=rng)
            groups[condition].append(text)
    return Contrast(numbered(groups, n), positive="hard", negative="easy")


def _alternating(signs: str, rng: random.Random) -> list[str]:
    """As many of each sign, in random order within each pair, so that the first n are balanced as well."""
    pairs = (sorted(signs, key=lambda _: rng.random()) for _ in range(N // len(signs)))
    return [sign for pair in pairs for sign in pair]


def _problem(
    sign: str, numbers: range, negative: bool | None, *, taken: set[str], rng: random.Random
) -> tuple[str, bool]:
    """A problem that is not taken, and whether its answer is negative: as asked, or as it comes where None is."""
    solve: Callable[[int, int], int] = int.__add__ if sign == "+" else int.__sub__
    while True:
        # random() of a seeded Random is the same on every version of Python; randint() promises less.
        first, second = (numbers[int(rng.random() * len(numbers))] for _ in "12")
        answer = solve(first, second)
        text = f"Question: Solve {first} {sign} {second}?\nAnswer: {answer}"
        if text not in taken and negative in (None, answer < 0):
            taken.add(text)
            return text, answer < 0
