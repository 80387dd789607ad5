"""Where the attention of each block of a tower takes its mask, measured once per model.

Structure proposes an argument of a module, or of a kernel that it calls (:mod:`modalnet.models.masks`). A proposal is
kept if writing a mask there does what it must, on one stimulus: with no edge removed, what enters the output projection
stays as it is; with every edge from one token removed, it no longer depends on that token at any other, as it did
before, and what it is at that token stays as it is. Every block is given its own input of an unchanged pass, so that
one is judged apart from the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from modalnet.errors import ModalnetError
from modalnet.execution.plan import Plan, Pool, Removal, Sites, Write
from modalnet.models.masks import EdgeSpace, MaskPlace, edge_space, mask_places
from modalnet.models.places import Absent, Place
from modalnet.models.streams import plain

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float

    from modalnet.execution.engine import Engine
    from modalnet.inputs.batch import Batch, Encoded
    from modalnet.inputs.encoding import Encoder
    from modalnet.interventions.positions import Span
    from modalnet.models.sites import Space

#: How far values may lie apart, as a share of the largest, in full and in half precision.
CLOSE, CLOSE_HALF = 1e-4, 3e-2
NO_ARGUMENT = (
    "neither its attention nor a kernel that this calls takes a mask that can be set. If the model was loaded with "
    'flash attention or the like, load it with attn_implementation="sdpa" or "eager"'
)
NOT_HEEDED = (
    "its attention does not heed a mask of pairs of tokens, or attends to none of these. If the model was loaded with "
    'flash attention or the like, load it with attn_implementation="sdpa" or "eager"'
)


@dataclass(frozen=True)
class _Trial:
    """One stimulus, what enters each block of it, and tokens whose edges are removed."""

    batch: Batch
    entering: Sequence[Float[torch.Tensor, "position dim"]]
    heads: Space
    pre: Space
    tokens: tuple[int, ...]
    own: Bool[torch.Tensor, " position"]


class Masks:
    """Measures where attention takes its masks, in the towers of one model.

    Parameters
    ----------
    engine, encoder
        Those of the model.
    spans
        The positions of each stimulus in a block of a tower, from a batch, a tower and a layer.
    """

    def __init__(
        self, engine: Engine, encoder: Encoder, spans: Callable[[Batch, str, int], tuple[list[Span], int]]
    ) -> None:
        self.engine, self.encoder, self.spans = engine, encoder, spans
        self._known: dict[Any, EdgeSpace] = {}

    def edges(self, heads: Space, pre: Space, item: Encoded, *, causal: bool) -> EdgeSpace:
        """The attention edges of a tower, with the places of masks that hold.

        Parameters
        ----------
        heads, pre
            The tower's attention heads and what enters its blocks, measured.
        item
            A stimulus that reaches the tower.
        causal
            Whether the tower's attention is causal.
        """
        kernel = getattr(getattr(self.engine.module, "config", None), "_attn_implementation", None)
        key = heads.tower.name, item.kind, kernel, heads.places
        if key not in self._known:
            self._known[key] = self._measured(heads, pre, item, causal=causal)
        return self._known[key]

    def _measured(self, heads: Space, pre: Space, item: Encoded, *, causal: bool) -> EdgeSpace:
        found: list[MaskPlace | Absent] = []
        proposed: list[list[MaskPlace]] = []
        for layer, place in enumerate(heads.places):
            own = list(self._proposals(heads, layer)) if isinstance(place, Place) else []
            proposed.append(own)
            found.append(Absent(NO_ARGUMENT) if isinstance(place, Place) and not own else Absent(""))
            if isinstance(place, Absent):
                found[-1] = place
        trial: _Trial | None = None
        for turn in range(max(map(len, proposed), default=0)):
            tried = [
                own[turn] if turn < len(own) and isinstance(found[layer], Absent) else None
                for layer, own in enumerate(proposed)
            ]
            if not any(tried):
                continue
            trial = trial or self._trial(heads, pre, item)
            for layer, holds in self._hold(trial, tried, causal=causal).items():
                mask = tried[layer]
                assert mask is not None
                found[layer] = mask if holds else Absent(NOT_HEEDED)
        return edge_space(heads, tuple(found), causal=causal)

    def _proposals(self, heads: Space, layer: int) -> Iterator[MaskPlace]:
        """What structure proposes; each call of a kernel that stands in a forward pass, the last first."""
        block: Any = heads.tower.blocks[layer]
        inner = plain(block) if heads.tower.modality == "image" else block
        place = heads.place(layer)
        for mask in mask_places(inner, place.path):
            if not mask.kernel:
                yield mask
                continue
            path = f"{heads.tower.paths[layer]}.{mask.path}".rstrip(".")
            calls = [call.name for call in self.engine.compiler.at_path(path).source]
            for name in reversed([call for call in calls if re.search(rf"(^|_){mask.kernel}_\d+$", call)]):
                yield replace(mask, kernel=name)

    def _trial(self, heads: Space, pre: Space, item: Encoded) -> _Trial:
        import torch

        batch = self.encoder.collate([item])
        reads = ((Sites(pre, heads.layers), Pool(0)), (Sites(heads, heads.layers), Pool(0, numbers=True)))
        reading = self.engine.run(batch.inputs, Plan(reads, root=batch.root))
        (span,), total = self.spans(batch, heads.tower.name, 0)
        own = torch.zeros(total, dtype=torch.bool)
        own[span.index] = True
        # In the middle, so that tokens before and behind it may attend to it; others where that is padding.
        n = len(span.index)
        tokens = dict.fromkeys(int(span.index[min(n - 1, int(share * n))]) for share in (0.45, 0.0, 0.2, 0.7))
        return _Trial(batch, list(reading.activations[pre.name]), heads, pre, tuple(tokens), own)

    def _hold(self, trial: _Trial, tried: Sequence[MaskPlace | None], *, causal: bool) -> dict[int, bool]:
        """For each layer that has a proposal, whether it does what a mask must."""
        layers = [layer for layer, mask in enumerate(tried) if mask is not None]
        proposals = tuple(Absent("") if mask is None else mask for mask in tried)
        edges = edge_space(trial.heads, proposals, causal=causal)
        found: dict[int, bool] = {}
        for token in trial.tokens:
            left = [layer for layer in layers if layer not in found]
            seen = self._seen(trial, edges, left, token) if left else {}
            if seen is None and len(layers) > 1:  # one of them may stand in the way of the others
                for layer in layers:
                    found |= self._hold(trial, _alone(tried, layer), causal=causal)
                return found
            found |= {layer: holds for layer, holds in (seen or {}).items() if holds is not None}
        return {layer: found.get(layer, False) for layer in layers}

    def _seen(
        self, trial: _Trial, edges: EdgeSpace, layers: Sequence[int], token: int
    ) -> dict[int, bool | None] | None:
        """The same from one token's edges, and None where no other token attends to it; None where no pass runs."""
        import torch

        nothing, source = torch.zeros_like(trial.own), torch.zeros_like(trial.own)
        source[token] = True
        runs = [
            self._heads(trial, edges, layers, marks, token if changed else None)
            for marks, changed in (
                (None, False),
                (nothing, False),
                (None, True),
                (source, False),
                (source, True),
            )
        ]
        if any(run is None for run in runs):
            return None
        others = trial.own & ~source
        close = self._close()
        found: dict[int, bool | None] = {}
        for layer in layers:
            plainly, same, depending, without, changed = (run[layer] for run in runs if run is not None)
            holds = (
                _apart(plainly, same, trial.own) <= close
                and _apart(without, changed, others) <= close
                and _apart(plainly, without, source) <= close
            )
            # An attention to another tower does not look at these tokens at all.
            found[layer] = holds if _apart(plainly, depending, others) > 10 * close else None
        return found

    def _heads(
        self,
        trial: _Trial,
        edges: EdgeSpace,
        layers: Sequence[int],
        marks: Bool[torch.Tensor, " position"] | None,
        changed: int | None,
    ) -> dict[int, Float[torch.Tensor, "position number"]] | None:
        """What enters output projections, where each block is given its input, changed at a token; edges removed."""
        import torch

        heads, pre = trial.heads, trial.pre
        writes: list[Write | Removal] = []
        for layer in layers:
            values = trial.entering[heads.layers.index(layer)].clone()
            if len(values) != len(trial.own):
                return None
            if changed is not None:
                values[changed] = values[changed].roll(1) * 1.5 + values.std()
            dims = torch.arange(values.shape[1])
            writes.append(Write(pre, layer, len(values), torch.arange(len(values)), dims, None, 0.0, values))
            if marks is not None:
                writes.append(Removal(edges, layer, marks, trial.own))
        reads = ((Sites(heads, tuple(layers)), Pool(0, numbers=True)),)
        try:
            reading = self.engine.run(trial.batch.inputs, Plan(reads, root=trial.batch.root, writes=tuple(writes)))
        except (ModalnetError, RuntimeError, ValueError, IndexError, TypeError, AttributeError):
            return None
        return dict(zip(layers, reading.activations[heads.name], strict=True))

    def _close(self) -> float:
        kinds = (parameter.dtype for parameter in self.engine.module.parameters() if parameter.is_floating_point())
        return CLOSE_HALF if any(1 < kind.itemsize < 4 for kind in kinds) else CLOSE


def _alone(tried: Sequence[MaskPlace | None], layer: int) -> list[MaskPlace | None]:
    return [mask if number == layer else None for number, mask in enumerate(tried)]


def _apart(one: torch.Tensor, other: torch.Tensor, rows: torch.Tensor) -> float:
    """The largest difference at some positions, as a share of the largest value."""
    if not bool(rows.any()):
        return 0.0
    return float((one[rows] - other[rows]).abs().max() / one.abs().max().clamp(min=1e-12))
