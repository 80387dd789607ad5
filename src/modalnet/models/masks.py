"""Where in a block the attention takes the mask that says which tokens each token may attend to.

Attention modules of most classes take a mask as an argument. Others (packed vision towers) take none, and call a kernel
in their forward pass, which does; some compute their scores by themselves and call a softmax, where scores can be
masked. Structure proposes all of these; a pass decides (:mod:`modalnet.execution.masks`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from modalnet.models.places import Absent, Place
from modalnet.models.sites import Space
from modalnet.models.streams import plain
from modalnet.models.towers import Tower

#: The kind of a space of attention edges; a model does not list it, as it holds no activations.
EDGES = "edges"
#: Before what enters the output projection, and behind all that the block computes before its attention.
_BEFORE = 1e-2

_PARAMETERS = ("attention_mask", "attn_mask", "mask", "causal_mask")
_OTHER_MASKS = re.compile(r"encoder_|cross_|head_mask|bool_masked|padding|key_|pixel|output_")
SOFTMAX = "softmax"
#: Calls of attention kernels, with the name and place of their mask, and the place of their queries. Those of a softmax
#: are the scores.
KERNELS = {
    "attention_interface": ("attention_mask", 4, 1),
    "eager_attention_forward": ("attention_mask", 4, 1),
    "scaled_dot_product_attention": ("attn_mask", 3, 0),
    SOFTMAX: ("input", 0, 0),
}


@dataclass(frozen=True)
class MaskPlace:
    """Where an attention takes its mask.

    Attributes
    ----------
    path
        Of a module, inside the block.
    parameter, index
        The argument that is the mask, and its place where it is not given by name.
    kernel
        The function that it is an argument of, which the module's forward pass calls; empty for the module itself.
    query
        The place of the queries among the kernel's arguments.
    """

    path: str
    parameter: str
    index: int
    kernel: str = ""
    query: int = 0


@dataclass(frozen=True)
class WeightPlace:
    """Where an attention gives its weights.

    Attributes
    ----------
    path
        Of a module, inside the block.
    index
        Which part of what is put out they are.
    kernel
        The function that gives them, which the module's forward pass calls; empty for the module itself.
    """

    path: str
    index: int
    kernel: str = ""


@dataclass(frozen=True)
class EdgeSpace(Space):
    """The attention edges of a tower: which token each token of a block attends to.

    Attributes
    ----------
    masks
        For each layer where its attention takes a mask; None where there is none.
    causal
        Whether an attention that is given no mask attends to earlier tokens alone.
    """

    masks: tuple[MaskPlace | None, ...] = field(default=(), compare=False)
    causal: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        """The tower's name and that of the edges, such as ``"decoder.edges"``."""
        return f"{self.tower.name}.{self.kind}"

    @property
    def what(self) -> str:
        """What it holds, in words."""
        return "which tokens each token attends to"

    @property
    def whole(self) -> bool:
        """False: what a block puts out is more."""
        return False

    @property
    def attending(self) -> Space:
        """What holds the weights of the attention, which are there after its mask was taken."""
        places = [
            replace(place, order=place.order + _BEFORE / 2) if isinstance(place, Place) else place
            for place in self.places
        ]
        return replace(self, kind="attending", places=tuple(places))

    def mask(self, layer: int) -> MaskPlace:
        """Where the attention of a layer takes its mask; an InputError where there is none."""
        self.place(layer)
        found = self.masks[layer]
        assert found is not None
        return found


def edge_space(heads: Space, masks: tuple[MaskPlace | Absent, ...], *, causal: bool) -> EdgeSpace:
    """The attention edges of a tower.

    Parameters
    ----------
    heads
        The space of the tower's attention heads.
    masks
        For each layer where its attention takes a mask, or why there is none.
    causal
        Whether an attention that is given no mask attends to earlier tokens alone.
    """
    places: list[Place | Absent] = []
    for place, mask in zip(heads.places, masks, strict=True):
        if isinstance(mask, Absent) or isinstance(place, Absent):
            places.append(mask if isinstance(mask, Absent) else place)
        else:
            places.append(
                Place(mask.path, "input", place.width, place.columns, size=place.size, order=place.order - _BEFORE)
            )
    found = tuple(None if isinstance(mask, Absent) else mask for mask in masks)
    tower: Tower = heads.tower
    return EdgeSpace(tower, EDGES, tuple(places), True, found, causal)


def mask_places(block: Any, projection: str) -> list[MaskPlace]:
    """Where the attention whose output projection is at a path inside a block may take its mask, likeliest first."""
    around = [projection[: at.start()] for at in re.finditer(r"\.", projection)]
    modules = [(path, block.get_submodule(path)) for path in reversed(around)]
    # Where the projection stands beside the attention proper, in a module that holds both.
    inside = [
        (f"{around[0]}.{path}", module) for path, module in (modules[-1][1].named_modules() if modules else ()) if path
    ]
    modules += [(path, module) for path, module in inside if path not in around and not projection.startswith(path)]
    own = [place for path, module in modules for place in _arguments(path, module)]
    return [*own, *(place for path, module in modules for place in _kernels(path, module))]


def _arguments(path: str, module: Any) -> Iterator[MaskPlace]:
    names = list(inspect.signature(plain(module).forward).parameters)
    masks = [name for name in names if "mask" in name and not _OTHER_MASKS.search(name)]
    for name in sorted(masks, key=lambda name: _PARAMETERS.index(name) if name in _PARAMETERS else len(_PARAMETERS)):
        yield MaskPlace(path, name, names.index(name))


def _kernels(path: str, module: Any) -> Iterator[MaskPlace]:
    try:
        source = inspect.getsource(type(plain(module)).forward)
    except (OSError, TypeError):
        return
    for kernel, (parameter, index, query) in KERNELS.items():
        if re.search(rf"\b{kernel}\(", source):
            yield MaskPlace(path, parameter, index, kernel, query)


def weight_places(block: Any, path: str) -> Iterator[WeightPlace]:
    """Where the attention of a block, whose mask is taken at a path inside it, may give its weights."""
    yield from (WeightPlace(path, index) for index in (1, 2))
    yield from (WeightPlace(path, 1, place.kernel) for place in _kernels(path, block.get_submodule(path)))
