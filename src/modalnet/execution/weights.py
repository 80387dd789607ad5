"""Reads the attention weights of one model.

While they are read, the model computes its attention eagerly, which gives its weights; what it gives otherwise is the
same to rounding. Where a block has them (an output of the attention module, or of the kernel that it calls) is proposed
by structure and measured once: weights are what becomes zero when an edge is removed, and no row has more than one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError, ModalnetError
from modalnet.execution.kernel_calls import with_calls
from modalnet.execution.plan import Attending, Plan, Removal
from modalnet.models.masks import EdgeSpace, WeightPlace, weight_places
from modalnet.models.places import Place

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.execution.edits import Edits
    from modalnet.execution.engine import Engine
    from modalnet.inputs.batch import Batch, Encoded
    from modalnet.inputs.encoding import Encoder
    from modalnet.interventions.positions import Span


@dataclass(frozen=True)
class Look:
    """What is read of the attention of one stimulus: from which tokens to which, by their places among its own.

    Attributes
    ----------
    encoded, targets, sources
        The stimulus, and these tokens.
    trial
        A stimulus of its kind that has several tokens, on which places of weights are measured.
    """

    encoded: Encoded
    targets: Sequence[int]
    sources: Sequence[int]
    trial: Encoded


class Weights:
    """Reads attention weights of one model, and measures once where its blocks have them.

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
        self._known: dict[Any, tuple[WeightPlace | None, ...]] = {}

    def read(
        self, edges: EdgeSpace, layers: Sequence[int], looks: Sequence[Look], edits: Edits | None, *, mean: bool
    ) -> Iterator[Float[torch.Tensor, "layer head target source"]]:
        """The attention weights of each stimulus, in their order, one pass for each.

        Parameters
        ----------
        edges
            Of the tower, as the model has them under eager attention.
        layers
            Which of its layers.
        looks
            The stimuli, and the tokens of each.
        edits
            Made in every pass.
        mean
            Whether the mean over heads is taken.

        Raises
        ------
        InputError
            An attention does not give its weights.
        """
        for look in looks:
            places = self._places(edges, look.trial)
            for layer in layers:
                if places[layer] is None:
                    raise InputError(
                        f"The attention of block {layer} of the {edges.tower.name} tower of "
                        f"{self.encoder.loaded.name} does not give its weights under eager attention."
                    )
            batch = self.encoder.collate([look.encoded])
            writes = edits.writes(batch, self.spans) if edits else ()
            found = self._pass(edges, layers, look, places, (batch, writes), mean=mean)
            if isinstance(found, str):
                raise ModalnetError(f"The {edges.tower.name} tower of {self.encoder.loaded.name} gave {found}.")
            yield _stacked(found)

    def _pass(
        self,
        edges: EdgeSpace,
        layers: Sequence[int],
        look: Look,
        places: Sequence[WeightPlace | None],
        run: tuple[Batch, tuple[Any, ...]],
        *,
        mean: bool,
    ) -> list[torch.Tensor] | str:
        import torch

        batch, writes = run
        attends = []
        for layer in layers:
            place = places[layer]
            assert place is not None
            (span,), total = self.spans(batch, edges.tower.name, layer)
            ends = (span.index[torch.tensor(list(some), dtype=torch.long)] for some in (look.targets, look.sources))
            targets, sources = ends
            attends.append(Attending(edges, layer, place, total, (targets,), (sources,), mean))
        plan = Plan((), root=batch.root, writes=writes, attends=tuple(attends))
        found = self.engine.attention(batch.inputs, plan)
        return found if isinstance(found, str) else [of_layer[0] for of_layer in found]

    def _places(self, edges: EdgeSpace, item: Encoded) -> tuple[WeightPlace | None, ...]:
        key = edges.tower.name, item.kind, edges.masks
        if key not in self._known:
            self._known[key] = self._measured(edges, item)
        return self._known[key]

    def _measured(self, edges: EdgeSpace, item: Encoded) -> tuple[WeightPlace | None, ...]:
        """Where each layer has weights that an edge which is removed has none of."""
        import torch

        proposed = [
            list(with_calls(self.engine, edges.tower, layer, weight_places, edges.mask(layer).path))
            if isinstance(edges.places[layer], Place)
            else []
            for layer in range(edges.n_layers)
        ]
        batch = self.encoder.collate([item])
        (span,), total = self.spans(batch, edges.tower.name, 0)
        n = len(span.index)
        look = Look(item, range(n), range(n), item)
        own = torch.zeros(total, dtype=torch.bool)
        own[span.index] = True
        found: list[WeightPlace | None] = [None] * edges.n_layers

        def weights(
            layers: list[int], tried: list[WeightPlace | None], cuts: tuple[Removal, ...] = ()
        ) -> list[torch.Tensor] | None:
            try:
                seen = self._pass(edges, layers, look, tried, (batch, cuts), mean=False)
            except (ModalnetError, RuntimeError, ValueError, IndexError, TypeError, AttributeError):
                return None
            return None if isinstance(seen, str) else seen

        def hold(layers: list[int], tried: list[WeightPlace | None]) -> None:
            whole = weights(layers, tried)
            if whole is None:
                for layer in layers if len(layers) > 1 else ():  # one of them may stand in the way of the others
                    hold([layer], tried)
                return
            # Of each layer the token that the others attend to most.
            tokens = [int((each.sum(0) * (1 - torch.eye(n))).sum(0).argmax()) for each in whole]
            cuts = []
            for layer, token in zip(layers, tokens, strict=True):
                source = torch.zeros_like(own)
                source[span.index[token]] = True
                cuts.append(Removal(edges, layer, source, own))
            without = weights(layers, tried, tuple(cuts))
            for layer, one, other, token in zip(layers, whole, without or (), tokens, strict=False):
                found[layer] = tried[layer] if _are_weights(one, other, token) else None

        for turn in range(max(map(len, proposed), default=0)):
            left = [layer for layer, some in enumerate(proposed) if found[layer] is None and turn < len(some)]
            tried = [some[turn] if turn < len(some) else None for some in proposed]
            if left:
                hold(left, tried)
        return tuple(found)


def _stacked(layers: Sequence[torch.Tensor]) -> Float[torch.Tensor, "layer head target source"]:
    """The weights of layers as one array; NaN for heads that a layer with fewer does not have."""
    import torch

    most = max((len(each) for each in layers), default=0)
    return torch.stack(
        [
            torch.nn.functional.pad(each, (0, 0, 0, 0, 0, most - len(each)), value=float("nan"))
            if len(each) < most
            else each
            for each in layers
        ]
    )


def _are_weights(whole: torch.Tensor, without: torch.Tensor, token: int) -> bool:
    others = [place for place in range(whole.shape[1]) if place != token]
    sums = whole.sum(-1)
    return bool(
        (whole >= 0).all()
        and (sums <= 1.01).all()
        and (sums > 0).all()
        and (without[:, others, token] <= 1e-6).all()
        and (whole[:, others, token] > 1e-6).any()
    )


@contextlib.contextmanager
def eager_attention(module: torch.nn.Module) -> Iterator[None]:
    """While this lasts, modules that choose their attention by their config compute it eagerly."""
    held = {id(each.config): each.config for each in module.modules() if hasattr(each, "config")}
    name = "_attn_implementation_internal"
    # Parts of a config are configs, which a setter of the whole would change, too.
    before = {key: getattr(config, name) for key, config in held.items() if hasattr(config, name)}
    try:
        for key in before:
            setattr(held[key], name, "eager")
        yield
    finally:
        for key, value in before.items():
            setattr(held[key], name, value)
