"""Which of the places that the structure of a block allows are true, from what was seen of it in a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from modalnet.execution.additions import Addition, Change, End, Seen, alone, changes, reached, together
from modalnet.models.parts import Mlp, Parts
from modalnet.models.places import Absent, Candidates, Place
from modalnet.models.streams import plain
from modalnet.models.sublayers import SUBLAYER_KINDS, find_places

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.models.towers import Tower

#: Where the units of one kind are in one block, or why there are none.
Found: TypeAlias = Place | Absent

_OTHERWISE = Absent("what its modules put out is not what the stream changes by")


class Placing:
    """Chooses among the candidates of one block.

    Parameters
    ----------
    tower, block
        The tower and one of its blocks.
    seen
        What was seen of it.
    """

    def __init__(self, tower: Tower, block: Any, seen: Seen) -> None:
        inner = plain(block) if tower.modality == "image" else block
        self.seen = seen
        self.width = tower.width // tower.streams
        self.parts = Parts(inner, self.width)
        self.candidates = find_places(tower, block)
        self.whole_stream = tower.streams == 1

    def places(self) -> dict[str, Found]:
        """The place of each kind, or why there is none."""
        attention, mlp = self.additions
        found: dict[str, Found] = {
            "pre": self._first("pre"),
            "heads": self._heads(),
            "attention": self._added("attention", attention),
            "mlp": self._added("mlp", mlp),
            "mid": self._mid(attention, mlp),
        }
        found |= self._inside_mlp()
        return {kind: self._in_order(kind, found[kind]) for kind in SUBLAYER_KINDS}

    def _in_order(self, kind: str, found: Found) -> Found:
        """A place with its measured order."""
        if isinstance(found, Absent) or kind == "pre":
            return found
        # The stream between is made of what the attention adds, so whatever is done to that comes first.
        later = 1e-3 if kind == "mid" else 0.0
        return replace(found, order=self.seen.order((found.path, found.side)) + later)

    def _first(self, kind: str) -> Found:
        candidates = self.candidates[kind]
        return candidates if isinstance(candidates, Absent) else candidates[0]

    # What is added

    @cached_property
    def stream(self) -> list[End]:
        """Where the stream is seen: at the ends of the block, of norms, and where projections read it."""
        named = [
            path
            for path in self.seen.visits
            if path and "norm" in f"{path} {type(plain(self.parts.block.get_submodule(path))).__name__}".lower()
        ]
        ends: list[End] = [("", "input"), ("", "output")] if self.whole_stream else []
        ends += [(path, side) for path in named for side in ("input", "output")]
        # What a sublayer puts out, and what a norm makes of that, is not the stream.
        begins = [self._begin(kind) for kind in ("attention", "mlp") if self.outputs[kind]]
        begins += [mlp.down.path for mlp in self.parts.mlps]
        outputs = reached(self.seen, begins, list(self.seen.visits))
        return [
            end
            for end in ends
            if end in self.seen.rows
            and self.seen.rows[end].shape[1] == self.width
            and end[0] not in outputs
            and not any(self.seen.equal(end, (path, "output")) for path in outputs)
        ]

    @cached_property
    def changes(self) -> list[Change]:
        """Every change of the stream."""
        inside = [each.path for each in self.parts.attentions]
        read: list[End] = [
            (each.path, "input")
            for each in self.parts.projections
            if each.n_in == self.width and not any(each.path.startswith(f"{path}.") for path in inside)
        ]
        return changes(self.seen, [*self.stream, *read])

    @cached_property
    def outputs(self) -> dict[str, list[str]]:
        """Candidates for what each sublayer adds that are linked with its last projection, likeliest first."""
        return {kind: self._outputs(kind) for kind in ("attention", "mlp")}

    @cached_property
    def additions(self) -> tuple[Addition | None, Addition | None]:
        """What the attention and the MLP add."""
        attention, mlp = self.outputs["attention"], self.outputs["mlp"]
        one, two = (alone(self.seen, outputs, self.changes) for outputs in (attention, mlp))
        if one is None and two is None:
            pair = together(self.seen, attention, mlp, self.changes)
            if pair is not None:
                return pair
        if one is None:
            one = self._otherwise("attention", attention, mlp)
        if two is None:
            two = self._otherwise("mlp", mlp, attention)
        return one, two

    def _otherwise(self, kind: str, outputs: Sequence[str], others: Sequence[str]) -> Addition | None:
        """What a sublayer adds behind a sum, beside another, or to a stream that is multiplied as well."""
        return (
            self._behind(kind, outputs, others)
            or self._beside(kind, outputs, others)
            or alone(self.seen, outputs, self.changes, rescaled=True)
        )

    def _outputs(self, kind: str) -> list[str]:
        candidates = self.candidates[kind]
        if isinstance(candidates, Absent):
            return []
        paths = [place.path for place in candidates]
        begin = self._begin(kind)
        around = [path for path in paths if f"{begin}.".startswith(f"{path}.")]
        return [
            path for path in paths if path in reached(self.seen, around, paths) and (path, "output") in self.seen.rows
        ]

    def _begin(self, kind: str) -> str:
        """The innermost module that puts out what a sublayer adds."""
        if kind == "attention":
            return self.parts.own_attentions[0].out.path
        return self.parts.experts if self.parts.experts is not None else self.parts.mlps[0].down.path

    def _behind(self, kind: str, outputs: Sequence[str], others: Sequence[str]) -> Addition | None:
        """A module that is not fed by a sublayer alone and yet adds what it puts out, such as a norm of a sum."""
        candidates = self.candidates[kind]
        if isinstance(candidates, Absent):
            return None
        begin = self.seen.rank.get(
            (self._begin(kind), "output"), self.seen.rank.get((outputs[-1], "output"), 0) if outputs else 0
        )
        end = self._starts_next(kind)
        paths = [
            place.path
            for place in candidates
            if place.path not in (*outputs, *others)
            and (place.path, "output") in self.seen.rows
            and begin < self.seen.rank[place.path, "output"] < end
        ]
        return alone(self.seen, paths, self.changes)

    def _starts_next(self, kind: str) -> float:
        """When the MLP starts, for the attention; the end of the block for the MLP."""
        starts = [self.seen.rank.get((up.path, "input")) for mlp in self.parts.mlps for up in mlp.up]
        known = [start for start in starts if start is not None]
        return min(known) if kind == "attention" and known else float("inf")

    def _beside(self, kind: str, outputs: Sequence[str], others: Sequence[str]) -> Addition | None:
        """What a sublayer adds together with another one that runs beside it; an attention, with any other module."""
        children = [
            path
            for path in self.seen.visits
            if path and "." not in path and path not in outputs and (path, "output") in self.seen.rows
        ]
        children = children if kind == "attention" else []
        pair = together(self.seen, outputs, [*others, *children], self.changes)
        return None if pair is None else pair[0]

    def _added(self, kind: str, addition: Addition | None) -> Found:
        candidates = self.candidates[kind]
        if isinstance(candidates, Absent):
            return candidates
        if addition is None:
            return self._missing(self._begin(kind), "output") or self._unlike
        place = next(each for each in candidates if each.path == addition.end[0])
        return replace(place, scale=self._scale(addition, place))

    @property
    def _unlike(self) -> Absent:
        return _OTHERWISE if self.whole_stream else Absent("it mixes several residual streams")

    def _scale(self, addition: Addition, place: Place) -> Any:
        import torch

        scale, said = addition.scale, torch.as_tensor(place.scale)
        if said.dim() and bool(((said - scale).abs() <= 10 * self.seen.tolerance).all()):
            return place.scale
        if scale.dim():
            return scale.numpy()
        near = [each for each in (1.0, place.scale) if isinstance(each, float)]
        return next((each for each in near if abs(float(scale) - each) <= 10 * self.seen.tolerance), float(scale))

    def _mid(self, attention: Addition | None, mlp: Addition | None) -> Found:
        """The stream where the MLP reads it, as the sum of what an attention adds and the stream before that."""
        for kind in ("attention", "mlp"):
            candidates = self.candidates[kind]
            if isinstance(candidates, Absent):
                return candidates
        if attention is None or mlp is None:
            return self._unlike
        start = mlp.change.start
        if self.seen.equal(attention.change.start, start):
            return Absent("its attention and its MLP run side by side")
        before = [change for change in self.changes if self.seen.equal(change.end, start)]
        outputs = [attention.end[0], *(each.out.path for each in self.parts.attentions if each.is_cross)]
        found = alone(self.seen, [path for path in outputs if (path, "output") in self.seen.rows], before)
        if found is None:
            return Absent("what its MLP reads is not the sum of the stream and what its attention adds")
        base: End = ("", "input") if self.seen.equal(found.change.start, ("", "input")) else found.change.start
        known = [each for each in self._places("attention") if each.path == found.end[0]]
        place = known[0] if known else Place(found.end[0], "output", self.width, self.width)
        return replace(place, scale=self._scale(found, place), base=base)

    def _places(self, kind: str) -> tuple[Place, ...]:
        candidates: Candidates = self.candidates[kind]
        return () if isinstance(candidates, Absent) else candidates

    # What enters the last projections

    def _heads(self) -> Found:
        place = self._first("heads")
        if isinstance(place, Absent):
            return place
        (attention, *_) = self.parts.own_attentions
        reads = [each.path for each in self.parts.projections if each.path.startswith(f"{attention.path}.")]
        return self._missing(place.path, "input") or self._misplaced("attention", place.path, reads) or place

    def _missing(self, path: str, side: Any) -> Absent | None:
        """Why one side of a module was not seen, position by position of the stream."""
        if (path, side) in self.seen.rows:
            return None
        visits = self.seen.visits.get(path, 0)
        if not visits:
            return Absent(f"its {path} is not called as a module")
        if visits > 1:
            return Absent(f"its {path} is called {visits} times in a pass")
        has, stream = self.seen.n_positions.get((path, side)), self.seen.n_positions.get(("", "output"))
        return Absent(f"its {path} works on {has} positions and the stream has {stream}, as in windows")

    def _misplaced(self, kind: str, path: str, reads: Sequence[str]) -> Absent | None:
        """Why the positions of a projection may not be those of the stream, in its order."""
        addition = self.additions[0 if kind == "attention" else 1]
        if addition is not None and path in reached(self.seen, [path], [path]):
            around = [each.path for each in self._places(kind)]
            own = [each for each in around if f"{path}.".startswith(f"{each}.")]
            linked = reached(self.seen, [path], [each for each in around if each not in own or each == path])
            same = [each for each in own if self.seen.equal((each, "output"), (path, "output"))]
            if addition.end[0] in (*linked, *same, *reached(self.seen, same, around)):
                return None
        if any(self.seen.equal((each, "input"), end) for each in reads for end in self.stream):
            return None
        if not self.whole_stream:  # of several streams none need be what a sublayer reads
            return None
        return Absent(f"the positions in its {path} are not in the order of the stream, as in windows")

    def _inside_mlp(self) -> dict[str, Found]:
        """The places of neurons, gate and activation."""
        first = self._first("neurons")
        if isinstance(first, Absent):
            return dict.fromkeys(("neurons", "gate", "activation"), first)
        (mlp,) = self.parts.mlps
        missing = self._missing(first.path, "input")
        wrong = missing or self._misplaced("mlp", first.path, [up.path for up in mlp.up])
        if wrong is not None:
            return dict.fromkeys(("neurons", "gate", "activation"), wrong)
        gate, activation = Nonlinearity(self.seen, mlp, self.candidates).places()
        return {"neurons": first, "gate": gate, "activation": activation}


class Nonlinearity:
    """Finds what enters the non-linearity of an MLP and what leaves it.

    Parameters
    ----------
    seen
        What was seen of the block.
    mlp
        The MLP.
    candidates
        By kind.
    """

    def __init__(self, seen: Seen, mlp: Mlp, candidates: dict[str, Candidates]) -> None:
        self.seen = seen
        self.mlp = mlp
        self.gates = candidates["gate"]
        self.activations = candidates["activation"]
        self.neurons = seen.rows[mlp.down.path, "input"]

    def places(self) -> tuple[Found, Found]:
        """The gate and the activation."""
        if isinstance(self.gates, Absent):
            return self.gates, self.gates
        halves = list(self._halves())
        for path in dict.fromkeys(place.path for place in self.gates if place.side == "input"):
            given, gives = self.seen.rows.get((path, "input")), self.seen.rows.get((path, "output"))
            if given is None or gives is None or given.shape != self.neurons.shape or gives.shape != given.shape:
                continue
            here = [half for half in halves if same(self.seen, half[1], given)]
            others = [half[1] for half in halves if not here or half[0] is not here[0][0]]
            makes = [gives, *(gives * other for other in others)]
            if here or any(same(self.seen, made, self.neurons) for made in makes):
                return self._gate(path, here), self._activation(path)
        for function in _functions():
            for place, half in halves:
                others = [other for _, other in halves if other is not half]
                activated = function(half)
                makes = [part for other in others for part in (activated * other, activated * (other + 1))]
                makes = makes or [activated]
                if any(same(self.seen, made, self.neurons) for made in makes):
                    return place, self._activation(None)
        return Absent("which of its numbers enter the non-linearity is not known"), self._activation(None)

    def _halves(self) -> Iterator[tuple[Place, Float[torch.Tensor, "position neuron"]]]:
        """What the projections to the hidden width put out, part by part."""
        width = self.mlp.down.n_in
        for up in self.mlp.up:
            rows = self.seen.rows.get((up.path, "output"))
            for start in range(0, up.n_out, width):
                if rows is not None:
                    place = Place(up.path, "output", width, up.n_out, start=start)
                    yield place, rows[:, start : start + width]

    def _gate(self, path: str, here: Sequence[tuple[Place, Any]]) -> Found:
        """The projection's output where it is what enters the activation module, else that module's input."""
        if here and here[0][0].columns == here[0][0].width:
            return here[0][0]
        width = self.mlp.down.n_in
        return Place(path, "input", width, width)

    def _activation(self, path: str | None) -> Found:
        if isinstance(self.activations, Absent):
            return self.activations
        if path is None:
            return Absent("its activation function is not a module")
        return next(place for place in self.activations if place.path == path)


def same(seen: Seen, one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether numbers are the same up to rounding."""
    return one.shape == other.shape and seen.fits(one - other, other, one)


def _functions() -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """Non-linearities that blocks call without a module."""
    import torch
    from torch.nn import functional

    return [
        functional.silu,
        functional.gelu,
        lambda x: functional.gelu(x, approximate="tanh"),
        functional.relu,
        lambda x: functional.relu(x).square(),
        lambda x: x * torch.sigmoid(1.702 * x),
        torch.sigmoid,
        torch.tanh,
    ]
