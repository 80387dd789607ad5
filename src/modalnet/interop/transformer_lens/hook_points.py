"""Which hook point stands behind which block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.models.towers import Tower, find_towers
from modalnet.units import Units

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool
    from transformer_lens.model_bridge import TransformerBridge

#: Names of the hook points behind the blocks of a decoder-only model; the first is the canonical one.
DECODER_NAMES = ("hook_out", "hook_resid_post")
BRIDGE_NEEDED = "only the decoder of a decoder-only model has the same hook names in every bridge. Pass the bridge"


def towers_of(bridge: TransformerBridge, wanted: Iterable[str]) -> dict[str, Tower]:
    """Find the towers of a bridge; those in ``wanted`` have the names of their hook points as paths.

    Raises
    ------
    InputError
        If ``bridge`` is not a TransformerBridge, or does not expose a tower that is wanted.
    """
    if not (hasattr(bridge, "hook_dict") and hasattr(bridge, "original_model")):
        raise InputError(f"`bridge` must be the TransformerBridge that runs the model, got a {type(bridge).__name__}.")
    points = bridge.hook_dict
    towers = find_towers(bridge.original_model)
    for tower in towers.keys() & set(wanted):
        outputs = [getattr(block, "hook_out", None) for block in towers[tower].blocks]
        names = tuple(str(getattr(point, "name", None)) for point in outputs)
        if any(point is None or points.get(name) is not point for name, point in zip(names, outputs, strict=True)):
            raise InputError(
                f"this bridge of a {type(bridge.original_model).__name__} does not expose the {tower} tower: its "
                "blocks have no hook points. modalnet.load(bridge) reads and writes every tower."
            )
        towers[tower] = replace(towers[tower], paths=names)
    return towers


def decoder_hook_points(n_layers: int, width: int) -> Tower:
    """The decoder of a decoder-only model, with the names of its hook points as paths."""
    return Tower("decoder", width, tuple(f"blocks.{layer}.{DECODER_NAMES[0]}" for layer in range(n_layers)))


def names_of(bridge: TransformerBridge, tower: Tower, layer: int) -> list[str]:
    """All names of the hook point behind a block; aliases are one point."""
    points = bridge.hook_dict
    point = points[tower.paths[layer]]
    return [name for name, other in points.items() if other is point]


def units(masks: Mapping[str, Bool[np.ndarray | torch.Tensor, " dim"]], bridge: TransformerBridge) -> Units:
    """Make a set of units from masks by hook point, such as those of an analysis done in TransformerLens.

    Parameters
    ----------
    masks
        Name of a hook point behind a block (``"blocks.3.hook_out"`` or any alias of it, such as
        ``"blocks.3.hook_resid_post"``), then a boolean mask ``[dim]``. Blocks that are left out have no units.
    bridge
        The ``TransformerBridge`` that the names are of.

    Returns
    -------
    Units
        Over all towers that the bridge exposes.

    Raises
    ------
    InputError
        For a name that is not a hook point behind a block, or a mask that is not boolean or has another width.

    Examples
    --------
    >>> large = {name: value.abs().mean((0, 1)) > 10 for name, value in cache.items()}  # doctest: +SKIP
    >>> units(large, bridge)  # doctest: +SKIP
    """
    blocks: dict[int, tuple[str, int]] = {}  # hook point, by identity
    shapes: dict[str, tuple[int, int]] = {}
    points: Mapping[str, Any] = getattr(bridge, "hook_dict", {})
    for tower in towers_of(bridge, ()):
        try:
            exposed = towers_of(bridge, [tower])[tower]
        except InputError:
            continue
        shapes[tower] = exposed.shape
        blocks |= {id(points[name]): (tower, layer) for layer, name in enumerate(exposed.paths)}
    found = {tower: np.zeros(shape, dtype=bool) for tower, shape in shapes.items()}
    for name, mask in masks.items():
        if id(points.get(name)) not in blocks:
            raise InputError(
                f"{name!r} is not a hook point behind a block of this bridge; those are blocks.0.hook_out and so on."
            )
        tower, layer = blocks[id(points[name])]
        values = np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask)
        if values.dtype != bool or values.shape != shapes[tower][1:]:
            raise InputError(
                f"the mask of {name!r} must be boolean with shape [{shapes[tower][1]}], got {values.dtype} with shape "
                f"{list(values.shape)}."
            )
        found[tower][layer] |= values
    return Units(found)
