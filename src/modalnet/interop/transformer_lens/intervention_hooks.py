"""Interventions as TransformerLens hooks.

A hook here is a plain function of a block's output; TransformerLens registers and removes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.execution.compile import Edit
from modalnet.execution.edits import Edits
from modalnet.execution.trace import edited
from modalnet.interop.transformer_lens.hook_points import BRIDGE_NEEDED, decoder_hook_points, towers_of
from modalnet.interventions.functions import Function
from modalnet.interventions.operations import Intervention, flatten, zero
from modalnet.interventions.positions import PerStimulus, places_among
from modalnet.interventions.values import Part, values_of
from modalnet.models.sites import Space
from modalnet.units import Units, check_units

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class Hook:
    """A hook that edits a block's output as :meth:`modalnet.Model.run` does: ``a * x + b``, computed in float32.

    Attributes
    ----------
    intervention
        The intervention that the hook is part of.
    part
        The block, and the dimensions or the direction that are edited.
    a, b
        The factor and the summand.
    """

    intervention: Intervention
    part: Part = field(repr=False)
    a: float = field(repr=False)
    b: Float[torch.Tensor, " dims"] = field(repr=False)

    def __call__(
        self, value: Float[torch.Tensor, "*batch token dim"], hook: Any
    ) -> Float[torch.Tensor, "*batch token dim"]:
        """Edit the block's output in place and return it.

        Raises
        ------
        InputError
            If the output has another width, or fewer tokens than the intervention names.
        """
        import torch

        n_tokens, width = value.shape[-2:]
        if width != self.part.space.width:
            raise InputError(
                f"{self.intervention} is of another model: its {self.part.space.name} has width "
                f"{self.part.space.width}, and {getattr(hook, 'name', 'this block')} has width {width}."
            )
        flat = value.reshape(-1, width)
        rows = torch.arange(len(flat), device=value.device).reshape(-1, n_tokens)[:, self._positions(n_tokens)]
        dims, vector = self.part.dims, self.part.vector
        edit = Edit(
            rows.reshape(-1, 1),
            None if dims is None else torch.as_tensor(dims, device=value.device)[None],
            None if vector is None else torch.tensor(vector),
            self.a,
            self.b,
        )
        if isinstance(self.intervention.values, Function):
            edit.function = self.intervention.values.at(self.part.layer)
            edit.lengths = [rows.shape[1]] * len(rows)
            edit.label = str(self.intervention)
        # In place, as TransformerLens' own patching does: transformers has recorded this very tensor as the block's
        # hidden state by now, and some decoders read the recorded one of an image encoder.
        return value.copy_(edited(flat, [edit]).reshape(value.shape))

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


def hooks(
    interventions: Units | Intervention | Sequence[Units | Intervention], bridge: TransformerBridge | None = None
) -> list[tuple[str, Hook]]:
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
        it. If None, all units must be in the decoder, and hooks get the names of a decoder-only model.

    Returns
    -------
    list of (name, Hook)
        One hook for each block that is edited, under the canonical name of its hook point.

    Raises
    ------
    InputError
        For values that are computed from stimuli (``resample``, ``patch``, ``mean`` over stimuli); for kinds of tokens
        that a hook cannot know (``"image"``, ``"text"``, ``"cls"``, ``spare_sinks=True``); for an empty set of units,
        units of another model, or a tower that the bridge does not expose. A hook raises it if its block has another
        width.

    Examples
    --------
    >>> bridge.run_with_hooks(tokens, fwd_hooks=hooks(language, bridge))  # doctest: +SKIP
    """
    listed = [interventions] if isinstance(interventions, Units | Intervention) else list(interventions)
    flat = flatten([zero(item) if isinstance(item, Units) else item for item in listed])
    given = [part for one in flat for part in one.by_space()]
    for intervention in given:
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
        if isinstance(intervention.tokens, PerStimulus) or intervention.tokens in ("image", "text", "cls"):
            raise InputError(
                f"{intervention}: a hook does not know which tokens these are. Use "
                '"all", "last" or indices, such as .at(range(3, 19)).'
            )
    spaces = _spaces(given, bridge)
    shapes = {name: space.shape for name, space in spaces.items()}
    for intervention in given:
        if isinstance(intervention.target, Units):
            check_units(intervention.target, shapes, model=None, source="the bridge", what=f"{intervention}: the units")
    # No stimulus runs here: those that need one were refused.
    edits = Edits(given, spaces, lambda one, parts, count: values_of(one, parts, lambda *_: iter(()), count), ())
    return [
        (part.space.paths[part.layer], Hook(intervention, part, a, b)) for intervention, part, a, b in edits.constants()
    ]


def _spaces(interventions: Sequence[Intervention], bridge: TransformerBridge | None) -> dict[str, Space]:
    """The residual streams that interventions write to, with hook names as paths."""
    if bridge is not None:
        towers = towers_of(bridge, {name for intervention in interventions for name in intervention.towers})
        return {name: Space(tower) for name, tower in towers.items()}
    for intervention in interventions:
        target = intervention.target
        if not isinstance(target, Units) or intervention.spaces != ["decoder"] or "encoder" in target.shapes:
            raise InputError(f"{intervention}: {BRIDGE_NEEDED}: hooks(..., bridge).")
        shape = target.shapes["decoder"]
    return {"decoder": Space(decoder_hook_points(*shape))}
