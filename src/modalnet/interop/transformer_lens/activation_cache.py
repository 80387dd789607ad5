"""A run as a TransformerLens ``ActivationCache``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modalnet.errors import InputError
from modalnet.interop.transformer_lens.hook_points import BRIDGE_NEEDED, DECODER_NAMES, HookPoints, no_point

if TYPE_CHECKING:
    import torch
    from transformer_lens import ActivationCache
    from transformer_lens.model_bridge import TransformerBridge

    from modalnet.execution.run import Run
    from modalnet.models.sites import Space

_INSTALL = "pip install 'modalnet[transformer-lens]'"


def cache(run: Run, bridge: TransformerBridge | None = None) -> ActivationCache:
    """Turn a run into an ``ActivationCache``.

    Parameters
    ----------
    run
        The result of ``model.run(stimuli, read=..., tokens="all")``, where all stimuli have the same number of tokens;
        with ``vectors=True`` where heads were read.
    bridge
        A ``TransformerBridge`` of the model, whose hook names are used. If None, only the residual stream of the
        decoder may have been read, and activations get the names of a decoder-only model.

    Returns
    -------
    transformer_lens.ActivationCache
        What was read, ``[stimulus, token, unit]`` (heads ``[stimulus, token, head, number]``) in float32 on the CPU,
        under all names of its hook points (``blocks.3.hook_out`` and ``blocks.3.hook_resid_post`` share one tensor),
        and nothing else: methods that need other activations fail. A hook point that TransformerLens has for such a
        site is among them if a short pass through the bridge finds the same numbers there. An image that the model cuts
        into tiles is one row with all its tokens; a bridge's own cache has one row per tile.

    Raises
    ------
    InputError
        If tokens were pooled, stimuli have different numbers of tokens, or nothing was read; if the bridge is of
        another model, does not expose a tower, or has no hook point for a space; if heads were read without
        ``vectors=True``; if TransformerLens is not installed.

    Examples
    --------
    >>> cache(model.run("The cat sat.", tokens="all"), bridge)["resid_post", 3]  # doctest: +SKIP
    """

    if not run.activations:
        raise InputError('The run has no activations (read=[]). Use model.run(stimuli, tokens="all").')
    for space, values in run.activations.items():
        if run.tokens[space] != "all":
            raise InputError(
                f"{space} was read with tokens={run.tokens[space]!r}, and a cache holds every token. Use "
                'model.run(stimuli, tokens="all").'
            )
        counts = sorted({int(value.shape[1]) for value in values})
        if len(counts) > 1:
            raise InputError(
                f"these stimuli have from {counts[0]} to {counts[-1]} tokens in {space}, and a cache needs "
                "the same number for all. Run stimuli of one length together, or one at a time."
            )
    activations = _of_decoder(run) if bridge is None else _of_bridge(run, HookPoints(bridge))
    try:
        from transformer_lens import ActivationCache
    except ModuleNotFoundError as error:
        raise InputError(
            f"modalnet.interop.transformer_lens.cache needs TransformerLens ({error}). Install it: {_INSTALL}"
        ) from error
    return ActivationCache(activations, bridge)


def _of_decoder(run: Run) -> dict[str, torch.Tensor]:
    """The residual stream of a decoder by hook point."""
    import torch

    if list(run.activations) != ["decoder"]:
        raise InputError(f"this run read {', '.join(run.activations)}: {BRIDGE_NEEDED}: cache(run, bridge).")
    found: dict[str, torch.Tensor] = {}
    for row, layer in enumerate(run.layers["decoder"]):
        kept = torch.stack([value[row] for value in run.activations["decoder"]])
        found |= dict.fromkeys([f"blocks.{layer}.{name}" for name in DECODER_NAMES], kept)
    return found


def _of_bridge(run: Run, held: HookPoints) -> dict[str, torch.Tensor]:
    """What a run read by all names of the hook points that hold the same."""
    import torch

    held.check_exposed(name.partition(".")[0] for name in run.layers)
    held.measure(run.layers)
    read = [(_space_of(run, held, name), layer) for name, layers in run.layers.items() for layer in layers]
    sites = [held.site(space, layer) for space, layer in read if space.widths[layer]]
    names = held.names(sites)
    found: dict[str, torch.Tensor] = {}
    for site in sites:
        space, layer = site.space, site.layer
        if not names[space.name, layer]:
            raise no_point(space.name, layer)
        row, width = run.layers[space.name].index(layer), space.widths[layer]
        values = run.vectors if space.size > 1 else run.activations
        kept = torch.stack([value[row, :, :width] for value in values[space.name]])
        if space.size > 1:  # heads of other layers may have more numbers
            kept = kept[..., : space.place(layer).size]
        for name in names[space.name, layer]:
            by_head = space.size == 1 or held.points[name].hook_conversion is not None
            found[name] = kept if by_head else kept.flatten(-2)
    return found


def _space_of(run: Run, held: HookPoints, name: str) -> Space:
    """A space that a run read, in a bridge."""
    space = held.spaces.get(name)
    if space is None and name.partition(".")[0] in held.towers:
        raise no_point(name)
    n_layers, width = max(run.layers[name]) + 1, int(run.activations[name][0].shape[-1])
    if space is None or n_layers > space.n_layers or width != space.width:
        shapes = ", ".join(f"{each.name} {each.shape}" for each in held.spaces.values() if each.size == 1)
        raise InputError(
            f"this run is of another model: it read layer {n_layers - 1} of {name}, of width {width}, and "
            f"the bridge has the spaces {shapes}, [layer, unit]."
        )
    if space.size > 1 and name not in run.vectors:
        raise InputError(
            f"this run has the length of each unit of {name}, and a cache holds their vectors. Use "
            f'model.run(stimuli, read={name!r}, tokens="all", vectors=True).'
        )
    return space
