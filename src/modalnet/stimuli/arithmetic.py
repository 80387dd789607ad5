"""Hard and easy arithmetic, the contrast of the multiple-demand network."""

from __future__ import annotations

import random
from collections.abc import Callable

from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.package_data import numbered

N = 100
RANGES = {"hard": (100, 199), "easy": (1, 19)}


def multiple_demand(n: int | None = None) -> Contrast:
    """Hard > easy arithmetic, the contrast for the multiple-demand network.

    Constructed as in AlKhamissi et al. (2025): a sum or a difference of two numbers from 100 to 199 (hard) or from 1 to
    19 (easy), in digits, with its answer, which may be negative::

        Question: Solve 145 - 127?
        Answer: 18

    In two respects the set is stricter. No two problems are equal. Problem *i* has the same operation and an answer of
    the same sign in both conditions, and half of the problems are sums. Hard and easy problems are matched in words,
    not in digits, as in the published contrast; a control that is matched in digits has to be added by the user.

    Parameters
    ----------
    n
        Number of stimuli per condition, 2 to 100; None takes all.

    Returns
    -------
    Contrast
        Conditions ``hard`` and ``easy``; ids ``"hard-001"``, ….

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
        # The first problem of a pair is free; the second has an answer of the same sign.
        negative: bool | None = None
        for condition, (low, high) in RANGES.items():
            text, negative = _problem(sign, range(low, high + 1), negative, taken=taken, rng=rng)
            groups[condition].append(text)
    return Contrast(numbered(groups, n), positive="hard", negative="easy")


def _alternating(signs: str, rng: random.Random) -> list[str]:
    """As many of each sign, in random order within each pair, so that the first n problems are balanced as well."""
    pairs = (sorted(signs, key=lambda _: rng.random()) for _ in range(N // len(signs)))
    return [sign for pair in pairs for sign in pair]


def _problem(
    sign: str, numbers: range, negative: bool | None, *, taken: set[str], rng: random.Random
) -> tuple[str, bool]:
    """Draw a new problem and whether its answer is negative, which ``negative`` determines unless it is None."""
    solve: Callable[[int, int], int] = int.__add__ if sign == "+" else int.__sub__
    while True:
        # random() of a seeded Random is the same on every version of Python; randint() promises less.
        first, second = (numbers[int(rng.random() * len(numbers))] for _ in "12")
        answer = solve(first, second)
        text = f"Question: Solve {first} {sign} {second}?\nAnswer: {answer}"
        if text not in taken and negative in (None, answer < 0):
            taken.add(text)
            return text, answer < 0
