"""A run as a TransformerLens ``ActivationCache``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modalnet.errors import InputError
from modalnet.interop.transformer_lens.hook_points import BRIDGE_NEEDED, DECODER_NAMES, names_of, towers_of

if TYPE_CHECKING:
    import torch
    from transformer_lens import ActivationCache
    from transformer_lens.model_bridge import TransformerBridge

    from modalnet.execution.run import Run

_INSTALL = "pip install 'modalnet[transformer-lens]'"


def cache(run: Run, bridge: TransformerBridge | None = None) -> ActivationCache:
    """Turn a run into an ``ActivationCache``.

    Parameters
    ----------
    run
        The result of ``model.run(stimuli, tokens="all")``, where all stimuli have the same number of tokens.
    bridge
        A ``TransformerBridge`` of the model, whose hook names are used. If None, only the decoder may have been read,
        and activations get the names of a decoder-only model.

    Returns
    -------
    transformer_lens.ActivationCache
        The output of each block that was read, ``[stimulus, token, dim]`` in float32 on the CPU, under all names of its
        hook point (``blocks.3.hook_out`` and ``blocks.3.hook_resid_post`` share one tensor), and nothing else: methods
        that need other activations (``decompose_resid``, ``accumulated_resid``) fail. An image that the model cuts into
        tiles is one row with all its tokens; a bridge's own cache has one row per tile.

    Raises
    ------
    InputError
        If tokens were pooled, stimuli have different numbers of tokens, or nothing was read; if the bridge is of
        another model or does not expose a tower; if TransformerLens is not installed.

    Examples
    --------
    >>> cache(model.run("The cat sat.", tokens="all"), bridge)["resid_post", 3]  # doctest: +SKIP
    """
    import torch

    if not run.activations:
        raise InputError('The run has no activations (read=[]). Use model.run(stimuli, tokens="all").')
    for tower, values in run.activations.items():
        if run.tokens[tower] != "all":
            raise InputError(
                f"the {tower} tower was read with tokens={run.tokens[tower]!r}, and a cache holds every token. Use "
                'model.run(stimuli, tokens="all").'
            )
        counts = sorted({int(value.shape[1]) for value in values})
        if len(counts) > 1:
            raise InputError(
                f"these stimuli have from {counts[0]} to {counts[-1]} tokens in the {tower} tower, and a cache needs "
                "the same number for all. Run stimuli of one length together, or one at a time."
            )
    names = _names(run, bridge)
    activations: dict[str, torch.Tensor] = {}
    for tower, values in run.activations.items():
        for row, layer in enumerate(run.layers[tower]):
            activations |= dict.fromkeys(names[tower, layer], torch.stack([value[row] for value in values]))
    try:
        from transformer_lens import ActivationCache
    except ModuleNotFoundError as error:
        raise InputError(
            f"modalnet.interop.transformer_lens.cache needs TransformerLens ({error}). Install it: {_INSTALL}"
        ) from error
    return ActivationCache(activations, bridge)


def _names(run: Run, bridge: TransformerBridge | None) -> dict[tuple[str, int], list[str]]:
    """All names of the hook point behind each block that was read."""
    read = [(tower, layer) for tower, layers in run.layers.items() for layer in layers]
    if bridge is None:
        if list(run.activations) != ["decoder"]:
            raise InputError(f"this run read {', '.join(run.activations)}: {BRIDGE_NEEDED}: cache(run, bridge).")
        return {(tower, layer): [f"blocks.{layer}.{name}" for name in DECODER_NAMES] for tower, layer in read}
    towers = towers_of(bridge, run.activations)
    for tower, values in run.activations.items():
        n_layers, width = max(run.layers[tower]) + 1, int(values[0].shape[-1])
        if tower not in towers or n_layers > towers[tower].n_layers or width != towers[tower].width:
            shapes = ", ".join(f"{each.name} {each.shape}" for each in towers.values())
            raise InputError(
                f"this run is of another model: it read layer {n_layers - 1} of a {tower} tower of width {width}, and "
                f"the bridge has the towers {shapes}, [layer, dim]."
            )
    return {(tower, layer): names_of(bridge, towers[tower], layer) for tower, layer in read}
