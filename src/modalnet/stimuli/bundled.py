"""How the bundled sets are read: small text files inside the package, cut to the first stimuli of each condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

from modalnet.errors import InputError
from modalnet.stimuli.stimulus import Stimulus


def data_text(name: str) -> str:
    """The content of a file of the package's ``data`` folder."""
    return resources.files("modalnet.stimuli").joinpath("data", name).read_text(encoding="utf-8")


def data_lines(name: str) -> list[str]:
    """Its lines."""
    return data_text(name).splitlines()


def data_rows(name: str) -> list[dict[str, str]]:
    """The rows of a bundled table: cells between tabs, the first line names the columns."""
    header, *rows = (line.split("\t") for line in data_lines(name))
    return [dict(zip(header, row, strict=True)) for row in rows]


def numbered(
    groups: Mapping[str, Sequence[str]], n: int | None, singular: Mapping[str, str] | None = None
) -> list[Stimulus]:
    """Stimuli of the first ``n`` texts of each condition, called after their condition and number.

    Parameters
    ----------
    groups
        Condition → texts, as many in each.
    n
        How many of each; None takes all.
    singular
        Condition → what one stimulus of it is called, where the condition is a plural.

    Raises
    ------
    InputError
        ``n`` is no whole number from 2 to what there is.
    """
    there = min(len(texts) for texts in groups.values())
    if n is not None and not (isinstance(n, int) and 2 <= n <= there):
        raise InputError(f"n is the number of stimuli per condition, 2 to {there}; this is {n!r}.")
    return [
        Stimulus(text, condition=condition, id=f"{(singular or {}).get(condition, condition)}-{number:03d}")
        for condition, texts in groups.items()
        for number, text in enumerate(texts[:n], start=1)
    ]
