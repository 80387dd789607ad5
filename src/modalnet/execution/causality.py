"""Whether a text tower attends to earlier tokens alone: declared by its modules, or measured.

Attention modules of most classes declare in ``is_causal`` what they do. Where none does, or they contradict each other
or the tower's name, a text runs twice with different last tokens: if an earlier token changes, it attends to later
ones. Then the last token is no summary of the others, and the probability of a token in a text depends on itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError, ModalnetError
from modalnet.execution.image_tokens import noise
from modalnet.execution.measurement import Measurement
from modalnet.execution.plan import Plan, Pool, Sites
from modalnet.models.roots import writes
from modalnet.models.sites import Space
from modalnet.stimuli import Stimulus

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.execution.engine import Engine
    from modalnet.inputs.batch import Batch, Encoded
    from modalnet.inputs.encoding import Encoder
    from modalnet.interventions.positions import Span
    from modalnet.models.towers import Tower

PROBE = "The dog ran across the field."
# Of the largest activation: how much that of an earlier token must change to depend on a later one.
CHANGED = 1e-3


class Causality(Measurement):
    """Measures the direction of attention in the text towers of one model, once per tower and kind of input."""

    def __init__(
        self,
        engine: Engine,
        encoder: Encoder,
        towers: dict[str, Tower],
        spans: Callable[[Batch, str, int], tuple[list[Span], int]],
    ) -> None:
        super().__init__(engine, encoder, towers, spans)
        self._causal: dict[str, bool] = {}
        self._ordered: set[Any] = set()

    def is_causal(self, tower: Tower) -> bool:
        """Whether the last token of a text tower has attended to all others, and none of these to later ones."""
        if tower.name not in self._causal:
            known = known_causality(tower, self.encoder)
            self._causal[tower.name] = self._measured(tower) if known is None else known
        return self._causal[tower.name]

    def keep_order(self, item: Encoded) -> None:
        """Make sure that attention is causal over a continuation, choosing the token type for which it is.

        Raises
        ------
        InputError
            If attention is bidirectional for every token type: a token's probability would then depend on the token.
        """
        typed = "token_type_ids" in item.inputs and not item.prepared.written
        if item.kind in self._ordered:
            return
        if not typed and declared_causality(self.towers[self.encoder.text_tower], self.encoder) is True:
            self._ordered.add(item.kind)
            return
        (span,), _ = self.spans(self.encoder.collate([item]), self.encoder.text_tower, 0)
        if len(span.index) < 2:
            return  # there is no earlier token
        for kept in (None, 1, 0) if typed else (None,):
            if kept is not None:
                self.encoder.collator.suffix_type[item.kind] = kept
            if not self._changes_prediction(item):
                self._ordered.add(item.kind)
                return
        self.encoder.collator.suffix_type.pop(item.kind, None)
        raise InputError(
            f"{self.encoder.loaded.name} attends to text bidirectionally, so the tokens of a continuation would see "
            "themselves. Scoring continuations requires a model with causal attention."
        )

    def _changes_prediction(self, item: Encoded) -> bool:
        """Whether the logits that predict the last token change with that token."""
        import torch

        found = []
        for ending in two_endings(item):
            batch = self.encoder.collate([ending])
            (span,), total = self.spans(batch, self.encoder.text_tower, 0)
            reading = self.engine.run(
                batch.inputs, Plan((), span.index[-2:-1], n_text_positions=total, root=batch.root)
            )
            assert reading.logits is not None
            found.append(reading.logits)
        return not torch.allclose(found[0], found[1], atol=1e-3, rtol=1e-3)

    def _measured(self, tower: Tower) -> bool:
        """Whether earlier tokens of a text stay the same in the last block when its last token changes."""
        # Some models require a picture with every text.
        for stimulus in (Stimulus(PROBE), Stimulus(PROBE, image=noise((224, 224), 0))):
            try:
                one, two = (self._earlier(ending, tower) for ending in two_endings(self._probe(stimulus)))
            except (ModalnetError, RuntimeError, ValueError, IndexError, TypeError):
                continue
            return bool((one - two).abs().max() <= CHANGED * one.abs().max())
        return tower.is_decoder  # the pass that the user asks for raises the same error

    def _earlier(self, item: Encoded, tower: Tower) -> Float[torch.Tensor, "token dim"]:
        """The last block at all tokens of a text but the last."""
        batch = self.encoder.collate([item])
        plan = Plan(((Sites(Space(tower), (tower.n_layers - 1,)), Pool(0)),), root=batch.root)
        reading = self.engine.run(batch.inputs, plan)
        (span,), _ = self.spans(batch, tower.name, 0)
        text = span.index if span.text is None else span.index[span.text]
        return reading.activations[tower.name][0][text[:-1]]

    def _probe(self, stimulus: Stimulus) -> Encoded:
        written = [PROBE] if self.encoder.writes_apart else None
        (prepared,) = self.encoder.prepare([stimulus], raw=True, continuations=written)
        return self.encoder.encode(prepared)


def known_causality(tower: Tower, encoder: Encoder) -> bool | None:
    """Whether a tower is causal, as far as its place in the model and its modules say; None where it is measured."""
    if tower.modality != "text":
        return False
    # In an encoder-decoder model, and in a dual encoder, the encoder is one by its place.
    if not tower.is_decoder and (encoder.dual or encoder.writes_apart):
        return False
    return declared_causality(tower, encoder)


def declared_causality(tower: Tower, encoder: Encoder) -> bool | None:
    """What attention modules and config of a text tower say, where its name and the model's class agree; else None."""
    parts = (part for block in tower.blocks for part in block.modules())
    flags = {bool(part.is_causal) for part in parts if hasattr(part, "is_causal")}
    if getattr(encoder.text_config, "is_causal", None) is not None:
        flags.add(bool(encoder.text_config.is_causal))
    if flags != {tower.is_decoder}:
        return None
    # The attention of some classes is causal in one of their models and not in another.
    module = encoder.loaded.module
    return tower.is_decoder if not tower.is_decoder or writes(module, module) else None


def two_endings(item: Encoded, tower: str = "decoder") -> tuple[Encoded, Encoded]:
    """A stimulus, and the same with a different last token in a tower."""
    written = bool(item.prepared.written) and tower == "decoder"
    name = "decoder_input_ids" if written else "input_ids"
    ids: torch.Tensor = item.inputs[name]
    other = ids.clone()
    other[0, -1] = 0 if int(other[0, -1]) else 1
    prepared = item.prepared
    if written:
        prepared = replace(prepared, written=tuple(other[0].tolist()))
    return item, replace(item, prepared=prepared, inputs={**item.inputs, name: other})
