"""Many stimuli through the engine: batches, their size, and what happens when memory runs out.

Stimuli that batch well are put side by side, encoded ahead on a second thread while the model works, and grown into
batches of a bounded number of tokens. Where a batch does not fit into memory it is halved, and later batches stay
within what fitted; what was read before is kept. Readings are handed on batch by batch, so memory does not grow with
the number of stimuli.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from modalnet.errors import InputError, ModalnetError, RemoteLimitError, RemoteMemoryError
from modalnet.execution.edits import Edits
from modalnet.execution.engine import Engine
from modalnet.execution.layout import Layouts, is_out_of_memory
from modalnet.execution.plan import Plan, Pool, Prefix, Sites
from modalnet.execution.reading import LayoutError, Reading, RowsError
from modalnet.inputs.batch import Batch, Encoded, Prepared
from modalnet.inputs.encoding import Encoder
from modalnet.interventions.positions import Span, TokenChoice, select
from modalnet.models.sites import Space

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

# A batch this large keeps a processor busy; a larger one only costs memory.
_CPU_LIMITS = (64, 4096)
_GPU_LIMITS = (256, 16384)
MOST_LOGITS = 1 << 26
# The pass that a prefix is read in is paid back by the third that starts from it.
FEWEST_TO_SHARE = 3
# Bytes that the blocks of a vision tower may take which are read once for many runs of a batch.
MOST_SHARED = 1 << 29
_T = TypeVar("_T")
_PATCH_PIXELS = 3 * 14 * 14
_AHEAD_COUNT, _AHEAD_BYTES = 64, 1 << 29


@dataclass
class Step:
    """What one batch gave.

    Attributes
    ----------
    indices
        Places of its stimuli in the list that the user gave.
    activations
        Per space ``[stimulus, layer, dim]``, or a list of ``[layer, token, dim]`` where tokens are not pooled.
    logits
        One ``[token, vocab]`` (or ``[1, vocab]`` for the last token) per stimulus; None where not asked for.
    scores
        Per stimulus the log-probability of each token of its continuation that is asked for and then of each other
        ending, and whether each is the likeliest.
    variant
        Under which of the edits that were asked for.
    """

    indices: list[int]
    activations: dict[str, Any]
    logits: list[Float[torch.Tensor, "token vocab"]] | None = None
    scores: list[tuple[torch.Tensor, torch.Tensor]] | None = None
    variant: int = 0


@dataclass(frozen=True)
class _Asked:
    """What a stream reads and writes; see :meth:`Runner.stream`."""

    sites: Sequence[Sites]
    tokens: Mapping[str, TokenChoice]
    logits: str | None
    variants: Sequence[Edits | None]
    pooled: bool
    spare_first: int

    def pools(self, space: str) -> bool:
        return self.pooled and self.tokens[space] != "all"


@dataclass(frozen=True)
class Question:
    """One pass over a batch: its plan, and which positions belong to which stimulus.

    Attributes
    ----------
    chosen
        Per space, the flat positions that each stimulus is read at.
    wanted
        The flat positions of each stimulus' logits.
    pooled
        Per space, whether its tokens are pooled.
    name
        What who asked calls it: the number of the variant, or of the cells.
    """

    batch: Batch
    plan: Plan
    chosen: Mapping[str, Sequence[torch.Tensor]]
    wanted: Sequence[torch.Tensor]
    pooled: Mapping[str, bool]
    name: Any


class Runner:
    """Runs stimuli through a model in batches.

    Parameters
    ----------
    engine, encoder, layouts
        The model's own.
    """

    def __init__(self, engine: Engine, encoder: Encoder, layouts: Layouts) -> None:
        self.engine = engine
        self.encoder = encoder
        self.layouts = layouts
        # Whether blocks can be skipped, by the towers that they are of, as far as it was tried.
        self._shares: dict[tuple[str, ...], bool] = {}

    def stream(
        self,
        prepared: Sequence[Prepared],
        sites: Sequence[Sites],
        tokens: Mapping[str, TokenChoice],
        *,
        logits: Literal["last", "all", "score"] | None = None,
        batch_size: int | Literal["auto"] = "auto",
        variants: Sequence[Edits | None] = (None,),
        pooled: bool = True,
        spare_first: int = 0,
    ) -> Iterator[Step]:
        """Yield readings batch by batch, not in the order of the stimuli.

        Parameters
        ----------
        prepared, sites, tokens, logits, batch_size
            As for :meth:`modalnet.Model.run`; ``logits="score"`` gives the probabilities of prepared continuations.
        variants
            What to write on the way; a batch is encoded once and runs once under each of them.
        pooled
            Take the mean over the chosen tokens; otherwise keep them apart, as ``tokens="all"`` does.
        spare_first
            Leave out the first so many of a stimulus' own tokens.

        Raises
        ------
        InputError
            Where a stimulus cannot be encoded or has no token of the kind asked for.
        """
        limit = BatchLimit(batch_size, self.engine)
        asked = _Asked(sites, tokens, logits, variants, pooled, spare_first)
        towers = self._towers(asked)
        encoded = _ahead(self.encoder.encode, sorted(prepared, key=lambda item: item.order))
        groups = self._groups(_batches(encoded, limit), asked, towers)
        if self.engine.capabilities.jobs:
            for questions, readings in self.jobs(groups, self._asking(asked), self.read_job, limit):
                yield from (self._answer(*each) for each in zip(questions, readings, strict=True))
            return
        for fresh in groups:
            waiting = deque([(fresh, list(range(len(variants))))])
            while waiting:
                group, left = waiting.popleft()
                # An earlier batch showed that this many do not fit, or the logits of this one would not.
                if len(group) > limit.count or (logits == "score" and self._many_logits(group)):
                    waiting.extendleft((half, left) for half in reversed(halves(group)))
                    continue
                batch = self.encoder.collate(group)
                prefixes = self._shared_prefixes(batch, asked, left)
                while left:
                    step = self._run_if_it_fits(batch, asked, left[0], prefixes)
                    if step is None:
                        limit.count = max(1, len(group) // 2)
                        waiting.extendleft((half, list(left)) for half in reversed(halves(group)))
                        free_memory()
                        break
                    yield step
                    left = left[1:]

    def _groups(
        self, batches: Iterator[list[Encoded]], asked: _Asked, towers: Sequence[str]
    ) -> Iterator[list[Encoded]]:
        """Stimuli that are known to run in one batch, and whose continuations look back only where they are scored."""
        for items in batches:
            if asked.logits == "score":
                self.layouts.keep_order(items[0])
            yield from self.layouts.group(items, towers)

    def inward(  # noqa: PLR0917
        self,
        item: Encoded,
        sites: Sequence[Sites],
        tokens: Mapping[str, TokenChoice],
        source: str,
        measure: Callable[[Sequence[torch.Tensor]], torch.Tensor],
        edits: Edits | None = None,
    ) -> Reading:
        """Run one stimulus and go back from what is read to one of its inputs; see :meth:`Engine.inward`."""
        batch = self.encoder.collate([item])
        question = self._ask(batch, _Asked(sites, tokens, None, [edits], True, 0), 0)
        try:
            return self.engine.inward(batch.inputs, question.plan, source, measure)
        except LayoutError as error:
            raise self._unknown_layout(error, batch) from error

    def moments(
        self,
        prepared: Sequence[Prepared],
        sites: Sequence[Sites],
        tokens: Mapping[str, TokenChoice],
        groups: Sequence[int],
        *,
        absolute: bool,
        batch_size: int | Literal["auto"] = "auto",
        edits: Edits | None = None,
        later: list[bytes] | None = None,
    ) -> Iterator[tuple[list[int], dict[str, dict[str, torch.Tensor]]]]:
        """Moments of groups of stimuli, reduced on the server and brought back job by job.

        Parameters
        ----------
        prepared, sites, tokens, batch_size
            As for :meth:`stream`; tokens are pooled.
        groups
            Of each stimulus that the user gave, from 0.
        absolute
            Whether the moments are of |activation|.
        edits
            What to write on the way.
        later
            A list that the jobs are written into instead of being sent; nothing comes back then.

        Yields
        ------
        indices, sums
            The stimuli that a job took in, and per space ``n`` ``[group]``, ``mean`` and ``m2`` ``[group, layer, dim]``
            and ``size`` ``[layer, dim]``; see :func:`modalnet.execution.reduction.gathered`.
        """
        limit = BatchLimit(batch_size, self.engine)
        asked = _Asked(sites, tokens, None, [edits], True, 0)
        encoded = _ahead(self.encoder.encode, sorted(prepared, key=lambda item: item.order))
        count = max(groups) + 1

        def reduce(questions: Sequence[Question]) -> dict[str, dict[str, torch.Tensor]]:
            members = [[groups[item.index] for item in one.batch.items] for one in questions]
            passes = [(one.batch.inputs, one.plan) for one in questions]
            if later is None:
                return self.engine.reduce(passes, members, count, absolute=absolute)
            later.append(self.engine.write(passes, members, count, absolute=absolute))
            return {}

        towers = self._towers(asked)
        found = (group for items in _batches(encoded, limit) for group in self.layouts.group(items, towers))
        jobs = self.jobs(found, self._asking(asked), reduce, limit, reduced=True, written=later is not None)
        for questions, sums in jobs:
            yield [item.index for one in questions for item in one.batch.items], sums

    def _towers(self, asked: _Asked) -> list[str]:
        """The towers whose layout must hold."""
        towers = [site.tower.name for site in asked.sites]
        towers += [name for edits in asked.variants if edits for name in edits.towers]
        if asked.logits is not None:
            towers.append(self.encoder.text_tower)  # the logits come from there
        return list(dict.fromkeys(towers))

    def read_job(self, questions: Sequence[Question]) -> list[Reading]:
        """Ask several questions in one job."""
        return self.engine.run_many([(one.batch.inputs, one.plan) for one in questions])

    def _asking(self, asked: _Asked) -> Callable[[list[Encoded]], list[Question] | None]:
        """What stimuli that share a batch are asked; None where their logits would be too many."""

        def ask(group: list[Encoded]) -> list[Question] | None:
            if asked.logits == "score" and self._many_logits(group):
                return None
            batch = self.encoder.collate(group)
            return [self._ask(batch, asked, variant) for variant in range(len(asked.variants))]

        return ask

    def jobs(
        self,
        fresh: Iterator[list[_T]],
        ask: Callable[[list[_T]], list[Question] | None],
        send: Callable[[list[Question]], Any],
        limit: BatchLimit,
        *,
        reduced: bool = False,
        written: bool = False,
    ) -> Iterator[tuple[list[Question], Any]]:
        """Batches as jobs for a server, as few as its limits allow; what turns out too large goes again in parts.

        Parameters
        ----------
        fresh
            What shares a batch, batch by batch.
        ask
            What a batch is asked, one question per pass; None where it must be split.
        send
            Sends questions as one job.
        limit
            Of a batch; it shrinks where memory runs out.
        reduced
            Whether what comes back is small however much is read.
        written
            Whether jobs are written and not sent, so that nobody tells how long they take.
        """
        pace = self.engine.backend.pace()
        back: deque[list[_T]] = deque()
        while True:
            groups: list[list[_T]] = []
            questions: list[Question] = []
            up = down = 0.0
            while not groups or not pace.full(len(questions), up, down):
                group = back.popleft() if back else next(fresh, None)
                if group is None:
                    break
                asking = ask(group) if len(group) <= limit.count else None
                if asking is None:
                    back.extendleft(reversed(halves(group)))
                    continue
                groups.append(group)
                questions += asking
                up += sum(getattr(value, "nbytes", 0) for value in asking[0].batch.inputs.values())
                up += sum(write.b.nbytes for one in asking for write in one.plan.writes)
                down += 0 if reduced else sum(_bytes_back(one.plan, self.engine) for one in asking)
            if not groups:
                return
            started = time.monotonic()
            try:
                result = self._sent(send, questions)
            except (RemoteMemoryError, RemoteLimitError) as error:
                if len(groups) == 1 and len(groups[0]) == 1:
                    label = questions[0].batch.items[0].label
                    raise ModalnetError(
                        f"stimulus {label} alone is too much for the server: {error} Use a smaller input, or raise "
                        "model.remote.limits where that is what stands in the way."
                    ) from error
                if isinstance(error, RemoteMemoryError) or len(groups) == 1:
                    limit.count = max(1, max(map(len, groups)) // 2)
                pace.slower(len(questions))
                back.extendleft(reversed(groups))
                continue
            if written:
                pace.unknown()
            else:
                running = self.engine.backend.last_seconds()
                pace.ran(len(questions), time.monotonic() - started if running is None else running)
            yield questions, result

    def _sent(self, send: Callable[[list[Question]], Any], questions: list[Question]) -> Any:
        try:
            return send(questions)
        except LayoutError as error:
            raise self._unknown_layout(error, questions[0].batch) from error

    def _unknown_layout(self, error: LayoutError, batch: Batch) -> ModalnetError:
        return ModalnetError(
            f"{error}: {self.encoder.loaded.name} lays out its tokens in a way that modalnet cannot follow for "
            f"these inputs ({', '.join(batch.inputs)}). Please report this model."
        )

    def _shared_prefixes(self, batch: Batch, asked: _Asked, variants: Sequence[int]) -> tuple[Prefix, ...]:
        """The outputs of the blocks before the first that any variant writes to, where running them once is enough.

        Some blocks hand on more than their output, and cannot be skipped; so before it is relied on, a model has to
        give the same with and without.
        """
        edited = [edits for edits in (asked.variants[variant] for variant in variants) if edits]
        if len(variants) < FEWEST_TO_SHARE or asked.logits != "score" or not edited:
            return ()
        sites = self._untouched(batch, edited)
        towers = tuple(site.tower.name for site in sites)
        if not sites or self._shares.get(towers) is False:
            return ()
        try:
            totals = [self.layouts.spans(batch, name)[1] for name in towers]
            reads = tuple((site, Pool(total)) for site, total in zip(sites, totals, strict=True))
            reading = self.engine.run(batch.inputs, Plan(reads, root=batch.root))
            prefixes = tuple(
                Prefix(
                    site.tower,
                    site.layers[-1] + 1,
                    tuple(one.reshape(reading.shapes[site.name]) for one in reading.activations[site.name]),
                )
                for site in sites
            )
            if towers not in self._shares:
                with_them, without = (self._run(batch, asked, variants[-1], one) for one in (prefixes, ()))
                self._shares[towers] = _agree(with_them, without)
        except Exception as error:  # whatever it is, the batch runs without shared blocks, and shows it again
            if not is_out_of_memory(error):
                self._shares[towers] = False
            return ()
        return prefixes if self._shares[towers] else ()

    def _untouched(self, batch: Batch, edited: Sequence[Edits]) -> list[Sites]:
        """What has to be read to leave out the first blocks of each tower, which none of these edits writes to.

        Nothing but the next block looks at a decoder's block, so its last one is enough; of a vision tower a decoder
        may look at several.
        """
        found = []
        seen = [tower for tower in self.layouts.towers.values() if tower.modality == "image"]
        if batch.items[0].n_images and len(seen) == 1:
            tower = seen[0]
            written = [edits.first_layer(tower.name) for edits in edited]
            depth = min(tower.n_layers if layer is None else layer for layer in written)
            whole = Sites(Space(tower), tuple(range(depth)))
            size = 4 * depth * self.layouts.spans(batch, tower.name)[1] * tower.width
            if depth and size <= MOST_SHARED and len(self.layouts.stages(whole)) == 1:
                found.append(whole)
        text = self.layouts.towers[self.encoder.text_tower]
        # An edit of another tower may change all of this one.
        layer = min(edits.first_layer(text.name) or 0 if edits.towers == [text.name] else 0 for edits in edited)
        return [*found, Sites(Space(text), (layer - 1,))] if layer else found

    def _run_if_it_fits(self, batch: Batch, asked: _Asked, variant: int, prefixes: tuple[Prefix, ...]) -> Step | None:
        """One batch; None where fewer stimuli may fit: memory ran out, or they do not lie in rows of their own."""
        # The traceback holds the activations of the failed batch, so it must be gone before memory is asked for again.
        try:
            return self._run(batch, asked, variant, prefixes)
        except RowsError:
            self.layouts.run_alone()
            return None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch.items) == 1:
                raise ModalnetError(
                    f"stimulus {batch.items[0].label} alone does not fit into memory. Use a smaller input, a smaller "
                    'dtype, or device_map="auto".'
                ) from error
            return None

    def _run(self, batch: Batch, asked: _Asked, variant: int, prefixes: tuple[Prefix, ...] = ()) -> Step:
        question = self._ask(batch, asked, variant, prefixes)
        try:
            reading = self.engine.run(batch.inputs, question.plan)
        except RowsError:
            raise
        except LayoutError as error:
            if self.layouts.look_for_merging(batch.items[0]):
                return self._run(batch, asked, variant, prefixes)
            raise self._unknown_layout(error, batch) from error
        return self._answer(question, reading)

    def _ask(self, batch: Batch, asked: _Asked, variant: int, prefixes: tuple[Prefix, ...] = ()) -> Question:
        """What one batch is asked under one of the variants."""
        items, edits = batch.items, asked.variants[variant]
        reads, chosen = [], {}
        for site in asked.sites:
            tower, name = site.tower.name, site.name
            parts = self.layouts.stages(site)
            if len(parts) > 1 and not asked.pools(name):
                raise InputError(
                    f"the {tower} tower of {self.encoder.loaded.name} merges patches on its way, so its blocks have "
                    f"different tokens. Read layers {' or '.join(str(list(part.layers)) for part in parts)} alone, or "
                    'pooled, such as tokens="mean".'
                )
            for part in parts:
                held = self.layouts.spans(batch, tower, part.layers[0])
                picked, total = self._chosen(batch, held, tower, asked.tokens[name], asked.spare_first)
                chosen[name] = picked
                reads.append((part, _pool(picked, total, pooled=asked.pools(name))))
        rows, targets, target_rows, n_text, wanted = None, None, None, 0, []
        if asked.logits == "score":
            own, n_text = self._chosen(batch, self.layouts.head_spans(batch), self.encoder.text_tower, "all")
            ids = self.layouts.token_ids(batch, self.encoder.text_tower)
            wanted = [_before(index, item.prepared) for index, item in zip(own, items, strict=True)]
            rows = _cat(wanted)
            targets = _cat([_targets(one, item.prepared) for one, item in zip(ids, items, strict=True)])
            target_rows = _target_rows([item.prepared for item in items])
        elif asked.logits is not None:
            choice: TokenChoice = "last" if asked.logits == "last" else "all"
            wanted, n_text = self._chosen(batch, self.layouts.head_spans(batch), self.encoder.text_tower, choice)
            rows = _cat(wanted)
        writes = edits.writes(batch, self.layouts.spans) if edits else ()
        plan = Plan(tuple(reads), rows, targets, n_text, batch.root, writes, prefixes, target_rows=target_rows)
        pooled = {site.name: asked.pools(site.name) for site in asked.sites}
        return Question(batch, plan, chosen, wanted, pooled, variant)

    def _answer(self, question: Question, reading: Reading) -> Step:
        """What a reading says of the stimuli of a batch."""
        wanted = question.wanted
        activations: dict[str, Any] = {}
        for name, values in reading.activations.items():
            if not question.pooled[name]:
                activations[name] = [values[:, index] for index in question.chosen[name]]
            else:
                activations[name] = values
        split = None
        if reading.logits is not None:
            split = list(reading.logits.split([len(index) for index in wanted]))
        scores = None
        if reading.logprob is not None and reading.likeliest is not None:
            sizes = [item.prepared.n_targets for item in question.batch.items]
            scores = list(zip(reading.logprob.split(sizes), reading.likeliest.split(sizes), strict=True))
        return Step([item.index for item in question.batch.items], activations, split, scores, question.name)

    def generate(
        self, prepared: Sequence[Prepared], edits: Edits | None, steps: int, settings: Mapping[str, Any]
    ) -> Iterator[list[int]]:
        """Let the model continue each stimulus, one at a time and in order; yields the new tokens."""
        for item in _ahead(self.encoder.encode, prepared):
            batch = self.encoder.collate([item])
            # All ones for a stimulus alone, and not grown with what is written.
            inputs = {name: value for name, value in batch.inputs.items() if name != "decoder_attention_mask"}

            def write(batch: Batch, inputs: dict[str, Any] = inputs) -> list[int]:
                writes = edits.writes(batch, self.layouts.spans) if edits else ()
                later = edits.later(batch, self.layouts.spans, steps) if edits else ()
                return self.engine.generate(inputs, writes, later, **settings, max_new_tokens=steps)

            try:
                tokens = write(batch)
            except LayoutError as error:
                if item.n_tokens < 2 or batch.written:
                    raise self._unknown_layout(error, batch) from error
                # Some models write on from all of a prompt but its last token, which closes it.
                try:
                    tokens = write(self.encoder.collate([item.without_last()]))
                except LayoutError:
                    raise self._unknown_layout(error, batch) from error
            yield tokens[:steps]

    def _many_logits(self, items: Sequence[Encoded]) -> bool:
        """Whether the logits of a batch's continuations would take more than their share of memory."""
        rows = sum(len(item.prepared.places) for item in items)
        return len(items) > 1 and rows * self.engine.vocabulary > MOST_LOGITS

    @staticmethod
    def _chosen(
        batch: Batch, held: tuple[list[Span], int], tower: str, choice: TokenChoice, spare_first: int = 0
    ) -> tuple[list[torch.Tensor], int]:
        """The positions that a choice of tokens takes of each stimulus, and the number of positions in all."""
        spans, total = held
        picked = [
            select(choice, span, tower=tower, label=item.label, spare_first=spare_first)
            for item, span in zip(batch.items, spans, strict=True)
        ]
        return picked, total


def _pool(picked: list[torch.Tensor], total: int, *, pooled: bool) -> Pool:
    import torch

    if not pooled:
        return Pool(total)
    return Pool(total, _cat(picked), torch.tensor([len(index) for index in picked]))


def _before(index: torch.Tensor, prepared: Prepared) -> torch.Tensor:
    """Of a row's own positions, those whose logits predict the tokens that are asked for."""
    return index[len(index) - prepared.n_scored - 1 :][list(prepared.places)]


def _targets(ids: torch.Tensor, prepared: Prepared) -> torch.Tensor:
    """The tokens of a row whose probabilities are taken, and behind them the other endings."""
    return _cat([ids[len(ids) - prepared.n_scored :][list(prepared.places)], ids.new_tensor(prepared.endings)])


def _target_rows(prepared: Sequence[Prepared]) -> torch.Tensor:
    """For each target of a batch, the number of the logits that it is taken from; every ending is from the last."""
    import torch

    found: list[int] = []
    start = 0
    for item in prepared:
        end = start + len(item.places)
        found += [*range(start, end), *[end - 1] * len(item.endings)]
        start = end
    return torch.tensor(found)


def _cat(parts: list[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.cat(parts)


class BatchLimit:
    """How many stimuli, and how many tokens with their padding, a batch may hold."""

    def __init__(self, batch_size: Any, engine: Engine) -> None:
        self.tokens: float = float("inf")
        if batch_size == "auto":
            on_gpu = any(p.device.type not in ("cpu", "meta") for p in engine.module.parameters())
            self.count, self.tokens = _GPU_LIMITS if on_gpu else _CPU_LIMITS
        elif isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size >= 1:
            self.count = batch_size
        else:
            raise InputError(f'batch_size={batch_size!r} is not known. Give "auto" or a number of at least 1.')


def _bytes_back(plan: Plan, engine: Engine) -> float:
    """About how many bytes a plan brings back."""
    size = 0
    for sites, pool in plan.reads:
        rows = pool.n_positions if pool.lengths is None else len(pool.lengths)
        size += rows * len(sites.layers) * sites.space.width
    if plan.logit_rows is not None and plan.targets is None:
        size += plan.columns.numel() if plan.columns is not None else len(plan.logit_rows) * engine.vocabulary
    return 4.0 * size


def _batches(encoded: Iterable[Encoded], limit: BatchLimit) -> Iterator[list[Encoded]]:
    """Grow batches of one kind up to the limit."""
    current: list[Encoded] = []
    longest = 0
    for item in encoded:
        size = max(item.n_tokens, image_tokens(item))
        full = len(current) >= limit.count or max(longest, size) * (len(current) + 1) > limit.tokens
        if current and (full or item.kind != current[0].kind):
            yield current
            current, longest = [], 0
        current.append(item)
        longest = max(longest, size)
    if current:
        yield current


def image_tokens(item: Encoded) -> int:
    """About how many patches the images of a stimulus become; only the size of batches depends on it."""
    pixels = item.inputs.get("pixel_values")
    return 0 if pixels is None else int(pixels.numel()) // _PATCH_PIXELS


def _agree(one: Step, other: Step) -> bool:
    """Whether two ways to the same scores give the same."""
    import torch

    first, second = (torch.cat([logprob for logprob, _ in step.scores or ()]) for step in (one, other))
    return bool(torch.allclose(first, second, atol=1e-4, rtol=1e-4))


def halves(group: list[_T]) -> list[list[_T]]:
    """Two lists of about half the length."""
    middle = (len(group) + 1) // 2
    return [group[:middle], group[middle:]]


def _ahead(encode: Any, prepared: Iterable[Prepared]) -> Iterator[Encoded]:
    """Encode on a second thread, as many stimuli ahead as fit into a bounded amount of memory."""
    remaining = iter(prepared)
    with ThreadPoolExecutor(1, thread_name_prefix="modalnet-encode") as pool:
        queue: deque[Future[Encoded]] = deque(pool.submit(encode, item) for item in islice(remaining, 1))
        try:
            while queue:
                item = queue.popleft().result()
                size = sum(value.nbytes for value in item.inputs.values())
                depth = max(2, min(_AHEAD_COUNT, _AHEAD_BYTES // max(size, 1)))
                queue.extend(pool.submit(encode, each) for each in islice(remaining, max(0, depth - len(queue))))
                yield item
        finally:
            for future in queue:
                future.cancel()


def free_memory() -> None:
    """Give back what a failed batch held."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
