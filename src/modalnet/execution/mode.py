"""Evaluation mode, for as long as a pass runs.

A module that the user trains stays in the mode that the user set: dropout and batch statistics are switched off for the
pass alone, submodule by submodule, and what was on is switched on again, whatever happens in between.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_changing = threading.Lock()
#: How many passes hold a module in evaluation mode that the user has in training mode.
_holders: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put a module and all of its submodules in evaluation mode inside, until the last thread that asks has left."""
    with _changing:
        training = _in_training(module)
        for each in training:
            # The attribute alone: a class may do more in `train()`, such as merging weights.
            each.__dict__["training"] = False
            _holders[each] = _holders.get(each, 0) + 1
    try:
        yield
    finally:
        with _changing:
            for each in training:
                _holders[each] -= 1
                if not _holders[each]:
                    del _holders[each]
                    each.__dict__["training"] = True


def _in_training(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The submodules that the user has in training mode; `modules()` takes ten times as long, and every pass asks."""
    found: list[torch.nn.Module] = []
    seen: set[int] = set()
    waiting: list[Any] = [module]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if each.training or (_holders and each in _holders):
            found.append(each)
        waiting.extend(each._modules.values())
    return found
