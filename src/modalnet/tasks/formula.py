"""Prediction formulas of SyntaxGym suites: inequalities between surprisals that a grammatical reading implies.

``(7;%match%)`` is the surprisal, in bits, of region 7 in the condition ``match``, and ``(*;%match%)`` that of all
regions together. In order of increasing precedence, the operators are ``|``, ``&``, the comparisons ``< > =``, and
``+ -``, all left-associative; ``=`` has the tolerance of the published evaluator. Formulas are parsed here and never
evaluated as Python.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from modalnet.errors import InputError

#: A region number, or None for all regions; and a condition.
Term = tuple[int | None, str]
Values = Mapping[Term, float]
#: "number" or "truth", and the function that computes the value.
_Node = tuple[str, Callable[[Values], Any]]

LEVELS = ("|", "&", "<>=", "+-")
# numpy.isclose with these, as in syntaxgym-core.
RELATIVE, ABSOLUTE = 1e-5, 1e-3
_TOKEN = re.compile(
    r"\s*(?:\(\s*(?P<region>\d+|\*)\s*;\s*%(?P<condition>[^%]+)%\s*\)"
    r"|(?P<number>\d+(?:\.\d+)?)"
    r"|(?P<sign>[()|&<>=+-]))"
)
_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "|": lambda a, b: a or b,
    "&": lambda a, b: a and b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "=": lambda a, b: abs(a - b) <= ABSOLUTE + RELATIVE * abs(b),
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
}


class Formula:
    """A prediction of a suite.

    Parameters
    ----------
    text
        The formula.

    Attributes
    ----------
    terms
        (region, condition) of every surprisal in the formula.

    Raises
    ------
    InputError
        The text is not a valid formula; the message shows where.

    References
    ----------
    Gauthier, Hu, Wilcox, Qian & Levy (2020). SyntaxGym: an online platform for targeted evaluation of language models.
    ACL system demonstrations, 70-76.

    Examples
    --------
    >>> Formula("(2;%good%) < (2;%bad%)")({(2, "good"): 3.0, (2, "bad"): 5.5})
    True
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = self._tokenize()
        self._next = 0
        self.terms: frozenset[Term] = frozenset(token[0] for token in self._tokens if isinstance(token[0], tuple))
        try:
            kind, self._value = self._level(0)
        except RecursionError as error:
            raise InputError(f"The formula {text[:60]!r}… has too deeply nested parentheses.") from error
        if self._sign is not None:
            raise self._error("an operator was expected")
        if kind != "truth":
            raise InputError(f"The formula {text!r} is a number; a prediction needs a comparison: <, > or =.")

    def __call__(self, values: Values) -> bool:
        """Whether the prediction holds, given the surprisal of each term in bits."""
        return bool(self._value(values))

    def _tokenize(self) -> list[tuple[Any, int]]:
        """(region, number or sign, position) of each token."""
        tokens: list[tuple[Any, int]] = []
        position, end = 0, len(self.text.rstrip())
        while position < end:
            match = _TOKEN.match(self.text, position)
            if match is None:
                raise InputError(
                    f"The formula {self.text!r} cannot be parsed from {self.text[position:].strip()!r} on."
                )
            token: Any = match["sign"]
            if match["region"]:
                token = (None if match["region"] == "*" else int(match["region"]), match["condition"].strip())
            elif match["number"]:
                token = float(match["number"])
            tokens.append((token, position))
            position = match.end()
        return tokens

    @property
    def _sign(self) -> Any:
        return self._tokens[self._next][0] if self._next < len(self._tokens) else None

    def _error(self, expected: str) -> InputError:
        position = self._tokens[self._next][1] if self._next < len(self._tokens) else len(self.text)
        return InputError(f"The formula {self.text!r}: {expected} at {self.text[position:].strip() or 'its end'!r}.")

    def _level(self, depth: int) -> _Node:
        if depth == len(LEVELS):
            return self._atom()
        left = self._level(depth + 1)
        while isinstance(self._sign, str) and self._sign in LEVELS[depth]:
            sign = self._sign
            self._next += 1
            left = self._combined(sign, left, self._level(depth + 1))
        return left

    def _atom(self) -> _Node:
        token = self._sign
        if token is None or (isinstance(token, str) and token not in "(-"):
            raise self._error("a region, a number or a parenthesis was expected")
        self._next += 1
        if isinstance(token, tuple):
            return "number", lambda values: values[token]
        if isinstance(token, float):
            return "number", lambda values: token
        if token == "-":
            return self._combined("-", ("number", lambda values: 0.0), self._atom())
        inside = self._level(0)
        if self._sign != ")":
            raise self._error("a closing parenthesis was expected")
        self._next += 1
        return inside

    def _combined(self, sign: str, left: _Node, right: _Node) -> _Node:
        takes = "truth" if sign in "|&" else "number"
        if left[0] != takes or right[0] != takes:
            what = "comparisons" if takes == "truth" else "surprisals"
            raise InputError(f"The formula {self.text!r}: {sign!r} combines {what}. Add parentheses.")
        operation, a, b = _OPERATIONS[sign], left[1], right[1]
        return "number" if sign in "+-" else "truth", lambda values: operation(a(values), b(values))


def bits(nats: float) -> float:
    """Convert a natural-log probability to surprisal in bits."""
    return -nats / math.log(2)
