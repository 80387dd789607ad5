"""Interventions as TransformerLens hooks.

A hook here is a plain function of the tensor of a hook point; TransformerLens registers and removes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.execution.compile import Edit, torch_of
from modalnet.execution.edits import Edits
from modalnet.execution.trace import edited, part_of, whole_of
from modalnet.interop.transformer_lens.hook_points import (
    BRIDGE_NEEDED,
    HookPoints,
    HookSite,
    decoder_hook_points,
)
from modalnet.interventions.edges import Edges
from modalnet.interventions.functions import Function
from modalnet.interventions.operations import Intervention, flatten, zero
from modalnet.interventions.positions import KINDS, PerStimulus, places_among
from modalnet.interventions.values import Part, values_of
from modalnet.models.sites import Space, check_exist
from modalnet.units import Units, check_units

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from transformer_lens.model_bridge import TransformerBridge

    from modalnet.execution.compile import Part as SitePart


@dataclass(frozen=True, eq=False)
class Keep:
    """A hook that changes nothing, and keeps the tensor of its hook point for a later hook of the same pass."""

    kept: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    def __call__(self, value: torch.Tensor, hook: Any) -> None:
        """Keep the tensor."""
        self.kept["value"] = value


@dataclass(frozen=True, eq=False)
class Hook:
    """A hook that edits activations as :meth:`modalnet.Model.run` does: ``a * x + b``, computed in float32.

    Attributes
    ----------
    intervention
        The intervention that the hook is part of.
    part
        The site, and the units or the direction that are edited.
    a, b
        The factor and the summand.
    base
        Keeps what is added to the site; None for most spaces.
    """

    intervention: Intervention
    part: Part = field(repr=False)
    a: float = field(repr=False)
    b: Float[torch.Tensor, " dims"] = field(repr=False)
    base: Keep | None = field(default=None, repr=False)

    def __call__(self, value: Float[torch.Tensor, "..."], hook: Any) -> Float[torch.Tensor, "..."]:
        """Edit the tensor of a hook point, ``[..., token, number]`` or head by head, and return it.

        Raises
        ------
        InputError
            If the tensor has another width, or fewer tokens than the intervention names.
        """
        import torch

        space, place = self.part.space, self.part.space.place(self.part.layer)
        # A hook point in front of an output projection hands out heads apart.
        apart = getattr(hook, "hook_conversion", None) is not None and value.dim() > 2
        given = value.flatten(-2) if apart or (value.shape[-1] != place.columns and value.dim() > 3) else value
        n_tokens, columns = given.shape[-2:]
        if columns != place.columns:
            raise InputError(
                f"{self.intervention} is of another model: its {space.name} has width {place.columns}, and "
                f"{getattr(hook, 'name', 'this hook point')} has width {columns}."
            )
        flat = given.reshape(-1, columns)
        beside = None if self.base is None else self.base.kept.pop("value").reshape(-1, space.n_numbers)
        part = _site_part(space, self.part.layer)
        before = part_of(flat, part, beside)
        rows = torch.arange(len(flat), device=value.device).reshape(-1, n_tokens)[:, self._positions(n_tokens)]
        after = edited(before, [self._edit(rows, value.device)])
        found = whole_of(flat, part, beside, before, after).reshape(value.shape)
        # Of a block in place, as TransformerLens' own patching does: transformers has recorded this very tensor as the
        # block's hidden state by now, and some decoders read the recorded one of an image encoder. Elsewhere a backward
        # pass may need what was there.
        return value.copy_(found) if space.whole else found

    def _edit(self, rows: torch.Tensor, device: torch.device) -> Edit:
        import torch

        dims, vector = self.part.dims, self.part.vector
        edit = Edit(
            rows.reshape(-1, 1),
            None if dims is None else torch.as_tensor(dims, device=device)[None],
            None if vector is None else torch.tensor(vector),
            self.a,
            self.b,
        )
        if isinstance(self.intervention.values, Function):
            edit.function = self.intervention.values.at(self.part.layer)
            edit.lengths = [rows.shape[1]] * len(rows)
            edit.size = 1 if dims is None else self.part.space.size
            edit.label = str(self.intervention)
        return edit

    def _positions(self, n_tokens: int) -> list[int]:
        """Positions in a row that are edited, without those that are spared."""
        intervention = self.intervention
        choice = intervention.tokens
        assert isinstance(choice, str | tuple)
        outside = [place for place in choice if isinstance(place, int) and not -n_tokens <= place < n_tokens]
        if outside:
            raise InputError(f"{intervention} edits token {outside[0]}, but this input has {n_tokens} tokens.")
        tower = self.part.space.tower.name
        return places_among(choice, n_tokens, tower=tower, label="of this hook", spare_first=intervention.spared)


def _site_part(space: Space, layer: int) -> SitePart:
    """Which part of the tensor of a hook point is the site."""
    place = space.place(layer)
    plain = isinstance(place.scale, float) and place.scale == 1.0
    stop = place.start + place.width * place.size
    return place.start, stop, None if plain else torch_of(place.scale), place.size, space.n_numbers, space.size


def hooks(
    interventions: Units | Intervention | Sequence[Units | Intervention], bridge: TransformerBridge | None = None
) -> list[tuple[str, Hook | Keep]]:
    """Turn interventions into hooks for TransformerLens: ``bridge.run_with_hooks(tokens, fwd_hooks=hooks(...))``.

    Parameters
    ----------
    interventions
        One or several, applied from left to right: ``zero``, ``scale``, ``add``, ``set_to``, ``apply`` (its function is
        called row by row), and ``mean`` over means that are known (``over=model.means(stimuli)``). Units are zeroed.
        ``.at("all")``, ``.at("last")``, indices and ``spare_first`` count in the rows that the bridge runs, padding and
        beginning-of-sequence token included: run texts of one length, or one at a time.
    bridge
        The ``TransformerBridge`` that will run the hooks; hook names are taken from it, and units are checked against
        it. If None, all units must be in the residual stream of the decoder, and hooks get the names of a decoder-only
        model.

    Returns
    -------
    list of (name, function)
        One hook for each site that is edited, under the canonical name of its hook point: heads at
        ``blocks.3.attn.o.hook_in`` (``hook_z``), neurons at ``blocks.3.mlp.out.hook_in`` (``hook_post``), what a
        sublayer adds at the last module that adds it. The stream between the sublayers is edited where the attention
        adds to it, with a hook before the block that keeps what was there: an edit of ``hook_resid_mid`` would reach
        the MLP alone.

    Raises
    ------
    InputError
        For values that are computed from stimuli (``resample``, ``patch``, ``mean`` over stimuli); for kinds of tokens
        that a hook cannot know (``"image"``, ``"text"``, ``"cls"``, ``spare_sinks=True``); for an empty set of units,
        units of another model, a tower that the bridge does not expose, or a site without a hook point. A hook raises
        it if its hook point has another width.

    Examples
    --------
    >>> bridge.run_with_hooks(tokens, fwd_hooks=hooks(language, bridge))  # doctest: +SKIP
    """
    listed = [interventions] if isinstance(interventions, Units | Intervention) else list(interventions)
    flat = flatten([zero(item) if isinstance(item, Units) else item for item in listed])
    given = [part for one in flat for part in one.by_space()]
    for intervention in given:
        _check_known(intervention)
    held = None if bridge is None else HookPoints(bridge)
    if held is not None:
        held.check_exposed(name for intervention in given for name in intervention.towers)
        held.measure(name for intervention in given for name in intervention.spaces)
    spaces = held.spaces if held is not None else _decoder_alone(given)
    shapes = {name: space.shape for name, space in spaces.items()}
    for intervention in given:
        if isinstance(intervention.target, Units):
            check_units(intervention.target, shapes, model=None, source="the bridge", what=f"{intervention}: the units")
            check_exist(spaces, intervention.target, f"{intervention}: ")
    # No stimulus runs here: those that need one were refused.
    edits = Edits(given, spaces, lambda one, parts, count: values_of(one, parts, lambda *_: iter(()), count), ())
    # Sites that share a hook point are edited in the order in which a pass reaches them.
    made = sorted(edits.constants(), key=lambda edit: edit[1].space.order(edit[1].layer))
    found: list[tuple[str, Hook | Keep]] = []
    keeps: list[tuple[str, Hook | Keep]] = []
    for intervention, part, a, b in made:
        at = HookSite(part.space, part.layer, part.space.paths[part.layer]) if held is None else held.editable(part)
        base = Keep() if at.base else None
        if base is not None:
            keeps.append((at.base, base))
        found.append((at.point, Hook(intervention, part, a, b, base)))
    # After what is edited at the same hook points.
    return [*found, *keeps]


def _check_known(intervention: Intervention) -> None:
    """Refuse an intervention whose values or tokens a hook cannot know."""
    if isinstance(intervention.target, Edges):
        raise InputError(
            f"{intervention}: a hook point holds activations, and attention edges are removed in a mask. Run the "
            "intervention with modalnet."
        )
    if intervention.kind in ("resample", "patch") or isinstance(intervention.values, tuple):
        raise InputError(
            f"{intervention}: its values are computed from stimuli, which a hook cannot run. Give numbers, or for "
            "a mean over=model.means(stimuli)."
        )
    if intervention.spares_sinks:
        raise InputError(
            f"{intervention}: a hook does not know which tokens are sinks: it is measured for each stimulus. Use "
            "spare_first=1, or .at([...]) with tokens of modalnet.sink_tokens(model, stimuli)."
        )
    if isinstance(intervention.tokens, PerStimulus) or intervention.tokens in KINDS:
        raise InputError(
            f"{intervention}: a hook does not know which tokens these are. Use "
            '"all", "last" or indices, such as .at(range(3, 19)).'
        )


def _decoder_alone(interventions: Sequence[Intervention]) -> dict[str, Space]:
    """The residual stream of the decoder, with hook names as paths."""
    shape = (0, 0)
    for intervention in interventions:
        target = intervention.target
        if not isinstance(target, Units) or intervention.spaces != ["decoder"] or "encoder" in target.shapes:
            raise InputError(f"{intervention}: {BRIDGE_NEEDED}: hooks(..., bridge).")
        shape = target.shapes["decoder"]
    return {"decoder": Space(decoder_hook_points(*shape))}
