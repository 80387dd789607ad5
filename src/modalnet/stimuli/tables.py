"""Tables on disk, read so that nothing is lost on the way and every complaint names the file and the row.

The standard library's reader is used on purpose: a data-frame reader takes the words "NA", "null" and "None" for
missing values, and a stimulus may well contain them.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from modalnet.errors import InputError


def read_table(
    path: str | os.PathLike[str], encoding: str = "utf-8", delimiter: str = ","
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read a CSV file with a header.

    Parameters
    ----------
    path
        The file.
    encoding
        Its text encoding. ``utf-8`` also takes the mark that spreadsheet programs put first.
    delimiter
        What separates the cells.

    Returns
    -------
    header : list of str
        The column names, without surrounding spaces.
    rows : list of (int, list of str)
        Row number, as a spreadsheet counts (the header is row 1), and its cells, as many as the header has.

    Raises
    ------
    InputError
        No such file, another encoding, no header, or a row of another width.
    """
    path = Path(path)
    text = read_text(path, encoding)
    try:
        lines = list(_numbered(text, delimiter))
    except (csv.Error, TypeError) as error:
        raise InputError(f"{path} cannot be read as a table: {error}. Check its quotes and the delimiter.") from error
    if not lines:
        raise InputError(f"{path} is empty; a table with a header row was expected.")
    header = [cell.strip() for cell in lines[0][1]]
    rows = lines[1:]
    for number, row in rows:
        if len(row) != len(header):
            raise InputError(
                f"{path}, row {number}: {len(row)} cells where the header has {len(header)}. Put a text that contains "
                f"{delimiter!r} in double quotes, and leave no row short."
            )
    return header, rows


def read_text(path: Path, encoding: str) -> str:
    """Read a whole text file; an :class:`InputError` names the file, and the line where the encoding fails."""
    try:
        if not path.is_file():
            raise InputError(f"{str(path)!r} is a folder." if path.is_dir() else f"There is no file at {str(path)!r}.")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return data.decode("utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding)
    except LookupError as error:
        raise InputError(f"Python knows no encoding {encoding!r}; try 'utf-8', 'cp1252' or 'utf-16'.") from error
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        line = data[:start].count(b"\n") + 1
        likely = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "cp1252"
        raise InputError(
            f"{path} is not {encoding} (line {line}, byte {start}). Pass its encoding, for example "
            f"encoding={likely!r}, or save it again as UTF-8. Where only some lines differ, mend those."
        ) from error


def column(path: object, header: list[str], name: str, delimiter: str = ",") -> int:
    """The index of a column; an :class:`InputError` lists the columns that are there."""
    if header.count(name) == 1:
        return header.index(name)
    if name in header:
        raise InputError(f"{path} has {header.count(name)} columns named {name!r}. Rename all but one.")
    hint = ""
    for other in ";\t,|":
        if len(header) == 1 and other in header[0] and other != delimiter:
            hint = f" The header looks as if cells were separated by {other!r}: pass delimiter={other!r}."
    raise InputError(f"{path} has no column {name!r}. It has: {', '.join(header)}.{hint}")


def _numbered(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with its number."""
    for number, row in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), start=1):
        if row:
            yield number, row
