"""From interventions to the writes of a batch.

An intervention names units and tokens; a write names units of a layer and flat positions of a batch. The values in
between come from :mod:`modalnet.interventions.values`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.execution.knockouts import Knockout, holds_later, without_last
from modalnet.execution.plan import Call, Removal, Write
from modalnet.interventions.functions import Function
from modalnet.interventions.operations import Intervention
from modalnet.interventions.positions import PerSpace, PerStimulus, Span, of_stimulus, select
from modalnet.interventions.values import Affine, Part, Positions, parts_of

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int

    from modalnet.execution.sinks import SinkTable
    from modalnet.inputs.batch import Batch
    from modalnet.models.sites import Space


class Edits:
    """Interventions on one model, with their values.

    Parameters
    ----------
    interventions
        In the order in which they apply.
    spaces
        Those of the model.
    values
        From an intervention, the sites that it edits and the number of the user's stimuli to its values; see
        :func:`modalnet.interventions.values.values_of`.
    owners
        For each stimulus that runs, which of the user's it belongs to: patch sources go by that one.
    contents
        The numbers that stand for what each stimulus that runs contains, which draws go by; called where some draw is.
    knockouts
        Attention edges that are removed beside.

    Attributes
    ----------
    sinks
        The sink tokens of the stimuli that run; None where no intervention spares them, or before they are measured.

    Raises
    ------
    InputError
        A space, layer or shape that the model does not have; sources that do not fit in number.
    """

    def __init__(
        self,
        interventions: Sequence[Intervention],
        spaces: Mapping[str, Space],
        values: Callable[[Intervention, Sequence[Part], int], Affine],
        owners: Sequence[int],
        contents: Callable[[], Sequence[int]] = tuple,
        *,
        knockouts: Sequence[Knockout] = (),
    ) -> None:
        self.interventions = tuple(one for each in interventions for one in each.by_space())
        self.owners = tuple(owners)
        self.knockouts = tuple(knockouts)
        n_stimuli = len(set(owners))
        for one in self.interventions:
            if isinstance(one.tokens, PerStimulus) and n_stimuli and len(one.tokens.each) != n_stimuli:
                raise InputError(
                    f"{one}: tokens are given for {len(one.tokens.each)} stimuli, but {n_stimuli} run. Give one list "
                    "of indices for each, in their order."
                )
        draws = any(one.kind == "resample" for one in self.interventions)
        self.contents = tuple(contents()) if draws else (0,) * len(self.owners)
        self.sinks: SinkTable | None = None
        self.parts = [parts_of(one, spaces) for one in self.interventions]
        self._values = [
            values(one, parts, n_stimuli) for one, parts in zip(self.interventions, self.parts, strict=True)
        ]

    @property
    def towers(self) -> list[str]:
        """Names of the towers that are written to."""
        edited = [part.space.tower.name for parts in self.parts for part in parts]
        return list(dict.fromkeys([*edited, *(each.tower for each in self.knockouts)]))

    @property
    def sparing(self) -> list[str]:
        """Names of the towers whose sink tokens some intervention leaves alone."""
        pairs = zip(self.interventions, self.parts, strict=True)
        return list(dict.fromkeys(part.space.tower.name for one, parts in pairs if one.spares_sinks for part in parts))

    @property
    def by_row(self) -> bool:
        """Whether what is edited at one token may depend on the other tokens, those of a continuation included."""
        return any(one.kind == "apply" for one in self.interventions)

    @property
    def by_owner(self) -> bool:
        """Whether the same tokens of two stimuli may be edited differently: by draws, or by sources of their own."""
        return any(
            one.kind == "resample"
            or (one.kind == "patch" and len(one.values) > 1)
            or isinstance(one.tokens, PerStimulus)
            for one in self.interventions
        ) or any(each.by_owner for each in self.knockouts)

    def first_layer(self, tower: str) -> int | None:
        """The first block of a tower that is written to; None where none is."""
        written = [part.layer for parts in self.parts for part in parts if part.space.tower.name == tower]
        return min(
            [*written, *(layer for each in self.knockouts if each.tower == tower for layer in each.layers)],
            default=None,
        )

    def writes(
        self, batch: Batch, spans: Callable[..., tuple[Sequence[Span], int]], *, continued: bool = False
    ) -> tuple[Write | Removal, ...]:
        """The writes for one batch.

        Parameters
        ----------
        batch
            What runs.
        spans
            Gives the positions in a block, from a batch, a tower and a layer.
        continued
            Whether the stimulus is continued, so that :meth:`later` edits what comes after it.

        Raises
        ------
        InputError
            Where an intervention has no effect on a stimulus, all of whose chosen tokens it spares.
        """
        made = []
        for one, parts, values in zip(self.interventions, self.parts, self._values, strict=True):
            for name in dict.fromkeys(part.space.tower.name for part in parts):
                labels = [item.label for item in batch.items]
                owners = [self.owners[item.index] for item in batch.items]
                contents = [self.contents[item.index] for item in batch.items]
                known: dict[int, Any] = {}
                for part in (part for part in parts if part.space.tower.name == name):
                    own, total = spans(batch, name, part.layer)
                    if total not in known:  # most towers hold the same positions in every block
                        known[total] = [
                            _picked(
                                one,
                                owner,
                                _reach(one, span, item.prepared.scored_in(name)),
                                name,
                                item.label,
                                may_be_none=continued and _holds_later(one),
                            )
                            for item, owner, span in zip(batch.items, owners, own, strict=True)
                        ]
                    at = Positions(labels, owners, contents, known[total])
                    write = _write(one, part, at.positions, total, values(part, at))
                    made.append(self._sparing_sinks(write, batch, own) if one.spares_sinks else write)
        return (*(write for write in made if len(write.rows)), *self._removals(batch, spans))

    def _removals(self, batch: Batch, spans: Callable[..., tuple[Sequence[Span], int]]) -> list[Removal]:
        owners = [self.owners[item.index] for item in batch.items]
        return [removal for each in self.knockouts for removal in each.removals(batch, owners, spans)]

    def _sparing_sinks(self, write: Write, batch: Batch, spans: Sequence[Span]) -> Write:
        """A write without its rows at sink tokens; what is written elsewhere stays as it is, draws included."""
        import torch

        assert self.sinks is not None
        tower = write.tower.name
        sinks = [
            self.sinks.positions(item, tower, write.layer, span) for item, span in zip(batch.items, spans, strict=True)
        ]
        kept = ~torch.isin(write.rows, torch.cat(sinks))
        b = write.b[kept] if write.b.ndim == 2 else write.b
        call = None if write.call is None else write.call.at(kept)
        return replace(write, rows=write.rows[kept], b=b, call=call)

    def constants(self) -> Iterator[tuple[Intervention, Part, float, Float[torch.Tensor, " dims"]]]:
        """Each block that is written to, with the factor and the summand, where the stimuli have no say in them."""
        for one, parts, values in zip(self.interventions, self.parts, self._values, strict=True):
            for part in parts:
                yield one, part, *values(part, Positions())

    def later(
        self, batch: Batch, spans: Callable[[Batch, str], tuple[Sequence[Span], int]], steps: int
    ) -> tuple[Write | Removal, ...]:
        """The writes for each new token that a stimulus, alone in its batch, is continued by.

        A continuation that is written is treated as one that is scored: an intervention on all tokens, or on those of
        text, holds for it, and other choices are places in the prompt.
        """
        import torch

        made = []
        (item,) = batch.items
        for one, parts, values in zip(self.interventions, self.parts, self._values, strict=True):
            if not _holds_later(one):
                continue
            # The encoder of an encoder-decoder model runs once.
            for part in parts:
                tower = part.space.tower
                if tower.modality != "text" or (batch.written and not tower.is_decoder):
                    continue
                (span,), _ = spans(batch, tower.name)
                choice = "text" if one.tokens == "text" else "all"
                places = select(choice, span, tower=tower.name, label=item.label, spare_first=one.spared)
                # Draws go on where those of the prompt ended.
                whole = torch.cat([places, places.new_zeros(steps)])
                index = item.index
                a, b = values(part, Positions([item.label], [self.owners[index]], [self.contents[index]], [whole]))
                one_token = torch.zeros(1, dtype=torch.long)
                made.append(_write(one, part, [one_token], 1, (a, b[-steps:] if b.ndim == 2 else b)))
        owners = [self.owners[item.index]]
        return (*made, *(removal for each in self.knockouts for removal in each.later(batch, owners, spans)))


def _holds_later(one: Intervention) -> bool:
    """Whether an intervention holds for the tokens of a continuation."""
    return one.kind != "patch" and holds_later(one.tokens)


def _reach(one: Intervention, span: Span, n_scored: int) -> Span:
    """What the tokens of an intervention are counted in.

    A lesion of all tokens holds for a continuation too; places that count from an end are places in the prompt, and a
    patch source has nothing to set against a continuation.
    """
    if not n_scored or _holds_later(one):
        return span
    return without_last(span, n_scored)


def _picked(  # one call, above
    one: Intervention, owner: int, span: Span, tower: str, label: str, *, may_be_none: bool
) -> Int[torch.Tensor, " token"]:
    """The positions of one stimulus that an intervention is on.

    Raises
    ------
    InputError
        Where all of them are spared: the stimulus would run as if there were no intervention.
    """
    assert not isinstance(one.tokens, PerSpace)
    kept = select(of_stimulus(one.tokens, owner), span, tower=tower, label=label, spare_first=one.spared)
    if one.spared and not len(kept) and not may_be_none:
        raise InputError(
            f"{one}: it has no effect on stimulus {label}, all of whose chosen tokens in the {tower} tower are among "
            f"the first {one.spared}. Choose a smaller spare_first or other tokens, or leave the stimulus out."
        )
    return kept


def _write(
    one: Intervention, part: Part, picked: Sequence[torch.Tensor], total: int, affine: tuple[float, torch.Tensor]
) -> Write:
    import torch

    a, b = affine
    dims = None if part.dims is None else torch.from_numpy(part.dims)
    vector = None if part.vector is None else torch.from_numpy(np.atleast_2d(part.vector).copy())
    call = None
    if isinstance(one.values, Function):
        call = Call(one.values.at(part.layer), tuple(map(len, picked)), str(one))
    return Write(part.space, part.layer, total, torch.cat(list(picked)), dims, vector, a, b, call)
