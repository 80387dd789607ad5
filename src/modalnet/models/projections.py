"""The linear projections of a block: every matrix that a token's vector is multiplied by, whatever class holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modalnet.models.streams import plain

#: Steps of a path that lead into a wrapper and not to another part of the block.
_WRAPPERS = ("_original_component", "base_layer")


@dataclass(frozen=True, eq=False)
class Projection:
    """One linear projection of a block.

    Attributes
    ----------
    path
        Of the module, inside the block.
    n_in, n_out
        How many numbers a token has before and after it.
    """

    path: str
    n_in: int
    n_out: int

    @property
    def steps(self) -> tuple[str, ...]:
        """The names on the way to the module, without those of wrappers."""
        return steps(self.path)

    @property
    def name(self) -> str:
        """The last name on the way."""
        return self.steps[-1] if self.steps else ""


def steps(path: str) -> tuple[str, ...]:
    """The names on the way to a module, without those of wrappers."""
    return tuple(step for step in path.split(".") if step and step not in _WRAPPERS)


def projections(module: Any) -> Iterator[Projection]:
    """The projections of a block, in the order in which it lists them; one in a wrapper is the wrapper's.

    A module that stands at several paths, as those of TransformerLens' wrappers do, counts at the first.
    """
    seen: set[int] = set()

    def below(module: Any, path: str) -> Iterator[Projection]:
        for name, child in module._modules.items():
            if child is None or id(child) in seen:
                continue
            seen.add(id(child))
            here = f"{path}.{name}" if path else name
            shape = shape_of(child)
            if shape is None:
                yield from below(child, here)
            else:
                seen.add(id(plain(child)))
                yield Projection(here, *shape)

    return below(module, "")


def shape_of(module: Any) -> tuple[int, int] | None:
    """Numbers per token before and after a linear projection, or a convolution over single positions; else None."""
    inner = plain(module)
    for names in (("in_features", "out_features"), ("infeatures", "outfeatures"), ("nx", "nf")):
        sizes = [getattr(inner, name, None) for name in names]
        if all(isinstance(size, int) for size in sizes):
            return sizes[0], sizes[1]  # type: ignore[return-value]
    if getattr(inner, "kernel_size", None) is not None:
        alone = set(inner.kernel_size) == {1} and getattr(inner, "groups", 1) == 1
        return (inner.in_channels, inner.out_channels) if alone else None
    if "linear" not in type(inner).__name__.lower():
        return None
    weight: Any = getattr(inner, "weight", None)
    if getattr(weight, "ndim", 0) == 2:
        return int(weight.shape[1]), int(weight.shape[0])
    held = [shape for child in inner.children() if (shape := shape_of(child)) is not None]
    return held[0] if len(held) == 1 else None
