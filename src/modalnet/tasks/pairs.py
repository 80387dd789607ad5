"""Minimal pairs: two sentences that differ in one thing, of which a speaker accepts one.

A model that knows the language finds the acceptable sentence likelier. Probabilities are of whole sentences, so
nothing needs to be said about where the two differ.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.execution.likelihood import Likelihood, Request
from modalnet.stimuli.readers import open_folder
from modalnet.tasks.base import LikelihoodTask
from modalnet.tasks.requests import alone, unique
from modalnet.tasks.rows import SUFFIXES, Rows, draw, read_rows

if TYPE_CHECKING:
    from jaxtyping import Float

COLUMNS = (("sentence_good", "sentence_bad"), ("good", "bad"))


class MinimalPairs(LikelihoodTask):
    """Is log p(good) > log p(bad), summed over tokens? Made by :func:`minimal_pairs`.

    Attributes
    ----------
    pairs
        (good, bad) of each item.
    """

    chance = 0.5

    def __init__(self, name: str, items: Sequence[str], pairs: Sequence[tuple[str, str]], groups: Sequence[str]):
        self.name = name
        self.pairs = tuple(pairs)
        self._items = unique(items)
        self._groups = tuple(groups)

    @property
    def items(self) -> tuple[str, ...]:
        return self._items

    @property
    def groups(self) -> dict[str, str]:
        """Item → its paradigm."""
        return dict(zip(self._items, self._groups, strict=True))

    def requests(self) -> list[Request]:
        return [alone(sentence) for pair in self.pairs for sentence in pair]

    def grade(self, likelihoods: Sequence[Likelihood]) -> Float[np.ndarray, " item"]:
        good, bad = np.array([one.logprob for one in likelihoods]).reshape(-1, 2).T
        return (good > bad) + 0.5 * (good == bad)


def minimal_pairs(
    source: str | os.PathLike[str] | Sequence[tuple[str, str]],
    *,
    name: str | None = None,
    n: int | None = None,
    seed: int = 0,
    good: str | None = None,
    bad: str | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
) -> MinimalPairs:
    """Minimal pairs from BLiMP's files, from any table, or as given.

    Parameters
    ----------
    source
        A file of JSON lines as BLiMP publishes them, a CSV or TSV file with a header, a folder of such files, or a
        list of (good, bad) sentences.
    name
        Of the task; by default that of the file or folder.
    n
        Take so many pairs of each file, drawn with the seed; None takes all.
    seed
        Of the draw. What is drawn of a file does not depend on the other files.
    good, bad
        Columns (fields) of the acceptable and the unacceptable sentence; by default ``sentence_good`` and
        ``sentence_bad``, or ``good`` and ``bad``.
    encoding, delimiter
        How files are written; a delimiter of None is a comma in CSV files and a tab in TSV files.

    Returns
    -------
    MinimalPairs
        An item scores 1 where the sum of log p(token | tokens before) is larger for the good sentence, 0.5 where the
        two are equal, else 0: the full-sentence method of Warstadt et al. (2020). Chance is 0.5. Items are called
        ``paradigm/pairID``, a paradigm being the field ``UID`` or else the file; without a ``pairID`` the line or row
        number stands for it. ``groups`` gives each item's paradigm.

    Raises
    ------
    InputError
        No such file or folder; no files in it; another encoding; a row without one of the sentences, with an empty
        one, or with two that are equal; ``n`` beyond what a file has. The message names the file and the line. A pair
        may come twice, and in rows with a ``UID`` the two sentences may be equal, as in one published pair of BLiMP,
        which is then a tie.

    References
    ----------
    Warstadt, Parrish, Liu, Mohananey, Peng, Wang & Bowman (2020). BLiMP: the benchmark of linguistic minimal pairs for
    English. TACL 8, 377-392.
    """
    if (good is None) != (bad is None):
        raise InputError(f"Name both columns or neither: good={good!r}, bad={bad!r}.")
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        files = _files(path) if path.is_dir() else [path]
        tables = [read_rows(file, encoding, delimiter) for file in files]
        default_name = path.stem if path.is_file() else path.resolve().name
    else:
        tables = [_given(source, good or "good", bad or "bad")]
        default_name = "minimal pairs"
    items, pairs, groups = [], [], []
    for rows in tables:
        columns = _columns(rows, good, bad)
        read = [_pair(rows, index, columns) for index in range(len(rows.cells))]  # a bad row is found, drawn or not
        for index in draw(n, len(read), seed, str(rows.path.name if rows.path else rows.name)):
            paradigm = str(rows.cells[index].get("UID") or rows.name)
            items.append(f"{paradigm}/{rows.cells[index].get('pairID', rows.places[index])}")
            pairs.append(read[index])
            groups.append(paradigm)
    return MinimalPairs(name or default_name, items, pairs, groups)


def _files(folder: Path) -> list[Path]:
    files = sorted(
        path for path in open_folder(folder).iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."
    )
    if not files:
        raise InputError(f"{folder} holds no files of minimal pairs; endings that count: {', '.join(SUFFIXES)}.")
    return files


def _given(source: Any, good: str, bad: str) -> Rows:
    if not isinstance(source, list | tuple):
        raise InputError(
            f"Minimal pairs are a file, a folder, or a list of (good, bad) sentences; this is a "
            f"{type(source).__name__}."
        )
    for index, pair in enumerate(source):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputError(f"Pair {index} is two sentences, (good, bad); this is {pair!r}.")
    if not source:
        raise InputError("There are no minimal pairs: the list is empty.")
    return Rows("minimal pairs", [{good: pair[0], bad: pair[1]} for pair in source], range(len(source)), "pair")


def _columns(rows: Rows, good: str | None, bad: str | None) -> tuple[str, str]:
    if good is not None and bad is not None:
        return good, bad
    found = [names for names in COLUMNS if set(names) & set(rows.cells[0])]
    if not found:
        raise InputError(
            f"{rows.where(0)} has neither sentence_good and sentence_bad nor good and bad. It has: "
            f"{', '.join(map(str, rows.cells[0]))}. Say which they are: good=..., bad=...."
        )
    return found[0]


def _pair(rows: Rows, index: int, columns: tuple[str, str]) -> tuple[str, str]:
    cells, where = rows.cells[index], rows.where(index)
    for name in columns:
        if name not in cells:
            raise InputError(f"{where} has no {name!r}. It has: {', '.join(map(str, cells))}.")
        if not isinstance(cells[name], str):
            raise InputError(f"{where}: {name} is a sentence; this is {cells[name]!r}.")
        if not cells[name].strip():
            raise InputError(f"{where}: {name} is empty. Fill it, or take the row out.")
    first, second = (cells[name].strip() for name in columns)
    if first == second and "UID" not in cells:
        raise InputError(f"{where}: the two sentences are equal: {first!r}. A pair differs somewhere.")
    return first, second
