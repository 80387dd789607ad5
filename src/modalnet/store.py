"""The result store: what was computed once is read back, whole and unchanged, or not at all.

One entry is one file, ``<key>.safetensors``: arrays, and beside them a JSON document in the file's metadata. The key
is a hash of everything that made the result, so that any change of it is another entry, and no entry is ever stale.

Two promises make the store safe to share between processes and to kill at any moment. A file is written under a
temporary name, flushed to the disk and only then renamed, so a name in the store always stands for a finished file.
And every file carries a SHA-256 over its arrays and its document, so that damage from outside is noticed on reading;
a damaged entry is reported, removed and computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from modalnet.errors import InputError, StoreError

Arrays = dict[str, np.ndarray]
Meta = dict[str, Any]

SUFFIX = ".safetensors"
TEMPORARY = ".modalnet-*.tmp"
STRAY_AFTER = 3600.0  # seconds; a younger temporary file may belong to a process that still writes it
_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")


class DamagedError(StoreError):
    """A file is there and readable, but is not what modalnet wrote."""


@dataclass(frozen=True)
class Entry:
    """One entry of the store, as :meth:`Store.entries` lists it.

    Attributes
    ----------
    key, path
        The entry's key and its file.
    size
        Bytes on the disk.
    created
        When the file was written (its modification time, UTC).
    meta
        The entry's JSON document; empty if the entry is damaged.
    damaged
        What is wrong with the file; None if nothing is.
    """

    key: str
    path: Path
    size: int
    created: datetime
    meta: Meta
    damaged: str | None = None


class Store:
    """A folder of results, each under the hash of what made it.

    Parameters
    ----------
    folder
        Where entries lie. Without it ``$MODALNET_CACHE``, else the user's cache folder. Making a ``Store`` does not
        touch the disk; the folder appears with the first entry.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        if folder is None:
            folder = os.environ.get("MODALNET_CACHE") or _user_cache()
        self.folder = Path(folder).expanduser()

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r})"

    @staticmethod
    def key(description: Mapping[str, Any]) -> str:
        """Return the key of a result: 32 hex digits of the SHA-256 of its description as canonical JSON.

        Parameters
        ----------
        description
            Everything that the result depends on, as JSON values. The order of its keys does not matter.

        Raises
        ------
        InputError
            If something in the description is no JSON value.
        """
        return hashlib.sha256(_json(description, sort_keys=True).encode()).hexdigest()[:32]

    def path(self, key: str) -> Path:
        """Return the file that holds the entry, whether it exists or not."""
        if not _KEY.fullmatch(key):
            raise InputError(f"{key!r} is no key of the store; keys are letters, digits, '-' and '_' (see Store.key).")
        return self.folder / f"{key}{SUFFIX}"

    def get(self, key: str) -> tuple[Arrays, Meta] | None:
        """Read an entry; None if there is none that can be used.

        A damaged entry is reported by a warning that names its file, and removed. A folder that cannot be read is
        reported by a warning.
        """
        path = self.path(key)
        try:
            return read_file(path)
        except DamagedError as error:
            warnings.warn(f"{error} The entry is removed and computed again.", stacklevel=2)
            with contextlib.suppress(OSError):
                path.unlink()
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                warnings.warn(f"{error} The result is computed again.", stacklevel=2)
        return None

    def put(self, key: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Write an entry, whole or not at all; an entry of the same key is replaced.

        Raises
        ------
        StoreError
            If the folder cannot be made or written to (the cause is chained), for example because the disk is full.
        """
        path = self.path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The store's folder {self.folder} cannot be made: {error}. "
                "Set MODALNET_CACHE to a folder that can be written to."
            ) from error
        write_file(path, arrays, meta)

    def entries(self) -> list[Entry]:
        """List all entries, oldest first; damaged ones are flagged. Temporary files are no entries.

        Raises
        ------
        StoreError
            If the folder exists and cannot be listed.
        """
        entries = [entry for path in self._files(f"*{SUFFIX}") if (entry := _entry(path)) is not None]
        return sorted(entries, key=lambda entry: (entry.created, entry.key))

    def clear(self, keys: Iterable[str] | None = None) -> int:
        """Remove the entries of the given keys (all, if None) and return how many there were.

        Temporary files that a killed process left more than an hour ago are removed too (not counted).

        Raises
        ------
        StoreError
            If the folder exists and cannot be listed, or an entry cannot be removed.
        """
        paths = self._files(f"*{SUFFIX}") if keys is None else [self.path(key) for key in keys]
        removed = 0
        for path in paths:
            try:
                path.unlink()
                removed += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(f"The entry {path} cannot be removed: {error}.") from error
        for path in self._files(TEMPORARY):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STRAY_AFTER:
                    path.unlink()
        return removed

    def _files(self, pattern: str) -> list[Path]:
        try:
            names = os.listdir(self.folder)  # not glob: it takes a folder that cannot be read for an empty one
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"The store's folder {self.folder} cannot be read: {error}.") from error
        return sorted(path for name in names if (path := self.folder / name).match(pattern))


def write_file(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write arrays and a JSON document into one safetensors file, whole or not at all.

    Parameters
    ----------
    path
        The file; an existing one is replaced in one step.
    arrays
        Arrays of numbers or booleans, by name.
    meta
        A JSON document.

    Raises
    ------
    InputError
        If ``meta`` is no JSON or an array's type has no place in a safetensors file.
    StoreError
        If the file cannot be written (the cause is chained).
    """
    document = _json(meta)
    plain = {name: _plain(name, array) for name, array in arrays.items()}
    metadata = {"modalnet": document, "sha256": _checksum(plain, document)}
    try:
        data = safetensors.numpy.save(plain, metadata=metadata)
    except (KeyError, ValueError, safetensors.SafetensorError) as error:
        types = {name: str(array.dtype) for name, array in plain.items()}
        raise InputError(f"These arrays cannot be kept in a safetensors file: {types} ({error}).") from error
    write_bytes(path, data)


def read_file(path: str | os.PathLike[str]) -> tuple[Arrays, Meta]:
    """Read what :func:`write_file` wrote, and check that it is unchanged.

    Returns
    -------
    arrays, meta

    Raises
    ------
    StoreError
        If the file cannot be read (the cause is chained); its subclass ``DamagedError`` if the file is truncated,
        changed, or not written by modalnet. Both name the file.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise StoreError(f"{os.fspath(path)} cannot be read: {error}.") from error
    try:
        arrays = safetensors.numpy.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except Exception as error:  # a damaged header fails in as many ways as there are bytes in it
        raise DamagedError(f"{os.fspath(path)} is damaged: not a whole safetensors file ({error}).") from error
    if not {"modalnet", "sha256"} <= metadata.keys():
        raise DamagedError(f"{os.fspath(path)} was not written by modalnet (its metadata has no checksum).")
    if _checksum(arrays, metadata["modalnet"]) != metadata["sha256"]:
        raise DamagedError(f"{os.fspath(path)} is damaged: its content does not match its checksum.")
    return arrays, json.loads(metadata["modalnet"])


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, whole or not at all: temporary file in the same folder, flush to the disk, rename.

    Raises
    ------
    StoreError
        If the file cannot be written (the cause is chained); nothing is left behind then.
    """
    path = Path(path)
    temporary = path.parent / TEMPORARY.replace("*", f"{os.getpid()}-{secrets.token_hex(8)}")
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:  # also an interrupt from the keyboard
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}.") from error
    # The rename reaches the disk with the folder. Where folders cannot be flushed (Windows, some network disks) a
    # power cut may lose the newest entry, never damage one.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _user_cache() -> str:
    import platformdirs

    return platformdirs.user_cache_dir("modalnet")


def _entry(path: Path) -> Entry | None:
    meta: Meta = {}
    damaged = None
    try:
        status = path.stat()
        meta = read_file(path)[1]
    except FileNotFoundError:  # removed by another process since the folder was listed
        return None
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        damaged = str(error)
    created = datetime.fromtimestamp(status.st_mtime, tz=timezone.utc)
    return Entry(path.stem, path, status.st_size, created, meta, damaged)


def _json(value: Mapping[str, Any], *, sort_keys: bool = False) -> str:
    try:
        return json.dumps(value, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"This document cannot be written as JSON ({error}): {value!r:.200}") from error


def _plain(name: str, array: np.ndarray) -> np.ndarray:
    """Return the array in the machine's byte order and contiguous, which safetensors takes for granted."""
    array = np.asarray(array, order="C")
    if not isinstance(name, str) or name == "__metadata__":
        raise InputError(f"{name!r} cannot be the name of an array in a safetensors file.")
    if array.dtype.kind not in "biuf":
        raise InputError(f"The array {name!r} has type {array.dtype}; numbers and booleans can be kept.")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _checksum(arrays: Arrays, document: str) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode())
        digest.update(array.tobytes())
    digest.update(document.encode())
    return digest.hexdigest()
