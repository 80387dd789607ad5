"""Spaces of latents: what dictionaries (sparse autoencoders, transcoders) make of the activations of other spaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modalnet.errors import InputError
from modalnet.models.parts import Parts
from modalnet.models.places import Absent, Place
from modalnet.models.sites import Space
from modalnet.models.streams import plain
from modalnet.models.towers import Tower

#: What the input of the MLP is called where a transcoder encodes it.
MLP_INPUT = "mlp_in"
#: Between a site and what is computed from it.
_BEHIND = 1e-3


@dataclass(frozen=True)
class DictionarySpace(Space):
    """The latents of dictionaries over the layers of another space.

    Attributes
    ----------
    over
        The space that is decoded to: activations ``x`` of it become ``x + decode(z') - decode(z)``.
    reads
        The space that is encoded, ``z = encode(...)``; None: the same.
    codes
        By layer, what encodes and decodes.
    """

    over: Space | None = field(default=None, compare=False)
    reads: Space | None = field(default=None, compare=False)
    codes: Mapping[int, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The tower's name and that of the dictionaries, such as ``"decoder.latents"``."""
        return f"{self.tower.name}.{self.kind}"

    @property
    def what(self) -> str:
        """What its activations are, in words."""
        return f"the latents of dictionaries over {self.carrier.name}"

    @property
    def whole(self) -> bool:
        """False: the reconstruction error is not among the latents."""
        return False

    @property
    def carrier(self) -> Space:
        """The space whose activations change with those of this one."""
        assert self.over is not None
        return self.over

    @property
    def encoded(self) -> Space:
        """The space that is encoded."""
        return self.carrier if self.reads is None else self.reads

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the spaces that it is computed from."""
        return tuple(dict.fromkeys((self.carrier.name, self.encoded.name)))

    def code(self, layer: int) -> Any:
        """What encodes and decodes in a layer."""
        return self.codes[layer]


def dictionary_space(
    name: str, over: Space, reads: Space | None, codes: Mapping[int, Any], width: int, *, number: int
) -> DictionarySpace:
    """The space of the latents of some dictionaries, of so many each; those of a view have numbers, from 0."""
    places: list[Place | Absent] = []
    for layer in range(over.n_layers):
        if layer not in codes:
            places.append(Absent("no dictionary was given for it"))
            continue
        place = over.place(layer)
        places.append(
            replace(
                place, width=width, size=1, start=0, scale=1.0, base=None, order=place.order + _BEHIND * (1 + number)
            )
        )
    return DictionarySpace(over.tower, name, tuple(places), True, over, reads, dict(codes))


@dataclass(frozen=True)
class MlpInput(Space):
    """What enters the first projection of each MLP, which transcoders encode."""

    @property
    def name(self) -> str:
        """Such as ``"decoder.mlp_in"``."""
        return f"{self.tower.name}.{MLP_INPUT}"

    @property
    def what(self) -> str:
        """What its activations are, in words."""
        return "what enters the first projection of the MLP"

    @property
    def whole(self) -> bool:
        """False: it is inside of a block."""
        return False


def mlp_input(tower: Tower) -> MlpInput:
    """The input of the MLP in each block of a tower.

    Raises
    ------
    InputError
        No block has a single MLP.
    """
    places: list[Place | Absent] = []
    for block in tower.blocks:
        mlps = Parts(plain(block) if tower.modality == "image" else block, tower.width // tower.streams).mlps
        if len(mlps) != 1:
            places.append(Absent(f"it has {len(mlps)} MLPs"))
            continue
        first = mlps[0].up[0] if mlps[0].gate is None else mlps[0].gate
        places.append(Place(first.path, "input", first.n_in, first.n_in, order=39.0))
    if not any(isinstance(place, Place) for place in places):
        raise InputError(f"No block of the {tower.name} tower has a single MLP, so none has an input to encode.")
    return MlpInput(tower, MLP_INPUT, tuple(places), True)
