"""From vectors of the residual stream to distributions of the next token, by the model's own code.

What follows the last block (final norm, LM head, scaling and capping of logits, what merges several streams) differs
between models, so none of it is looked up. A pass over a short text, the *carrier*, runs with the vectors in the place
of what the last block puts out: one vector per token of the carrier, whatever tokens and layers they were read at. The
blocks are skipped where the model does without them, and otherwise run for nothing.

That is right if the logits at a token depend on nothing but what the last block puts out there. This is measured, not
assumed: once per model, the last block's output at some tokens of a stimulus, put through a carrier in another order,
must give the logits that the model gave for the stimulus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from modalnet.errors import InputError, ModalnetError
from modalnet.execution.batching import BatchLimit
from modalnet.execution.jobs import JobQueue
from modalnet.execution.memory import is_out_of_memory
from modalnet.execution.passes import MOST_LOGITS, Pass
from modalnet.execution.plan import NextTokens, Plan, Pool, Prefix, Sites, Write
from modalnet.execution.reading import LayoutError, TokenDistribution
from modalnet.execution.stream import Runner
from modalnet.execution.sweep import AGREE_HALF, RULED_OUT
from modalnet.execution.turns import one_step
from modalnet.models.sites import Space
from modalnet.models.state import alterations
from modalnet.stimuli import Stimulus

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int

    from modalnet.execution.reading import Reading
    from modalnet.inputs.batch import Encoded, Prepared

#: How vectors take the place of the last block's output: its blocks are skipped, or what the last one gives is set.
Way: TypeAlias = Literal["skipping", "setting"]
#: How far logits may differ from the model's, as a share of their spread where that is larger than 1.
CLOSE = 1e-4
# Tokens that are compared, and vectors in one pass.
COMPARED, MOST_ROWS = 16, 4096
_CARRIER = " a" * 31


@dataclass(frozen=True)
class _Carrier:
    """What the vectors ride on, how, and how many of them on each copy of it."""

    item: Encoded
    way: Way
    n_tokens: int


class Unembedding:
    """Reads the next token's distribution off vectors of the stream that enters the final norm of one model.

    Parameters
    ----------
    runner
        Of the model.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.engine, self.encoder, self.layouts = runner.engine, runner.encoder, runner.layouts
        self.tower = self.layouts.towers[self.encoder.text_tower]
        self._carrier: _Carrier | None = None
        self._found_with: tuple[object, ...] | None = None

    @property
    def rows_at_once(self) -> int:
        """How many vectors are in one pass: with a large vocabulary their logits are what takes memory."""
        return max(1, min(MOST_ROWS, MOST_LOGITS // self.engine.vocabulary))

    @one_step
    def check(self, stimulus: Prepared) -> None:
        """Find a carrier with which the last block's output gives the model's own logits; once per model.

        Raises
        ------
        ModalnetError
            Where there is none.
        """
        now = alterations(self.engine.module) if self.engine.capabilities.weights_here else ()
        if self._carrier is not None and now == self._found_with:
            return
        self._carrier, self._found_with = None, now
        streams, logits = self._of_model(self.encoder.encode(stimulus))
        far: list[float] = []
        problem: Exception | None = None
        for item in self._candidates(stimulus):
            for way in self._ways():
                try:
                    made = _Carrier(item, way, self._n_tokens(item))
                    # In another order, as what stands beside a vector must not matter.
                    found = self._read(made, streams.flip(0), None).logits
                    assert found is not None
                except Exception as error:  # whatever it is, another carrier may do
                    if is_out_of_memory(error):
                        raise
                    problem = error
                    continue
                far.append(_distance(found.flip(0), logits))
                if far[-1] <= self._tolerance(logits):
                    self._carrier = made
                    return
        raise ModalnetError(
            f"What the last block of {self.encoder.loaded.name} puts out at a token does not give the logits there"
            + (f" (they differ by {min(far):.3g})" if far else f" ({type(problem).__name__}: {problem})")
            + ": other blocks or other tokens decide them, too, so a lens would not show what the model computes."
        )

    def distributions(
        self,
        vectors: Float[torch.Tensor, "place row dim"],
        k: int,
        tokens: Int[torch.Tensor, " token"],
        against: int,
    ) -> Iterator[TokenDistribution]:
        """Yield distributions at vectors, some places after the others; each of ``[place * row]``.

        Parameters
        ----------
        vectors
            For each place, several vectors, such as those of all layers.
        k, tokens
            As in a :class:`~modalnet.execution.plan.NextTokens`.
        against
            Which of a place's vectors the others are compared with.
        """
        import torch

        rows = vectors.shape[1]
        parts = vectors.split(max(1, self.rows_at_once // rows))
        passes = []
        for part in parts:
            other = (torch.arange(len(part)) * rows + against).repeat_interleave(rows)
            passes.append((part.flatten(0, 1), NextTokens(k, tokens, other)))
        for reading in self._readings(passes):
            assert reading.next_tokens is not None
            yield reading.next_tokens

    def _readings(self, passes: Sequence[tuple[torch.Tensor, NextTokens]]) -> Iterator[Reading]:
        assert self._carrier is not None
        carrier = self._carrier
        if not self.engine.capabilities.jobs:
            for vectors, wanted in passes:
                yield self._read(carrier, vectors, wanted)
            return

        def make(group: list[tuple[torch.Tensor, NextTokens]]) -> list[Pass]:
            return [self._pass(carrier, *each) for each in group]

        limit = BatchLimit("auto", self.engine)
        for _, readings in JobQueue(iter([[each] for each in passes]), make, self.runner.read_job, limit, self.engine):
            yield from readings

    @one_step
    def _read(self, carrier: _Carrier, vectors: torch.Tensor, wanted: NextTokens | None) -> Reading:
        one = self._pass(carrier, vectors, wanted)
        return self.engine.run(one.batch.inputs, one.plan)

    def _pass(self, carrier: _Carrier, vectors: torch.Tensor, wanted: NextTokens | None) -> Pass:
        """The pass in which vectors stand for what the last block puts out."""
        import torch

        batch = self.encoder.collate([carrier.item] * -(-len(vectors) // carrier.n_tokens))
        spans, total = self.layouts.spans(batch, self.tower.name)
        at = torch.cat([span.index for span in spans])[: len(vectors)]
        held, n_text = self.layouts.head_spans(batch)
        rows = torch.cat([span.index for span in held])[: len(vectors)]
        last, space = self.tower.n_layers, Space(self.tower)
        plan = Plan((), rows, n_text_positions=n_text, root=batch.root, next_tokens=wanted)
        if carrier.way == "setting":
            dims = torch.arange(space.n_numbers)
            write = Write(space, last - 1, total, at, dims, None, 0.0, vectors.float())
            return Pass(batch, replace(plan, writes=(write,)), None)
        flat = torch.zeros(total, vectors.shape[-1])
        flat[at] = vectors.float()
        hidden = flat.reshape(*self.layouts.shape(batch, self.tower.name), -1)
        return Pass(batch, replace(plan, prefixes=(Prefix(self.tower, last, (hidden,)),)), None)

    def _of_model(self, item: Encoded) -> tuple[Float[torch.Tensor, "token dim"], Float[torch.Tensor, "token vocab"]]:
        """What the last block puts out at some tokens of a stimulus, and the model's logits there."""
        import torch

        batch = self.encoder.collate([item])
        (span,), total = self.layouts.spans(batch, self.tower.name)
        (held,), n_text = self.layouts.head_spans(batch)
        some = torch.linspace(0, len(span.index) - 1, min(COMPARED, len(span.index))).round().long()
        sites = Sites(Space(self.tower), (self.tower.n_layers - 1,))
        reads = ((sites, Pool(total, numbers=True)),)
        plan = Plan(reads, held.index[some], n_text_positions=n_text, root=batch.root)
        try:
            reading = self.engine.run(batch.inputs, plan)
        except LayoutError as error:
            raise self.runner.passes.unknown_layout(error, batch) from error
        assert reading.logits is not None
        return reading.activations[sites.name][0][span.index[some]], reading.logits

    def _candidates(self, stimulus: Prepared) -> Iterator[Encoded]:
        """Short texts; and the stimulus itself, as some models read no text alone."""
        for continuations in ([_CARRIER], None):
            try:
                (prepared,) = self.encoder.prepare([Stimulus("a")], continuations=continuations)
                yield self.encoder.encode(prepared)
            except InputError:
                continue
        yield self.encoder.encode(stimulus)

    def _ways(self) -> tuple[Way, ...]:
        return ("skipping", "setting") if self.runner.shared.skipping.possible else ("setting",)

    def _n_tokens(self, item: Encoded) -> int:
        (span,), _ = self.layouts.spans(self.encoder.collate([item]), self.tower.name)
        return len(span.index)

    def _tolerance(self, logits: torch.Tensor) -> float:
        values = logits[logits.abs() < RULED_OUT]
        half = next((p.dtype.itemsize < 4 for p in self.engine.module.parameters() if p.is_floating_point()), False)
        return (AGREE_HALF if half else CLOSE) * max(float(values.std()), 1.0)


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of logits; infinite where one rules out a token that the other does not."""
    out = expected.abs() >= RULED_OUT
    if not bool((out == (found.abs() >= RULED_OUT)).all()):
        return float("inf")
    return float((found - expected)[~out].abs().max())
