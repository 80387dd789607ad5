"""What must hold of the spaces inside of blocks of a model of any class, against plain torch hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import modalnet as mn
from modalnet.models.places import Absent, Place
from modalnet.models.sites import Space
from modalnet.models.towers import Tower

from .checks import Bench, first

#: Relative to the largest number.
EXACT = 1e-5


def _checked(kind: str, bench: Bench) -> str | None:
    (stimulus,) = bench.stimuli(1)
    executor, held = bench.model._executor, False
    for tower in bench.towers(stimulus):
        name = f"{tower.name}.{kind}"
        if name not in executor.spaces:
            continue
        executor.measure([name], executor.encoder.prepare([stimulus]))
        space = executor.spaces[name]
        _say_why(bench, space)
        if space.layers:
            held = True
            _reads(bench, stimulus, space)
            _zeroes(bench, stimulus, space)
            _is_what_it_says(bench, stimulus, space)
    return None if held else f"no {kind}"


def _say_why(bench: Bench, space: Space) -> None:
    """Note why blocks have no units of a space, once for all spaces of a tower."""
    if space.kind not in ("attention", "heads", "mlp", "neurons"):
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
    hidden = hidden if hidden.shape[-1] == columns else hidden.movedim(1, -1)
    return hidden.reshape(-1, columns)


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
def _zeroed(module: Any, space: Space, numbers: torch.Tensor) -> Iterator[None]:
    """Some units of a space are zero in every layer, by torch hooks."""
    handles: list[Any] = []
    for layer in space.layers:
        place, path = space.place(layer), space.tower.paths[layer]
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


def _reads(bench: Bench, stimulus: mn.Stimulus, space: Space) -> None:
    """What is read is what hooks see."""
    with _seen(bench.module, _ends(space)) as seen, torch.no_grad():
        bench.root(stimulus)(**bench.inputs(stimulus))
    run = bench.model.run([stimulus], read={space.name: list(space.layers)}, tokens="all")
    for found, layer in zip(run.activations[space.name][0], space.layers, strict=True):
        place = space.place(layer)
        expected = _numbers(place, seen, space.tower.paths[layer])
        if len(expected) != len(found):
            continue  # rows with padding
        expected = expected.unflatten(-1, (place.width, place.size)).norm(dim=-1) if place.size > 1 else expected
        _exact(found[:, : place.width], expected, f"{space.name}[{layer}]")


def _units(space: Space, part: int) -> tuple[mn.Units, torch.Tensor]:
    """The first units of each layer, one in so many, and their numbers."""
    count = max(1, min(width for width in space.widths if width) // part)
    mask = np.zeros(space.shape, dtype=bool)
    mask[list(space.layers), :count] = True
    return mn.Units({space.name: mask}), torch.from_numpy(space.numbers(np.arange(count)))


def _zeroes(bench: Bench, stimulus: mn.Stimulus, space: Space) -> None:
    """A lesion of some units changes the tower as hooks do that set them to zero."""
    if len({space.place(layer).size for layer in space.layers}) > 1:
        return
    units, numbers = _units(space, 3)
    last = space.tower.paths[-1]
    with _seen(bench.module, {last}) as seen, torch.no_grad():
        root, inputs = bench.root(stimulus), bench.inputs(stimulus)
        root(**inputs)
        whole = seen[last, "output"]
        with _zeroed(bench.module, space, numbers):
            root(**inputs)
        expected = seen[last, "output"]
        bench.model.run([stimulus], mn.zero(units), read={space.tower.name: [-1]}, tokens="all")
    _exact(seen[last, "output"], expected, f"a lesion of {space.name}")
    assert not torch.equal(whole, expected), f"a lesion of {space.name} makes no difference"


def _is_what_it_says(bench: Bench, stimulus: mn.Stimulus, space: Space) -> None:
    """Without its units, what they are said to make is gone."""
    units, _ = _units(space, 1)
    if space.kind in ("heads", "neurons"):
        _leave_the_bias(bench, stimulus, space)
    elif space.kind in ("attention", "mlp"):
        _leave_the_stream(bench, stimulus, space.tower)


def _leave_the_bias(bench: Bench, stimulus: mn.Stimulus, space: Space) -> None:
    """With all of its heads or neurons at zero, a projection puts out the same at every token."""
    units = mn.Units({space.name: space.exists})
    with _seen(bench.module, _ends(space)) as seen:
        bench.model.run([stimulus], mn.zero(units), read={space.tower.name: [-1]}, tokens="all")
    for layer in space.layers:
        rows = _rows(seen[space.paths[layer], "output"], space.tower.width // space.tower.streams)
        _exact(rows, rows[:1].expand_as(rows), f"without {space.name}[{layer}] its projection")


def _leave_the_stream(bench: Bench, stimulus: mn.Stimulus, tower: Tower) -> None:
    """With all that attention and MLP add at zero, a block that adds nothing else hands on what enters it."""
    executor = bench.model._executor
    names = [f"{tower.name}.{kind}" for kind in ("attention", "mlp", "mid")]
    if not all(name in executor.spaces for name in names):
        return
    executor.measure(names, executor.encoder.prepare([stimulus]))
    attention, mlp, mid = (executor.spaces[name] for name in names)
    layers = [layer for layer in attention.layers if layer in mlp.layers and layer in mid.layers]
    masks = {space.name: space.exists & np.isin(np.arange(tower.n_layers), layers)[:, None] for space in (attention, mlp)}
    if not layers:
        return
    with _seen(bench.module, {tower.paths[layer] for layer in layers}) as seen:
        bench.model.run([stimulus], mn.zero(mn.Units(masks)), read={tower.name: [-1]}, tokens="all")
    for layer in layers:
        before, after = (seen[tower.paths[layer], side] for side in ("input", "output"))
        parallel = (before.abs() > 0).sum() and torch.allclose(after, before, atol=EXACT * float(before.abs().max()))
        assert parallel, f"{tower.name}[{layer}] adds something beside its attention and its MLP"


def _check(kind: str, what: str) -> Any:
    def check(bench: Bench) -> str | None:
        return _checked(kind, bench)

    check.__doc__ = what
    return check


SPACE_CHECKS: dict[str, Any] = {
    "pre": _check("pre", "The stream that enters blocks is read, and lesioned, as hooks do."),
    "attention": _check("attention", "What attentions add is read and lesioned as hooks do; see *MLP*."),
    "mid": _check("mid", "The stream between attention and MLP is read and lesioned as hooks do."),
    "heads": _check("heads", "Heads are read and lesioned as hooks do; without any, the output projection gives its bias."),
    "MLP": _check("mlp", "What MLPs add is read and lesioned as hooks do; blocks that add nothing hand on their input."),
    "gate": _check("gate", "What enters the non-linearity of MLPs is read and lesioned as hooks do."),
    "activation": _check("activation", "What leaves the non-linearity of gated MLPs is read and lesioned as hooks do."),
    "neurons": _check("neurons", "Neurons are read and lesioned as hooks do; without any, the last projection gives its bias."),
}
