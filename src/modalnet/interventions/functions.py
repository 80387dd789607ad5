"""Functions of activations as operations, and what tells two of them apart.

A function is code, which no digest covers as a whole. So it is identified by a name that the user gives it, together
with its source and the numbers, texts and arrays that it refers to, as far as these can be read.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet._validation import refusal
from modalnet.errors import InputError
from modalnet.interventions.content import content_digest

if TYPE_CHECKING:
    import torch

#: From activations ``[token, unit]`` to others of that shape.
Change = Callable[..., "torch.Tensor"]


@dataclass(frozen=True)
class Function:
    """A function of the activations of one stimulus' tokens in one layer.

    Attributes
    ----------
    call
        The function.
    name
        What identifies it in the store; None: it is not stored.
    takes_layer
        Whether it is told the layer, as ``layer=``.

    Raises
    ------
    InputError
        For something that is no function of one array; for a name that is no text.
    """

    call: Change
    name: str | None = None
    takes_layer: bool = False

    @classmethod
    def checked(cls, call: Any, name: Any) -> Function:
        """The function that a user gave."""
        if not callable(call):
            raise refusal("function", "a function of the activations [token, unit]", call)
        if name is not None and (not isinstance(name, str) or not name.strip()):
            raise refusal("name", "a text that identifies the function, or None", name)
        try:
            signature = inspect.signature(call)
        except (TypeError, ValueError):  # a builtin that does not say what it takes
            return cls(call, name)
        parameters = signature.parameters
        by_name = parameters.get("layer")
        takes_layer = by_name is not None and by_name.kind is not by_name.POSITIONAL_ONLY
        takes_layer = takes_layer and next(iter(parameters)) != "layer"
        try:
            signature.bind(None, **({"layer": 0} if takes_layer else {}))
        except TypeError as error:
            raise InputError(
                f"`function` must take one argument, the activations [token, unit], and may take `layer` by name; got "
                f"{_called(call)}{signature}: {error}."
            ) from error
        return cls(call, name, takes_layer)

    def at(self, layer: int) -> Change:
        """The function of the activations in a layer."""
        return functools.partial(self.call, layer=layer) if self.takes_layer else self.call

    @property
    def digest(self) -> str:
        """A hash of the name, the source and what it refers to; without a name it holds in this process alone."""
        if self.name is None:
            return f"function {id(self.call)}"
        digest = hashlib.sha256(repr((self.name, self.takes_layer)).encode())
        for part in _described(self.call):
            digest.update(part.encode())
        return digest.hexdigest()

    @property
    def not_stored(self) -> str:
        """Why results that depend on it are not stored; empty where they are."""
        return "" if self.name is not None else "nothing tells what its function computes; apply(..., name=) names it"

    def __str__(self) -> str:
        return self.name or _called(self.call)


def _called(call: Any) -> str:
    return getattr(call, "__qualname__", type(call).__qualname__).rpartition("<locals>.")[2]


def _described(call: Any) -> Iterator[str]:
    """The source of a function, and the values that it refers to."""
    if isinstance(call, functools.partial):
        yield from _described(call.func)
        values: dict[str, Any] = {str(number): value for number, value in enumerate(call.args)} | call.keywords
    elif hasattr(call, "state_dict"):
        yield _source(type(call))
        values = dict(call.state_dict())
    else:
        yield _source(call)
        values = _referred(call)
    for name, value in sorted(values.items()):
        shown = _plain(value)
        if shown:
            yield f"{name}={shown}"


def _source(call: Any) -> str:
    try:
        return inspect.getsource(call)
    except (OSError, TypeError):
        return ""


def _referred(call: Any) -> dict[str, Any]:
    """Defaults of a function, and what it finds by name outside of itself."""
    try:
        around = inspect.getclosurevars(call)
    except TypeError:  # an object with __call__, or a builtin
        return dict(getattr(call, "__dict__", {}))
    defaults = {name: one.default for name, one in inspect.signature(call).parameters.items()}
    return {**defaults, **around.globals, **around.nonlocals}


def _plain(value: Any) -> str:
    """A number, a text, an array, or several of them, as text; empty for what cannot be read."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
    if isinstance(value, np.ndarray | np.generic):
        return content_digest(np.asarray(value))
    if isinstance(value, list | tuple):
        return repr([_plain(each) for each in value])
    return ""
