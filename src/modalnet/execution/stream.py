"""Many stimuli through the engine, batch by batch.

A batch that does not fit into memory is halved, and later batches keep to the size that fitted; earlier results are
kept. Results are yielded batch by batch, so memory does not grow with the number of stimuli. A backend that runs jobs
gets many batches at once (:mod:`modalnet.execution.jobs`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from modalnet.execution.batching import BatchLimit, batches, encoded_ahead, halves, image_tokens
from modalnet.execution.edits import Edits
from modalnet.execution.engine import Engine
from modalnet.execution.jobs import JobQueue
from modalnet.execution.layout import Layouts
from modalnet.execution.memory import free_memory, is_out_of_memory, too_large
from modalnet.execution.passes import BatchResult, Pass, PassMaker, Readout, too_many_logits
from modalnet.execution.prefixes import SharedPrefixes
from modalnet.execution.reading import LayoutError, Reading, RowsError
from modalnet.execution.turns import one_step, step_by_step
from modalnet.inputs.encoding import Encoder
from modalnet.interventions.positions import TokenChoice

if TYPE_CHECKING:
    import torch

    from modalnet.execution.plan import Prefix, Sites
    from modalnet.execution.reduction import Observations, Sums
    from modalnet.inputs.batch import Batch, Encoded, Prepared


class Runner:
    """Runs stimuli through a model in batches.

    Parameters
    ----------
    engine, encoder, layouts
        Of the model.
    """

    def __init__(self, engine: Engine, encoder: Encoder, layouts: Layouts) -> None:
        self.engine = engine
        self.encoder = encoder
        self.layouts = layouts
        self.passes = PassMaker(encoder, layouts)
        self.shared = SharedPrefixes(engine, layouts, encoder.text_tower)

    @step_by_step
    def stream(
        self, prepared: Sequence[Prepared], readout: Readout, batch_size: int | Literal["auto"] = "auto"
    ) -> Iterator[BatchResult]:
        """Yield results batch by batch, not in the order of the stimuli.

        A batch is encoded once and runs once under each of the variants.

        Parameters
        ----------
        prepared
            The stimuli; with continuations where they are scored.
        readout
            What is read.
        batch_size
            As for :meth:`modalnet.Model.run`.

        Raises
        ------
        InputError
            Where a stimulus cannot be encoded or has no token of the requested kind.
        """
        limit = BatchLimit(batch_size, self.engine)
        groups = self._groups(prepared, readout, limit)
        if readout.logits == "score":
            self.shared.skipping.forget_if_altered()
        if self.engine.capabilities.jobs:
            jobs = JobQueue(groups, lambda group: self._variants(group, readout), self.read_job, limit, self.engine)
            for passes, readings in jobs:
                yield from (each.result(reading) for each, reading in zip(passes, readings, strict=True))
                del readings
            return
        for fresh in groups:
            waiting = deque([(fresh, list(range(len(readout.variants))))])
            while waiting:
                group, left = waiting.popleft()
                # An earlier batch showed that this many do not fit, or the logits of this one would not.
                if len(group) > limit.count or self._too_many_logits(group, readout):
                    waiting.extendleft((half, left) for half in reversed(halves(group)))
                    continue
                batch = self.encoder.collate(group)
                prefixes = self._prefixes(batch, readout, left)
                while left:
                    result = self._run_if_it_fits(batch, readout, left[0], prefixes)
                    if result is None:
                        limit.count = max(1, len(group) // 2)
                        waiting.extendleft((half, list(left)) for half in reversed(halves(group)))
                        free_memory()
                        break
                    yield result
                    del result  # or it would be held while the next batch runs
                    left = left[1:]

    @step_by_step
    def moments(
        self,
        prepared: Sequence[Prepared],
        readout: Readout,
        groups: Sequence[int],
        *,
        absolute: bool,
        observations: Observations | None = None,
        batch_size: int | Literal["auto"] = "auto",
        later: list[bytes] | None = None,
    ) -> Iterator[tuple[list[int], Sums]]:
        """Moments of groups of stimuli, reduced by the backend and returned job by job.

        Parameters
        ----------
        prepared, readout, batch_size
            As for :meth:`stream`; tokens are pooled, and there is one variant.
        groups
            Group of each stimulus that the user gave, from 0.
        absolute
            Whether the moments are of |activation|.
        observations
            Of each stimulus that the user gave, where cross moments are needed. No job has a part of one.
        later
            A list that the jobs are written into instead of being sent; nothing comes back then.

        Yields
        ------
        indices, sums
            The stimuli of a job, and their moments.
        """
        limit = BatchLimit(batch_size, self.engine)
        count = max(groups) + 1

        def reduce(passes: Sequence[Pass]) -> Sums:
            members = [[groups[item.index] for item in each.batch.items] for each in passes]
            plans = [(each.batch.inputs, each.plan) for each in passes]
            options: dict[str, Any] = {"absolute": absolute}
            if observations is not None:
                options["observations"] = [observations.of([i.index for i in each.batch.items]) for each in passes]
            if later is None:
                return self._understood(lambda: self.engine.reduce(plans, members, count, **options), passes)
            later.append(self.engine.write(plans, members, count, **options))
            return {}

        how: dict[str, Any] = {"reduced": True, "written": later is not None}
        jobs: JobQueue[Any]
        if observations is None or max(observations.sizes) == 1:
            groups_of = self._groups(prepared, readout, limit)
            jobs = JobQueue(groups_of, lambda group: self._variants(group, readout), reduce, limit, self.engine, **how)
        else:
            whole = self._whole(prepared, observations.names, limit)
            jobs = JobQueue(whole, lambda items: self._over(items, readout, limit), reduce, limit, self.engine, **how)
        for passes, sums in jobs:
            yield [item.index for each in passes for item in each.batch.items], sums

    @one_step
    def inward(  # noqa: PLR0917
        self,
        item: Encoded,
        sites: Sequence[Sites],
        tokens: Mapping[str, TokenChoice],
        source: str,
        measure: Callable[[Sequence[torch.Tensor]], torch.Tensor],
        edits: Edits | None = None,
    ) -> Reading:
        """Run one stimulus and backpropagate to one of its inputs; see :meth:`.engine.Engine.inward`."""
        batch = self.encoder.collate([item])
        one = self.passes.make(batch, Readout(sites, tokens, variants=[edits]), 0)
        return self._understood(lambda: self.engine.inward(batch.inputs, one.plan, source, measure), [one])

    @one_step
    def alone(self, item: Encoded, readout: Readout) -> BatchResult:
        """Run one stimulus whose inputs are given."""
        return self._run(self.encoder.collate([item]), readout, 0)

    def read_job(self, passes: Sequence[Pass]) -> list[Reading]:
        """Run several passes as one job."""
        return self._understood(
            lambda: self.engine.run_many([(each.batch.inputs, each.plan) for each in passes]), passes
        )

    def _groups(self, prepared: Sequence[Prepared], readout: Readout, limit: BatchLimit) -> Iterator[list[Encoded]]:
        """Stimuli that are known to run in one batch, and whose continuations look back only where they are scored."""
        towers = self.passes.towers(readout)
        encoded = encoded_ahead(self.encoder.encode, sorted(prepared, key=lambda item: item.order))
        for items in batches(encoded, lambda item: item, limit):
            if readout.logits == "score":
                self.layouts.causality.keep_order(items[0])
            yield from self.layouts.group(items, towers)

    def _whole(
        self, prepared: Sequence[Prepared], names: Sequence[int], limit: BatchLimit
    ) -> Iterator[list[list[Encoded]]]:
        """Items with all of their stimuli, as many together as stimuli are in a batch."""
        items: dict[int, list[Prepared]] = {}
        for one in sorted(prepared, key=lambda one: one.order):
            items.setdefault(names[one.index], []).append(one)
        encoded = encoded_ahead(self.encoder.encode, [one for members in items.values() for one in members])
        together: list[list[Encoded]] = []
        tokens = 0
        for members in items.values():
            item = list(islice(encoded, len(members)))
            size = sum(max(one.n_tokens, image_tokens(one)) for one in item)
            if together and (len(together) >= limit.count or tokens + size > len(item) * limit.tokens):
                yield together
                together, tokens = [], 0
            together.append(item)
            tokens += size
        if together:
            yield together

    def _over(self, items: list[list[Encoded]], readout: Readout, limit: BatchLimit) -> list[Pass]:
        """The passes over all stimuli of some items."""
        members = sorted((one for item in items for one in item), key=lambda one: one.prepared.order)
        towers = self.passes.towers(readout)
        return [
            self.passes.make(self.encoder.collate(group), readout, 0)
            for batch in batches(members, lambda one: one, limit)
            for group in self.layouts.group(batch, towers)
        ]

    def _variants(self, group: list[Encoded], readout: Readout) -> list[Pass] | None:
        """The passes over one batch; None where their logits would be too many."""
        if self._too_many_logits(group, readout):
            return None
        batch = self.encoder.collate(group)
        return [self.passes.make(batch, readout, variant) for variant in range(len(readout.variants))]

    def _too_many_logits(self, group: Sequence[Encoded], readout: Readout) -> bool:
        return readout.logits == "score" and too_many_logits(group, self.engine.vocabulary)

    def _prefixes(self, batch: Batch, readout: Readout, variants: Sequence[int]) -> tuple[Prefix, ...]:
        return self.shared.of(
            batch, readout, variants, lambda prefixes: self._run(batch, readout, variants[-1], prefixes)
        )

    def _run_if_it_fits(
        self, batch: Batch, readout: Readout, variant: int, prefixes: tuple[Prefix, ...]
    ) -> BatchResult | None:
        """One batch; None where fewer stimuli may fit: memory ran out, or they do not lie in rows of their own."""
        # The traceback references the activations of the failed batch, so it must be freed before the next attempt.
        try:
            return self._run(batch, readout, variant, prefixes)
        except RowsError:
            self.layouts.run_alone()
            return None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch.items) == 1:
                raise too_large(batch.items[0].label) from error
            return None

    def _run(self, batch: Batch, readout: Readout, variant: int, prefixes: tuple[Prefix, ...] = ()) -> BatchResult:
        one = self.passes.make(batch, readout, variant, prefixes)
        try:
            return one.result(self.engine.run(batch.inputs, one.plan))
        except RowsError:
            raise
        except LayoutError as error:
            if self.layouts.look_for_merging(batch.items[0]):
                return self._run(batch, readout, variant, prefixes)
            raise self.passes.unknown_layout(error, batch) from error

    def _understood(self, run: Callable[[], Any], passes: Sequence[Pass]) -> Any:
        """Run passes, and raise if the token layout of the model is not supported."""
        try:
            return run()
        except LayoutError as error:
            raise self.passes.unknown_layout(error, passes[0].batch) from error
