"""The one way to the result store: what an analysis computed is answered from there, if and only if it would be equal.

An analysis hands its inputs, its settings and a function that computes its result to :func:`cached`. The key of the
entry is made here, from everything that decides the numbers: the model as it is at this moment (see
:mod:`modalnet.models.fingerprint`), the inputs, every setting, the versions of the libraries that compute, and the
source of modalnet. An analysis of many independent parts, each of which takes long, uses :func:`cached_parts`, which
stores every part when it is there.

A model under hooks, edits or replaced methods is neither looked up nor stored, nor is one that draws random numbers:
nothing describes what it does. That is silent, since such a model was made so on purpose; where weights cannot be read
it is said. A store that cannot be written costs one warning, and never a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache as memoized
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np

from modalnet._validation import check_cache
from modalnet._version import __version__, source_digest
from modalnet._warnings import warn
from modalnet.errors import InputError, StoreError
from modalnet.results.store import Store
from modalnet.units import Units

Arrays: TypeAlias = Mapping[str, np.ndarray]

_LIBRARIES = ("torch", "transformers", "nnsight", "numpy", "scipy", "tokenizers", "pillow", "torchvision", "peft")


@dataclass
class Access:
    """The store of one call of an analysis; none once it could not be written, which costs one warning."""

    store: Store | None

    @classmethod
    def of(cls, cache: CacheLike) -> Access:
        """The store that a ``cache`` argument names.

        Raises
        ------
        InputError
            If it names none.
        """
        if isinstance(cache, Access):
            return cache
        if isinstance(cache, Store):
            return cls(cache)
        check_cache(cache)
        if isinstance(cache, bool):
            return cls(Store() if cache else None)
        return cls(Store(cache))

    def put(self, key: str, arrays: Arrays, document: Mapping[str, Any]) -> bool:
        """Store arrays with a JSON document; whether they are stored."""
        if self.store is None:
            return False
        try:
            self.store.put(key, arrays, document)
        except StoreError as error:
            warn(f"The result is not stored: {error}")
            self.store = None
            return False
        return True

    def get(self, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Read arrays and their document; None where there are none."""
        if self.store is None:
            return None
        try:
            return self.store.read(key)
        except StoreError as error:
            warn(f"The result is not stored: {error}")
            self.store = None
            return None


#: What the ``cache`` argument of an analysis takes: the default store, none, a folder, or a store.
CacheLike: TypeAlias = bool | str | Path | Store | Access


@dataclass(frozen=True)
class Identity:
    """Everything about a model that determines its results.

    Attributes
    ----------
    numbers
        A JSON document; equal for two models that compute the same.
    reason
        Why results of the model are not stored; empty where they are.
    unexpected
        Whether the reason is one that a user may not know of.
    """

    numbers: Mapping[str, Any]
    reason: str = ""
    unexpected: bool = False


@runtime_checkable
class Identified(Protocol):
    """A model that knows what its numbers depend on."""

    @property
    def name(self) -> str: ...

    def _identity(self) -> Identity: ...


R = TypeVar("R", bound="Storable")


class Storable(Protocol):
    """A result that can be written as arrays and a JSON document, and made again from them."""

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]: ...

    @classmethod
    def from_arrays(cls: type[R], arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> R: ...


def cached(
    model: Identified | None,
    analysis: str,
    inputs: Any,
    settings: Mapping[str, Any],
    compute: Callable[[], R],
    *,
    result: type[R],
    cache: CacheLike = True,
) -> R:
    """Return a result from the store, or compute and store it.

    Parameters
    ----------
    model
        The model whose numbers the result is made of; None for an analysis of features alone.
    analysis
        Its name.
    inputs
        What goes in, such as digests of stimuli: plain values, numpy arrays, Units and other models; or a function that
        returns them, which is called where there is a store.
    settings
        Every argument that the result depends on, by name.
    compute
        Computes the result.
    result
        The class of the result.
    cache
        As for :func:`modalnet.localize`.

    Returns
    -------
    result
        Equal to what ``compute()`` returns.
    """
    slot = open_slot(model, analysis, inputs, settings, cache=cache)
    found = slot.read(result)
    if found is not None:
        return found
    made = compute()
    slot.write(made)
    return made


def cached_parts(
    model: Identified | None,
    analysis: str,
    inputs: Any,
    settings: Sequence[Mapping[str, Any]],
    compute: Callable[[list[int]], Iterable[tuple[int, Arrays]]],
    *,
    cache: CacheLike = True,
) -> Iterator[tuple[int, Arrays]]:
    """Yield the parts of a study, those in the store first, and store each of the others when it is computed.

    Parameters
    ----------
    model, analysis, inputs, cache
        As for :func:`cached`; the inputs are shared by all parts.
    settings
        Per part, what it depends on besides.
    compute
        Takes the numbers of the parts that are missing and yields each number with its arrays, in any order.

    Yields
    ------
    tuple of int, mapping
        The number of a part, and its arrays.
    """
    base = open_slot(model, analysis, inputs, {}, cache=cache)
    slots = [base.part(one) for one in settings]
    missing = []
    for index, slot in enumerate(slots):
        found = slot.read_arrays()
        if found is None:
            missing.append(index)
        else:
            yield index, found[0]
    if missing:
        about = {"kind": analysis, "source": model.name if model is not None else ""}
        for index, arrays in compute(missing):
            slots[index].write_arrays(arrays, about)
            yield index, arrays


# One place in the store


@dataclass
class Slot:
    """Where one result belongs in the store.

    Attributes
    ----------
    key
        Its key; empty where nothing is stored.
    description
        What the key is a hash of.
    """

    access: Access
    key: str = ""
    description: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def read(self, result: type[R]) -> R | None:
        """The stored result; None where there is none."""
        found = self.read_arrays()
        if found is None:
            return None
        try:
            return result.from_arrays(*found)
        except InputError as error:
            warn(f"The stored result {self.key} cannot be used and is computed again: {error}")
            return None

    def write(self, made: Storable) -> None:
        """Store a result; costs a warning where the store cannot be written."""
        if self.key:
            self.access.put(self.key, *made.to_arrays())

    def read_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The stored arrays and their document; None where there are none."""
        return self.access.get(self.key) if self.key else None

    def write_arrays(self, arrays: Arrays, document: Mapping[str, Any]) -> bool:
        """Store arrays with a JSON document; whether they are stored."""
        return bool(self.key) and self.access.put(self.key, arrays, document)

    def part(self, settings: Mapping[str, Any]) -> Slot:
        """The place of a part of this result, which depends on further settings."""
        if not self.key:
            return self
        return Slot(self.access, Store.key({"part": canonical(settings), "of": self.key}))

    @classmethod
    def known(cls, key: str, *, cache: CacheLike = True) -> Slot:
        """The place of a result whose key is known; an InputError for what is no key."""
        access = Access.of(cache)
        (access.store or Store()).path(key)
        return cls(access, key)

    def folder(self, name: str = "") -> Path:
        """A folder in that of the store, for files that belong to a result which is under way."""
        return (self.access.store or Store()).folder / name

    def derived(self, settings: Mapping[str, Any]) -> str:
        """A key made of this one and more, whether anything is stored or not."""
        return Store.key({"of": self.key, "with": canonical(settings)})

    def journal(self) -> Journal:
        """What was computed of this result before it was whole."""
        return Journal(self)


class Journal:
    """Parts of one result, stored one after another until the whole is there.

    A call that was broken off goes on from them.
    """

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._next = 0

    def read(self) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]]]:
        """Yield the parts that are there, in the order in which they were written."""
        while (found := self._of(self._next).read_arrays()) is not None:
            self._next += 1
            yield found

    def write(self, arrays: Arrays, document: Mapping[str, Any]) -> None:
        """Store the next part."""
        self._next += self._of(self._next).write_arrays(arrays, document)

    def forget(self) -> None:
        """Remove all parts: the whole is there."""
        store = self._slot.access.store
        if store is None or not self._slot.key:
            return
        keys: list[str] = []
        while store.path(key := self._of(len(keys)).key).exists():
            keys.append(key)
        store.clear(keys)

    def _of(self, number: int) -> Slot:
        return self._slot.part({"number": number})


def open_slot(
    model: Identified | None, analysis: str, inputs: Any, settings: Mapping[str, Any], *, cache: CacheLike = True
) -> Slot:
    """The place of a result in the store; see :func:`cached`.

    Where nothing can be stored, its key is empty, and it reads and writes nothing.
    """
    access = Access.of(cache)
    if access.store is None:
        return Slot(access)
    identity = None if model is None else model._identity()
    given = inputs() if callable(inputs) else inputs
    refused = [one for one in (identity, *_identities(given)) if one is not None and one.reason]
    for one in refused:
        if one.unexpected:
            warn(f"The result is not stored: {one.reason}.")
    if refused:
        return Slot(access)
    description = {
        "analysis": analysis,
        "model": None if identity is None else dict(identity.numbers),
        "inputs": canonical(given),
        "settings": canonical(settings),
        **environment(),
    }
    return Slot(access, Store.key(description), description)


@memoized
def environment() -> dict[str, Any]:
    """What computes: the version and source of modalnet, and the versions of the libraries."""
    from importlib.metadata import PackageNotFoundError, version

    libraries = {}
    for name in _LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"version": __version__, "source": source_digest(), "libraries": libraries}


def canonical(value: Any) -> Any:  # noqa: PLR0911  # one branch per kind of value
    """A value as JSON, the same for the same content: arrays by a digest, models by their identity.

    Raises
    ------
    InputError
        For something that has no content to be described.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, np.generic):
        return canonical(value.item())
    if isinstance(value, np.ndarray):
        return _of_array(value)
    if isinstance(value, Mapping):
        return {str(key): canonical(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((canonical(each) for each in value), key=repr)
    if isinstance(value, Units):
        return {"mask": canonical(value.mask), "mean_abs": canonical(value.mean_abs)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Identity):
        return dict(value.numbers)
    if isinstance(value, Identified):
        return dict(value._identity().numbers)
    raise InputError(f"A {type(value).__name__} cannot be part of the key of a stored result: {value!r:.100}")


def _of_array(array: np.ndarray) -> str:
    import xxhash

    if array.dtype == object:
        raise InputError("An array of objects cannot be part of the key of a stored result.")
    array = np.ascontiguousarray(array)
    digest = xxhash.xxh3_128(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.tobytes())
    return f"array:{digest.hexdigest()}"


def _identities(value: Any) -> Iterator[Identity]:
    """The identities of all models in a value."""
    if isinstance(value, Identity):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _identities(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _identities(each)
    elif not isinstance(value, str | np.ndarray) and isinstance(value, Identified):
        yield value._identity()
