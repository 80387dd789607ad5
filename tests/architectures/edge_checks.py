"""What must hold of attention knockouts in a model of any class, against its own eager attention with one more mask."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

import modalnet as mn
from modalnet.execution.weights import eager_attention
from modalnet.models.masks import EdgeSpace
from modalnet.models.places import Absent

from .checks import Bench
from .space_checks import EXACT, Inside, _rows

#: By the number of an attention module: edges that are left out ``[position, position]``, how many positions were seen.
_GONE: dict[int, list[Any]] = {}
_INTERNAL = "_attn_implementation_internal"


def _explicit(  # as transformers calls it
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **options: Any
) -> Any:
    """A class' own eager attention, with a mask that leaves out some more edges."""
    own = re.search(r"\w*eager_attention_forward", inspect.getsource(type(module).forward))
    eager = getattr(sys.modules[type(module).__module__], own[0] if own else "eager_attention_forward")
    if id(module) in _GONE:
        gone, start = _GONE[id(module)]
        rows, length = query.shape[0], query.shape[-2]
        more = torch.zeros(rows, 1, length, length, dtype=query.dtype)
        for row in range(rows):
            more[row, 0].masked_fill_(
                gone[start : start + length, start : start + length], torch.finfo(query.dtype).min
            )
            start += length
        _GONE[id(module)][1] = start
        attention_mask = more if attention_mask is None else torch.minimum(attention_mask[..., :length], more)
    return eager(module, query, key, value, attention_mask, **options)


@contextlib.contextmanager
def _masking_softmax(seen: list[Any]) -> Iterator[None]:
    """While an attention that computes its scores by itself runs, its softmax leaves out edges."""
    plain = torch.nn.functional.softmax

    def softmax(scores: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        gone, start = seen
        length = scores.shape[-1]
        if scores.dim() == 4 and scores.shape[-2] == length and start + len(scores) * length <= len(gone):
            for row in range(len(scores)):
                part = gone[start : start + length, start : start + length]
                scores[row] = scores[row].masked_fill(part, float("-inf"))
                start += length
            seen[1] = start
        return plain(scores, *args, **options)

    torch.nn.functional.softmax = softmax
    try:
        yield
    finally:
        torch.nn.functional.softmax = plain


AttentionInterface.register("explicit", _explicit)
AttentionMaskInterface.register("explicit", eager_mask)


@contextlib.contextmanager
def _without(module: torch.nn.Module, path: str, gone: torch.Tensor) -> Iterator[list[Any]]:
    """A model whose attention at a path leaves out edges, and how many positions it saw: 0 where it is another kind."""
    configs = {id(each.config): each.config for each in module.modules() if hasattr(each, "config")}
    before = {key: getattr(config, _INTERNAL) for key, config in configs.items() if hasattr(config, _INTERNAL)}
    seen = _GONE[id(module.get_submodule(path))] = [gone, 0]
    try:
        for key in before:
            setattr(configs[key], _INTERNAL, "explicit")
        yield seen
    finally:
        _GONE.clear()
        for key, value in before.items():
            setattr(configs[key], _INTERNAL, value)


def knocks_out(bench: Bench) -> str | None:
    """Of types for images and texts: an attention without some edges is the class' own eager one with another mask.

    Where it cannot be masked, why.
    """
    inside = Inside.of(bench)
    executor = bench.model._executor
    prepared = executor.encoder.prepare([inside.stimulus])
    spaces = inside.kind("heads")
    if not spaces:
        return "no heads"
    refused, own_way = [], []
    for heads in spaces:
        name = heads.tower.name
        edges = executor.edges_of(name, prepared)
        for layer in inside.layers[heads.name]:
            place = edges.places[layer]
            if isinstance(place, Absent):
                refused.append(f"{name} block {layer}: {place.reason.partition('. ')[0]}")
        layers = [layer for layer in inside.layers[heads.name] if layer in edges.layers]
        if layers:
            # Mixers of other kinds stand beside attentions in some towers.
            bench.notes += [f"knockout: {one}" for one in refused if one.startswith(f"{name} ")]
            refused = [one for one in refused if not one.startswith(f"{name} ")]
        if layers and not inside.is_padded(heads) and not _holds(inside, edges, layers[len(layers) // 2]):
            own_way.append(name)
    if refused:
        return "; ".join(dict.fromkeys(refused))
    if own_way:
        bench.notes.append(
            f"knockout: measured alone where attention is no interface of transformers: {', '.join(own_way)}"
        )
    return None


def _holds(inside: Inside, edges: EdgeSpace, layer: int) -> bool:
    """Whether there is an attention to compare with; fails where it differs."""
    bench, tower = inside.bench, edges.tower
    executor = bench.model._executor
    batch = executor.encoder.collate([executor.encoder.encode(*executor.encoder.prepare([inside.stimulus]))])
    (span,), total = executor.runner.layouts.spans(batch, tower.name, layer)
    if len(span.index) < 2 or not span.clear:
        return True
    gone = torch.zeros(total, total, dtype=torch.bool)
    gone[span.index[-1], span.index] = True
    gone.fill_diagonal_(fill_value=False)
    last = tower.paths.index(inside.last(tower))
    with _without(bench.module, edges.paths[layer], gone) as seen:
        expected = inside.watched({tower.paths[last]})[tower.paths[last], "output"]
    if seen[1] != total:
        module, seen = bench.module.get_submodule(edges.paths[layer]), [gone, 0]
        forward = module.forward

        def masked(*args: Any, **options: Any) -> Any:
            with _masking_softmax(seen):
                return forward(*args, **options)

        module.forward = masked
        try:
            expected = inside.watched({tower.paths[last]})[tower.paths[last], "output"]
        finally:
            module.forward = forward
    if seen[1] != total:
        return False
    ((own,), _) = executor.runner.layouts.spans(batch, tower.name, last)  # fewer where patches were merged
    expected = _rows(expected, tower.width)[own.index]
    knockout = mn.knockout(tower.name, layer, source="all", target=[-1])
    reads: dict[str, Any] = {"read": {tower.name: [last]}, "tokens": "all"}
    with eager_attention(bench.module):  # the same kernel, so that what differs is not its rounding
        found, plain = (
            bench.model.run([inside.stimulus], *some, **reads).activations[tower.name][0][0]
            for some in ((knockout,), ())
        )
    scale = float(expected.abs().max())
    assert (found - expected).abs().max() <= EXACT * scale, (
        f"{tower.name} block {layer}: differs by {float((found - expected).abs().max()) / scale:.1e}"
    )
    assert (found - plain).abs().max() > 0, f"{tower.name} block {layer}: nothing changes"
    return True


EDGE_CHECKS = {"knockout": knocks_out}
