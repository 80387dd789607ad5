"""How objects and functions of this room travel in a job to a server that has no modalnet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from modalnet.errors import InputError


def check_ships(function: Any, label: str) -> None:
    """Refuse a function that nnsight cannot write into a job."""
    from nnsight.intervention.serialization import dumps

    try:
        dumps(function)
    except Exception as error:  # whatever the objects that it refers to raise when they are pickled
        raise InputError(
            f"{label}: its function cannot be sent to a server: {type(error).__name__}: {error}. Write it as a def "
            "or a lambda that uses torch, numbers and tensors alone, or load the model locally."
        ) from error


class Shipped:
    """Plain data that is unpickled as a ``SimpleNamespace`` of the same attributes, so that no class travels."""

    def __reduce__(self) -> tuple[Any, ...]:
        return SimpleNamespace, (), dict(vars(self))


@contextlib.contextmanager
def by_value() -> Iterator[None]:
    """While a job is written, functions of this room are pickled with their source and not by their name.

    For no longer: what else a program pickles is none of modalnet's business.
    """
    from cloudpickle.cloudpickle import _PICKLE_BY_VALUE_MODULES

    room = "modalnet.execution"
    fresh = room not in _PICKLE_BY_VALUE_MODULES
    _PICKLE_BY_VALUE_MODULES.add(room)
    try:
        yield
    finally:
        if fresh:
            _PICKLE_BY_VALUE_MODULES.discard(room)
