"""Tables on disk, read without loss and with errors that name the file and the row.

The reader is that of the standard library, because a data-frame reader takes the words "NA", "null" and "None" for
missing values, and these may occur in stimuli.
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
        Text encoding. ``utf-8`` also accepts the byte-order mark that spreadsheet programs write.
    delimiter
        Cell delimiter.

    Returns
    -------
    header : list of str
        The column names, without surrounding whitespace.
    rows : list of (int, list of str)
        Row number, as in a spreadsheet (the header is row 1), and its cells, as many as the header has.

    Raises
    ------
    InputError
        The file does not exist, has another encoding or no header, or a row has another number of cells.
    """
    path = Path(path)
    text = read_text(path, encoding)
    try:
        lines = list(_numbered(text, delimiter))
    except (csv.Error, TypeError) as error:
        raise InputError(f"{path} cannot be read as a table: {error}. Check its quotes and the delimiter.") from error
    if not lines:
        raise InputError(f"{path} is empty; a table with a header row is needed.")
    header = [cell.strip() for cell in lines[0][1]]
    rows = lines[1:]
    for number, row in rows:
        if len(row) != len(header):
            raise InputError(
                f"{path}, row {number}: {len(row)} cells where the header has {len(header)}. Put texts that contain "
                f"{delimiter!r} in double quotes, and complete short rows."
            )
    return header, rows


def read_text(path: Path, encoding: str) -> str:
    """Read a text file; an :class:`InputError` names the file, and the line where decoding fails."""
    try:
        if not path.is_file():
            raise InputError(f"{str(path)!r} is a folder." if path.is_dir() else f"There is no file at {str(path)!r}.")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return data.decode("utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding)
    except LookupError as error:
        raise InputError(f"Python has no encoding {encoding!r}; try 'utf-8', 'cp1252' or 'utf-16'.") from error
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        line = data[:start].count(b"\n") + 1
        likely = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "cp1252"
        raise InputError(
            f"{path} is not {encoding} (line {line}, byte {start}). Pass its encoding, for example "
            f"encoding={likely!r}, or save the file as UTF-8. If only some lines differ, repair those."
        ) from error


def column(path: object, header: list[str], name: str, delimiter: str = ",") -> int:
    """Index of a column; an :class:`InputError` lists the columns of the table."""
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
    """Each non-blank row, with its number."""
    for number, row in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), start=1):
        if row:
            yield number, row
