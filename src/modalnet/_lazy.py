"""Names of a package that are imported at first use, as its stub lists them.

A package's ``__init__.pyi`` is the one list of its public names: type checkers read it, and :func:`attach` imports a
name from where the stub says when it is first used. A function that has the name of a file or folder of its package
(:func:`modalnet.specialization`, :func:`modalnet.tasks.multiple_choice`) stays reachable in whatever order both are
imported, because the package does not let the import system set a submodule in the place of a public name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType

import lazy_loader

from modalnet._deprecation import renamed_names


class _Package(ModuleType):
    """A package whose public names are never replaced by a submodule of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        is_submodule = isinstance(value, ModuleType) and value.__name__ == f"{self.__name__}.{name}"
        if not (is_submodule and name in self.__all__):
            super().__setattr__(name, value)


def _attach_stub(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    stub = os.path.splitext(file)[0] + ".pyi"
    if os.path.exists(stub):
        return lazy_loader.attach_stub(package, stub)
    # lazy_loader opens a file; a package that is imported from a zip has the stub in its archive.
    import tempfile

    data = sys.modules[package].__loader__.get_data(stub)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "__init__.pyi")
        with open(copy, "wb") as written:
            written.write(data)
        return lazy_loader.attach_stub(package, copy)


def attach(
    package: str, file: str, renamed: Mapping[str, str] | None = None
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names are imported at first use.

    Parameters
    ----------
    package, file
        The package's ``__name__`` and ``__file__``; the stub stands beside the file.
    renamed
        For each former public name the present one, as ``"package.module:name"``. A former name gives a
        DeprecationWarning and is neither in ``__all__`` nor in ``dir()``.
    """
    sys.modules[package].__class__ = _Package
    load, _, public = _attach_stub(package, file)
    load_renamed = renamed_names(package, renamed or {})

    def __getattr__(name: str) -> object:
        return load(name) if name in public else load_renamed(name)

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *public})

    return __getattr__, __dir__, public
