"""Text files of the package, which the bundled sets are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

from modalnet._validation import check_int
from modalnet.stimuli.stimulus import Stimulus


def data_text(name: str) -> str:
    """Read a text file of the package's ``data`` folder."""
    return resources.files("modalnet.stimuli").joinpath("data", name).read_text(encoding="utf-8")


def data_lines(name: str) -> list[str]:
    """Read its lines."""
    return data_text(name).splitlines()


def data_rows(name: str) -> list[dict[str, str]]:
    """Read a tab-separated table of the ``data`` folder; the first line names the columns."""
    header, *rows = (line.split("\t") for line in data_lines(name))
    return [dict(zip(header, row, strict=True)) for row in rows]


def numbered(
    groups: Mapping[str, Sequence[str]],
    n: int | None,
    singular: Mapping[str, str] | None = None,
    *,
    paired: bool = False,
) -> list[Stimulus]:
    """Make stimuli of the first ``n`` texts of each condition, with ids from condition and number.

    Parameters
    ----------
    groups
        Condition -> texts, equally many in each.
    n
        Number of stimuli per condition; None takes all.
    singular
        Condition -> prefix of the ids, for conditions whose name is a plural.
    paired
        Whether texts with the same number are versions of one item, alike in all but the condition.

    Raises
    ------
    InputError
        ``n`` is not an integer from 2 to the number of texts.
    """
    if n is not None:
        check_int("n", n, minimum=2, maximum=min(len(texts) for texts in groups.values()))
    return [
        Stimulus(
            text,
            condition=condition,
            id=f"{(singular or {}).get(condition, condition)}-{number:03d}",
            item=f"{number:03d}" if paired else None,
        )
        for condition, texts in groups.items()
        for number, text in enumerate(texts[:n], start=1)
    ]
