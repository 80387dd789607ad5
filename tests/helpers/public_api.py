"""Every public function and method, by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import modalnet as mn

PACKAGES = ("brain", "features", "interop", "patching", "plotting", "stimuli", "tasks")


def public_callables() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for module in (mn, *(importlib.import_module(f"modalnet.{name}") for name in PACKAGES)):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                members = inspect.getmembers(value, lambda one: inspect.isfunction(one) or inspect.ismethod(one))
                found |= {
                    f"{name}.{attribute}": member for attribute, member in members if not attribute.startswith("_")
                }
            elif callable(value):
                found[name] = value
    return found


CALLABLES = public_callables()
