"""Evaluation mode, for as long as a pass runs.

A module that the user trains stays in the mode that the user set: dropout and batch statistics are switched off for the
pass alone, submodule by submodule, and what was on is switched on again, whatever happens in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put a module and all of its submodules in evaluation mode inside."""
    training = _in_training(module)
    for each in training:
        # The attribute alone: a class may do more in `train()`, such as merging weights.
        each.__dict__["training"] = False
    try:
        yield
    finally:
        for each in training:
            each.__dict__["training"] = True


def _in_training(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The submodules in training mode; `modules()` takes ten times as long, and a pass asks every time."""
    found: list[torch.nn.Module] = []
    seen: set[int] = set()
    waiting: list[Any] = [module]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if each.training:
            found.append(each)
        waiting.extend(each._modules.values())
    return found
