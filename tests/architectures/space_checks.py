"""What must hold of the spaces inside of blocks of a model of any class, against plain torch hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch

import modalnet as mn
from modalnet.models.places import Absent, Place
from modalnet.models.sites import Space
from modalnet.models.sublayers import find_places
from modalnet.models.towers import Tower

from .checks import Bench, first

#: Kinds of spaces that most towers have: why one does not is noted.
SAID = ("attention", "heads", "mlp", "neurons")
#: Relative to the largest number.
EXACT = 1e-5


class Inside:
    """The spaces inside of the blocks of a model that one stimulus reaches, and what hooks see there.

    Parameters
    ----------
    bench
        The model.
    """

    def __init__(self, bench: Bench) -> None:
        (self.stimulus,) = bench.stimuli(1)
        self.bench = bench
        self.towers = bench.towers(self.stimulus)
        executor = bench.model._executor
        names = [name for tower in self.towers for name in executor.spaces if name.startswith(f"{tower.name}.")]
        executor.measure(names, executor.encoder.prepare([self.stimulus]))
        self.spaces = {name: executor.spaces[name] for name in names}
        paths = {path for tower in self.towers for path in tower.paths}
        self.seen = self.watched(paths.union(*map(_ends, self.spaces.values())))
        # Some blocks do not run on every input.
        ran = {path for path, _ in self.seen}
        self.layers = {
            name: [layer for layer in space.layers if space.tower.paths[layer] in ran]
            for name, space in self.spaces.items()
        }

    @classmethod
    def of(cls, bench: Bench) -> Inside:
        """Those of a model, made once."""
        found: Inside | None = bench.__dict__.get("inside")
        if found is None:
            found = bench.__dict__["inside"] = cls(bench)
        return found

    def kind(self, kind: str) -> list[Space]:
        """The spaces of one kind that have units here."""
        return [space for name, space in self.spaces.items() if space.kind == kind and self.layers[name]]

    def watched(self, paths: set[str]) -> dict[tuple[str, str], torch.Tensor]:
        """What goes into and comes out of modules in a pass of transformers."""
        with _seen(self.bench.module, paths) as seen, torch.no_grad():
            self.bench.root(self.stimulus)(**self.bench.inputs(self.stimulus))
        return seen

    def lesioned(self, masks: dict[str, np.ndarray], paths: set[str]) -> dict[tuple[str, str], torch.Tensor]:
        """The same in a pass of modalnet with units at zero."""
        reads = {tower.name: [tower.paths.index(self.last(tower))] for tower in self.towers}
        with _seen(self.bench.module, paths) as seen:
            self.bench.model.run([self.stimulus], mn.zero(mn.Units(masks)), read=reads, tokens="all")
        return seen

    @cached_property
    def read(self) -> dict[str, list[torch.Tensor]]:
        """What modalnet reads, ``[token, unit]`` per space and layer."""
        reads = {name: layers for name, layers in self.layers.items() if layers}
        try:
            run = self.bench.model.run([self.stimulus], read=reads, tokens="all")
        except mn.InputError as error:
            if "merges patches" not in str(error):
                raise
            return {name: [self._alone(name, layer) for layer in layers] for name, layers in reads.items()}
        return {name: list(values[0]) for name, values in run.activations.items()}

    def _alone(self, name: str, layer: int) -> torch.Tensor:
        run = self.bench.model.run([self.stimulus], read={name: [layer]}, tokens="all")
        values: torch.Tensor = run.activations[name][0][0]
        return values

    def is_padded(self, space: Space) -> bool:
        """Whether the rows of a tower are longer than the stimulus."""
        layer = self.layers[space.name][0]
        rows = _numbers(space.place(layer), self.seen, space.tower.paths[layer])
        return len(self.there(space.tower, rows)) != len(self.read[space.name][0])

    def last(self, tower: Tower) -> str:
        """Path of the last block of a tower that runs."""
        return next(path for path in reversed(tower.paths) if (path, "output") in self.seen)

    def there(self, tower: Tower, rows: torch.Tensor) -> torch.Tensor:
        """Those rows of a tower that are not padding."""
        for name, mask in self.bench.inputs(self.stimulus).items():
            padded = "mask" in name and tower.name.startswith("vision")
            if padded and mask.numel() == len(rows) and len(rows) > 1:
                return rows[mask.flatten().bool()]
        return rows


def _checked(kind: str, bench: Bench) -> str | None:
    inside = Inside.of(bench)
    for tower in inside.towers:
        space = inside.spaces.get(f"{tower.name}.{kind}")
        if space is not None:
            _say_why(bench, space)
        elif kind in SAID:
            places = [find_places(tower, block)[kind] for block in tower.blocks]
            reason = next((place.reason for place in places if isinstance(place, Absent)), "")
            bench.notes.append(f"no {tower.name}.{kind}: {reason}")
    spaces = inside.kind(kind)
    if not spaces:
        return f"no {kind}"
    for space in spaces:
        _reads(inside, space)
    # Padding is left alone by a lesion, and not by a hook.
    spaces = [space for space in spaces if not inside.is_padded(space)]
    if not spaces:
        return None
    # A sum that is zero by another way is not exactly so, and a tower behind may choose other experts.
    for together in [[space] for space in spaces] if kind == "mid" else [spaces]:
        _zeroes(inside, together)
    if kind in ("heads", "neurons"):
        _leave_the_bias(inside, spaces)
    elif kind == "mlp":
        for space in spaces:
            _leave_the_stream(inside, space.tower)
    return None


def _say_why(bench: Bench, space: Space) -> None:
    """Note why blocks have no units of a space, once for all spaces of a tower."""
    if space.kind not in SAID:
        return
    reasons: dict[str, list[str]] = {}
    for layer, place in enumerate(space.places):
        if isinstance(place, Absent):
            reasons.setdefault(place.reason, []).append(str(layer))
    for reason, layers in reasons.items():
        where = "" if len(layers) == space.n_layers else f" in {len(layers)} of {space.n_layers} blocks"
        bench.notes.append(f"no {space.name}{where}: {reason}")


def _numbers(place: Place, seen: dict[tuple[str, str], torch.Tensor], path: str) -> torch.Tensor:
    """``[position, number]`` of the units of a place, from what hooks saw."""
    rows = _rows(seen[_joined(path, place.path), place.side], place.columns) * torch.as_tensor(place.scale)
    if place.base is not None:
        rows = rows + _rows(seen[_joined(path, place.base[0]), place.base[1]], place.columns)
    return rows[:, place.start : place.start + place.width * place.size]


def _rows(hidden: torch.Tensor, columns: int) -> torch.Tensor:
    where = _streams(hidden, columns)
    if where is not None:
        return hidden.movedim(where, -2).flatten(-2).reshape(-1, columns)
    hidden = hidden if hidden.shape[-1] == columns else hidden.movedim(1, -1)
    return hidden.reshape(-1, columns)


def _streams(hidden: torch.Tensor, columns: int) -> int | None:
    """Along which dimension several streams lie, that have so many numbers together; None for a single one."""
    if hidden.shape[-1] == columns or hidden.dim() < 3:
        return None
    return next((where for where in (-2, 0) if hidden.shape[where] * hidden.shape[-1] == columns), None)


def _joined(path: str, inside: str) -> str:
    return f"{path}.{inside}" if inside else path


def _ends(space: Space) -> set[str]:
    """Paths of the modules that the places of a space are at."""
    found = set()
    for layer in space.layers:
        place, path = space.place(layer), space.tower.paths[layer]
        found.add(_joined(path, place.path))
        if place.base is not None:
            found.add(_joined(path, place.base[0]))
    return found


@contextlib.contextmanager
def _seen(module: Any, paths: set[str]) -> Iterator[dict[tuple[str, str], torch.Tensor]]:
    """What goes into and comes out of modules, at the last call of each."""
    seen: dict[tuple[str, str], torch.Tensor] = {}

    def keep(path: str) -> Any:
        def before(_: Any, args: Any, kwargs: Any) -> None:
            given = args[0] if args else next(v for v in kwargs.values() if isinstance(v, torch.Tensor))
            seen[path, "input"] = given.detach().clone()

        def after(_: Any, args: Any, output: Any) -> None:
            seen[path, "output"] = first(output).detach().clone()

        return before, after

    handles = []
    for path in paths:
        before, after = keep(path)
        handles.append(module.get_submodule(path).register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.get_submodule(path).register_forward_hook(after))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _zeroed(module: Any, space: Space, layers: list[int], count: int) -> Iterator[None]:
    """The first units of a space are zero in some layers, by torch hooks."""
    handles: list[Any] = []
    for layer in layers:
        place, path = space.place(layer), space.tower.paths[layer]
        numbers = torch.arange(count * place.size)
        base: list[torch.Tensor] = []
        if place.base is not None:
            at = module.get_submodule(_joined(path, place.base[0]))
            handles.append(at.register_forward_pre_hook(_keeping(base), with_kwargs=True))
        changed = _changing(place, numbers + place.start, base)
        inside = module.get_submodule(_joined(path, place.path))
        if place.side == "input":
            handles.append(inside.register_forward_pre_hook(_given(changed), with_kwargs=True))
        else:
            handles.append(inside.register_forward_hook(lambda _, __, output, changed=changed: _with(output, changed)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keeping(base: list[torch.Tensor]) -> Any:
    def hook(_: Any, args: Any, kwargs: Any) -> None:
        given = args[0] if args else next(v for v in kwargs.values() if isinstance(v, torch.Tensor))
        base[:] = [given.detach().clone()]

    return hook


def _changing(place: Place, numbers: torch.Tensor, base: list[torch.Tensor]) -> Any:
    def changed(hidden: torch.Tensor) -> torch.Tensor:
        new = hidden.clone()
        where, last = _streams(new, place.columns), new.shape[-1]
        if where is not None:
            new.movedim(where, -2)[..., numbers // last, numbers % last] = 0.0
            return new
        rows = new if new.shape[-1] == place.columns else new.movedim(1, -1)
        scale = torch.as_tensor(place.scale)
        scale = scale[numbers] if scale.dim() else scale
        rows[..., numbers] = -base[0][..., numbers] / scale if base else 0.0
        return new

    return changed


def _given(changed: Any) -> Any:
    def hook(_: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (changed(args[0]), *args[1:]), kwargs
        name = next(name for name, value in kwargs.items() if isinstance(value, torch.Tensor))
        return args, kwargs | {name: changed(kwargs[name])}

    return hook


def _with(output: Any, changed: Any) -> Any:
    new = changed(first(output))
    return (new, *output[1:]) if isinstance(output, tuple | list) else new


def _exact(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    assert found.shape == expected.shape, f"{what}: {tuple(found.shape)}, not {tuple(expected.shape)}"
    error, size = float((found - expected).abs().max()), float(expected.abs().max())
    assert error <= EXACT * max(size, 1e-3), f"{what} differs by {error / max(size, 1e-9)} of the largest"


def _reads(inside: Inside, space: Space) -> None:
    """What is read is what hooks see."""
    for found, layer in zip(inside.read[space.name], inside.layers[space.name], strict=True):
        place = space.place(layer)
        expected = inside.there(space.tower, _numbers(place, inside.seen, space.tower.paths[layer]))
        if len(expected) != len(found):
            continue  # rows with padding
        expected = expected.unflatten(-1, (place.width, place.size)).norm(dim=-1) if place.size > 1 else expected
        _exact(found[:, : place.width], expected, f"{space.name}[{layer}]")


def _zeroes(inside: Inside, spaces: list[Space]) -> None:
    """A lesion of a third of the units changes the last blocks as hooks do that set them to zero."""
    masks = {}
    with contextlib.ExitStack() as stack:
        for space in spaces:
            layers = inside.layers[space.name]
            count = max(1, min(space.widths[layer] for layer in layers) // 3)
            masks[space.name] = np.zeros(space.shape, dtype=bool)
            masks[space.name][layers, :count] = True
            stack.enter_context(_zeroed(inside.bench.module, space, layers, count))
        last = {inside.last(space.tower): space.tower for space in spaces}
        expected = inside.watched(set(last))
    found = inside.lesioned(masks, set(last))
    changed = False
    for path, tower in last.items():
        one, two = (inside.there(tower, _rows(each[path, "output"], tower.width)) for each in (found, expected))
        _exact(one, two, f"after a lesion of {', '.join(masks)} {path}")
        changed |= not torch.equal(expected[path, "output"], inside.seen[path, "output"])
    assert changed, f"a lesion of {', '.join(masks)} makes no difference"


def _leave_the_bias(inside: Inside, spaces: list[Space]) -> None:
    """With all of its heads or neurons at zero, a projection puts out the same at every token."""
    masks = {space.name: _of(space, inside.layers[space.name]) for space in spaces}
    paths = {space.paths[layer] for space in spaces for layer in inside.layers[space.name]}
    seen = inside.lesioned(masks, paths)
    for space in spaces:
        for layer in inside.layers[space.name]:
            rows = _rows(seen[space.paths[layer], "output"], space.tower.width // space.tower.streams)
            rows = inside.there(space.tower, rows)
            _exact(rows, rows[:1].expand_as(rows), f"without {space.name}[{layer}] what its projection puts out")


def _leave_the_stream(inside: Inside, tower: Tower) -> None:
    """With all that attention and MLP add at zero, a block that adds nothing else hands on what enters it."""
    found = [inside.spaces.get(f"{tower.name}.{kind}") for kind in ("attention", "mlp", "mid")]
    spaces = [space for space in found if space is not None]
    if len(spaces) < 3:
        return
    layers = sorted(set.intersection(*(set(inside.layers[space.name]) for space in spaces)))
    if not layers:
        return
    masks = {space.name: _of(space, layers) for space in spaces[:2]}
    seen = inside.lesioned(masks, {tower.paths[layer] for layer in layers})
    for layer in layers:
        ends = (_rows(seen[tower.paths[layer], side], tower.width) for side in ("input", "output"))
        before, after = (inside.there(tower, end) for end in ends)
        if not torch.allclose(after, before, atol=EXACT * float(before.abs().max())):
            inside.bench.notes.append(f"{tower.name}[{layer}] adds something beside its attention and its MLP")


def _of(space: Space, layers: list[int]) -> np.ndarray:
    """All units of some layers."""
    return space.exists & np.isin(np.arange(space.n_layers), layers)[:, None]


def _check(kind: str, what: str) -> Any:
    def check(bench: Bench) -> str | None:
        return _checked(kind, bench)

    check.__doc__ = what
    return check


SPACE_CHECKS: dict[str, Any] = {
    "pre": _check("pre", "The stream that enters blocks is read, and lesioned, as hooks do."),
    "attention": _check("attention", "What attentions add is read and lesioned as hooks do; see *MLP*."),
    "mid": _check("mid", "The stream between attention and MLP is read and lesioned as hooks do."),
    "heads": _check(
        "heads", "Heads are read and lesioned as hooks do; without any, the output projection gives its bias."
    ),
    "MLP": _check(
        "mlp", "What MLPs add is read and lesioned as hooks do; blocks that add nothing hand on their input."
    ),
    "gate": _check("gate", "What enters the non-linearity of MLPs is read and lesioned as hooks do."),
    "activation": _check("activation", "What leaves the non-linearity of gated MLPs is read and lesioned as hooks do."),
    "neurons": _check(
        "neurons", "Neurons are read and lesioned as hooks do; without any, the last projection gives its bias."
    ),
}


def experts(bench: Bench) -> str | None:
    """The weights of experts are those of routers, by hooks; an expert at zero gets none, and another is chosen."""
    inside = Inside.of(bench)
    spaces = inside.kind("experts")
    if not spaces:
        return "no experts"
    for space in spaces:
        seen: dict[int, Any] = {}
        handles = [
            bench.module.get_submodule(space.paths[layer]).register_forward_hook(
                lambda _, __, output, layer=layer, seen=seen: seen.__setitem__(layer, output)
            )
            for layer in inside.layers[space.name]
        ]
        with torch.no_grad():
            inside.bench.root(inside.stimulus)(**bench.inputs(inside.stimulus))
        for handle in handles:
            handle.remove()
        for found, (layer, (_, weights, chosen, *_)) in zip(inside.read[space.name], seen.items(), strict=True):
            expected = torch.zeros(len(weights), space.width)
            for row, own, which in zip(expected, weights.float(), chosen, strict=True):
                row[which] = own[which] if len(own) == space.width != len(which) else own
            if len(expected) == len(found):
                _exact(found, expected, f"{space.name}[{layer}]")
        layer = inside.layers[space.name][-1]
        unit = int(inside.read[space.name][-1].sum(0).argmax())
        one = mn.Units.from_indices({space.name: space.shape}, [(space.name, layer, unit)])
        run = bench.model.run([inside.stimulus], mn.zero(one), read={space.name: [layer]}, tokens="all")
        weights = run.activations[space.name][0][0]
        assert not weights[:, unit].any(), f"an expert at zero still has a weight in {space.name}[{layer}]"
        assert bool((weights > 0).any(1).all()), f"no other expert is chosen in {space.name}[{layer}]"
    return None


SPACE_CHECKS["experts"] = experts
