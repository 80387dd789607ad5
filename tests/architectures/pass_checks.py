"""What must hold of the passes over a model of any class: where they may start, and that hooks are honoured."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import modalnet as mn
from modalnet.execution.cells import Cell, Outcome, Swap
from modalnet.execution.likelihood import Request
from modalnet.models.sites import Space
from modalnet.models.towers import Tower

from .checks import Bench, _last_logits, as_positions, close, first, watching

COLUMNS = (5, 9, 40)


@contextlib.contextmanager
def putting(module: Any, path: str, tower: Tower, row: int, values: torch.Tensor) -> Iterator[None]:
    """Put other values in one row of a block's output."""

    def hook(_: Any, args: Any, output: Any) -> Any:
        hidden = first(output)
        flat = as_positions(hidden, tower).clone()
        flat[row] = values
        if tower.streams > 1 and hidden.shape[-1] * tower.streams == tower.width:
            at = 0 if tower.streams_first else -2
            moved = hidden.movedim(at, -2)
            new = flat.reshape(moved.shape).movedim(-2, at)
        elif hidden.shape[-1] == tower.width:
            new = flat.reshape(hidden.shape)
        else:
            new = flat.reshape(hidden.movedim(1, -1).shape).movedim(-1, 1)
        return (new, *output[1:]) if isinstance(output, tuple | list) else new

    handle = module.get_submodule(path).register_forward_hook(hook, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def skipping(bench: Bench) -> str | None:
    """Patching any block, and lesions of any block before or after others, give what hooks give."""
    (stimulus,) = bench.stimuli(1)
    if bench.model._executor.encoder.dual or _last_logits(bench, stimulus) is None:
        return "no LM head"
    _patched(bench, stimulus)
    _lesioned(bench, stimulus)
    known = bench.model._executor.sweep.skipping.known
    alone = sorted(start[0] for start, holds in known.items() if not holds and len(start) == 1)
    if alone:
        blocks = ", ".join(f"{tower} {layer}" for tower, layer in alone)
        bench.notes.append(f"skipping: passes do not start behind the first blocks ({blocks}), they run whole")
    return None


def _patched(bench: Bench, stimulus: mn.Stimulus) -> None:
    executor = bench.model._executor
    try:
        (state,) = executor.states([stimulus])
    except mn.InputError as error:
        if "merges patches" not in str(error):
            raise
        texts = [tower.name for tower in bench.towers(stimulus) if tower.modality == "text"]
        (state,) = executor.states([stimulus], spaces=texts)
    batch = executor.encoder.collate([state.encoded])
    cells, places = [], []
    for tower in bench.towers(stimulus):
        if tower.name not in state.activations:
            continue
        held = state.activations[tower.name]
        (span,), _ = executor.runner.layouts.spans(batch, tower.name)
        for layer in range(tower.n_layers):
            token = held.shape[1] - 1
            # The first token's, so that they are of the right size.
            values = held[layer, 0] if token else -held[layer, 0]
            cells.append(Cell(0, (Swap(Space(tower), layer, torch.tensor([token]), values[None]),)))
            places.append((tower, layer, int(span.index[token]), values))
    found = dict(executor.run_cells([state], cells, Outcome("columns", (COLUMNS,))))
    for number, (tower, layer, row, values) in enumerate(places):
        with putting(bench.module, tower.paths[layer], tower, row, values):
            expected = _last_logits(bench, stimulus)
        assert expected is not None
        close(found[number][0], expected[list(COLUMNS)], f"patch of {tower.name}[{layer}]")


def _lesioned(bench: Bench, stimulus: mn.Stimulus) -> None:
    executor, tower = bench.model._executor, bench.model.towers["decoder"]
    request = [Request(stimulus, " a big dog")]
    depths = range(tower.n_layers)
    # A lesion that runs alone shares no blocks with others, so it gives the same in both directions.
    alone: dict[tuple[int, float], np.ndarray] = {}
    for layer in [*depths, *reversed(depths)]:
        mask = np.zeros(tower.shape, dtype=bool)
        mask[layer, : tower.width // 3] = True
        lesions = {factor: [mn.scale(mn.Units({"decoder": mask}), factor)] for factor in (0.0, 0.5, 2.0)}
        together = executor.likelihoods_under(request, list(lesions.values()))
        for (factor, lesion), (one,) in zip(lesions.items(), together, strict=True):
            if (layer, factor) not in alone:
                (by_itself,) = executor.likelihoods(request, *lesion)
                alone[layer, factor] = by_itself.logprob
            close(one.logprob, alone[layer, factor], f"lesion of decoder[{layer}]")


def hooks(bench: Bench) -> str | None:
    """A torch hook changes what is localized and read, as hooks read it; removed, the clean numbers come back."""
    (stimuli, *_) = bench.kinds(4)
    towers = bench.towers(stimuli[0])
    contrast = mn.Contrast(
        [replace(one, condition="ab"[i % 2]) for i, one in enumerate(stimuli)], positive="a", negative="b"
    )
    with tempfile.TemporaryDirectory() as store:

        def localized() -> dict[str, np.ndarray]:
            names = [tower.name for tower in towers]
            found = mn.localize(bench.model, contrast, cache=store, progress=False, tokens="mean", towers=names)
            return dict(found.t)

        try:
            clean = localized()
        except mn.InputError as error:
            if "has padding among its tokens" not in str(error):
                raise
            towers = [tower for tower in towers if tower.modality == "text"]
            clean = localized()
        for tower in towers:
            path = tower.paths[min(1, tower.n_layers - 1)]
            handle = bench.module.get_submodule(path).register_forward_hook(_turned)
            try:
                hooked = localized()
                _read_as_hooks_do(bench, stimuli[0], towers)
            finally:
                handle.remove()
            assert _differ(clean, hooked), f"a hook on {path} makes no difference"
            again = localized()
            for name, values in clean.items():
                close(np.nan_to_num(again[name]), np.nan_to_num(values), f"t of {name} after a hook on {path}")
    return None


def _turned(_: Any, args: Any, output: Any) -> Any:
    """The output with its units in another order: of the same size, and another."""
    turned = first(output).flip(-1)
    return (turned, *output[1:]) if isinstance(output, tuple | list) else turned


def _differ(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return any(not np.allclose(one[name], other[name], equal_nan=True) for name in one)


def _read_as_hooks_do(bench: Bench, stimulus: mn.Stimulus, towers: Sequence[Tower]) -> None:
    """Under hooks, what is read of later blocks is what those that watch them see."""
    with watching(bench.module, [tower.paths[-1] for tower in towers]) as calls, torch.no_grad():
        bench.root(stimulus)(**bench.inputs(stimulus))
    seen = {path: out for path, _, out in calls}
    for tower in towers:
        last = tower.n_layers - 1
        run = bench.model.run([stimulus], read={tower.name: [last]}, tokens="all")
        found = run.residual[tower.name][0][0]
        expected = as_positions(seen[tower.paths[-1]], tower)
        if len(found) == len(expected):  # no padding in its rows
            close(found, expected, f"{tower.name}[{last}] under a hook")


PASS_CHECKS: dict[str, Any] = {"skipping": skipping, "hooks": hooks}
