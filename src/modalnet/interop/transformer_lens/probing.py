"""What a pass through a bridge says of its hook points: which of them hold the same numbers.

TransformerLens has names for what modalnet reads, such as ``hook_attn_out``. Whether such a point holds the numbers
that modalnet means, such as what an attention adds to the stream after a norm behind it, differs between architectures.
One pass over a few tokens, or over one picture of noise, tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from modalnet.errors import ModalnetError
from modalnet.execution.compile import torch_of
from modalnet.model import load
from modalnet.stimuli import Stimulus

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.interop.transformer_lens.hook_points import HookSite
    from modalnet.models.places import Absent, Place
    from modalnet.models.sites import Space
    from modalnet.models.towers import Tower

#: Of each bridge, for the mode that it is in: the aliases that hold the numbers of a site, by space and layer.
_MEASURED: WeakKeyDictionary[Any, dict[tuple[bool, str, int, str], tuple[str, ...]]] = WeakKeyDictionary()


#: Where the units of its spaces were measured to be, by mode and name.
_PLACES: WeakKeyDictionary[Any, dict[tuple[bool, str], tuple[Place | Absent, ...]]] = WeakKeyDictionary()


def measured(bridge: Any, spaces: Mapping[str, Space], names: Iterable[str]) -> dict[str, Space]:
    """The spaces of a bridge, some of them where a pass through it finds their units.

    A space stays where structure says that it is if the bridge has no tokenizer or processor for a stimulus.
    """
    known = _PLACES.setdefault(bridge, {})
    mode = bool(getattr(bridge, "compatibility_mode", False))
    wanted = [name for name in names if name in spaces and spaces[name].places]
    if new := [name for name in wanted if (mode, name) not in known]:
        executor = load(bridge)._executor
        for stimulus in (Stimulus("The cat sat on the mat."), Stimulus(image=_noise())):
            try:
                executor.measure(new, executor.prepare([stimulus]))
            except ModalnetError:
                continue
        known |= {(mode, name): executor.spaces[name].places for name in new}
    return {**spaces, **{name: spaces[name].found_at(known[mode, name]) for name in wanted}}


def _noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(64, 64, 3), dtype=np.uint8)


def same_values(bridge: Any, sites: Iterable[HookSite]) -> dict[HookSite, tuple[str, ...]]:
    """For each site, those of its aliases whose tensors are its numbers; none where no pass could tell.

    Parameters
    ----------
    bridge
        A ``TransformerBridge``.
    sites
        Sites of it.
    """
    known = _MEASURED.setdefault(bridge, {})
    mode = bool(getattr(bridge, "compatibility_mode", False))
    wanted = {(mode, site.space.name, site.layer, site.point): site for site in sites}
    points = bridge.hook_dict
    for tower in {site.space.tower.name: site.space.tower for site in wanted.values()}.values():
        new = {key: site for key, site in wanted.items() if site.space.tower.name == tower.name and key not in known}
        # An alias of the site's own point needs no pass, and of a site without a point nothing is known.
        open_ = {
            key: [name for name in site.aliases if site.point and points[name] is not points[site.point]]
            for key, site in new.items()
        }
        names = {points[name].name for found in open_.values() for name in found}
        names |= {name for key, site in new.items() if open_[key] for name in (site.point, site.base) if name}
        values = _values(bridge, tower, names) if names else {}
        for key, site in new.items():
            expected = _numbers(site, values) if open_[key] else None
            known[key] = tuple(
                name for name in open_[key] if expected is not None and _equal(expected, values.get(points[name].name))
            )
    return {site: known[key] for key, site in wanted.items()}


def _numbers(site: HookSite, values: dict[str, torch.Tensor]) -> Float[torch.Tensor, "position number"] | None:
    """The numbers of a site, from what its points held."""
    if site.point not in values or (site.base and site.base not in values):
        return None
    found = own_numbers(site.space.place(site.layer), values[site.point])
    return found + values[site.base].reshape(found.shape) if site.base else found


def own_numbers(place: Place, value: Float[torch.Tensor, "..."]) -> Float[torch.Tensor, "position number"]:
    """The numbers of a place from the tensor of its hook point."""
    flat = value.reshape(-1, place.columns)[:, place.start : place.start + place.width * place.size]
    plain = isinstance(place.scale, float) and place.scale == 1.0
    return flat if plain else flat * torch_of(place.scale).to(flat.device, flat.dtype)


def _equal(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    if other is None or one.numel() != other.numel():
        return False
    difference = (one - other.reshape(one.shape)).abs().max()
    return bool(difference <= 1e-5 * one.abs().max().clamp(min=1e-12))


def _values(bridge: Any, tower: Tower, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """What hook points hold in one pass through a tower; empty where it does not run on inputs that can be made."""
    import torch

    found: dict[str, torch.Tensor] = {}

    def kept(name: str) -> Callable[[torch.Tensor, Any], None]:
        def keep(value: torch.Tensor, hook: Any) -> None:
            found[name] = value.detach().float()

        return keep

    root = bridge.original_model.get_submodule(tower.root)
    hooks = [(name, kept(name)) for name in sorted(names)]
    try:
        with torch.no_grad(), bridge.hooks(fwd_hooks=hooks):
            root(**_inputs(bridge, root, tower))
    except Exception:  # models need inputs of all kinds, and without a pass only structure is known
        return {}
    return found


def _inputs(bridge: Any, root: Any, tower: Tower) -> dict[str, torch.Tensor]:
    """A few tokens, or one picture of noise."""
    import torch

    parameter = next(root.parameters())
    if tower.modality == "text":
        return {"input_ids": torch.arange(1, 6, device=parameter.device)[None]}
    config = getattr(root, "config", None)
    size = getattr(config, "image_size", 0)
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(1, getattr(config, "num_channels", 3), height, width, generator=generator)
    return {"pixel_values": picture.to(parameter.device, parameter.dtype)}
