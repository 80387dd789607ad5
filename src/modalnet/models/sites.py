"""Spaces: the kinds of activations along a tower that have units, and where in a block each one is.

A *space* is one kind of activation along a tower, such as the residual stream, which is named by the tower alone
(``"decoder"``). A *site* is one layer of a space: the output or the input of one module of the block. What a kind of
space is, is one entry of :data:`KINDS`; everything else in modalnet works on spaces and knows no kind by name.

The residual stream is read at the output of each block. A unit is one of its dimensions there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, Literal, TypeAlias

from modalnet._validation import refusal
from modalnet.errors import InputError
from modalnet.models.towers import Tower

RESIDUAL = "residual"

Side = Literal["output", "input"]


@dataclass(frozen=True)
class Kind:
    """How one kind of activation is found in a block.

    Attributes
    ----------
    name
        Such as ``"residual"``.
    suffix
        What follows the tower's name in the name of the space, such as ``"mlp"`` for ``"decoder.mlp"``; empty for the
        residual stream.
    find
        From a tower and one of its blocks (a torch module) to the path, inside the block, of the module whose output or
        input is read and written: empty for the block itself, None where the block has no such module.
    width
        From the tower and that module to the number of units per layer.
    side
        Whether the module's ``"output"`` or its ``"input"`` is read and written.
    place
        Where in a block it is computed: of the sites of one block, those with smaller places come first.
    whole
        Whether the activations of one layer are all that later layers see of the layers before, so that these need not
        run again when the activations are known.
    unit_shape
        From the tower and the module to the shape of one unit's activation: ``()`` for a number.
    """

    name: str
    suffix: str
    find: Callable[[Tower, Any], str | None]
    width: Callable[[Tower, Any], int]
    side: Side = "output"
    place: int = 0
    whole: bool = False
    unit_shape: Callable[[Tower, Any], tuple[int, ...]] = lambda tower, module: ()


#: The kinds of spaces by name, in the order in which a model lists them.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            RESIDUAL,
            suffix="",
            find=lambda tower, block: "",
            width=lambda tower, block: tower.width,
            place=100,
            whole=True,
        ),
    )
}

#: Names that TransformerLens has for kinds of spaces.
ALIASES = {"resid_post": RESIDUAL}


@dataclass(frozen=True)
class Space:
    """One kind of activation along a tower.

    Attributes
    ----------
    tower
        The tower.
    kind
        The name of the kind of activation, a key of :data:`KINDS`.
    """

    tower: Tower
    kind: str = RESIDUAL

    @cached_property
    def _kind(self) -> Kind:
        return KINDS[self.kind]

    @property
    def name(self) -> str:
        """What it is called wherever units are named, such as ``"decoder"`` for the residual stream of the decoder."""
        suffix = self._kind.suffix
        return f"{self.tower.name}.{suffix}" if suffix else self.tower.name

    @property
    def modality(self) -> str:
        """What its tower reads: ``"image"``, ``"audio"`` or ``"text"``."""
        return self.tower.modality

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.tower.n_layers

    @cached_property
    def width(self) -> int:
        """Number of units per layer."""
        return self._kind.width(self.tower, self._first[1])

    @cached_property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of one unit's activation at one token; ``()`` for a number."""
        return self._kind.unit_shape(self.tower, self._first[1])

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_layers, width)``: the shape of every map over the space's units."""
        return self.n_layers, self.width

    @property
    def n_units(self) -> int:
        """Number of units, ``n_layers * width``."""
        return self.n_layers * self.width

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Module path of each layer's site."""
        if not self.tower.blocks:
            return self.tower.paths
        inside = [self._kind.find(self.tower, block) or "" for block in self.tower.blocks]
        return tuple(f"{path}.{sub}" if sub else path for path, sub in zip(self.tower.paths, inside, strict=True))

    @property
    def side(self) -> Side:
        """Whether the ``"output"`` or the ``"input"`` of those modules is read and written."""
        return self._kind.side

    @property
    def whole(self) -> bool:
        """Whether the activations of one layer are all that later layers see of the layers before."""
        return self._kind.whole

    def site(self, layer: int) -> tuple[str, Side]:
        """The module path of a layer's site, and whether its output or its input is meant."""
        return self.paths[layer], self.side

    def order(self, layer: int) -> tuple[int, int, int]:
        """Sorts the sites of a model in the order in which a forward pass reaches them."""
        return self.tower.order, layer, self._kind.place

    @cached_property
    def _first(self) -> tuple[str | None, Any]:
        """Path and module of the first layer's site; without a module for a tower that is known by its paths alone."""
        if not self.tower.blocks:
            return "", None
        block = self.tower.blocks[0]
        path = self._kind.find(self.tower, block)
        return path, block.get_submodule(path) if path else block

    def __str__(self) -> str:
        return f"{self.name}: {self.n_layers} layers x {self.width} = {self.n_units:,} units"


def find_spaces(towers: Mapping[str, Tower]) -> dict[str, Space]:
    """The spaces of a model.

    Returns
    -------
    dict
        Space by name: tower by tower, in the order of :data:`KINDS`; without what some block of a tower does not have.
    """
    found = {}
    for tower in towers.values():
        for kind in KINDS.values():
            if all(kind.find(tower, block) is not None for block in tower.blocks):
                space = Space(tower, kind.name)
                found[space.name] = space
    return found


def canonical_name(name: str) -> str:
    """The name of a space as a model lists it.

    ``"resid_post"``, TransformerLens' name, is the decoder's residual stream, ``"decoder"``; ``"vision.resid_post"``
    and ``"vision.residual"`` are ``"vision"``.
    """
    tower, _, kind = name.rpartition(".")
    known = ALIASES.get(kind) or (kind if tower and kind in KINDS else None)
    if known is None:
        return name
    suffix = KINDS[known].suffix
    tower = tower or "decoder"
    return f"{tower}.{suffix}" if suffix else tower


def get_space(spaces: Mapping[str, Space], name: str, model: str = "this model") -> Space:
    """A space of a model by its name, or by a name that TransformerLens has for it.

    Raises
    ------
    InputError
        There is no such space; the message lists those that there are.
    """
    known = canonical_name(name) if isinstance(name, str) else name
    if known not in spaces:
        raise InputError(f"{model} has no space {name!r}; its spaces are {', '.join(spaces)}.")
    return spaces[known]


def choose_spaces(
    spaces: Mapping[str, Space], names: str | Iterable[str] | None, model: str = "this model"
) -> list[str]:
    """Names of spaces in the order of the model, from names of spaces or of kinds; None for the residual streams.

    Raises
    ------
    InputError
        A name is none of these, or there is none.
    """
    if names is None:
        return [name for name, space in spaces.items() if space.kind == RESIDUAL]
    asked = [names] if isinstance(names, str) else list(names)
    chosen = set()
    for name in asked:
        kind = ALIASES.get(name, name)
        of_kind = [space.name for space in spaces.values() if space.kind == kind]
        chosen.update(of_kind or [get_space(spaces, name, model).name])
    if not chosen:
        raise InputError(f"At least one space is required; the spaces of {model} are {', '.join(spaces)}.")
    return [name for name in spaces if name in chosen]


#: Layers of a space as they are kept: a number, numbers, a slice as text, or a mask of as many booleans as layers.
LayerChoice: TypeAlias = "int | str | tuple[int, ...] | tuple[bool, ...]"

_EXPECTED = "a number, a list or range of numbers, a slice, or a mask of booleans"
_SLICE = re.compile(r"(-?\d*):(-?\d*)(?::(-?[1-9]\d*))?")


def layer_choice(layers: Any) -> LayerChoice:
    """A choice of layers in a form that can be compared and hashed; an InputError for what is none."""
    if isinstance(layers, slice):
        ends = (layers.start, layers.stop, *(() if layers.step is None else (layers.step,)))
        written = ":".join("" if end is None else str(end) for end in ends)
        if _SLICE.fullmatch(written):
            return written
        raise refusal("layer", _EXPECTED, layers)
    plain = layers.tolist() if hasattr(layers, "tolist") else layers
    if _is_number(plain):
        return int(plain)
    listed = list(plain) if isinstance(plain, Iterable) and not isinstance(plain, str | bytes | Mapping) else []
    listed = [one.tolist() if hasattr(one, "tolist") else one for one in listed]
    if listed and all(isinstance(one, bool) for one in listed):
        return tuple(listed)
    if listed and all(map(_is_number, listed)):
        return tuple(int(one) for one in listed)
    raise refusal("layer", _EXPECTED, layers)


def layers_of(space: Space, layers: Any) -> tuple[int, ...]:
    """Layers of a space as they were given, counted from 0: in their order, and as often.

    Parameters
    ----------
    space
        The space.
    layers
        What :func:`layer_choice` takes, or what it made of it; None for all layers.

    Raises
    ------
    InputError
        For a layer that does not exist, a mask of another length, or something that is no layer.
    """
    return (*range(space.n_layers),) if layers is None else chosen_layers(layers, space.n_layers, space.name)


def chosen_layers(layers: Any, n_layers: int, name: str) -> tuple[int, ...]:
    """Layers among so many of a space of that name; see :func:`layers_of`."""
    if hasattr(layers, "__len__") and not isinstance(layers, str) and not len(layers):
        return ()
    try:
        choice = layers if isinstance(layers, str) and _SLICE.fullmatch(layers) else layer_choice(layers)
    except InputError as error:
        wrong = layers if isinstance(layers, str) or not isinstance(layers, Iterable) else list(layers)
        first = next((one for one in wrong if not _is_number(one)), wrong) if isinstance(wrong, list) else wrong
        raise InputError(
            f"Layer {first!r} does not exist: {name} has layers 0..{n_layers - 1}. Choose by {_EXPECTED}."
        ) from error
    if isinstance(choice, str):
        found = range(n_layers)[slice(*(int(end) if end else None for end in choice.split(":")))]
        if not found:
            raise InputError(f"The slice {choice} selects no layer: {name} has layers 0..{n_layers - 1}.")
        return tuple(found)
    numbers = (choice,) if isinstance(choice, int) else choice
    if all(isinstance(one, bool) for one in numbers):
        if len(numbers) != n_layers:
            raise InputError(f"The mask of layers has {len(numbers)} booleans, but {name} has {n_layers} layers.")
        return tuple(layer for layer, chosen in enumerate(numbers) if chosen)
    for layer in numbers:
        if not -n_layers <= layer < n_layers:
            raise InputError(f"Layer {layer!r} does not exist: {name} has layers 0..{n_layers - 1}.")
    return tuple(layer % n_layers for layer in numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
