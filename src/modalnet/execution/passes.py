"""Plans of forward passes over a batch, and values per stimulus from their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from modalnet.errors import InputError, ModalnetError
from modalnet.execution import continuations
from modalnet.execution.edits import Edits
from modalnet.execution.layout import Layouts
from modalnet.execution.plan import Plan, Pool, Prefix, Sites, Taken
from modalnet.interventions.positions import Span, StimulusTokens, TokenChoice, of_stimulus, select

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int

    from modalnet.execution.reading import LayoutError, Reading
    from modalnet.execution.sinks import SinkTable
    from modalnet.inputs.batch import Batch, Encoded
    from modalnet.inputs.encoding import Encoder

# Maximum number of logits of a batch's continuations in memory.
MOST_LOGITS = 1 << 26


@dataclass(frozen=True)
class Readout:
    """What is read from every stimulus, and under which edits.

    Attributes
    ----------
    sites
        Sites whose activations are read.
    tokens
        Per space, which tokens.
    logits
        ``"last"`` or ``"all"`` for logits, ``"score"`` for probabilities of continuations.
    variants
        A batch runs once under each of these edits; None for none.
    pooled
        Take the mean over the chosen tokens; otherwise return them one by one, as ``tokens="all"`` does.
    spare_first
        Number of first tokens of each stimulus to leave out.
    sinks
        The sink tokens of the stimuli, which are left out; None where they are not known, and none is.
    keeps_sinks
        Leave them in.
    taken
        What is taken of the chosen tokens: their ``"mean"``, or the ``"length"`` of each; or ``"moments"``, with the
        same of the sink tokens among them apart.
    numbers
        Whether all numbers of a unit are read, where it has several, or one activation for each; names of spaces for
        these alone.
    draw
        Some of the chosen tokens, each by itself: from the index of a stimulus, the name of a tower and the number of
        its chosen tokens, the places of some of these.
    """

    sites: Sequence[Sites] = ()
    tokens: Mapping[str, StimulusTokens] = field(default_factory=dict)
    logits: Literal["last", "all", "score"] | None = None
    variants: Sequence[Edits | None] = (None,)
    pooled: bool = True
    spare_first: int = 0
    sinks: SinkTable | None = None
    keeps_sinks: bool = False
    taken: Taken = "mean"
    numbers: bool | frozenset[str] = False
    draw: Callable[[int, str, int], Int[torch.Tensor, " drawn"]] | None = None

    def reads_numbers(self, space: str) -> bool:
        """Whether all numbers of the units of a space are read."""
        return self.numbers if isinstance(self.numbers, bool) else space in self.numbers

    def pools(self, space: str) -> bool:
        """Whether the tokens of a space are pooled."""
        return self.pooled and self.draw is None and self.tokens[space] != "all"


@dataclass(frozen=True)
class Pass:
    """One forward pass over a batch, and which positions belong to which stimulus.

    Attributes
    ----------
    batch, plan
        What runs.
    label
        Identifies the pass: the index of the variant, or the indices of the cells.
    logit_positions
        The flat positions of each stimulus' logits.
    read_positions
        Per space, the flat positions at which each stimulus is read.
    pooled
        Per space, whether its tokens are pooled.
    drawn
        Whether the positions that are read come one by one.
    counts
        As in a :class:`BatchResult`.
    """

    batch: Batch
    plan: Plan
    label: Any
    logit_positions: Sequence[Int[torch.Tensor, " position"]] = ()
    read_positions: Mapping[str, Sequence[Int[torch.Tensor, " position"]]] = field(default_factory=dict)
    pooled: Mapping[str, bool] = field(default_factory=dict)
    drawn: bool = False
    counts: Mapping[str, Int[torch.Tensor, "row layer"]] = field(default_factory=dict)

    def result(self, reading: Reading) -> BatchResult:
        """The values of each stimulus."""
        activations: dict[str, Any] = {
            name: values if self.pooled[name] else self._apart(values, self.read_positions[name])
            for name, values in reading.activations.items()
        }
        logits = scores = None
        if reading.logits is not None:
            logits = list(reading.logits.split([len(positions) for positions in self.logit_positions]))
        if reading.logprob is not None and reading.likeliest is not None:
            sizes = [item.prepared.n_targets for item in self.batch.items]
            scores = list(zip(reading.logprob.split(sizes), reading.likeliest.split(sizes), strict=True))
        indices = [item.index for item in self.batch.items]
        return BatchResult(indices, activations, logits, scores, self.label, self.counts)

    def _apart(
        self, values: Float[torch.Tensor, "_ _ dim"], positions: Sequence[Int[torch.Tensor, " position"]]
    ) -> list[Float[torch.Tensor, "layer token dim"]]:
        """The values of each stimulus' tokens."""
        if self.drawn:
            return [part.transpose(0, 1) for part in values.split([len(own) for own in positions])]
        return [values[:, own] for own in positions]


@dataclass
class BatchResult:
    """The values of the stimuli of one batch.

    Attributes
    ----------
    indices
        Indices of its stimuli in the user's list.
    activations
        Per space ``[stimulus, layer, dim]``, or a list of ``[layer, token, dim]`` where tokens are not pooled. Where
        moments are taken, ``[2 * stimulus, layer, 3 * dim]``: for each stimulus its tokens, then its sinks.
    logits
        One ``[token, vocab]`` (or ``[1, vocab]`` for the last token) per stimulus; None where they were not requested.
    scores
        Per stimulus the log-probability of each token of its continuation that is scored and then of each other ending,
        and whether each is the likeliest.
    variant
        The number of the edits that it ran under.
    counts
        Per space, over how many tokens each of the values is taken: a mean over none is NaN.
    """

    indices: list[int]
    activations: dict[str, Any]
    logits: list[Float[torch.Tensor, "token vocab"]] | None = None
    scores: list[tuple[torch.Tensor, torch.Tensor]] | None = None
    variant: int = 0
    counts: Mapping[str, Int[torch.Tensor, "row layer"]] = field(default_factory=dict)


class PassMaker:
    """Makes the passes of a batch.

    Parameters
    ----------
    encoder, layouts
        Of the model.
    """

    def __init__(self, encoder: Encoder, layouts: Layouts) -> None:
        self.encoder = encoder
        self.layouts = layouts

    def make(self, batch: Batch, readout: Readout, variant: int, prefixes: tuple[Prefix, ...] = ()) -> Pass:
        """The pass over a batch under one of the variants."""
        reads, read_positions, counts = self._reads(batch, readout)
        edits = readout.variants[variant]
        rows, targets, target_rows, n_text = None, None, None, 0
        logit_positions: list[torch.Tensor] = []
        if readout.logits is not None:
            scored = readout.logits == "score"
            choice: TokenChoice = "last" if readout.logits == "last" else "all"
            held = self.layouts.head_spans(batch)
            logit_positions, n_text = _chosen(batch, held, self.encoder.text_tower, choice)
            if scored:
                ids = self.layouts.token_ids(batch, self.encoder.text_tower)
                items = [item.prepared for item in batch.items]
                logit_positions = [
                    continuations.predicting(own, item) for own, item in zip(logit_positions, items, strict=True)
                ]
                targets = _cat([continuations.targets(one, item) for one, item in zip(ids, items, strict=True)])
                target_rows = continuations.target_rows(items)
            rows = _cat(logit_positions)
        writes = edits.writes(batch, self.layouts.spans) if edits else ()
        plan = Plan(reads, rows, targets, n_text, batch.root, writes, prefixes, target_rows=target_rows)
        pooled = {site.name: readout.pools(site.name) for site in readout.sites}
        return Pass(batch, plan, variant, logit_positions, read_positions, pooled, readout.draw is not None, counts)

    def towers(self, readout: Readout) -> list[str]:
        """The towers whose layout must be known."""
        towers = [site.tower.name for site in readout.sites]
        towers += [name for edits in readout.variants if edits for name in edits.towers]
        if readout.logits is not None:
            towers.append(self.encoder.text_tower)  # the logits come from there
        return list(dict.fromkeys(towers))

    def unknown_layout(self, error: LayoutError, batch: Batch) -> ModalnetError:
        """The exception for a model whose token layout is not supported."""
        return ModalnetError(
            f"{error}: the token layout of {self.encoder.loaded.name} is not supported for these inputs "
            f"({', '.join(batch.inputs)}). Please report this model."
        )

    def _reads(
        self, batch: Batch, readout: Readout
    ) -> tuple[tuple[tuple[Sites, Pool], ...], dict[str, list[torch.Tensor]], dict[str, torch.Tensor]]:
        """The sites that are read with their pools, the positions of each stimulus, and how many are pooled."""
        import torch

        reads, positions, counts = [], {}, {}
        for site in readout.sites:
            tower, name = site.tower.name, site.name
            parts = self.layouts.stages(site)
            if len(parts) > 1 and not readout.pools(name):
                raise InputError(
                    f"the {tower} tower of {self.encoder.loaded.name} merges patches, so its blocks have different "
                    f"tokens. Read layers {' or '.join(str(list(part.layers)) for part in parts)} alone, or "
                    'pooled, such as tokens="mean".'
                )
            pooled = []
            for part in parts:
                held = self.layouts.spans(batch, tower, part.layers[0])
                positions[name], pool = _read(batch, held, part, readout)
                reads.append((part, pool))
                if pool.lengths is not None:
                    pooled.append(pool.lengths[:, None].expand(-1, len(part.layers)))
            if pooled:
                counts[name] = torch.cat(pooled, dim=1)
        return tuple(reads), positions, counts


def too_many_logits(items: Sequence[Encoded], vocabulary: int) -> bool:
    """Whether the logits of a batch's continuations would exceed their share of memory."""
    rows = sum(len(item.prepared.places) for item in items)
    return len(items) > 1 and rows * vocabulary > MOST_LOGITS


def _chosen(
    batch: Batch, held: tuple[list[Span], int], tower: str, choice: StimulusTokens, spare_first: int = 0
) -> tuple[list[torch.Tensor], int]:
    """The positions of each stimulus that a choice of tokens selects, and the total number of positions."""
    spans, total = held
    picked = [
        select(of_stimulus(choice, item.index), span, tower=tower, label=item.label, spare_first=spare_first)
        for item, span in zip(batch.items, spans, strict=True)
    ]
    return picked, total


def _read(
    batch: Batch, held: tuple[list[Span], int], sites: Sites, readout: Readout
) -> tuple[list[torch.Tensor], Pool]:
    """The positions of each stimulus that are read in some layers of a space, and the pool over them."""
    import torch

    tower, choice = sites.tower.name, readout.tokens[sites.name]
    numbers = readout.reads_numbers(sites.name)
    picked, total = _chosen(batch, held, tower, choice, readout.spare_first)
    if readout.sinks is not None:
        sinks = [
            readout.sinks.positions(item, tower, sites.layers[0], span)
            for item, span in zip(batch.items, held[0], strict=True)
        ]
        if readout.taken == "moments":
            whole, _ = _chosen(batch, held, tower, choice)
            apart = [own[torch.isin(own, left)] for own, left in zip(whole, sinks, strict=True)]
        if not readout.keeps_sinks:
            picked = [own[~torch.isin(own, left)] for own, left in zip(picked, sinks, strict=True)]
    if readout.draw is not None:
        picked = [own[readout.draw(item.index, tower, len(own))] for item, own in zip(batch.items, picked, strict=True)]
        flat = _cat(picked)
        return picked, Pool(total, flat, torch.ones(len(flat), dtype=torch.long), numbers=numbers)
    if readout.taken == "length" or not readout.pools(sites.name):
        return picked, Pool(total, taken=readout.taken, numbers=numbers)
    groups = picked
    if readout.taken == "moments":
        groups = [group for pair in zip(picked, apart, strict=True) for group in pair]
    counts = torch.tensor([len(index) for index in groups])
    return picked, Pool(total, _cat(groups), counts, readout.taken, numbers)


def _cat(parts: list[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.cat(parts)
