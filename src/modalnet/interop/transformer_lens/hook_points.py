"""Which hook points of a bridge stand where the units of each space are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.interop.transformer_lens.probing import measured, same_values
from modalnet.interventions.values import Part
from modalnet.models.places import Side
from modalnet.models.sites import ALIASES, RESIDUAL, Space, find_spaces
from modalnet.models.towers import Tower, find_towers
from modalnet.units import Units

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool
    from transformer_lens.model_bridge import TransformerBridge

#: Names of the hook points behind the blocks of a decoder-only model; the first is the canonical one.
DECODER_NAMES = ("hook_out", "hook_resid_post")
BRIDGE_NEEDED = (
    "only the residual stream of a decoder-only model has the same hook names in every bridge. Pass the bridge"
)


@dataclass(frozen=True, eq=False)
class HookSite:
    """One layer of a space in a bridge.

    Attributes
    ----------
    space, layer
        The site.
    point
        Canonical name of the hook point whose tensor holds its numbers; empty where the bridge has none.
    base
        That of the hook point whose tensor is added to it; empty for most spaces.
    aliases
        Names that TransformerLens has for such a site in this block, whose tensors may be the same numbers.
    """

    space: Space
    layer: int
    point: str
    base: str = ""
    aliases: tuple[str, ...] = ()


class HookPoints:
    """The hook points of a bridge by site.

    Parameters
    ----------
    bridge
        The bridge.

    Attributes
    ----------
    spaces
        The spaces of the model that it wraps, as far as its structure tells, or where they were measured.

    Raises
    ------
    InputError
        If ``bridge`` is not a TransformerBridge.
    """

    def __init__(self, bridge: TransformerBridge) -> None:
        if not (hasattr(bridge, "hook_dict") and hasattr(bridge, "original_model")):
            raise InputError(
                f"`bridge` must be the TransformerBridge that runs the model, got a {type(bridge).__name__}."
            )
        self.bridge: Any = bridge
        self.points: Mapping[str, Any] = bridge.hook_dict
        self.towers: dict[str, Tower] = find_towers(bridge.original_model)
        self.spaces: dict[str, Space] = find_spaces(self.towers)
        self._by_point: dict[int, list[str]] = {}
        for name, point in self.points.items():
            self._by_point.setdefault(id(point), []).append(name)
        self._owners = {
            id(part.original_component): part
            for part in bridge.original_model.modules()
            if getattr(part, "original_component", None) is not None
        }

    def measure(self, names: Iterable[str]) -> None:
        """Look where the units of some spaces are, in a pass through the bridge."""
        self.spaces = measured(self.bridge, self.spaces, names)

    def exposes(self, tower: str) -> bool:
        """Whether the blocks of a tower have hook points."""
        return all(self._named(block, "output") for block in self.towers[tower].blocks)

    def check_exposed(self, towers: Iterable[str]) -> None:
        """Refuse a tower whose blocks have no hook points.

        Raises
        ------
        InputError
            Which tower it is.
        """
        for tower in towers:
            if tower in self.towers and not self.exposes(tower):
                raise InputError(
                    f"this bridge of a {type(self.bridge.original_model).__name__} does not expose the {tower} tower: "
                    "its blocks have no hook points. modalnet.load(bridge) reads and writes every tower."
                )

    def site(self, space: Space, layer: int) -> HookSite:
        """The hook points of one layer of a space that has units there."""
        place = space.place(layer)
        block = space.tower.blocks[layer]
        around = self._named(block, "output").removesuffix(".hook_out")
        point = self._named(block, place.side) if not place.path else self._at(space.paths[layer], place.side)
        base = "" if place.base is None else self._named(block, place.base[1])
        aliases = [f"{around}.{name}" for name, kind in ALIASES.items() if kind == space.kind]
        if space.kind == "experts":
            point = ""  # what a router gives is not a tensor
        return HookSite(space, layer, point, base, tuple(name for name in aliases if name in self.points))

    def editable(self, part: Part) -> HookSite:
        """The hook points of a site that an intervention edits.

        Raises
        ------
        InputError
            The bridge has none there.
        """
        site = self.site(part.space, part.layer)
        if not site.point or (part.space.place(part.layer).base is not None and not site.base):
            raise no_point(part.space.name, part.layer)
        return site

    def names(self, sites: Iterable[HookSite]) -> dict[tuple[str, int], list[str]]:
        """For sites, all names of hook points whose tensors are the site's numbers.

        These are the names of the site's own point, where that is all that the point holds, and those of points of
        TransformerLens' name for such a site, if a pass through the bridge finds the same numbers there.
        """
        wanted = list(sites)
        same = same_values(self.bridge, wanted)
        return {
            (site.space.name, site.layer): [
                *self.own_names(site),
                *(each for name in same[site] for each in self._all_names(name)),
            ]
            for site in wanted
        }

    def sites_by_name(self, spaces: Iterable[str]) -> dict[str, HookSite]:
        """By every name of its hook points, each site of some spaces; the first where several have one name."""
        sites = [self.site(self.spaces[name], layer) for name in spaces for layer in self.spaces[name].layers]
        names = self.names(sites)
        return {name: site for site in reversed(sites) for name in names[site.space.name, site.layer]}

    def own_names(self, site: HookSite) -> list[str]:
        """The names of a site's own point; none where that holds something else beside the site's numbers."""
        place = site.space.place(site.layer)
        whole = place.width * place.size == place.columns
        plain = isinstance(place.scale, float) and place.scale == 1.0
        alone = site.point and whole and plain and place.base is None
        return self._all_names(site.point) if alone else []

    def _all_names(self, name: str) -> list[str]:
        """All names of a hook point; aliases are one point."""
        return self._by_point[id(self.points[name])]

    def _at(self, path: str, side: Side) -> str:
        return self._named(self.bridge.original_model.get_submodule(path), side)

    def _named(self, module: Any, side: Side) -> str:
        """The name of a module's hook point; empty where it has none."""
        attribute = "hook_out" if side == "output" else "hook_in"
        for holder in (module, self._owners.get(id(module))):
            point = getattr(holder, attribute, None)
            name = str(getattr(point, "name", None))
            if point is not None and self.points.get(name) is point:
                return name
        return ""


def decoder_hook_points(n_layers: int, width: int) -> Tower:
    """The decoder of a decoder-only model, with the names of its hook points as paths."""
    return Tower("decoder", width, tuple(f"blocks.{layer}.{DECODER_NAMES[0]}" for layer in range(n_layers)))


def no_point(space: str, layer: int | None = None) -> InputError:
    """The error for a space that a bridge has no hook point for."""
    where = "" if layer is None else f" in block {layer}"
    return InputError(f"this bridge has no hook point for {space}{where}. modalnet.load(bridge) reads and writes it.")


def units(masks: Mapping[str, Bool[np.ndarray | torch.Tensor, " unit"]], bridge: TransformerBridge) -> Units:
    """Make a set of units from masks by hook point, such as those of an analysis done in TransformerLens.

    Parameters
    ----------
    masks
        Name of a hook point (``"blocks.3.hook_out"`` or any alias of it, such as ``"blocks.3.hook_resid_post"``;
        ``"blocks.3.mlp.hook_post"``, ``"blocks.3.attn.hook_z"``), then a boolean mask ``[unit]``: for ``hook_z``, one
        boolean for each head. Layers that are left out have no units.
    bridge
        The ``TransformerBridge`` that the names are of.

    Returns
    -------
    Units
        With masks for the residual stream of every tower that the bridge exposes, and for the spaces that are named.

    Raises
    ------
    InputError
        For a name that is not the hook point of a space, or a mask that is not boolean or has another width.

    Examples
    --------
    >>> large = {name: value.abs().mean((0, 1)) > 10 for name, value in cache.items()}  # doctest: +SKIP
    >>> units(large, bridge)  # doctest: +SKIP
    """
    held = HookPoints(bridge)
    exposed = [name for name, space in held.spaces.items() if held.exposes(space.tower.name)]
    blocks = [name for name in exposed if held.spaces[name].kind == RESIDUAL]
    found = {name: np.zeros(held.spaces[name].shape, dtype=bool) for name in blocks}
    by_name = held.sites_by_name(blocks)
    if not by_name.keys() >= masks.keys():
        held.measure(exposed)
        by_name = held.sites_by_name(exposed)
    for name, mask in masks.items():
        if name not in by_name:
            raise InputError(
                f"{name!r} is not the hook point of a space of this bridge; those are blocks.0.hook_out and so on."
            )
        site = by_name[name]
        width = site.space.widths[site.layer]
        values = np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask)
        if values.dtype != bool or values.shape != (width,):
            raise InputError(
                f"the mask of {name!r} must be boolean with shape [{width}], got {values.dtype} with shape "
                f"{list(values.shape)}."
            )
        rows = found.setdefault(site.space.name, np.zeros(site.space.shape, dtype=bool))
        rows[site.layer, :width] |= values
    return Units({name: found[name] for name in held.spaces if name in found})
