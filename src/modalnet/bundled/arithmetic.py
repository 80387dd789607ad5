"""Sums, differences and comparisons of small numbers, in words.

Numbers range from 0 to 99, the terms of sums and differences from 0 to 50. A sum is held out by its terms and
operation, a comparison by its two numbers, so the answer to a test item cannot have been memorized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modalnet.bundled.split import held_out

if TYPE_CHECKING:
    import numpy as np

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
ONES, TENS = tuple(_ONES.split()), tuple(_TENS.split())
LARGEST_TERM = 50


def in_words(number: int) -> str:
    """Write a number from 0 to 99 in words: ``"forty two"``."""
    if number < len(ONES):
        return ONES[number]
    tens, ones = divmod(number, 10)
    return TENS[tens - 2] + (f" {ONES[ones]}" if ones else "")


def number_words() -> list[str]:
    """All words that :func:`in_words` uses."""
    return [*ONES, *TENS]


def sum_item(rng: np.random.Generator, test: bool = False) -> tuple[str, str]:
    """Draw a sum or difference: ``("what is seven plus five?", "twelve")``; ``test`` draws from the test set."""
    while True:
        # Half of the items have terms up to 20, which a uniform draw of two terms up to 50 would seldom give.
        top = 21 if rng.random() < 0.5 else LARGEST_TERM + 1
        first, second = (int(term) for term in rng.integers(0, top, size=2))
        plus = rng.random() < 0.6
        if not plus:
            first, second = max(first, second), min(first, second)
        result = first + second if plus else first - second
        operation = "plus" if plus else "minus"
        if held_out("sum", first, operation, second) == test and result <= 99:
            return f"what is {in_words(first)} {operation} {in_words(second)}?", in_words(result)


def comparison_item(rng: np.random.Generator, test: bool = False) -> tuple[str, str]:
    """Draw a comparison: ``("which is more, seven or three?", "seven")``; ``test`` draws from the test set."""
    while True:
        top = 21 if rng.random() < 0.5 else 100
        first, second = (int(term) for term in rng.integers(0, top, size=2))
        if first == second or held_out("comparison", *sorted((first, second))) != test:
            continue
        a, b = in_words(first), in_words(second)
        roll = rng.random()
        if roll < 0.25:
            return f"which is more, {a} or {b}?", in_words(max(first, second))
        if roll < 0.5:
            return f"which is less, {a} or {b}?", in_words(min(first, second))
        if roll < 0.75:
            return f"is {a} more than {b}?", "yes" if first > second else "no"
        return f"is {a} less than {b}?", "yes" if first < second else "no"
