"""The same lesion in TransformerLens, and what a run read as its cache.

A ``TransformerBridge`` has a hook point behind every block, and a name for it. Both are found on the bridge itself: the
blocks are those in which modalnet finds the towers of the model that the bridge wraps, and a block's point is known by
the name that the bridge lists it under (``blocks.3.hook_out``, ``vision_encoder.encoder_layers.3.hook_out``). A tower
whose blocks have no such point is one that the bridge does not expose.

Hooks are plain functions here. TransformerLens registers and removes them; and it is imported only for a cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.execution.edits import Edits, Part, flatten
from modalnet.execution.trace import edited
from modalnet.interventions.operations import Intervention, zero
from modalnet.models.towers import Tower, find_towers
from modalnet.units import Units

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.model import Run

_INSTALL = "pip install 'modalnet[transformer-lens]'"
#: What a bridge of a decoder-only model calls the points behind its blocks; the first is their own name.
_DECODER = ("hook_out", "hook_resid_post")
_NEEDED = "the decoder of a decoder-only model alone has the same names in every bridge. Give the TransformerBridge"


@dataclass(frozen=True, eq=False)
class Hook:
    """Edits what a block puts out, as :meth:`modalnet.Model.run` does; TransformerLens calls it.

    Attributes
    ----------
    intervention
        What it is part of.
    part
        The block, and which of its dims or which direction.
    a, b
        The factor, and what is added: ``a * x + b``, computed in float32.
    """

    intervention: Intervention
    part: Part = field(repr=False)
    a: float = field(repr=False)
    b: Float[torch.Tensor, " dims"] = field(repr=False)

    def __call__(self, value: Float[torch.Tensor, "*row token dim"], hook: Any) -> torch.Tensor:
        """The block's output, ``[*row, token, dim]``, edited in place.

        Raises
        ------
        InputError
            Where it has another width, or fewer tokens than the intervention names.
        """
        import torch

        n_tokens, width = value.shape[-2:]
        if width != self.part.tower.width:
            raise InputError(
                f"{self.intervention}: its {self.part.tower.name} tower has width {self.part.tower.width}; "
                f"{getattr(hook, 'name', 'this block')} has {width}. It is of another model."
            )
        flat = value.reshape(-1, width)
        rows = torch.arange(len(flat), device=value.device).reshape(-1, n_tokens)[:, self._tokens(n_tokens)]
        dims, vector = self.part.dims, self.part.vector
        edit = (
            rows.reshape(-1, 1),
            None if dims is None else torch.as_tensor(dims, device=value.device)[None],
            None if vector is None else torch.tensor(vector),
            self.a,
            self.b,
        )
        # In place, as TransformerLens' own patching does: transformers has recorded this very tensor as the block's
        # hidden state by now, and some decoders are handed the recorded one of an image encoder.
        return value.copy_(edited(flat, [edit]).reshape(value.shape))

    def _tokens(self, count: int) -> list[int]:
        """Which places of a row, without those that are spared."""
        one = self.intervention
        wanted: Iterable[int] = range(count)
        if one.tokens != "all":
            wanted = (-1,) if isinstance(one.tokens, str) else one.tokens
        outside = [place for place in wanted if not -count <= place < count]
        if outside:
            raise InputError(f"{one} asks for token {outside[0]}, but this input has {count} tokens.")
        return [place % count for place in wanted if place % count >= one.spared]


def hooks(interventions: Intervention | Sequence[Intervention], bridge: Any = None) -> list[tuple[str, Hook]]:
    """Interventions as hooks for TransformerLens: ``bridge.run_with_hooks(tokens, fwd_hooks=hooks(...))``.

    Parameters
    ----------
    interventions
        One or several, which apply from left to right: ``zero``, ``scale``, ``add``, ``set_to``, and ``mean`` over
        means that are known (``over=model.means(stimuli)``). ``.at("all")``, ``.at("last")``, indices and
        ``spare_first`` count in the rows that the bridge runs, padding and beginning token included: run texts of one
        length, or one by one.
    bridge
        The ``TransformerBridge`` that will run, to take the names from and check against. Without one, units must be
        in the decoder, and are named as a decoder-only model's are.

    Returns
    -------
    list of (name, Hook)
        One for each block that is written to, under its canonical name.

    Raises
    ------
    InputError
        For values that are computed from stimuli (``resample``, ``patch``, ``mean`` over stimuli) and tokens of a kind
        that a hook cannot know (``"image"``, ``"text"``, ``"cls"``); for units of another shape than the bridge's, or
        in a tower that it does not expose. A hook raises it where its block has another width.
    """
    given = flatten([interventions])
    for one in given:
        if isinstance(one.values, tuple):
            raise InputError(
                f"{one}: its values are computed from stimuli, which a hook cannot run. Give numbers, or for a mean "
                "over=model.means(stimuli)."
            )
        if isinstance(one.tokens, str) and one.tokens not in ("all", "last"):
            raise InputError(
                f"{one}: a hook does not know which tokens these are. Place it at "
                '"all", "last" or indices, such as .at(range(3, 19)).'
            )
    wanted = {name for one in given for name in one.towers}
    towers = _decoder(given) if bridge is None else _towers(bridge, wanted)
    edits = Edits(given, towers, lambda *_: iter(()), ())
    return [(part.tower.paths[part.layer], Hook(one, part, a, b)) for one, part, a, b in edits.constants()]


def zeroed(units: Units, bridge: Any = None) -> list[tuple[str, Hook]]:
    """Hooks that zero units; see :func:`hooks`."""
    return hooks(zero(units), bridge)


def cache(run: Run, bridge: Any = None) -> Any:
    """What a run read of every token, as an ``ActivationCache``.

    Parameters
    ----------
    run
        Of ``model.run(stimuli, tokens="all")``, where all stimuli have the same number of tokens.
    bridge
        A ``TransformerBridge`` of the model, to take the names from. Without one, the decoder alone may have been
        read, and is named as a decoder-only model's is.

    Returns
    -------
    transformer_lens.ActivationCache
        The output of each block that was read, ``[stimulus, token, dim]`` in float32 on the CPU, under all its names
        (``blocks.3.hook_out`` and ``blocks.3.hook_resid_post`` are one tensor), and nothing else: what needs other
        activations (``decompose_resid``, ``accumulated_resid``) cannot be asked of it. An image that a model cuts
        into tiles is one row with all its tokens; a bridge's own cache has a row for each tile.

    Raises
    ------
    InputError
        Where tokens were pooled, stimuli have different numbers of tokens, or nothing was read; for a bridge of
        another model, or one that does not expose a tower; without TransformerLens.
    """
    import torch

    if not run.residual:
        raise InputError('this run read nothing (read=[]). Give model.run(stimuli, tokens="all").')
    for tower, values in run.residual.items():
        if run.tokens[tower] != "all":
            raise InputError(
                f"the {tower} tower was read at tokens={run.tokens[tower]!r}, and a cache holds every token. Read it "
                'with model.run(stimuli, tokens="all").'
            )
        counts = sorted({int(value.shape[1]) for value in values})
        if len(counts) > 1:
            raise InputError(
                f"these stimuli have from {counts[0]} to {counts[-1]} tokens in the {tower} tower, and a cache holds "
                "one rectangle. Run stimuli of one length together, or one by one."
            )
    names = _names(run, bridge)
    found: dict[str, torch.Tensor] = {}
    for tower, values in run.residual.items():
        for place, layer in enumerate(run.layers[tower]):
            found |= dict.fromkeys(names[tower, layer], torch.stack([value[place] for value in values]))
    try:
        from transformer_lens import ActivationCache
    except ModuleNotFoundError as error:
        raise InputError(f"to_cache() needs TransformerLens ({error}). Install it: {_INSTALL}") from error
    return ActivationCache(found, bridge)


# -- names -----------------------------------------------------------------------------------------------------------


def _towers(bridge: Any, wanted: Iterable[str]) -> dict[str, Tower]:
    """The towers of a bridge; those that are wanted have names of hook points for paths of modules."""
    if not (hasattr(bridge, "hook_dict") and hasattr(bridge, "original_model")):
        raise InputError(f"bridge= takes the TransformerBridge that runs the model; this is a {type(bridge).__name__}.")
    points = bridge.hook_dict
    towers = find_towers(bridge.original_model)
    for name in towers.keys() & set(wanted):
        own = [getattr(block, "hook_out", None) for block in towers[name].blocks]
        names = tuple(str(getattr(point, "name", None)) for point in own)
        if any(point is None or points.get(path) is not point for path, point in zip(names, own, strict=True)):
            raise InputError(
                f"this bridge of a {type(bridge.original_model).__name__} does not expose the {name} tower: its "
                "blocks have no hook points. modalnet.load(bridge) reads and writes every tower."
            )
        towers[name] = replace(towers[name], paths=names)
    return towers


def _decoder(interventions: Sequence[Intervention]) -> dict[str, Tower]:
    """The decoder that the units of interventions are in, named as in a decoder-only model."""
    for one in interventions:
        if not isinstance(one.target, Units) or one.towers != ["decoder"] or "encoder" in one.target.shapes:
            raise InputError(f"{one}: {_NEEDED}: to_transformer_lens(bridge).")
        n_layers, width = one.target.shapes["decoder"]
    return {"decoder": Tower("decoder", width, tuple(f"blocks.{layer}.{_DECODER[0]}" for layer in range(n_layers)))}


def _names(run: Run, bridge: Any) -> dict[tuple[str, int], list[str]]:
    """All names of the point behind each block that was read."""
    places = [(tower, layer) for tower, layers in run.layers.items() for layer in layers]
    if bridge is None:
        if list(run.residual) != ["decoder"]:
            raise InputError(f"this run read {', '.join(run.residual)}: {_NEEDED}: to_cache(bridge).")
        return {(tower, layer): [f"blocks.{layer}.{name}" for name in _DECODER] for tower, layer in places}
    towers = _towers(bridge, run.residual)
    for tower, values in run.residual.items():
        least, width = max(run.layers[tower]) + 1, int(values[0].shape[-1])
        if tower not in towers or least > towers[tower].n_layers or width != towers[tower].width:
            has = ", ".join(f"{one.name} {one.shape}" for one in towers.values())
            raise InputError(
                f"this run read layer {least - 1} of a {tower} tower of width {width}; the bridge's towers are {has}, "
                "[layer, dim]. It is of another model."
            )
    points = bridge.hook_dict
    aliases: dict[int, list[str]] = {}
    for name, point in points.items():
        aliases.setdefault(id(point), []).append(name)
    return {(tower, layer): aliases[id(points[towers[tower].paths[layer]])] for tower, layer in places}
