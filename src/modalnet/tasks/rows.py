"""Rows of named cells, from a file, a list or a dataset, each knowing where it was read."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modalnet.errors import InputError
from modalnet.stimuli.tables import column, read_table, read_text

TABLES = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".jsonl", *TABLES)


@dataclass(frozen=True)
class Rows:
    """Rows of a source.

    Attributes
    ----------
    name
        What the source is called.
    cells
        Column → value of each row; read one at a time where the source is a dataset on disk.
    places
        Where each row stands: its line or row number.
    unit
        What those numbers count: ``"line"`` or ``"row"``.
    path
        The file; None for rows that were given.
    features
        The columns' types, where a dataset has them.
    """

    name: str
    cells: Sequence[Mapping[str, Any]]
    places: Sequence[int]
    unit: str = "row"
    path: Path | None = None
    features: Mapping[str, Any] | None = None

    def where(self, index: int) -> str:
        """File and line of a row, for messages."""
        return f"{self.path or self.name}, {self.unit} {self.places[index]}"


def read_rows(path: str | os.PathLike[str], encoding: str = "utf-8", delimiter: str | None = None) -> Rows:
    """Read a file of JSON lines (``.jsonl``) or a table (``.csv``, ``.tsv``).

    Parameters
    ----------
    path
        The file.
    encoding
        Its text encoding.
    delimiter
        What separates the cells of a table; None goes by the ending.

    Raises
    ------
    InputError
        No such file, another ending or encoding, a line that is no JSON object, a bad table, no rows. The message
        names the file and the line.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending == ".jsonl":
        rows = _json_lines(path, encoding)
    elif ending in TABLES:
        rows = _table(path, encoding, TABLES[ending] if delimiter is None else delimiter)
    else:
        if not path.exists():
            raise InputError(f"There is no file at {str(path)!r}.")
        raise InputError(f"{path} is none of {', '.join(SUFFIXES)} by its ending. Rename it, or pass a list.")
    if not rows.cells:
        raise InputError(f"{path} has no rows.")
    return rows


def draw(n: int | None, there: int, seed: int, source: str) -> list[int]:
    """Which ``n`` of the items that are there, in their order; the draw depends on the seed and the source's name.

    Raises
    ------
    InputError
        ``n`` is no whole number from 1 to what is there; a seed that is no whole number from 0 on.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed is a whole number from 0 on; this is {seed!r}.")
    if n is None:
        return list(range(there))
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= there:
        raise InputError(f"n is how many to take of {source}, 1 to {there}; this is {n!r}.")
    rng = np.random.default_rng([seed, zlib.crc32(source.encode())])
    return sorted(rng.choice(there, size=n, replace=False).tolist())


def _json_lines(path: Path, encoding: str) -> Rows:
    cells: list[Mapping[str, Any]] = []
    places = []
    # Only a line feed ends a line: JSON strings may hold other line separators as they are.
    for number, line in enumerate(read_text(path, encoding).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}, line {number} is no JSON: {error}. Each line is one JSON object.") from error
        if not isinstance(value, dict):
            raise InputError(f"{path}, line {number} holds a {type(value).__name__}; a JSON object was expected.")
        cells.append(value)
        places.append(number)
    return Rows(path.stem, cells, places, "line", path)


def _table(path: Path, encoding: str, delimiter: str) -> Rows:
    header, rows = read_table(path, encoding, delimiter)
    for name in header:
        column(path, header, name, delimiter)  # refuses a name that stands twice
    return Rows(
        path.stem, [dict(zip(header, row, strict=True)) for _, row in rows], [number for number, _ in rows], path=path
    )
