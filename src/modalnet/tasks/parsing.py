"""Reading a choice from generated text, by one stated rule; text that the rule does not fit has no answer."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Literal, TypeAlias

Rule: TypeAlias = Literal["first", "exact", "letter", "digit"]
RULES = ("first", "exact", "letter", "digit")


def parse_choice(text: str, choices: Sequence[str], rule: Rule) -> int | None:
    """Return the index of the choice that a generated text gives, or None.

    Parameters
    ----------
    text
        The generated text.
    choices
        The choices, as they are written in the task.
    rule
        ``"first"``: the choice whose words occur first, in either case and not as parts of longer words or numbers; of
        two that begin at one place, the longer. ``"exact"``: the first line is a choice, in either case, but for a
        final full stop. ``"letter"``: the first letter of a choice that is marked as one, by a parenthesis, full stop,
        comma or colon after it or by standing at the end of a line: ``"B"``, ``"(b)"``, ``"b."``, ``"The answer is B"``
        but not the article in ``"A dog"``. ``"digit"``: the first digit from 1 to the number of choices that is no part
        of a word or a longer number.
    """
    if rule == "exact":
        given = plain(text.strip().partition("\n")[0])
        exact = [index for index, choice in enumerate(choices) if plain(choice) == given]
        return exact[0] if exact else None
    if rule == "letter":
        letters = labels(choices, "letter")
        marked = re.search(rf"(?<!\w)(?<!['’])({'|'.join(letters)})(?=[).,:]|\s*$)", text, re.IGNORECASE | re.MULTILINE)
        return None if marked is None else [letter.lower() for letter in letters].index(marked[1].lower())
    if rule == "digit":
        digit = re.search(rf"{BEFORE_NUMBER}[1-{len(choices)}]{AFTER_NUMBER}", text)
        return None if digit is None else int(digit[0]) - 1
    places = [
        (found.start(), -len(plain(choice)), index)
        for index, choice in enumerate(choices)
        if (found := _occurrence(choice, text))
    ]
    return min(places)[2] if places else None


#: A number begins and ends here: no sign, letter, digit or decimal is beside it.
BEFORE_NUMBER = r"(?<![\w\-−])(?<!\d[.,])"
AFTER_NUMBER = r"(?!\w)(?![.,]\d)"


def labels(choices: Sequence[str], rule: Rule) -> tuple[str, ...]:
    """The letters or digits that stand for choices: the choices themselves where they are single letters."""
    if rule == "letter":
        return tuple(choices) if single_letters(choices) else tuple(string.ascii_uppercase[: len(choices)])
    return tuple(str(number) for number in range(1, len(choices) + 1))


def single_letters(choices: Sequence[str]) -> bool:
    """Whether all choices are single letters."""
    return all(len(choice) == 1 and choice.isascii() and choice.isalpha() for choice in choices)


def name_themselves(choices: Sequence[str], rule: Rule) -> bool:
    """Whether a rule finds choices by what they are: other letters and digits have to stand in the prompt."""
    if rule == "letter":
        return single_letters(choices)
    return rule != "digit" or tuple(map(plain, choices)) == labels(choices, "digit")


def plain(choice: str) -> str:
    """A choice in lower case, without a final full stop."""
    return " ".join(choice.lower().split()).removesuffix(".").rstrip()


def _occurrence(choice: str, text: str) -> re.Match[str] | None:
    words = r"\s+".join(map(re.escape, plain(choice).split()))
    number = re.fullmatch(r"[\d.,]+", plain(choice)) is not None
    before, after = (BEFORE_NUMBER, AFTER_NUMBER) if number else (r"(?<!\w)", r"(?!\w)")
    return re.search(before + words + after, text, re.IGNORECASE)
