"""Direct effects of senders on receivers: run exactly, and estimated.

*Exact.* First what the sender's sublayer adds to the stream is computed with the sender patched, and with it the change
of the stream. With all sublayers between frozen at their values in the unpatched run, this change is all that reaches
the receiver's block: so that block is run on its unpatched input plus the change (where the MLP receives, with its
attention frozen), and the receiver is read. Then the unpatched run is repeated with the receiver set to what was read,
and everything after it runs freely. This is path patching as in Goldowsky-Dill et al. (2023), of a path of one edge. It
takes blocks that add to the stream, which is checked on the unpatched run. Wang et al. (2023) freeze attentions alone
and count paths through MLPs as direct: then the blocks between run, with their attentions frozen.

*Estimated.* The derivative of the same quantity by the sender's activation, at the unpatched run, times the difference
of the activation between the runs: in a run in which every sublayer before the receiver is frozen, the gradient at the
senders of all paths through the receiver. One forward and one backward pass give it for all senders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from modalnet.errors import InputError
from modalnet.execution.additions import Seen
from modalnet.execution.cells import Cell, Swap
from modalnet.execution.plan import Sites, Through
from modalnet.models.sites import RESIDUAL
from modalnet.patching.estimates import Chunk
from modalnet.patching.path_ends import ADDED, ATTENTION, MLP, STEP, Ends, Receiver, reason_of

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int

    from modalnet.execution.cells import State
    from modalnet.execution.path_gradients import AtSites
    from modalnet.models.sites import Space

# Pairs whose states are kept at a time, and senders whose changes of the stream are.
TOGETHER = 4
SENDERS = 128
#: What is frozen: every attention and MLP, or attentions alone.
ALL = "all"
FREEZE = (ALL, "attention")
#: The kind and layer of a space by which a sender adds to the stream, and the change that it makes there.
Changes: TypeAlias = "dict[tuple[str, int], Float[torch.Tensor, 'token dim']]"


@dataclass(frozen=True, eq=False)
class Part:
    """Units of one layer of a space, or all of them (None), at some tokens: what sends."""

    name: str
    layer: int
    match: Sequence[tuple[int, int]]
    units: Int[np.ndarray, " unit"] | None = None


@dataclass(frozen=True, eq=False)
class Sending:
    """One sender of a pair: the place of the pair, and its parts, which are patched jointly."""

    place: int
    parts: tuple[Part, ...]


@dataclass
class PathRuns(Chunk):
    """Some pairs, on which senders are patched."""

    ends: Ends
    freeze: str = ALL

    @property
    def frozen(self) -> tuple[str, ...]:
        """Kinds of the sublayers that are frozen between a sender and a receiver."""
        return ("attention", "mlp") if self.freeze == ALL else ("attention",)

    def space(self, kind: str) -> Space | None:
        """A space of the tower by its kind."""
        tower = self.ends.tower
        return self.model.spaces.get(tower if kind == RESIDUAL else f"{tower}.{kind}")

    def read(self) -> tuple[list[State], list[State]]:
        """The unpatched runs, and those that activations come from.

        Raises
        ------
        InputError
            If a block that the stream passes between sender and receiver does not only add to it.
        """
        base, source = self.sides
        towers = self.model._executor.reached_spaces(self.stimuli(base))
        kinds = [space.name for kind in ("pre", "attention", "mlp") if (space := self.space(kind)) and space.layers]
        more = [*towers, *kinds, *(one.name for one in self.ends.receivers)]
        bases, sources = self.states(base, more), self.states(source)
        for state in bases:
            self._check_adds(state)
        return bases, sources

    # -- exact -------------------------------------------------------------------------------------------------------

    def exact(
        self, bases: Sequence[State], sources: Sequence[State], sendings: Sequence[Sending]
    ) -> Iterator[tuple[int, float]]:
        """Yield the number of each sender, and the metric of the run in which the receivers got what it sends."""
        outcome = self.measure.outcome_of(self.some)
        for start in range(0, len(sendings), SENDERS):
            some = sendings[start : start + SENDERS]
            received = self._received(bases, some, self._changes(bases, sources, some))
            cells = [Cell(one.place, tuple(swaps)) for one, swaps in zip(some, received, strict=True)]
            run = self.model._executor.run_cells(bases, cells, outcome, batch_size=self.batch_size)
            for number, found in run:
                yield start + number, self.measure.value(found, self.some[some[number].place])

    def _changes(self, bases: Sequence[State], sources: Sequence[State], sendings: Sequence[Sending]) -> list[Changes]:
        """What each sender changes of what its sublayers add to the stream, on their unpatched inputs."""
        cells: list[Cell] = []
        sites: list[tuple[Space, int]] = []
        keys: list[tuple[int, tuple[str, int]]] = []
        for number, sending in enumerate(sendings):
            swaps: dict[tuple[str, int], list[Swap]] = {}
            for part in sending.parts:
                kind = self.model.spaces[part.name].kind
                swap = self._swap(part, sources[sending.place])
                swaps.setdefault((ADDED.get(kind, kind), part.layer), []).append(swap)
            for key, own in swaps.items():
                space = self.space(key[0])
                assert space is not None
                cells.append(Cell(sending.place, tuple(own)))
                sites.append((space, key[1]))
                keys.append((number, key))
        made: list[Changes] = [{} for _ in sendings]
        left = []
        for place, (cell, (space, layer)) in enumerate(zip(cells, sites, strict=True)):
            before = bases[cell.state].activations[space.name][layer]
            if any(swap.space.name != space.name for swap in cell.swaps):
                left.append(place)
                continue
            after = before.clone()
            for swap in cell.swaps:
                put(after, swap)
            number, key = keys[place]
            made[number][key] = after - before
        run = self.model._executor.cell_activations(
            bases, [cells[place] for place in left], [sites[place] for place in left], batch_size=self.batch_size
        )
        for at, values in run:
            number, key = keys[left[at]]
            space, layer = sites[left[at]]
            made[number][key] = values - bases[cells[left[at]].state].activations[space.name][layer]
        return made

    def _swap(self, part: Part, source: State) -> Swap:
        """What a part has in the run that it comes from."""
        import torch

        space = self.model.spaces[part.name]
        into, out_of = self.tokens(part.match)
        values = source.activations[part.name][part.layer][out_of]
        if part.units is None:
            return Swap(space, part.layer, into, values)
        dims = torch.from_numpy(space.numbers(part.units))
        return Swap(space, part.layer, into, values[:, dims], dims)

    def _received(
        self, bases: Sequence[State], sendings: Sequence[Sending], changes: Sequence[Changes]
    ) -> list[list[Swap]]:
        """Per sender, the receivers with what they get from it."""
        import torch

        received: list[list[Swap]] = [[] for _ in sendings]
        for receiver in self.ends.receivers:
            space = self.model.spaces[receiver.name]
            dims = None if receiver.units is None else torch.from_numpy(space.numbers(receiver.units))
            cells: list[Cell] = []
            numbers: list[int] = []
            got: list[tuple[int, torch.Tensor]] = []
            for number, sending in enumerate(sendings):
                state = bases[sending.place]
                own = {key: each for key, each in changes[number].items() if self.ends.precedes(*key, receiver)}
                if not own:
                    continue  # it is what it is in the unpatched run
                if receiver.is_stream and self.freeze == ALL:
                    got.append((number, state.activations[receiver.name][receiver.layer] + sum(own.values())))
                else:
                    cells.append(Cell(sending.place, self._entering(state, receiver, own)))
                    numbers.append(number)
            run = self.model._executor.cell_activations(
                bases, cells, [(space, receiver.layer)] * len(cells), batch_size=self.batch_size
            )
            got += [(numbers[at], values) for at, values in run]
            for number, values in got:
                tokens = torch.arange(len(values))
                received[number].append(
                    Swap(space, receiver.layer, tokens, values if dims is None else values[:, dims], dims)
                )
        return received

    def _entering(self, state: State, receiver: Receiver, changes: Changes) -> tuple[Swap, ...]:
        """The stream as it enters the block of a receiver, and its attention, frozen where its MLP receives."""
        import torch

        if self.freeze != ALL:
            return self._past_attentions(state, receiver, changes)
        layer = receiver.layer
        before = [each for (own, place), each in changes.items() if place < layer or own == "pre"]
        inside = [each for (own, place), each in changes.items() if place == layer and STEP[own] == ATTENTION]
        tokens = torch.arange(next(iter(changes.values())).shape[0])
        swaps = []
        if before:
            kind, at = (RESIDUAL, layer - 1) if layer else ("pre", 0)
            space = self.space(kind)
            assert space is not None
            swaps.append(Swap(space, at, tokens, state.activations[space.name][at] + sum(before)))
        attention = self.space("attention")
        if receiver.step[1] == MLP:
            assert attention is not None
            frozen = state.activations[attention.name][layer]
            swaps.append(Swap(attention, layer, tokens, frozen + sum(inside) if inside else frozen))
        return tuple(swaps)

    def _past_attentions(self, state: State, receiver: Receiver, changes: Changes) -> tuple[Swap, ...]:
        """What the senders' sublayers add, and the attentions before a receiver as they are."""
        import torch

        values: dict[tuple[str, int], torch.Tensor] = {}
        first = min((layer, STEP[kind]) for kind, layer in changes)
        attention = self.space("attention")
        for layer in range(first[0], receiver.layer + 1) if attention is not None else ():
            if first < (layer, ATTENTION) < receiver.step and attention is not None and attention.widths[layer]:
                values["attention", layer] = state.activations[attention.name][layer]
        swaps = []
        for key, change in changes.items():
            space = self.space(key[0])
            assert space is not None
            values[key] = state.activations[space.name][key[1]] + change
        for (kind, layer), own in values.items():
            space = self.space(kind)
            assert space is not None
            swaps.append(Swap(space, layer, torch.arange(len(own)), own))
        return tuple(swaps)

    def _check_adds(self, state: State) -> None:
        """Refuse blocks on the way whose output is not their input and what their attention and their MLP add."""
        import torch

        first = min(layer for own in self.ends.layers.values() for layer in own)
        last = self.ends.receivers[-1]
        weights = self.model._executor.module.parameters()
        kinds = [each.dtype for each in weights if each.is_floating_point() and each.dtype.itemsize > 1]
        seen = Seen(epsilon=max((torch.finfo(kind).eps for kind in kinds), default=1e-7))
        for layer in range(first, last.layer + (last.kind == RESIDUAL)):
            before = state.activations[f"{self.ends.tower}.pre"][layer]
            after = state.activations[self.ends.tower][layer]
            added, missing = torch.zeros_like(before), []
            for kind in ("attention", "mlp"):
                space = self.space(kind)
                if reason := reason_of(space, layer):
                    missing.append(reason)
                elif space is not None:
                    added = added + state.activations[space.name][layer][:, : before.shape[1]]
            change = after - before
            if bool((change != added).any()) and not seen.fits(change - added, change, before, after):
                why = (
                    "; ".join(dict.fromkeys(missing))
                    or "such as a norm of the stream, another sublayer, or an intervention"
                )
                raise InputError(
                    f"Paths past block {layer} of the {self.ends.tower} tower of {self.model.name} are not defined: it "
                    "changes the stream by something other than what its attention and its MLP add, which alone can "
                    f"be frozen ({why})."
                )

    # -- estimated ---------------------------------------------------------------------------------------------------

    def estimated(
        self, bases: Sequence[State], sources: Sequence[State]
    ) -> Iterator[tuple[int, dict[str, Float[np.ndarray, "layer unit"]]]]:
        """Yield the place of each pair, and per swept space the estimated change of the metric by each unit."""
        found = [{name: np.zeros(self.model.spaces[name].shape) for name in self.ends.candidates} for _ in self.some]
        base, _ = self.sides
        for receiver in self.ends.receivers:
            reads, through = self._reads(receiver)
            if not reads:
                continue
            cells = [Cell(place, self._frozen(state, receiver)) for place, state in enumerate(bases)]
            run = self.model._executor.path_gradients(
                bases, cells, reads, through, self.measured(base), batch_size=self.batch_size
            )
            for place, slopes in run:
                for name in self.ends.candidates:
                    found[place][name] += self._products(name, place, (bases[place], sources[place]), slopes)
        yield from enumerate(found)

    def _products(
        self, name: str, place: int, states: tuple[State, State], slopes: AtSites
    ) -> Float[np.ndarray, "layer unit"]:
        """Difference of activations times gradient, of all units of a space."""
        import torch

        gradient = torch.zeros_like(states[0].activations[name])
        for (own, layer), values in slopes.items():
            if own == name:
                gradient[layer] = values
        return self.products(name, self.everywhere(name, self.some[place]), *states, gradient)

    def _reads(self, receiver: Receiver) -> tuple[list[Sites], list[Through]]:
        """The sites that send to a receiver, with the receiver where paths around it do not count."""
        import torch

        senders = {
            name: tuple(
                layer
                for layer in np.flatnonzero(mask.any(1)).tolist()
                if self.ends.precedes(self.model.spaces[name].kind, layer, receiver)
            )
            for name, mask in self.ends.candidates.items()
        }
        senders = {name: layers for name, layers in senders.items() if layers}
        if receiver.is_stream or not senders:  # there is no path around the stream
            return [Sites(self.model.spaces[name], layers) for name, layers in senders.items()], []
        space = self.model.spaces[receiver.name]
        numbers = None if receiver.units is None else torch.from_numpy(space.numbers(receiver.units))
        through = [
            Through((self.model.spaces[name], layer), (space, receiver.layer), numbers)
            for name, layers in senders.items()
            for layer in layers
        ]
        reads = dict(senders)
        reads[space.name] = tuple(sorted({*reads.get(space.name, ()), receiver.layer}))
        return [Sites(self.model.spaces[name], layers) for name, layers in reads.items()], through

    def _frozen(self, state: State, receiver: Receiver) -> tuple[Swap, ...]:
        """Every sublayer before a receiver as it is, from where it sends on, and the receivers behind it."""
        import torch

        first = min(layer for own in self.ends.layers.values() for layer in own)
        swaps = []
        for layer in range(first, receiver.layer + 1):
            for inner, outer in (("heads", "attention"), ("neurons", "mlp")):
                for kind in (inner, outer) if outer in self.frozen else ():
                    space = self.space(kind)
                    swept = space is not None and space.name in self.ends.candidates
                    if space is None or not space.widths[layer] or not (swept or kind in ("attention", "mlp")):
                        continue
                    if (layer, STEP[kind]) < receiver.step:
                        values = state.activations[space.name][layer]
                        swaps.append(Swap(space, layer, torch.arange(len(values)), values))
                    break
        for other in self.ends.receivers:
            if other.step > receiver.step:
                space = self.model.spaces[other.name]
                values = state.activations[other.name][other.layer]
                dims = None if other.units is None else torch.from_numpy(space.numbers(other.units))
                own = values if dims is None else values[:, dims]
                swaps.append(Swap(space, other.layer, torch.arange(len(values)), own, dims))
        return tuple(swaps)


def put(values: Float[torch.Tensor, "token number"], swap: Swap) -> None:
    """Swap in place."""
    if swap.dims is None:
        values[swap.tokens] = swap.values
    else:
        values[swap.tokens[:, None], swap.dims] = swap.values
