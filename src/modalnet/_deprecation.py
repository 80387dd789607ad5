"""Names that have changed: the old spelling works for one release and warns.

Five tools, one for each thing that can be renamed::

    @renamed_arguments(controls="n_controls")            # keyword arguments of a function
    def lesion_study(model, units, *, n_controls=20): ...

    pick_up = renamed("pick_up", LocalizationJob.from_id)  # a function
    norms = renamed("norms", "mean_abs")                   # an attribute, in a class body
    to_cache = moved_method("to_cache", "modalnet.interop.transformer_lens:cache")  # a method that is now a function

    __getattr__ = renamed_attributes({"prepare": "_executor.prepare"})           # many attributes of a class
    __getattr__ = renamed_names(__name__, {"Condition": "modalnet.lesion:Lesion"})  # names of a module

Each warning names the new spelling and the release in which the old one disappears.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, ParamSpec, TypeVar, overload

from modalnet._warnings import warn
from modalnet.errors import InputError

REMOVED_IN = "0.3"

P = ParamSpec("P")
R = TypeVar("R")


def warn_renamed(old: str, new: str) -> None:
    """Warn, at the line of the user's code, that a spelling is deprecated.

    Parameters
    ----------
    old, new
        Both spellings as a user writes them.
    """
    warn(f"`{old}` is deprecated and will be removed in {REMOVED_IN}; use `{new}`.", DeprecationWarning)


def renamed_arguments(**old_to_new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function accept the old spelling of keyword arguments.

    Parameters
    ----------
    **old_to_new
        For each old spelling the new one.

    Returns
    -------
    callable
        A decorator. The decorated function passes a value given under an old spelling on under the new one and gives a
        DeprecationWarning; it raises InputError where both spellings are given.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def accepting(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in old_to_new.keys() & kwargs.keys():
                new = old_to_new[old]
                if new in kwargs:
                    raise InputError(f"`{old}` is the old spelling of `{new}`; give `{new}` alone.")
                warn_renamed(f"{old}=", f"{new}=")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        accepting.__renamed_arguments__ = dict(old_to_new)  # type: ignore[attr-defined]
        return accepting

    return decorate


def renamed_option(name: str, value: Any, old_to_new: Mapping[str, str]) -> Any:
    """Return an option, or the options of a list, in the new spelling; a value given in the old one warns.

    Parameters
    ----------
    name
        The argument.
    value
        What was given: an option, a list or tuple of options, or anything else, which is returned as it is.
    old_to_new
        For each old spelling of an option the new one.
    """
    if isinstance(value, list | tuple):
        return type(value)([renamed_option(name, item, old_to_new) for item in value])
    if isinstance(value, str) and value in old_to_new:
        warn_renamed(f"{name}={value!r}", f"{name}={old_to_new[value]!r}")
        return old_to_new[value]
    return value


@overload
def renamed(old_name: str, new: str) -> property: ...
@overload
def renamed(old_name: str, new: Callable[P, R]) -> Callable[P, R]: ...
def renamed(old_name: str, new: Any) -> Any:
    """Return a deprecated alias of an attribute or a function.

    Parameters
    ----------
    old_name
        The old name.
    new
        The name of the attribute, for an alias in a class body; or the function itself.

    Returns
    -------
    property or callable
        A read-only property that warns and returns the attribute, or a function that warns and calls the new one.
    """
    if isinstance(new, str):

        def read(self: Any) -> Any:
            owner = type(self).__name__
            _warn_attribute(owner, old_name, new)
            return attrgetter(new)(self)

        read.__doc__ = f"Deprecated alias of :attr:`{new}`."
        return property(read)

    spelled = new.__qualname__

    @functools.wraps(new)
    def call(*args: Any, **kwargs: Any) -> Any:
        warn_renamed(old_name, spelled)
        return new(*args, **kwargs)

    call.__name__ = call.__qualname__ = old_name
    call.__doc__ = f"Deprecated alias of :func:`{spelled}`."
    return call


def moved_method(old_name: str, new: str) -> Callable[..., Any]:
    """Return a deprecated method, for a class body, that calls a function with the object as its first argument.

    Parameters
    ----------
    old_name
        The name of the method.
    new
        The function as ``"package.module:name"``. It is imported when the method is called, so that a class needs to
        know nothing of the module.
    """
    place, _, name = new.partition(":")

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        warn_renamed(f"{type(self).__name__}.{old_name}", f"{place}.{name}")
        return attrgetter(name)(importlib.import_module(place))(self, *args, **kwargs)

    call.__name__ = old_name
    call.__doc__ = f"Deprecated alias of :func:`{place}.{name}`."
    return call


def renamed_attributes(table: Mapping[str, str]) -> Callable[[Any, str], Any]:
    """Return a ``__getattr__`` for a class, which forwards old attribute names with a DeprecationWarning.

    Parameters
    ----------
    table
        For each old name the path of the new one from the object: ``"score"``, or ``"_executor.prepare"``. Where the
        path has a private part the warning says that the attribute is no longer public.

    Returns
    -------
    callable
        To be assigned to ``__getattr__`` in the class body. Python calls it only for attributes that are not found, so
        the others cost nothing.
    """
    targets = dict(table)

    def __getattr__(self: Any, name: str) -> Any:
        owner = type(self).__name__
        if name not in targets:
            raise AttributeError(f"{owner!r} object has no attribute {name!r}", name=name, obj=self)
        _warn_attribute(owner, name, targets[name])
        return attrgetter(targets[name])(self)

    return __getattr__


def renamed_names(module: str, table: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a module, which forwards old names with a DeprecationWarning.

    Parameters
    ----------
    module
        The module's ``__name__``.
    table
        For each old name the new one as ``"package.module:name"``.
    """
    targets = dict(table)

    def __getattr__(name: str) -> Any:
        if name not in targets:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, new = targets[name].partition(":")
        warn_renamed(f"{module}.{name}", f"{place}.{new}")
        return attrgetter(new)(importlib.import_module(place))

    return __getattr__


def _warn_attribute(owner: str, old: str, new: str) -> None:
    if any(part.startswith("_") for part in new.split(".")):
        warn(f"`{owner}.{old}` is no longer public and will be removed in {REMOVED_IN}.", DeprecationWarning)
    else:
        warn_renamed(f"{owner}.{old}", f"{owner}.{new}")
