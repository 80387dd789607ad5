"""Which modalnet this is: its version, and a digest of its source.

The version of a checkout stays the same over many changes, so what must not outlive a change of the code, such as an
entry of the result store, also depends on the digest.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Traversable

try:
    __version__ = version("modalnet")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"

# Code, and the text that stimuli are made of. Weights are hashed with the model that they make.
_SUFFIXES = (".py", ".txt", ".tsv", ".csv")
# Rooms that draw and print results, and compute none.
_OUTSIDE = ("cli", "plotting")


@cache
def source_digest() -> str:
    """A digest of the code and text that decide numbers (16 hexadecimal characters), taken once per process.

    It is taken over what the package was loaded from: a folder or a zip file.
    """
    from importlib import resources

    digest = hashlib.blake2b(digest_size=8)
    for name, file in sorted(_files(resources.files("modalnet"), ""), key=lambda named: named[0]):
        content = file.read_bytes()
        digest.update(f"{name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def _files(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in folder.iterdir():
        name = f"{prefix}{entry.name}"
        if entry.name.endswith(_SUFFIXES):
            found.append((name, entry))
        elif entry.is_dir() and not entry.name.startswith((".", "__")) and name not in _OUTSIDE:
            found += _files(entry, f"{name}/")
    return found
