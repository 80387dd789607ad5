"""Validation of arguments: one check per rule, worded alike everywhere.

Each check returns the value in its plain form (a Python ``int`` for a NumPy integer, a tuple for a list of options) and
raises :class:`~modalnet.errors.InputError` with a message of one shape: the argument, what it must be, what was given.

>>> check_seed(-1)
Traceback (most recent call last):
    ...
modalnet.errors.InputError: `seed` must be a non-negative integer, got -1.
>>> check_option("magnitude", "absolut", ("absolute", "signed"))
Traceback (most recent call last):
    ...
modalnet.errors.InputError: `magnitude` must be one of 'absolute', 'signed', got 'absolut'. Did you mean 'absolute'?
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypeVar

from modalnet.errors import InputError

T = TypeVar("T")
LONGEST = 80  # characters of a value that a message repeats


def check_int(name: str, value: Any, *, minimum: int | None = None, maximum: int | None = None) -> int:
    """Return an integer within bounds.

    Parameters
    ----------
    name
        The argument, as the caller spells it.
    value
        What was given: any integer type, NumPy's included, but not a boolean.
    minimum, maximum
        Bounds, both inclusive.

    Raises
    ------
    InputError
        If the value is not an integer or lies outside the bounds.
    """
    expected = _integer(minimum, maximum)
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise refusal(name, expected, value)
    number = int(value)
    if (minimum is not None and number < minimum) or (maximum is not None and number > maximum):
        raise refusal(name, expected, value)
    return number


def check_seed(value: Any, name: str = "seed") -> int:
    """Return a seed: a non-negative integer."""
    return check_int(name, value, minimum=0)


def check_number(
    name: str,
    value: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """Return a finite number within bounds.

    Parameters
    ----------
    name, value
        The argument and what was given: any real number type, but not a boolean.
    minimum, maximum
        Inclusive bounds.
    above, below
        Exclusive bounds.

    Raises
    ------
    InputError
        If the value is not a finite number or lies outside the bounds.
    """
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (("above", above), ("at least", minimum), ("below", below), ("at most", maximum))
        if bound is not None
    ]
    expected = " ".join(["a finite number", " and ".join(bounds)]).strip()
    if not isinstance(value, Real) or isinstance(value, bool):
        raise refusal(name, expected, value)
    number = float(value)
    inside = (
        (minimum is None or number >= minimum)
        and (maximum is None or number <= maximum)
        and (above is None or number > above)
        and (below is None or number < below)
    )
    if not math.isfinite(number) or not inside:
        raise refusal(name, expected, value)
    return number


def check_fraction(name: str, value: Any, *, zero: bool = False) -> float:
    """Return a fraction: a number above 0 and at most 1, or from 0 on if ``zero``."""
    expected = f"a number {'from 0 to' if zero else 'above 0 and at most'} 1"
    if not isinstance(value, Real) or isinstance(value, bool):
        raise refusal(name, expected, value)
    number = float(value)
    if not (0 <= number <= 1) or (number == 0 and not zero):
        raise refusal(name, expected, value)
    return number


def check_bool(name: str, value: Any) -> bool:
    """Return a boolean."""
    if not isinstance(value, bool):
        raise refusal(name, "True or False", value)
    return value


def check_option(name: str, value: Any, options: Collection[str]) -> str:
    """Return one of the known options.

    Raises
    ------
    InputError
        If the value is none of them; the message lists them and suggests a near one.
    """
    if isinstance(value, str) and value in options:
        return str(value)
    raise InputError(f"`{name}` must be one of {_listed(options)}, got {_shown(value)}.{_suggestion(value, options)}")


def check_options(name: str, values: Any, options: Collection[str], *, empty: bool = False) -> tuple[str, ...]:
    """Return one or several of the known options, each once, in the order given.

    Parameters
    ----------
    name
        The argument.
    values
        One option or a sequence of options.
    options
        The known options.
    empty
        Whether an empty sequence is accepted.

    Raises
    ------
    InputError
        If nothing is given, or a value is not among the options.
    """
    given = (values,) if isinstance(values, str) else values
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        raise InputError(f"`{name}` must be one or several of {_listed(options)}, got {_shown(values)}.")
    chosen = tuple(dict.fromkeys(check_option(name, value, options) for value in given))
    if not chosen and not empty:
        raise InputError(f"`{name}` must name at least one of {_listed(options)}, got {_shown(values)}.")
    return chosen


def check_type(name: str, value: T, types: type | tuple[type, ...], expected: str, hint: str = "") -> T:
    """Return a value of the expected type.

    Parameters
    ----------
    name, value
        The argument and what was given.
    types
        What ``isinstance`` accepts.
    expected
        The types in words, with their article: ``"a Contrast"``.
    hint
        A sentence on how to make one.

    Raises
    ------
    InputError
        If the value has another type; the message names the type, not the value, which may be large.
    """
    if isinstance(value, types):
        return value
    got = "None" if value is None else f"{_article(type(value).__name__)}"
    raise InputError(f"`{name}` must be {expected}, got {got}.{' ' + hint if hint else ''}")


def check_batch_size(value: Any, name: str = "batch_size") -> int | Literal["auto"]:
    """Return a batch size: ``"auto"`` or a positive integer."""
    if isinstance(value, str) and value == "auto":
        return "auto"
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise refusal(name, "'auto' or a positive integer", value)
    return int(value)


def check_cache(value: Any, name: str = "cache") -> Any:
    """Return what says where results are stored: True, False, a folder, or a ``Store``."""
    # A store is known by its folder: this module stands below the room that defines it.
    if isinstance(value, bool | str | os.PathLike) or hasattr(value, "folder"):
        return value
    raise refusal(name, "True, False, a folder or a Store", value)


def refusal(name: str, expected: str, value: Any) -> InputError:
    """The error for a value that a rule of its own refuses, worded as the checks word theirs."""
    return InputError(f"`{name}` must be {expected}, got {_shown(value)}.")


def check_shared(**given: Any) -> None:
    """Check the arguments that mean the same wherever they stand, by name: a seed, numbers of draws, a batch size.

    Raises
    ------
    InputError
        For the first of them that is invalid.

    Examples
    --------
    >>> check_shared(seed=0, n_controls=20, batch_size="auto", cache=True, progress=False)
    """
    for name, value in given.items():
        _SHARED[name](value, name)


def check_names(name: str, values: Any, known: Collection[str], what: str) -> tuple[str, ...]:
    """Return one or several names of things that exist, each once, in the order given.

    Parameters
    ----------
    name
        The argument.
    values
        One name or a sequence of names.
    known
        The names that exist.
    what
        What the names are of, in the plural: ``"towers of this model"``.

    Raises
    ------
    InputError
        If nothing is given, or a name does not exist.
    """
    given = (values,) if isinstance(values, str) else values
    if not isinstance(given, Sequence | set | frozenset) or isinstance(given, bytes) or not given:
        raise InputError(f"`{name}` must name one or several {what} ({_listed(known)}), got {_shown(values)}.")
    for value in given:
        if value not in known:
            suggestion = _suggestion(value, known)
            raise InputError(f"`{name}` must be among the {what} ({_listed(known)}), got {_shown(value)}.{suggestion}")
    return tuple(dict.fromkeys(str(value) for value in given))


def _draws(minimum: int) -> Callable[[Any, str], int]:
    return lambda value, name: check_int(name, value, minimum=minimum)


def _switch(value: Any, name: str) -> bool:
    return check_bool(name, value)


_SHARED: Mapping[str, Callable[[Any, str], Any]] = {
    "seed": check_seed,
    "n_controls": _draws(0),
    "n_permutations": _draws(0),
    "n_resamples": _draws(2),  # an interval needs two
    "batch_size": check_batch_size,
    "cache": check_cache,
    "progress": _switch,
}


def _integer(minimum: int | None, maximum: int | None) -> str:
    if minimum is not None and maximum is not None:
        return f"an integer from {minimum} to {maximum}"
    if maximum is not None:
        return f"an integer of at most {maximum}"
    if minimum is None:
        return "an integer"
    return {0: "a non-negative integer", 1: "a positive integer"}.get(minimum, f"an integer of at least {minimum}")


def _shown(value: Any) -> str:
    """A value as a message repeats it: its repr where that is short, else its type."""
    shown = repr(value)
    return shown if len(shown) <= LONGEST and "\n" not in shown else _article(type(value).__name__)


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _listed(options: Iterable[str]) -> str:
    return ", ".join(repr(option) for option in options)


def _suggestion(value: Any, options: Iterable[str]) -> str:
    near = difflib.get_close_matches(value, list(options), n=1, cutoff=0.7) if isinstance(value, str) else []
    return f" Did you mean {near[0]!r}?" if near else ""
