"""Turns: one pass at a time runs on a module, whichever thread asks for it.

A trace holds the module for the length of one pass, and nnsight has no notion of a second one beside it. So each pass
takes the locks of its module, and threads alternate between passes. Models that share a part, such as a vision tower
that is loaded on its own too, share the lock of that part.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_claiming = threading.Lock()
_numbers = itertools.count()
#: Per module, a number and a lock. A part that no model held before has the lock of the model that it is in.
_parts: weakref.WeakKeyDictionary[Any, tuple[int, Any]] = weakref.WeakKeyDictionary()
#: Per model, the locks that it takes, by their numbers, so that two models take them in one order.
_models: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()


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


def modules_of(module: torch.nn.Module) -> list[torch.nn.Module]:
    """A module and all that it is made of; many times as fast as ``modules()``, as it looks for no repetition."""
    found = [module]
    for each in found:  # which grows meanwhile
        found.extend(part for part in each._modules.values() if part is not None)
    return found
