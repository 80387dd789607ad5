"""Rows of named cells from a file, a list or a dataset, which know where they were read."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from modalnet._validation import check_int, check_seed
from modalnet.errors import InputError
from modalnet.stimuli.tables import column, read_table, read_text

TABLES = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".jsonl", *TABLES)


class Cells(Protocol):
    """What holds the cells of rows: a list of mappings, or a dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Rows:
    """Rows of a source.

    Attributes
    ----------
    name
        Name of the source.
    cells
        Column -> value of each row; read one at a time where the source is a dataset on disk.
    numbers
        Line or row number of each row.
    unit
        What the numbers count: ``"line"`` or ``"row"``.
    path
        The file; None for rows from memory.
    features
        Types of the columns, for a dataset that has them.
    """

    name: str
    cells: Cells
    numbers: Sequence[int]
    unit: str = "row"
    path: Path | None = None
    features: Mapping[str, Any] | None = None

    def where(self, index: int) -> str:
        """File and line of a row, for error messages."""
        return f"{self.path or self.name}, {self.unit} {self.numbers[index]}"


def read_rows(path: str | os.PathLike[str], encoding: str = "utf-8", delimiter: str | None = None) -> Rows:
    """Read a file of JSON lines (``.jsonl``) or a table (``.csv``, ``.tsv``).

    Parameters
    ----------
    path
        The file.
    encoding
        Text encoding.
    delimiter
        Cell delimiter of a table; None is a comma in CSV and a tab in TSV files.

    Raises
    ------
    InputError
        The file does not exist, has another ending or encoding, holds a line that is not a JSON object, is not a table,
        or has no rows. The message names the file and the line.
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
        raise InputError(f"{path} must end in one of {', '.join(SUFFIXES)}. Rename it, or pass a list.")
    if not rows.cells:
        raise InputError(f"{path} has no rows.")
    return rows


def draw(n: int | None, total: int, seed: int, source: str) -> list[int]:
    """Draw ``n`` of ``total`` items, without replacement.

    Parameters
    ----------
    n
        Number of items; None takes all.
    total
        Number of available items.
    seed
        Seed of the draw.
    source
        Name of the source. The draw depends on it, so sources are drawn from independently of each other.

    Returns
    -------
    list of int
        Indices in increasing order.

    Raises
    ------
    InputError
        `n` is not an integer from 1 to `total`, or `seed` is not a non-negative integer.
    """
    check_seed(seed)
    if n is None:
        return list(range(total))
    check_int("n", n, minimum=1, maximum=total)
    rng = np.random.default_rng([seed, zlib.crc32(source.encode())])
    return sorted(rng.choice(total, size=n, replace=False).tolist())


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """Make item names unique: the second item called ``name`` becomes ``name#2``, and so on."""
    counts: dict[str, int] = {}
    unique: dict[str, None] = {}
    for name in names:
        new = name
        while new in unique:
            counts[name] = counts.get(name, 1) + 1
            new = f"{name}#{counts[name]}"
        unique[new] = None
    return tuple(unique)


def _json_lines(path: Path, encoding: str) -> Rows:
    cells: list[Mapping[str, Any]] = []
    numbers = []
    # Only a line feed ends a line: JSON strings may hold other line separators as they are.
    for number, line in enumerate(read_text(path, encoding).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number} is not valid JSON: {error}. Each line must be a JSON object."
            ) from error
        if not isinstance(value, dict):
            raise InputError(f"{path}, line {number} must be a JSON object, got a {type(value).__name__}.")
        cells.append(value)
        numbers.append(number)
    return Rows(path.stem, cells, numbers, "line", path)


def _table(path: Path, encoding: str, delimiter: str) -> Rows:
    header, rows = read_table(path, encoding, delimiter)
    for name in header:
        column(path, header, name, delimiter)  # a repeated name is an error
    return Rows(
        path.stem, [dict(zip(header, row, strict=True)) for _, row in rows], [number for number, _ in rows], path=path
    )
