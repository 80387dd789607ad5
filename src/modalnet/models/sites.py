"""Spaces: the kinds of activations along a tower that have units, and where in a block each one is.

A *space* is one kind of activation along a tower, such as the residual stream, which is named by the tower alone
(``"decoder"``), or the neurons of its MLPs (``"decoder.neurons"``). A *site* is one layer of a space: some of the
numbers that one module of the block puts out or takes in (a :class:`~modalnet.models.places.Place`). What kinds there
are is :data:`KINDS`; where a block has them is found by its structure (:mod:`modalnet.models.sublayers`) and checked by
measurement when a space is first used (:mod:`modalnet.execution.sublayers`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from modalnet._validation import refusal
from modalnet.errors import InputError
from modalnet.models.places import Absent, Place, Side
from modalnet.models.routers import find_router
from modalnet.models.streams import plain
from modalnet.models.sublayers import find_places
from modalnet.models.towers import Tower

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from modalnet.units import Units

RESIDUAL = "residual"


@dataclass(frozen=True)
class Kind:
    """One kind of activation.

    Attributes
    ----------
    name
        Such as ``"residual"``; a space has it after the tower's name, but for the residual stream.
    what
        What its activations are, for people.
    whole
        Whether the activations of one layer are all that later layers see of the layers before, so that these need not
        run again when the activations are known.
    """

    name: str
    what: str
    whole: bool = False

    @property
    def suffix(self) -> str:
        """What follows the tower's name in the name of the space, such as ``"mlp"``; empty for the residual stream."""
        return "" if self.name == RESIDUAL else self.name


#: The kinds of spaces by name, in the order in which a model lists them.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(RESIDUAL, "the residual stream, as a block puts it out", whole=True),
        Kind("pre", "the residual stream, as it enters a block"),
        Kind("mid", "the residual stream between attention and MLP"),
        Kind("attention", "what the attention adds to the residual stream"),
        Kind("mlp", "what the MLP adds to the residual stream"),
        Kind("neurons", "what enters the last projection of the MLP"),
        Kind("gate", "what enters the non-linearity of the MLP"),
        Kind("activation", "what the non-linearity of a gated MLP gives"),
        Kind("heads", "what enters the output projection of the attention, head by head"),
        Kind("experts", "the weights that the router of a mixture of experts gives"),
    )
}

#: Names that TransformerLens has for kinds of spaces.
ALIASES = {
    "resid_post": RESIDUAL,
    "resid_pre": "pre",
    "resid_mid": "mid",
    "attn_out": "attention",
    "mlp_out": "mlp",
    "mlp.hook_pre": "gate",
    "mlp.hook_post": "neurons",
    "hook_z": "heads",
    "attn.hook_z": "heads",
}
ALIASES |= {f"hook_{name}": kind for name, kind in ALIASES.items() if "hook" not in name}


@dataclass(frozen=True)
class Space:
    """One kind of activation along a tower.

    Attributes
    ----------
    tower
        The tower.
    kind
        The name of the kind of activation, a key of :data:`KINDS`.
    places
        For each layer where its units are, or why there are none; empty for the residual stream.
    measured
        Whether the places were checked by measurement.
    """

    tower: Tower
    kind: str = RESIDUAL
    places: tuple[Place | Absent, ...] = field(default=(), compare=False, repr=False)
    measured: bool = field(default=False, compare=False, repr=False)

    @property
    def name(self) -> str:
        """What it is called wherever units are named, such as ``"decoder"`` for the residual stream of the decoder."""
        suffix = KINDS[self.kind].suffix
        return f"{self.tower.name}.{suffix}" if suffix else self.tower.name

    @property
    def what(self) -> str:
        """What its activations are, in words."""
        return KINDS[self.kind].what

    @property
    def carrier(self) -> Space:
        """The space that its sites are read and written in: itself, but for latents of a dictionary."""
        return self

    @property
    def encoded(self) -> Space:
        """The space that its activations are made of: itself, but for latents of a dictionary."""
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the spaces that it is computed from."""
        return (self.name,)

    def code(self, layer: int) -> Any:
        """What encodes and decodes the activations of a layer; None but for latents of a dictionary."""
        return None

    @property
    def modality(self) -> str:
        """What its tower reads: ``"image"``, ``"audio"`` or ``"text"``."""
        return self.tower.modality

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.tower.n_layers

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Number of units of each layer; 0 where there are none."""
        if not self.places:
            return (self.tower.width,) * self.n_layers
        return tuple(place.width if isinstance(place, Place) else 0 for place in self.places)

    @cached_property
    def width(self) -> int:
        """Number of units per layer: of the widest, where layers differ."""
        return max(self.widths)

    @cached_property
    def size(self) -> int:
        """How many numbers one unit has at one token: 1, or those of a head's part."""
        return max((place.size for place in self.places if isinstance(place, Place)), default=1)

    @property
    def n_numbers(self) -> int:
        """How many numbers the units of a layer have at one token, ``width * size``."""
        return self.width * self.size

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_layers, width)``: the shape of every map over the space's units."""
        return self.n_layers, self.width

    @cached_property
    def exists(self) -> Bool[np.ndarray, "layer unit"]:
        """Which units there are: not all, where some layers have fewer than others, or none."""
        return np.arange(self.width) < np.array(self.widths)[:, None]

    @property
    def n_units(self) -> int:
        """Number of units."""
        return sum(self.widths)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have units."""
        return tuple(layer for layer, width in enumerate(self.widths) if width)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Module path of each layer's site; empty where there is none."""
        if not self.places:
            return self.tower.paths
        return tuple(
            _joined(path, place.path) if isinstance(place, Place) else ""
            for path, place in zip(self.tower.paths, self.places, strict=True)
        )

    @property
    def whole(self) -> bool:
        """Whether the activations of one layer are all that later layers see of the layers before."""
        return KINDS[self.kind].whole

    def place(self, layer: int) -> Place:
        """Where the units of a layer are.

        Raises
        ------
        InputError
            The layer has none.
        """
        if not self.places:
            numbers = self.tower.width
            return Place("", "output", numbers, numbers, order=100.0)
        place = self.places[layer]
        if isinstance(place, Absent):
            having = ", ".join(map(str, self.layers)) or "no layer"
            raise InputError(
                f"Block {layer} of the {self.tower.name} tower has no {self.name}: {place.reason}. {having} "
                f"{'has' if len(self.layers) < 2 else 'have'} it."
            )
        return place

    def site(self, layer: int) -> tuple[str, Side]:
        """The module path of a layer's site, and whether its output or its input is meant."""
        return self.paths[layer], self.place(layer).side

    def base(self, layer: int) -> tuple[str, Side] | None:
        """The same of the module whose numbers are added to those of the site; None for most spaces."""
        base = self.place(layer).base
        return None if base is None else (_joined(self.tower.paths[layer], base[0]), base[1])

    def numbers(self, units: Int[np.ndarray, " unit"]) -> Int[np.ndarray, " number"]:
        """Of some units of a layer, which of its numbers are theirs."""
        return (units[:, None] * self.size + np.arange(self.size)).ravel()

    def of_units(self, values: Float[np.ndarray, "... number"]) -> Float[np.ndarray, "... unit size"]:
        """Numbers along the last axis, unit by unit."""
        return values.reshape(*values.shape[:-1], self.width, self.size)

    def lengths(self, values: Float[np.ndarray, "... number"]) -> Float[np.ndarray, "... unit"]:
        """The activation of each unit, from its numbers: their Euclidean length where there are several."""
        return values if self.size == 1 else np.linalg.norm(self.of_units(values), axis=-1)

    def order(self, layer: int) -> tuple[int, int, float]:
        """Sorts the sites of a model in the order in which a forward pass reaches them."""
        return self.tower.order, layer, self.place(layer).order

    def found_at(self, places: Iterable[Place | Absent]) -> Space:
        """The same space where its units were measured to be."""
        return replace(self, places=tuple(places), measured=True)

    def __str__(self) -> str:
        numbers = f" of {self.size} numbers each" if self.size > 1 else ""
        layers = f"{len(self.layers)} of {self.n_layers}" if len(self.layers) < self.n_layers else str(self.n_layers)
        return f"{self.name}: {layers} layers x {self.width} = {self.n_units:,} units{numbers}"


def _joined(path: str, inside: str) -> str:
    return f"{path}.{inside}" if inside else path


def find_spaces(towers: Mapping[str, Tower]) -> dict[str, Space]:
    """The spaces of a model, as far as its structure tells.

    Returns
    -------
    dict
        Space by name: tower by tower, in the order of :data:`KINDS`; without those that no block of the tower has.
    """
    found = {}
    for tower in towers.values():
        # What is recorded of an image tower is what its blocks put out inside of a wrapper, so places are inside, too.
        blocks = [plain(block) if tower.modality == "image" else block for block in tower.blocks]
        inside = [{**find_places(tower, block), "experts": find_router(block)} for block in blocks]
        for kind in KINDS.values():
            space = Space(tower, kind.name)
            if kind.name != RESIDUAL:
                candidates = [each.get(kind.name, Absent(NOT_FOUND)) for each in inside]
                places = tuple(each if isinstance(each, Absent) else each[0] for each in candidates)
                if not any(isinstance(place, Place) for place in places):
                    continue
                space = Space(tower, kind.name, places)
            found[space.name] = space
    return found


#: Why a block has no units of a space that its structure shows no trace of.
NOT_FOUND = "its modules show none"


def absent_everywhere(space: Space) -> str:
    """Why no layer of a space has units; empty where some has."""
    reasons = [place.reason for place in space.places if isinstance(place, Absent)]
    return reasons[0] if space.places and len(reasons) == len(space.places) else ""


def canonical_name(name: str) -> str:
    """The name of a space as a model lists it.

    ``"resid_post"``, TransformerLens' name, is the decoder's residual stream, ``"decoder"``; ``"vision.resid_post"``
    and ``"vision.residual"`` are ``"vision"``; ``"mlp.hook_post"`` is ``"decoder.neurons"``.
    """
    if name in ALIASES:
        tower, known = "decoder", ALIASES[name]
    else:
        tower, _, kind = name.partition(".")
        known = ALIASES.get(kind) or (kind if kind in KINDS else "")
    if not known:
        return name
    suffix = KINDS[known].suffix
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


def check_exist(spaces: Mapping[str, Space], units: Units, where: str = "") -> None:
    """Refuse units that a model does not have, where its layers have different ones.

    Raises
    ------
    InputError
        Which unit it is, and why there is none.
    """
    for name, mask in units.mask.items():
        space = spaces.get(name)
        if space is None or not (mask & ~space.exists).any():
            continue
        layer, unit = np.argwhere(mask & ~space.exists)[0].tolist()
        space.place(layer)
        raise InputError(
            f"{where}layer {layer} of {name} has units 0..{space.widths[layer] - 1}, but unit {unit} is among them."
        )


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
