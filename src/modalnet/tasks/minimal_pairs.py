"""Minimal pairs: an acceptable sentence and an unacceptable one that differ in one respect.

A model that knows the language assigns the acceptable sentence the higher probability. The probability is that of the
whole sentence, so that it need not be known where the two differ.
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
from modalnet.tasks.requests import text_request, unique_names
from modalnet.tasks.rows import SUFFIXES, Rows, draw, read_rows

if TYPE_CHECKING:
    from jaxtyping import Float

COLUMNS = (("sentence_good", "sentence_bad"), ("good", "bad"))


class MinimalPairs(LikelihoodTask):
    """Minimal pairs, scored by whether log p(good) > log p(bad), summed over tokens. Made by :func:`minimal_pairs`.

    Attributes
    ----------
    pairs
        (good, bad) sentences of each item.
    """

    chance = 0.5

    def __init__(self, name: str, items: Sequence[str], pairs: Sequence[tuple[str, str]], groups: Sequence[str]):
        self.name = name
        self.pairs = tuple(pairs)
        self._items = unique_names(items)
        self._groups = tuple(groups)

    @property
    def items(self) -> tuple[str, ...]:
        return self._items

    @property
    def groups(self) -> dict[str, str]:
        """Item -> its paradigm."""
        return dict(zip(self._items, self._groups, strict=True))

    def requests(self) -> list[Request]:
        return [text_request(sentence) for pair in self.pairs for sentence in pair]

    def grade(self, likelihoods: Sequence[Likelihood]) -> Float[np.ndarray, " item"]:
        good, bad = np.array([likelihood.logprob for likelihood in likelihoods]).reshape(-1, 2).T
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
    """Minimal pairs from BLiMP's files, from other tables, or from a list.

    Parameters
    ----------
    source
        A file of JSON lines in the format of BLiMP, a CSV or TSV file with a header, a folder of such files, or a list
        of (good, bad) sentences.
    name
        Name of the task; by default that of the file or folder.
    n
        Number of pairs per file, drawn with the seed; None takes all.
    seed
        Seed of the draw. The draw from a file does not depend on the other files.
    good, bad
        Columns (fields) of the acceptable and the unacceptable sentence; by default ``sentence_good`` and
        ``sentence_bad``, or ``good`` and ``bad``.
    encoding, delimiter
        Encoding of the files, and cell delimiter of tables; None is a comma in CSV and a tab in TSV files.

    Returns
    -------
    MinimalPairs
        An item scores 1 where the sum of log p(token | preceding tokens) is larger for the good sentence, 0.5 where the
        two are equal, and 0 otherwise: the full-sentence method of Warstadt et al. (2020). Chance is 0.5. Items are
        named ``paradigm/pairID``; the paradigm is the field ``UID`` or else the file, and without a ``pairID`` the line
        or row number is used. ``groups`` maps each item to its paradigm.

    Raises
    ------
    InputError
        The file or folder does not exist, holds no minimal pairs, or has another encoding; a row lacks a sentence, or
        has an empty one or two equal ones; ``n`` exceeds the number of pairs of a file. The message names the file and
        the line. A pair may occur twice. In rows with a ``UID`` the two sentences may be equal, as in one published
        pair of BLiMP, which is then a tie.

    References
    ----------
    Warstadt, Parrish, Liu, Mohananey, Peng, Wang & Bowman (2020). BLiMP: the benchmark of linguistic minimal pairs for
    English. TACL 8, 377-392.
    """
    if (good is None) != (bad is None):
        raise InputError(f"`good` and `bad` must be given together, got good={good!r}, bad={bad!r}.")
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        files = _files(path) if path.is_dir() else [path]
        tables = [read_rows(file, encoding, delimiter) for file in files]
        default_name = path.stem if path.is_file() else path.resolve().name
    else:
        tables = [_from_list(source, good or "good", bad or "bad")]
        default_name = "minimal pairs"
    items, pairs, groups = [], [], []
    for rows in tables:
        columns = _columns(rows, good, bad)
        all_pairs = [
            _pair(rows, index, columns) for index in range(len(rows.cells))
        ]  # an invalid row is an error, drawn or not
        for index in draw(n, len(all_pairs), seed, str(rows.path.name if rows.path else rows.name)):
            paradigm = str(rows.cells[index].get("UID") or rows.name)
            items.append(f"{paradigm}/{rows.cells[index].get('pairID', rows.numbers[index])}")
            pairs.append(all_pairs[index])
            groups.append(paradigm)
    return MinimalPairs(name or default_name, items, pairs, groups)


def _files(folder: Path) -> list[Path]:
    files = sorted(
        path for path in open_folder(folder).iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."
    )
    if not files:
        raise InputError(f"{folder} has no files of minimal pairs (endings: {', '.join(SUFFIXES)}).")
    return files


def _from_list(source: Any, good: str, bad: str) -> Rows:
    if not isinstance(source, list | tuple):
        raise InputError(
            f"`source` must be a file, a folder, or a list of (good, bad) sentences, got a {type(source).__name__}."
        )
    for index, pair in enumerate(source):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputError(f"Pair {index} must be two sentences, (good, bad), got {pair!r}.")
    if not source:
        raise InputError("`source` is empty; at least one pair is needed.")
    return Rows("minimal pairs", [{good: pair[0], bad: pair[1]} for pair in source], range(len(source)), "pair")


def _columns(rows: Rows, good: str | None, bad: str | None) -> tuple[str, str]:
    if good is not None and bad is not None:
        return good, bad
    candidates = [names for names in COLUMNS if set(names) & set(rows.cells[0])]
    if not candidates:
        raise InputError(
            f"{rows.where(0)} has neither sentence_good and sentence_bad nor good and bad. It has: "
            f"{', '.join(map(str, rows.cells[0]))}. Name the columns with good= and bad=."
        )
    return candidates[0]


def _pair(rows: Rows, index: int, columns: tuple[str, str]) -> tuple[str, str]:
    cells, where = rows.cells[index], rows.where(index)
    for name in columns:
        if name not in cells:
            raise InputError(f"{where} has no {name!r}. It has: {', '.join(map(str, cells))}.")
        if not isinstance(cells[name], str):
            raise InputError(f"{where}: {name} must be a string, got {cells[name]!r}.")
        if not cells[name].strip():
            raise InputError(f"{where}: {name} is empty. Fill it in, or remove the row.")
    first, second = (cells[name].strip() for name in columns)
    if first == second and "UID" not in cells:
        raise InputError(f"{where}: the two sentences are equal: {first!r}.")
    return first, second
