"""Attention edges that are removed where the attention takes its mask. Runs on the server.

An edge leads from a source token to a target token that attends to it. To remove it is to give the softmax minus
infinity there, whatever the kernel: what remains is attended to in proportion. A token's edge to itself always stays,
so that every token attends to something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from jaxtyping import Bool, Int
    from nnsight import Envoy

    from modalnet.execution.compile import Cut, SiteStep


def cut(step: SiteStep, number: int = -1) -> tuple[str, str] | None:
    """Remove edges of one attention.

    Parameters
    ----------
    step
        The module that takes the mask or calls a kernel that does.
    number
        Which new token of a generation the pass reads; -1 for a pass over a stimulus.

    Returns
    -------
    tuple or None
        What was found there and what was expected, in words, where the mask is none that is understood.
    """
    cuts = step.cuts
    if cuts[0].kernel:
        return _in_kernel(step, cuts)
    args, kwargs = step.module.inputs
    name, index = cuts[0].parameter, cuts[0].index
    given = kwargs[name] if name in kwargs else args[index] if len(args) > index else None
    hidden = args[0] if len(args) else next(value for value in kwargs.values() if hasattr(value, "dim"))
    shape = tuple(hidden.shape[:-1])
    rows, queries = (shape[0], shape[1]) if len(shape) == 2 else (1, shape[0]) if len(shape) == 1 else (0, 0)
    if number >= 0:
        keys = n_keys(step.module, given, kwargs, len(cuts[0].sources) + number + 1)
        gone = of_new_token(cuts, keys, number)
    else:
        if rows * queries != len(cuts[0].sources):
            return f"{rows} x {queries} positions", f"{len(cuts[0].sources)}"
        gone, keys = between(cuts, rows, queries), queries
    found = masked(given, gone.to(hidden.device), keys, hidden.dtype, causal=cuts[0].causal and number < 0)
    if isinstance(found, str):
        return found, "one that says for each pair of tokens whether one attends to the other"
    if name not in kwargs and len(args) > index:
        step.module.inputs = ((*args[:index], found, *args[index + 1 :]), kwargs)
    else:
        step.module.inputs = (args, {**kwargs, name: found})
    return None


def _in_kernel(step: SiteStep, cuts: Sequence[Cut]) -> tuple[str, str] | None:
    """The same where a module's forward pass calls a kernel, once or for one part of the positions after the other."""
    from nnsight.intervention.iterator import Iterations

    call: Any = getattr(step.module.source, cuts[0].kernel)
    done = 0
    for _ in Iterations(0, None):
        count, otherwise = cut_call(call, cuts, done)
        done += count
        if otherwise is not None or done >= len(cuts[0].sources):
            return otherwise
    return None


def cut_call(call: Any, cuts: Sequence[Cut], done: int) -> tuple[int, tuple[str, str] | None]:
    """Remove edges in one call of a kernel; others had the first positions. How many it has, and as for :func:`cut`."""
    import torch

    first = cuts[0]
    args, kwargs = call.inputs
    query = args[first.query]
    rows, length, left = query.shape[0], query.shape[-2], len(first.sources) - done
    if query.dim() != 4 or rows * length > left:
        return 0, (f"queries of shape {tuple(query.shape)}", f"{left} positions")
    gone = between(cuts, rows, length, slice(done, done + rows * length))
    if "softmax" in first.kernel:
        if query.shape[-1] != length:
            return 0, (f"scores of shape {tuple(query.shape)}", f"{length} tokens that attend to each other")
        scores = query.masked_fill(gone.to(query.device), torch.finfo(query.dtype).min)
        call.inputs = ((scores, *args[1:]), kwargs)
        return rows * length, None
    named = first.parameter in kwargs or len(args) <= first.index
    given = kwargs.get(first.parameter) if named else args[first.index]
    causal = first.causal or bool(kwargs.get("is_causal"))
    found = masked(given, gone.to(query.device), length, query.dtype, causal=causal)
    if isinstance(found, str):
        return 0, (found, "one that says for each pair of tokens whether one attends to the other")
    # A kernel takes a mask or the word that attention is causal.
    others = {**kwargs, **({"is_causal": False} if kwargs.get("is_causal") else {})}
    if named:
        call.inputs = (args, {**others, first.parameter: found})
    else:
        call.inputs = ((*args[: first.index], found, *args[first.index + 1 :]), others)
    return rows * length, None


def between(
    cuts: Sequence[Cut], rows: int, length: int, here: slice | None = None
) -> Bool[torch.Tensor, "row head query key"]:
    """Which edges are removed, from marks of the flat positions that are sources and targets.

    Positions of several stimuli in one row do not attend to each other, so that marks of one row may be of several.
    """
    import torch

    gone = None
    for each in cuts:
        if each.edges is None:
            sources, targets = (marks if here is None else marks[here] for marks in (each.sources, each.targets))
            one = targets.reshape(rows, 1, length, 1) & sources.reshape(rows, 1, 1, length)
        else:
            one = _single(each.edges - (0 if here is None else here.start), rows, length)
        one = _of_heads(one, each)
        gone = one if gone is None else gone | one
    assert gone is not None
    return gone & ~torch.eye(length, dtype=torch.bool, device=gone.device)


def _single(edges: Int[torch.Tensor, "edge 2"], rows: int, length: int) -> Bool[torch.Tensor, "row 1 query key"]:
    """Marks of single edges, of which some may be elsewhere."""
    import torch

    gone = torch.zeros(rows, 1, length, length, dtype=torch.bool)
    row, place = edges // length, edges % length
    held = (row[:, 0] == row[:, 1]) & (edges >= 0).all(1) & (row[:, 0] < rows)
    gone[row[held, 0], 0, place[held, 0], place[held, 1]] = True
    return gone


def of_new_token(cuts: Sequence[Cut], keys: int, number: int) -> Bool[torch.Tensor, "1 head 1 key"]:
    """The same of the token that a pass reads after a prompt; keys are the last ones, where a window forgot others."""
    import torch

    gone = None
    for each in cuts:
        new = torch.full((number,), each.new_sources, dtype=torch.bool)
        marks = torch.cat([each.sources.cpu(), new, torch.zeros(1, dtype=torch.bool)])
        marks = marks & each.new_targets
        marks = marks[-keys:] if keys <= len(marks) else torch.nn.functional.pad(marks, (0, keys - len(marks)))
        one = _of_heads(marks.reshape(1, 1, 1, -1), each)
        gone = one if gone is None else gone | one
    assert gone is not None
    return gone


def _of_heads(edges: Bool[torch.Tensor, "row 1 query key"], one: Cut) -> Bool[torch.Tensor, "row head query key"]:
    if one.heads is None:
        return edges
    return edges & one.heads.to(edges.device).reshape(1, -1, 1, 1)


def n_keys(module: Envoy, given: Any, kwargs: Mapping[str, Any], otherwise: int) -> int:
    """How many tokens the new token of a generation attends to, itself included."""
    if getattr(given, "ndim", 0) == 4:
        return int(given.shape[-1])
    cache = next((value for name, value in kwargs.items() if "past" in name), None)
    layers = getattr(getattr(cache, "self_attention_cache", cache), "layers", None)
    number = getattr(module._module, "layer_idx", None)
    held = getattr(layers[number], "keys", None) if layers is not None and number is not None else None
    # A window keeps the last tokens alone.
    return otherwise if held is None else min(otherwise, held.shape[-2] + 1)


def masked(
    given: Any, gone: Bool[torch.Tensor, "row head query key"], keys: int, dtype: torch.dtype, *, causal: bool
) -> torch.Tensor | str:
    """A mask without some edges: of booleans where it was one, else numbers that are added to the scores.

    Returns
    -------
    tensor or str
        What kind of mask it was, where it is none that says of pairs of tokens whether they attend to each other.
    """
    import torch

    if given is None:
        queries = gone.shape[-2]
        allowed = torch.ones(queries, keys, dtype=torch.bool, device=gone.device)
        if causal:
            allowed = allowed.tril(keys - queries)
        least = torch.finfo(dtype).min
        return torch.zeros(1, dtype=dtype, device=gone.device).masked_fill(~allowed | gone, least)
    if not isinstance(given, torch.Tensor) or given.dim() != 4:
        kind = f"a mask of shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) else type(given).__name__
        return kind
    if given.shape[-2] != gone.shape[-2] or given.shape[-1] < gone.shape[-1]:
        return f"a mask of shape {tuple(given.shape)}"
    gone = torch.nn.functional.pad(gone.to(given.device), (0, given.shape[-1] - gone.shape[-1]))
    if given.dtype == torch.bool:
        return given & ~gone
    if not given.is_floating_point():
        return f"a mask of {given.dtype}"
    return torch.where(gone, torch.finfo(given.dtype).min, given)
