"""Where in the blocks of a tower the units of each kind of space are, measured once per model.

Structure proposes places (:mod:`modalnet.models.sublayers`); names of norms lie, halves of fused projections are not
labelled, and some attentions see the tokens in windows. So one stimulus runs twice: once to see which modules run, and
in which order, and once for what a few positions of them hold. A place is kept if the numbers say that it is one; see
:mod:`modalnet.execution.additions`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modalnet.errors import ModalnetError
from modalnet.execution.additions import End, Seen
from modalnet.execution.measurement import Measurement
from modalnet.execution.placing import Found, Placing
from modalnet.models.places import Absent
from modalnet.models.projections import projections
from modalnet.models.streams import plain
from modalnet.models.sublayers import SUBLAYER_KINDS, find_places

if TYPE_CHECKING:
    import torch

    from modalnet.execution.compile import Form
    from modalnet.execution.engine import Engine
    from modalnet.inputs.batch import Batch, Encoded
    from modalnet.inputs.encoding import Encoder
    from modalnet.interventions.positions import Span
    from modalnet.models.places import Side
    from modalnet.models.towers import Tower

#: Positions that are looked at.
N_POSITIONS = 6


class Sublayers(Measurement):
    """Measures where the units in blocks are, once per tower.

    Attributes
    ----------
    unmeasured
        Names of towers whose places are those that structure alone says, since no pass could be looked into.
    """

    def __init__(
        self,
        engine: Engine,
        encoder: Encoder,
        towers: dict[str, Tower],
        spans: Callable[[Batch, str, int], tuple[list[Span], int]],
    ) -> None:
        super().__init__(engine, encoder, towers, spans)
        self.unmeasured: set[str] = set()
        self._known: dict[str, list[dict[str, Found] | None]] = {}
        self._tried: set[Any] = set()
        self._seen: dict[tuple[str, int], Seen] = {}

    def places(self, tower: Tower, item: Encoded) -> dict[str, tuple[Found, ...]]:
        """Where the units of each kind are in each block.

        Parameters
        ----------
        tower
            The tower.
        item
            A stimulus that reaches it. A block that does not run on it keeps its likeliest places.
        """
        known = self._known.setdefault(tower.name, [None] * tower.n_layers)
        if None in known and (tower.name, item.kind) not in self._tried:
            self._tried.add((tower.name, item.kind))
            for layer, found in enumerate(self._measured(tower, item)):
                known[layer] = known[layer] or found
        whole = [found or likeliest(tower, layer) for layer, found in enumerate(known)]
        return {kind: tuple(found[kind] for found in whole) for kind in SUBLAYER_KINDS}

    def in_order(self, tower: Tower, places: Sequence[Found]) -> tuple[Found, ...]:
        """Places of a tower that were found elsewhere, layer by layer, with the order in which a pass reaches them.

        None is left of a place that does not see every position of the stream.
        """
        return tuple(self._in_order(self._seen.get((tower.name, layer)), place) for layer, place in enumerate(places))

    def _in_order(self, seen: Seen | None, place: Found) -> Found:
        if seen is None or isinstance(place, Absent):
            return place
        if (place.path, place.side) not in seen.rank:
            # It runs inside of a module that was watched as a whole.
            around = [place.path[: at.start()] for at in re.finditer(r"\.", place.path)]
            begins = [seen.order((path, "input")) for path in around if (path, "input") in seen.rank]
            return replace(place, order=max(begins) + 0.05) if begins else place
        here, stream = (seen.n_positions.get(end) for end in ((place.path, "input"), ("", "output")))
        if here is not None and here != stream:
            return Absent(f"its {place.path} sees {here} of {stream} positions")
        return replace(place, order=seen.order((place.path, place.side)))

    def _measured(self, tower: Tower, item: Encoded) -> list[dict[str, Found] | None]:
        try:
            seen = self._look(tower, item)
        except (ModalnetError, RuntimeError, ValueError, IndexError, TypeError):
            self.unmeasured.add(tower.name)
            return [None] * tower.n_layers
        self.unmeasured.discard(tower.name)
        for layer, block in enumerate(seen):
            self._seen[tower.name, layer] = replace(block, rows={})
        return [
            Placing(tower, tower.blocks[layer], block).places()
            if block is not None and ("", "output") in block.rank
            else None
            for layer, block in enumerate(seen)
        ]

    def _look(self, tower: Tower, item: Encoded) -> list[Seen]:
        """What each block holds at a few positions, from two passes."""
        import torch

        batch = self.encoder.collate([item])
        watched = [(layer, path, module) for layer in range(tower.n_layers) for path, module in _watched(tower, layer)]
        calls = self.engine.calls(batch.inputs, tower, batch.root, [module for *_, module in watched])
        kinds = {parameter.dtype for parameter in tower.blocks[0].parameters() if parameter.is_floating_point()}
        epsilon = max((torch.finfo(kind).eps for kind in kinds if kind.itemsize > 1), default=1e-7)
        seen = [Seen(epsilon=epsilon) for _ in range(tower.n_layers)]
        shapes: dict[tuple[int, End], tuple[int, ...] | None] = {}
        for number, visits, given, gives in calls:
            layer, path, _ = watched[number]
            seen[layer].visits[path] = visits
            shapes[layer, (path, "input")], shapes[layer, (path, "output")] = given, gives
        once = [number for number, visits, *_ in calls if visits == 1]
        sites: list[tuple[torch.nn.Module, Form, torch.Tensor]] = []
        ends: list[tuple[int, End]] = []
        for rank, (number, end) in enumerate(
            in_order(once, [f"{layer}.{path}".rstrip(".") for layer, path, _ in watched])
        ):
            layer, path, module = watched[number]
            seen[layer].rank[path, end] = rank
            form = _form(tower, path, module, shapes[layer, (path, end)], end == "input")
            stream = _form(tower, "", module, shapes.get((layer, ("", "output"))), False)
            if form is None or stream is None or _tokens_first(shapes[layer, (path, end)]):
                continue
            seen[layer].n_positions[path, end] = form[1]
            if form[1] == stream[1]:
                index = torch.linspace(0, form[1] - 1, min(N_POSITIONS, form[1])).long()
                sites.append((module, form[0], index))
                ends.append((layer, (path, end)))
        for (layer, where), rows in zip(
            ends, self.engine.glimpses(batch.inputs, tower, batch.root, sites), strict=True
        ):
            seen[layer].rows[where] = rows
        return seen


def likeliest(tower: Tower, layer: int) -> dict[str, Found]:
    """The likeliest places in a block by its structure alone."""
    found: dict[str, Found] = {}
    for kind, candidates in find_places(tower, tower.blocks[layer]).items():
        first = candidates if isinstance(candidates, Absent) else candidates[0]
        if not isinstance(first, Absent) and isinstance(first.scale, float) and math.isnan(first.scale):
            first = Absent("what it is multiplied with before it is added can only be measured")
        found[kind] = first
    return found


def in_order(called: Sequence[int], paths: Sequence[str]) -> Iterator[tuple[int, Side]]:
    """The inputs and outputs of modules in the order of a pass, from the order in which the modules are called.

    A module gives its output when the next one that is called is not inside it.
    """
    running: list[int] = []
    for number in called:
        while running and not paths[number].startswith(f"{paths[running[-1]]}."):
            yield running.pop(), "output"
        yield number, "input"
        running.append(number)
    while running:
        yield running.pop(), "output"


def _tokens_first(shape: tuple[int, ...] | None) -> bool:
    """Whether tokens come before stimuli, so that those of several would not lie one after the other."""
    return shape is not None and len(shape) == 3 and shape[0] > 1 and shape[1] == 1


_EXPERT = re.compile(r"(?<!shared)(?<!shared_)expert", re.IGNORECASE)


def _watched(tower: Tower, layer: int) -> list[tuple[str, torch.nn.Module]]:
    """The modules of a block that are worth looking at, by their paths inside it; the block itself is the last."""
    block: Any = tower.blocks[layer]
    inner = plain(block) if tower.modality == "image" else block
    whole = {each.path for each in projections(inner)}
    found: dict[int, tuple[str, torch.nn.Module]] = {}
    for path, module in inner.named_modules():
        around = [path[: at.start()] for at in re.finditer(r"\.", path)]
        idle = type(module).__name__ in ("Dropout", "Identity", "HookPoint", "ModuleList", "ModuleDict")
        if not idle and not any(each in whole or _EXPERT.search(each) for each in around):
            found.setdefault(id(module), (path, module))
    return [*(each for each in found.values() if each[0]), ("", inner)]


def _form(
    tower: Tower, path: str, module: torch.nn.Module, shape: tuple[int, ...] | None, inward: bool
) -> tuple[Form, int] | None:
    """How one side of a module is laid out, and its number of positions; None where it holds no vectors."""
    if shape is None or len(shape) < 2:
        return None
    if path:
        columns = shape[1] if len(shape) == 4 and hasattr(module, "kernel_size") else shape[-1]
        return (columns, 1, False, inward), math.prod(shape) // max(1, columns)
    return (tower.width, tower.streams, tower.streams_first, inward), math.prod(shape) // tower.width
