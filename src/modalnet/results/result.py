"""Results as files of a user's own: written whole or not at all, and read back equal.

What differs between results is which arrays they are and what stands in the JSON document beside them. A result says
that in ``_content`` and ``_from_content``; how its format is marked, the suffix and what is said of a file that holds
something else are the same for all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from modalnet import _files
from modalnet.errors import InputError

Result = TypeVar("Result", bound="Kept")


class Kept:
    """A result that can be kept in a ``.safetensors`` file.

    Attributes
    ----------
    NAME
        What it is, with an article where it takes one, for messages.
    FORMAT, VERSION
        What its documents are marked with.
    """

    NAME: ClassVar[str]
    FORMAT: ClassVar[str]
    VERSION: ClassVar[int] = 1

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays and the document that hold everything of it."""
        raise NotImplementedError

    @classmethod
    def _from_content(cls: type[Result], arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Result:
        """The inverse of :meth:`_content`."""
        raise NotImplementedError

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the result as arrays and a JSON document, from which :meth:`from_arrays` makes it again."""
        arrays, document = self._content()
        return arrays, {"format": self.FORMAT, "version": self.VERSION, **document}

    @classmethod
    def from_arrays(cls: type[Result], arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Result:
        """Make a result from what :meth:`to_arrays` returned.

        Raises
        ------
        InputError
            If they hold something else.
        """
        if (document.get("format"), document.get("version")) != (cls.FORMAT, cls.VERSION):
            raise InputError(
                f"This is no {_bare(cls.NAME)} in the format of this version of modalnet ({cls.FORMAT} "
                f"{cls.VERSION}): {document.get('format')!r} {document.get('version')!r}."
            )
        try:
            return cls._from_content(arrays, document)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"These arrays do not make {cls.NAME}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to a ``.safetensors`` file, whole or not at all.

        Raises
        ------
        InputError
            For another suffix.
        StoreError
            If the file cannot be written.
        """
        if Path(path).suffix != _files.SUFFIX:
            raise InputError(
                f"This result ({_bare(self.NAME)}) is kept as {_files.SUFFIX}; {os.fspath(path)!r} ends otherwise."
            )
        _files.write_file(path, *self.to_arrays())

    @classmethod
    def load(cls: type[Result], path: str | os.PathLike[str]) -> Result:
        """Read a result that :meth:`save` wrote.

        Raises
        ------
        InputError
            If the file holds something else.
        StoreError
            If the file cannot be read or is damaged.
        """
        arrays, document = _files.read_file(path)
        try:
            return cls.from_arrays(arrays, document)
        except InputError as error:
            raise InputError(f"{os.fspath(path)}: {error}") from error


def _bare(name: str) -> str:
    return name.removeprefix("a ").removeprefix("an ")
