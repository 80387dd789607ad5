"""Attention weights, read where the attention gives them. Runs on the server.

Kernels that are fast keep their weights to themselves, and the eager one gives them, as the second part of what the
attention module or the kernel that it calls puts out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modalnet.execution.edges import cut_call

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.execution.compile import SiteStep


def attended(step: SiteStep) -> list[Float[torch.Tensor, "head target source"]] | str:
    """The weights of one attention between the chosen tokens of each stimulus, in float32.

    Returns
    -------
    list or str
        One array per stimulus; 0 for tokens that are not attended to from there. What was found, in words, where it is
        no weights.
    """
    look = step.attends
    assert look is not None
    if not look.kernel:
        output = step.module.output
        weights = output[look.index] if isinstance(output, tuple | list) and len(output) > look.index else None
        found = _parts(weights, look.total)
        return found if isinstance(found, str) else _chosen([found], look)
    from nnsight.intervention.iterator import Iterations

    call: Any = getattr(step.module.source, look.kernel)
    parts: list[torch.Tensor] = []
    for _ in Iterations(0, None):
        if step.cuts:  # before this call gives its weights, and the next one begins
            otherwise = cut_call(call, step.cuts, sum(each.shape[0] * each.shape[2] for each in parts))[1]
            if otherwise is not None:
                return otherwise[0]
        output = call.output
        weights = output[look.index] if isinstance(output, tuple | list) and len(output) > look.index else None
        found = _parts(weights, look.total)
        if isinstance(found, str):
            return found
        parts.append(found)
        if sum(each.shape[0] * each.shape[2] for each in parts) >= look.total:
            break
    return _chosen(parts, look)


def _parts(weights: Any, total: int) -> torch.Tensor | str:
    if not hasattr(weights, "dim"):
        return f"{type(weights).__name__} in the place of weights"
    if weights.dim() != 4 or weights.shape[0] * weights.shape[2] > total or weights.shape[2] != weights.shape[3]:
        return f"weights of shape {tuple(weights.shape)} over {total} positions"
    found: torch.Tensor = weights
    return found


def _chosen(parts: list[torch.Tensor], look: Any) -> list[Float[torch.Tensor, "head target source"]] | str:
    """Of rows of weights, one part of the positions after the other, those between the tokens of each stimulus."""
    import torch

    if sum(each.shape[0] * each.shape[2] for each in parts) != look.total:
        return f"weights over {sum(each.shape[0] * each.shape[2] for each in parts)} of {look.total} positions"
    n_heads = parts[0].shape[1]
    found = []
    for targets, sources in zip(look.targets, look.sources, strict=True):
        weights = torch.zeros(1 if look.mean else n_heads, len(targets), len(sources))
        start = 0
        for part in parts:
            for row in part:
                stop = start + row.shape[1]
                into, out_of = ((ends >= start) & (ends < stop) for ends in (targets, sources))
                if into.any() and out_of.any():
                    t, s = (targets[into] - start).to(row.device), (sources[out_of] - start).to(row.device)
                    own = row[:, t[:, None], s[None, :]].float()
                    own = own.mean(0, keepdim=True) if look.mean else own
                    weights[:, into.nonzero(), out_of.nonzero().T] = own.cpu()
                start += row.shape[1]
        found.append(weights)
    return found
