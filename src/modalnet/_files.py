"""Files that are written whole or not at all, and read back unchanged.

A file is written under a temporary name, flushed to the disk and only then renamed, so a finished name always stands
for a finished file. Arrays and a JSON document go into one safetensors file with a SHA-256 over both, so that damage
from outside is noticed on reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
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


class DamagedError(StoreError):
    """A file is there and readable, but is not what modalnet wrote."""


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
    document = to_json(meta)
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


def to_json(value: Mapping[str, Any], *, sort_keys: bool = False) -> str:
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
