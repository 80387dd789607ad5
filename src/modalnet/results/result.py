"""The base class of every result: files, tables, labelled arrays, a summary, a picture and what to cite.

What differs between results is which arrays they are and what stands in the JSON document beside them. A result says
that in ``_content`` and ``_from_content``, and names the axes of its arrays in ``_labelled``; files, long tables and
xarray datasets follow from these for all of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import numpy as np

from modalnet import _files
from modalnet.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

R = TypeVar("R", bound="Result")
#: Arrays by name, each with the names of its axes.
Labelled: TypeAlias = dict[str, tuple[tuple[str, ...], Any]]


class Result:
    """What an analysis returns.

    Attributes
    ----------
    NAME
        What it is, with an article where it takes one, for messages.
    FORMAT, VERSION
        What its documents are marked with.
    SOURCES
        Keys in ``references.bib`` of the papers that the method is from.
    """

    NAME: ClassVar[str]
    FORMAT: ClassVar[str]
    VERSION: ClassVar[int] = 1
    SOURCES: ClassVar[tuple[str, ...]] = ()

    # -- tables and text ---------------------------------------------------------------------------------------------

    def table(self) -> pd.DataFrame:
        """Return the findings as a tidy table, one row per finding."""
        raise NotImplementedError

    def summary(self) -> str:
        """Return the findings as text, to be printed."""
        raise NotImplementedError

    def plot(self, **options: Any) -> Any:
        """Draw the findings."""
        raise NotImplementedError

    def to_xarray(self) -> xr.Dataset:
        """Return the measured arrays with named axes and coordinates, as an :class:`xarray.Dataset`."""
        import xarray as xr

        arrays, coordinates = self._labelled()
        attributes = {"result": _bare(self.NAME)}
        if isinstance(model := getattr(self, "model", None), str):
            attributes["model"] = model
        return xr.Dataset(arrays, coords=coordinates, attrs=attributes)

    def to_frame(self) -> pd.DataFrame:
        """Return what was measured as a long table, one row per unit, item or other observation.

        The rows are the entries of the first array of :meth:`to_xarray`; its coordinates, and other arrays that have
        no further axis, are columns.
        """
        dataset = self.to_xarray()
        axes = dataset[next(iter(dataset.data_vars))].dims
        beside = [str(name) for name, array in dataset.data_vars.items() if set(array.dims) <= set(axes)]
        return dataset[beside].to_dataframe(dim_order=list(axes)).reset_index()

    def cite(self) -> str:
        """Return the papers that the method is from, as BibTeX entries."""
        entries = _references()
        return "\n\n".join(entries[key] for key in self._sources())

    def _sources(self) -> Sequence[str]:
        return self.SOURCES

    def _labelled(self) -> tuple[Labelled, Labelled]:
        """The arrays that were measured, and their coordinates; the first array is the one that the rows are of."""
        raise NotImplementedError

    # -- files -------------------------------------------------------------------------------------------------------

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays and the document that hold everything of it."""
        raise NotImplementedError

    @classmethod
    def _from_content(cls: type[R], arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> R:
        """The inverse of :meth:`_content`."""
        raise NotImplementedError

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the result as arrays and a JSON document, from which :meth:`from_arrays` makes it again."""
        arrays, document = self._content()
        return arrays, {"format": self.FORMAT, "version": self.VERSION, **document}

    @classmethod
    def from_arrays(cls: type[R], arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> R:
        """Make a result from what :meth:`to_arrays` returned.

        Raises
        ------
        InputError
            If they hold something else.
        """
        if (document.get("format"), document.get("version")) != (cls.FORMAT, cls.VERSION):
            raise InputError(
                f"Expected {cls.NAME} in the format of this version of modalnet ({cls.FORMAT} {cls.VERSION}), got "
                f"{document.get('format')!r} {document.get('version')!r}."
            )
        try:
            return cls._from_content(arrays, document)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"The arrays do not form {cls.NAME}: {error}") from error

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
                f"`path` must end in {_files.SUFFIX} for this result ({_bare(self.NAME)}), got {os.fspath(path)!r}."
            )
        _files.write_file(path, *self.to_arrays())

    @classmethod
    def load(cls: type[R], path: str | os.PathLike[str]) -> R:
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


def _references() -> dict[str, str]:
    """The entries of ``references.bib`` by key."""
    from importlib import resources

    text = (resources.files("modalnet") / "results" / "references.bib").read_text(encoding="utf-8")
    entries = [entry.strip() for entry in re.split(r"^(?=@)", text, flags=re.MULTILINE) if entry.strip()]
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}
