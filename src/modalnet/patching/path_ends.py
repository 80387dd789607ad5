"""The ends of paths: what sends, what receives, and which sender comes before which receiver.

A sender is one or more units of a sublayer (heads, neurons, dimensions of what the sublayer adds), a whole sublayer, or
the residual stream; a receiver is any of these, or the logits. What one sends to another it adds to the stream, which
carries it past the sublayers between. So a sender must lie before its receiver, in an earlier block or in the attention
of the block whose MLP receives; where both run side by side, the MLP does not read what the attention adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet._validation import refusal
from modalnet.activations import check_units
from modalnet.errors import InputError
from modalnet.interventions.operations import Site
from modalnet.models.places import Absent
from modalnet.models.sites import RESIDUAL, absent_everywhere, check_exist, choose_spaces, get_space, layers_of
from modalnet.units import SelectsUnits, Units, as_units

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from modalnet.model import Model
    from modalnet.models.sites import Space
    from modalnet.stimuli import Stimulus

LOGITS = "logits"
#: When a forward pass reaches what sends or receives inside a block, by kind of space.
STEP = {
    "pre": 0,
    "heads": 1,
    "attention": 1,
    "mid": 2,
    "gate": 3,
    "activation": 3,
    "neurons": 3,
    "mlp": 3,
    RESIDUAL: 4,
}
ATTENTION, MLP = 1, 3
#: The kind of space that a sender's sublayer adds to the stream by.
ADDED = {"heads": "attention", "attention": "attention", "neurons": "mlp", "mlp": "mlp"}
SENDERS = (*ADDED, "pre", RESIDUAL)
#: Kinds that are the stream itself.
STREAM = ("pre", "mid", RESIDUAL)
#: Kinds whose units are swept one by one where a sweep is over all senders of the space.
SWEPT = ("heads", "neurons")


@dataclass(frozen=True, eq=False)
class Receiver:
    """One layer of a space, or some units of it.

    Attributes
    ----------
    name, kind, layer
        The space, its kind, and the layer.
    units
        Which units; None for all.
    """

    name: str
    kind: str
    layer: int
    units: Int[np.ndarray, " unit"] | None = None

    @property
    def is_stream(self) -> bool:
        """Whether it is the stream, whose value is known without a run."""
        return self.kind in STREAM

    @property
    def step(self) -> tuple[int, int]:
        """When a forward pass reaches it."""
        return self.layer, STEP[self.kind]


@dataclass(frozen=True, eq=False)
class Ends:
    """The senders and receivers of one analysis.

    Attributes
    ----------
    tower
        Name of the tower that both are in.
    label
        The receivers, for people.
    receivers
        In forward order; the logits are the output of the last block.
    layers
        Per space of the senders, the layers that send.
    units
        The units that send; None where whole layers do.
    candidates
        Per space, which units are swept one by one; empty for no sweep.
    serial
        Layers whose MLP reads what the attention adds.
    """

    tower: str
    label: str
    receivers: tuple[Receiver, ...]
    layers: dict[str, tuple[int, ...]]
    units: Units | None
    candidates: dict[str, Bool[np.ndarray, "layer unit"]] = field(default_factory=dict)
    serial: frozenset[int] = frozenset()

    @classmethod
    def of(cls, model: Model, stimuli: Sequence[Stimulus], sender: Any, receiver: Any, *, per_unit: bool) -> Ends:
        """Find the ends that are meant.

        Raises
        ------
        InputError
            If an end is none, is empty or of another model, cannot send or receive, or if no sender comes before a
            receiver.
        """
        for name, end in (("sender", sender), ("receiver", receiver)):
            if end is None:
                given, missing = ("receiver", "sender") if name == "sender" else ("sender", "receiver")
                raise InputError(
                    f"`{given}` was given without `{missing}`: path patching is between two ends. Give `sender` (a "
                    "site, units, or the name of a space to sweep) and `receiver` (a site, units, or 'logits')."
                )
        receivers = _receivers(model, receiver)
        (tower, *others) = dict.fromkeys(model.spaces[one.name].tower.name for one in receivers)
        if others:
            raise InputError(f"`receiver` must lie in one tower, got {tower} and {others[0]}.")
        chosen, units = _senders(model, sender, tower)
        _measure(model, stimuli, tower, [*chosen, *(one.name for one in receivers)])
        named = _named(sender)
        ends = cls(tower, _label(receiver, receivers), receivers, {}, units, serial=_serial(model, tower))
        layers = _layers(model, ends, chosen, named=named)
        kinds = {name: model.spaces[name].kind for name in layers}
        if per_unit and any(kind in STREAM for kind in kinds.values()):
            raise InputError(
                "`per_unit` takes senders that add to the stream (heads, neurons, attention, mlp), but `sender` is the "
                "stream itself."
            )
        candidates: dict[str, Bool[np.ndarray, "layer unit"]] = {}
        for name, own in layers.items():
            if per_unit or (named and kinds[name] in SWEPT):
                mask = np.zeros(model.spaces[name].shape, dtype=bool)
                mask[list(own)] = model.spaces[name].exists[list(own)]
                candidates[name] = mask if units is None else mask & units.mask[name]
        return replace(ends, layers=layers, candidates=candidates)

    def precedes(self, kind: str, layer: int, receiver: Receiver) -> bool:
        """Whether a sender comes before a receiver on the stream."""
        same = layer == receiver.layer
        if same and STEP[kind] == ATTENTION and receiver.step[1] == MLP:
            return layer in self.serial
        return (layer, STEP[kind]) < receiver.step


def _named(sender: Any) -> bool:
    """Whether senders are given by names of spaces."""
    return isinstance(sender, str) or (isinstance(sender, list | tuple) and all(isinstance(one, str) for one in sender))


def _receivers(model: Model, receiver: Any) -> tuple[Receiver, ...]:
    """The receivers, in forward order."""
    if isinstance(receiver, str) and receiver == LOGITS:
        model._executor.runner.engine.head()
        tower = model.towers[model._executor.encoder.text_tower]
        return (Receiver(tower.name, RESIDUAL, tower.n_layers - 1),)
    made = []
    if isinstance(receiver, Site):
        space = get_space(model.spaces, receiver.space, model.name)
        made = [Receiver(space.name, space.kind, layer) for layer in sorted(set(layers_of(space, receiver.layer)))]
    elif isinstance(receiver, Units | SelectsUnits):
        units = _units(model, receiver, "receiver")
        for name, mask in units.mask.items():
            kind = model.spaces[name].kind if mask.any() else ""
            for layer in np.flatnonzero(mask.any(1)).tolist():
                made.append(Receiver(name, kind, layer, np.flatnonzero(mask[layer])))
    else:
        raise refusal("receiver", "a site such as mn.site('decoder.heads', 5), units, or 'logits'", receiver)
    for one in made:
        _check_kind(model.spaces[one.name], "receive", tuple(STEP))
    return tuple(sorted(made, key=lambda one: one.step))


def _senders(model: Model, sender: Any, tower: str) -> tuple[dict[str, tuple[int, ...] | None], Units | None]:
    """Per space of the senders their layers, None for all that come before a receiver; and the units that send."""
    chosen: dict[str, tuple[int, ...] | None] = {}
    units = None
    listed = list(sender) if isinstance(sender, list | tuple) else [sender]
    if listed and _named(sender):
        for name in choose_spaces(model.spaces, listed, model.name):
            if model.spaces[name].tower.name == tower or name in listed:
                chosen[name] = None
    elif listed and all(isinstance(one, Site) for one in listed):
        for one in listed:
            space = get_space(model.spaces, one.space, model.name)
            chosen[space.name] = (*(chosen.get(space.name) or ()), *layers_of(space, one.layer))
    elif isinstance(sender, Units | SelectsUnits):
        units = _units(model, sender, "sender")
        for name, mask in units.mask.items():
            if mask.any():
                chosen[name] = tuple(np.flatnonzero(mask.any(1)).tolist())
    else:
        raise refusal(
            "sender", "a site such as mn.site('decoder.mlp', 2), units, or the name of a space to sweep", sender
        )
    _check_senders(model, sender, chosen, tower, of_units=units is not None)
    return chosen, units


def _check_senders(model: Model, sender: Any, chosen: Iterable[str], tower: str, *, of_units: bool) -> None:
    for name in chosen:
        space = model.spaces[name]
        _check_kind(space, "send", SENDERS)
        if space.tower.name != tower:
            raise InputError(
                f"`sender` {name} and the receiver must lie in one tower, but the receiver is in the {tower} tower: "
                "between towers there is no residual stream that carries what is sent."
            )
        if of_units and space.kind in STREAM:
            raise InputError(
                f"`sender` has units of the stream ({name}), which every block before them adds to. Use units of "
                "heads, neurons, attention or mlp, or the whole stream as a site."
            )
    if not chosen:
        raise InputError(f"`sender`: the {tower} tower of {model.name} has none of the spaces {sender!r}.")


def _units(model: Model, given: Any, name: str) -> Units:
    units = as_units(given, name=name)
    check_units(model, units, f"The units of `{name}`")
    return units


def _check_kind(space: Space, what: str, kinds: Iterable[str]) -> None:
    if space.kind not in kinds or space.carrier is not space:
        names = ", ".join(kind for kind in kinds)
        raise InputError(f"{space.name} cannot {what} on a path ({space.what}); {names} can.")


def _measure(model: Model, stimuli: Sequence[Stimulus], tower: str, more: Sequence[str]) -> None:
    """Find where the sublayers of the tower are, and refuse spaces that it does not have."""
    reached = model._executor.reached(list(stimuli))
    if tower not in reached:
        raise InputError(
            f"The {tower} tower is not reached by all stimuli. Use stimuli with {model.towers[tower].noun}."
        )
    if len(model._executor.runner.layouts.firsts(tower)) > 1:
        raise InputError(
            f"Paths cannot be patched in the {tower} tower of {model.name}, which merges patches between blocks."
        )
    names = [*more, *(name for kind in STEP if (name := f"{tower}.{kind}") in model.spaces)]
    model._executor.measure(names, model._executor.prepare(list(stimuli[:1])))
    for name in more:
        if reason := absent_everywhere(model.spaces[name]):
            raise InputError(f"{name} of {model.name} cannot be patched: {reason}.")


def _serial(model: Model, tower: str) -> frozenset[int]:
    mid = model.spaces.get(f"{tower}.mid")
    return frozenset() if mid is None else frozenset(mid.layers)


def _layers(
    model: Model, ends: Ends, chosen: Mapping[str, tuple[int, ...] | None], *, named: bool
) -> dict[str, tuple[int, ...]]:
    """The layers of each sending space; of a sweep those that come before a receiver."""
    attention = model.spaces.get(f"{ends.tower}.attention")
    for one in ends.receivers:
        model.spaces[one.name].place(one.layer)
        if one.step[1] == MLP and (reason := reason_of(attention, one.layer)):
            raise InputError(
                f"`receiver` {one.name}[{one.layer}]: what precedes the MLP of this block cannot be frozen: {reason}."
            )
        if one.units is not None:
            check_exist(model.spaces, _mask(model, one), "`receiver`: ")
    layers: dict[str, tuple[int, ...]] = {}
    for name in (name for name in model.spaces if name in chosen):
        space, given = model.spaces[name], chosen[name]
        if given is not None:
            for layer in given:
                space.place(layer)
        if ends.units is not None:
            check_exist(model.spaces, ends.units, "`sender`: ")
        own = space.layers if given is None else sorted(set(given))
        before = [layer for layer in own if any(ends.precedes(space.kind, layer, one) for one in ends.receivers)]
        late = [layer for layer in own if layer not in before]
        if late and not named:
            mid = model.spaces.get(f"{ends.tower}.mid")
            beside = "its attention and its MLP run side by side" if mid is None else reason_of(mid, late[0])
            raise InputError(_too_late(ends, name, space.kind, late[0], beside))
        if before:
            layers[name] = tuple(before)
    if not layers:
        raise InputError(
            f"No sender of {', '.join(chosen)} comes before the receiver {ends.label}. Use a later receiver."
        )
    return layers


def _mask(model: Model, receiver: Receiver) -> Units:
    shapes = {receiver.name: model.spaces[receiver.name].shape}
    assert receiver.units is not None
    return Units.from_indices(shapes, [(receiver.name, receiver.layer, int(unit)) for unit in receiver.units])


def _too_late(ends: Ends, name: str, kind: str, layer: int, beside: str) -> str:
    """Why a sender does not come before a receiver; ``beside``: why its block's MLP does not read what it adds."""
    one = f"`sender` {name}[{layer}]"
    if beside and STEP[kind] == ATTENTION and any(each.step == (layer, MLP) for each in ends.receivers):
        return (
            f"{one} sends nothing to the receiver {ends.label} that could be followed: of block {layer}, {beside}. Use "
            "a receiver in a later block."
        )
    return (
        f"{one} must come before the receiver {ends.label} on the stream: in an earlier block, or in the attention of "
        "the block whose MLP receives."
    )


def _label(receiver: Any, receivers: Sequence[Receiver]) -> str:
    if isinstance(receiver, str):
        return receiver
    if isinstance(receiver, Site):
        return f"{receivers[0].name}[{', '.join(str(one.layer) for one in receivers)}]"
    shown = [f"{one.name}[{one.layer}]:{','.join(map(str, one.units))}" for one in receivers if one.units is not None]
    count = sum(len(one.units) for one in receivers if one.units is not None)
    return "; ".join(shown) if count <= 8 else f"{count} units"


def reason_of(space: Space | None, layer: int) -> str:
    """Why a block has no units of a space; empty where it has."""
    if space is None:
        return "its modules show none"
    place = space.places[layer] if space.places else None
    return place.reason if isinstance(place, Absent) else ""
