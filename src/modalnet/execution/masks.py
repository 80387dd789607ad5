"""Where the attention of each block of a tower takes its mask, measured once per model.

Structure proposes an argument of a module, or of a kernel that it calls (:mod:`modalnet.models.masks`). A proposal is
kept if writing a mask there does what it must, on one stimulus: with no edge removed, what enters the output projection
stays as it is; with every edge from one token removed, it no longer depends on that token at any other, as it did
before, and what it is at that token stays as it is. Every block is given its own input of an unchanged pass, so that
one is judged apart from the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modalnet.errors import ModalnetError
from modalnet.execution.kernel_calls import with_calls
from modalnet.execution.plan import Plan, Pool, Removal, Sites, Write
from modalnet.execution.reading import LayoutError
from modalnet.models.masks import EdgeSpace, MaskPlace, edge_space, mask_places
from modalnet.models.places import Absent

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
    entering: Mapping[int, Float[torch.Tensor, "position dim"]]
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
            batch = self.encoder.collate([item])
            found = self._measured(heads, pre, batch, causal=causal)
            if len(self.spans(batch, heads.tower.name, 0)[0][0].index) < 2:
                return found  # another stimulus will tell
            self._known[key] = found
        return self._known[key]

    def _measured(self, heads: Space, pre: Space, batch: Batch, *, causal: bool) -> EdgeSpace:
        proposed = {
            layer: list(with_calls(self.engine, heads.tower, layer, mask_places, heads.place(layer).path))
            for layer in heads.layers
        }
        found: list[MaskPlace | Absent] = [
            place if isinstance(place, Absent) else Absent(NO_ARGUMENT) for place in heads.places
        ]
        # A tower that merges patches has fewer of them in later blocks, and a block that does has more at its entrance.
        together: dict[tuple[int, int], list[int]] = {}
        for layer in heads.layers:
            before, after = (self.spans(batch, heads.tower.name, max(0, at))[1] for at in (layer - 1, layer))
            together.setdefault((before, after), []).append(layer)
        for layers in together.values():
            trial = self._trial(batch, heads, pre, layers) if any(proposed[layer] for layer in layers) else None
            for turn in range(max(len(proposed[layer]) for layer in layers) if trial else 0):
                assert trial is not None
                left = [layer for layer in layers if isinstance(found[layer], Absent) and turn < len(proposed[layer])]
                tried = [proposed[layer][turn] if layer in left else None for layer in range(heads.n_layers)]
                for layer, holds in self._hold(trial, tried, causal=causal).items():
                    found[layer] = proposed[layer][turn] if holds else Absent(NOT_HEEDED)
        return edge_space(heads, tuple(found), causal=causal)

    def _trial(self, batch: Batch, heads: Space, pre: Space, layers: Sequence[int]) -> _Trial:
        import torch

        entering: dict[int, torch.Tensor] = {}
        for some in (layers, *([layer] for layer in layers)):  # together, or where they differ in shape one by one
            with contextlib.suppress(LayoutError):
                plan = Plan(((Sites(pre, tuple(some)), Pool(0)),), root=batch.root)
                entering |= dict(zip(some, self.engine.run(batch.inputs, plan).activations[pre.name], strict=True))
            if len(entering) == len(layers):
                break
        (span,), total = self.spans(batch, heads.tower.name, layers[0])
        own = torch.zeros(total, dtype=torch.bool)
        own[span.index] = True
        # In the middle, so that tokens before and behind it may attend to it; others where that is padding.
        n = len(span.index)
        tokens = dict.fromkeys(int(span.index[min(n - 1, int(share * n))]) for share in (0.45, 0.0, 0.2, 0.7))
        return _Trial(batch, entering, heads, pre, tuple(tokens), own)

    def _hold(self, trial: _Trial, tried: Sequence[MaskPlace | None], *, causal: bool) -> dict[int, bool]:
        """For each layer that has a proposal, whether it does what a mask must."""
        layers = [layer for layer, mask in enumerate(tried) if mask is not None]
        proposals = tuple(Absent("") if mask is None else mask for mask in tried)
        edges = edge_space(trial.heads, proposals, causal=causal)
        if int(trial.own.sum()) < 2:  # a single token has no edges, so that nothing tells and nothing is removed
            return dict.fromkeys(layers, True)
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
            values = trial.entering[layer].clone()
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
