"""The version of modalnet, from the metadata of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("modalnet")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0.0.0"
