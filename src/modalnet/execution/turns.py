"""Turns: one pass at a time runs on a module, whichever thread asks for it.

A trace holds the module for the length of one pass, and nnsight has no notion of a second one beside it. So each pass
takes the locks of its module, and threads alternate between passes. Models that share a part, such as a vision tower
that is loaded on its own too, share the lock of that part.

What is measured of a model on the way, and remembered with it, is under another lock: work on one batch, from its
layout to its result, is one step, and threads alternate between steps. No thread holds either while results are
consumed.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

_claiming = threading.Lock()
_numbers = itertools.count()
#: Per module, a number and a lock. A part that no model held before has the lock of the model that it is in.
_parts: weakref.WeakKeyDictionary[Any, tuple[int, Any]] = weakref.WeakKeyDictionary()
#: Per model, the locks that it takes, by their numbers, so that two models take them in one order.
_models: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()
#: Per model, the lock of what is measured of it.
_work: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def claim(module: torch.nn.Module) -> list[torch.nn.Module]:
    """Find the locks of a model for the modules that it has now, which are returned."""
    parts = modules_of(module)
    with _claiming:
        fresh = (next(_numbers), threading.RLock())
        held = dict(_parts.setdefault(part, fresh) for part in parts)
        _models[module] = [held[number] for number in sorted(held)]
    return parts


@contextlib.contextmanager
def turn(module: torch.nn.Module) -> Iterator[None]:
    """Wait for a model, and hold it meanwhile; the same thread may take it again."""
    if module not in _models:
        claim(module)
    with contextlib.ExitStack() as stack:
        for lock in _models[module]:
            stack.enter_context(lock)
        yield


@contextlib.contextmanager
def step(engine: Any) -> Iterator[None]:
    """Work alone on the model of an engine; where its passes run on a server, which are slow, side by side."""
    if not engine.capabilities.weights_here:
        yield
        return
    with _claiming:
        lock = _work.setdefault(engine.module, threading.RLock())
    with lock:
        yield


def one_step(function: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Make a call of a function one step; its first argument has the engine."""

    @wraps(function)
    def whole(held: S, /, *args: P.args, **options: P.kwargs) -> T:
        with step(held.engine):  # type: ignore[attr-defined]
            return function(held, *args, **options)

    return whole


def step_by_step(function: Callable[Concatenate[S, P], Iterator[T]]) -> Callable[Concatenate[S, P], Iterator[T]]:
    """Make each item of a generator one step; the first argument of its function has the engine."""

    @wraps(function)
    def stepped(held: S, /, *args: P.args, **options: P.kwargs) -> Iterator[T]:
        items = function(held, *args, **options)
        nothing = object()
        with contextlib.closing(items):  # type: ignore[type-var]
            while True:
                with step(held.engine):  # type: ignore[attr-defined]
                    item = next(items, nothing)
                if item is nothing:
                    return
                yield item  # type: ignore[misc]
                del item  # or it would be held while the next one is made

    return stepped


def modules_of(module: torch.nn.Module) -> list[torch.nn.Module]:
    """A module and all that it is made of; many times as fast as ``modules()``, as it looks for no repetition."""
    found = [module]
    for each in found:  # which grows meanwhile
        found.extend(part for part in each._modules.values() if part is not None)
    return found
