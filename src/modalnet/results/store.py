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
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from modalnet._files import SUFFIX, TEMPORARY, Arrays, DamagedError, Meta, read_file, to_json, write_file
from modalnet._warnings import warn
from modalnet.errors import InputError, StoreError

STRAY_AFTER = 3600.0  # seconds; a younger temporary file may belong to a process that still writes it
_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")


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
    """A folder of results, each keyed by a hash of everything that determines it.

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
        return hashlib.sha256(to_json(description, sort_keys=True).encode()).hexdigest()[:32]

    def path(self, key: str) -> Path:
        """Return the file that holds the entry, whether it exists or not."""
        if not _KEY.fullmatch(key):
            raise InputError(f"`key` must consist of letters, digits, '-' and '_' (see Store.key), got {key!r}.")
        return self.folder / f"{key}{SUFFIX}"

    def get(self, key: str) -> tuple[Arrays, Meta] | None:
        """Read an entry; None if there is none that can be used.

        A damaged entry is reported by a warning that names its file, and removed. A folder that cannot be read is
        reported by a warning.
        """
        try:
            return self.read(key)
        except StoreError as error:
            warn(f"{error} The result is computed again.")
        return None

    def read(self, key: str) -> tuple[Arrays, Meta] | None:
        """Read an entry; None if there is none, or none that is whole (as :meth:`get`).

        Raises
        ------
        StoreError
            If the folder or the file cannot be read (the cause is chained).
        """
        path = self.path(key)
        try:
            return read_file(path)
        except DamagedError as error:
            warn(f"{error} The entry is removed and computed again.")
            with contextlib.suppress(OSError):
                path.unlink()
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
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
                f"The folder of the store, {self.folder}, cannot be created: {error}. "
                "Set MODALNET_CACHE to a writable folder."
            ) from error
        write_file(path, arrays, meta)

    def entries(self) -> list[Entry]:
        """List all entries, oldest first; damaged ones are flagged. Temporary files are not entries.

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
            raise StoreError(f"The folder of the store, {self.folder}, cannot be read: {error}.") from error
        return sorted(path for name in names if (path := self.folder / name).match(pattern))


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
