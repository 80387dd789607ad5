"""What must hold of the tokens of a model of any class: which hold images, which see which, where padding may be."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import modalnet as mn
from modalnet.execution.compile import output_head

from .checks import TEXTS, Bench, _calls, as_positions, close, plain, read, states


def vision_tokens(bench: Bench) -> str | None:
    """Image tokens of a vision tower are the rows that another picture changes as they enter it."""
    found = [tower for tower in bench.model.towers.values() if tower.modality == "image"]
    if not bench.sees or not found:
        return "no vision tower"
    text = TEXTS[1] if bench.reads else None
    stimuli = [mn.Stimulus(text, image=_noise(seed)) for seed in range(4)]
    _, states_of = states(bench, stimuli[0])
    for tower in found:
        entering = []
        for stimulus in stimuli:
            ((_, given, _), *_) = _calls(bench, tower.paths[:1], bench.inputs(stimulus))
            entering.append(as_positions(given, tower))
        changed = torch.stack([(one - entering[0]).norm(dim=1) > 1e-5 for one in entering]).any(0)
        state = states_of[tower.name][0]
        if len(changed) != len(state):
            return f"rows of {tower.name} are padded or merged in its first block"
        try:
            run = bench.model.run(stimuli[:1], read={tower.name: [0]}, tokens="image")
        except mn.InputError as error:
            if "has padding among its tokens" not in str(error):
                raise
            return f"refused, {tower.name} pads its rows in a way that is not understood"
        close(run.residual[tower.name][0][0], state[changed].mean(0), f"image tokens of {tower.name}")
        learned = int((~changed).sum())
        try:
            run = bench.model.run(stimuli[:1], read={tower.name: [0]}, tokens="cls")
        except mn.InputError as error:
            which = "no class token" if "no class token" in str(error) else "a class token that is not known"
            if learned:
                bench.notes.append(f"{learned} tokens of {tower.name} do not depend on the picture, {which}")
            continue
        assert learned, f"{tower.name} has no row that does not change with the picture, but a class token"
        own = run.residual[tower.name][0][0]
        if learned == 1:
            close(own, state[~changed][0], f"class token of {tower.name}")
    return None


def _noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (53, 37, 3), dtype=np.uint8))


def causality(bench: Bench) -> str | None:
    """Default tokens and scoring go by whether an earlier token changes with the last one, in a plain forward pass."""
    encoder = bench.model._executor.encoder
    if not bench.reads or encoder.dual:
        return "no text tower that reads alone"
    tower = bench.model.towers[encoder.text_tower]
    (stimulus,) = bench.stimuli(1)
    name = "decoder_input_ids" if bench.small.writes else "input_ids"
    inputs = bench.small.inputs(stimulus.text, stimulus.images() if stimulus.n_images else [], " a big dog")
    if "use_cache" in inspect.signature(bench.module.forward).parameters:
        inputs["use_cache"] = False  # with one some read all that is written as if it came before
    if "token_type_ids" in inputs and bench.sees:
        return "the types of tokens decide"
    other = {**inputs, name: torch.cat([inputs[name][:, :-1], (inputs[name][:, -1:] + 7) % 256], 1)}
    one, two = (as_positions(_calls(bench, tower.paths[-1:], each)[0][2], tower) for each in (inputs, other))
    causal = int(((one - two).norm(dim=1) > 1e-4 * one.norm(dim=1)).sum()) == 1
    assert bench.model._executor.is_causal(tower) == causal, f"the attention of {tower.name} is causal: {causal}"
    if not causal and output_head(bench.module) is not None:
        with pytest.raises(mn.InputError, match="bidirectionally"):
            bench.model.score([stimulus], [" a big dog"])
    if not causal:
        bench.notes.append(f"{tower.name} attends both ways: its mean is the default, and scores are refused")
    return None


def padding(bench: Bench) -> str | None:
    """Texts padded on either side equal each of them alone, or that side is refused."""
    if not bench.reads:
        return "no text"
    executor, refused = bench.model._executor, []
    try:
        for side in ("left", "right"):
            executor.padding_side = side
            for stimuli in bench.kinds(3):
                try:
                    together = read(bench, stimuli)
                except mn.InputError as error:
                    if "padding_side" not in str(error):
                        raise
                    refused.append(side)
                    continue
                for i, stimulus in enumerate(stimuli):
                    _, expected = states(bench, stimulus)
                    for tower, values in expected.items():
                        for layer, value in enumerate(values):
                            close(together[tower][i][layer], value, f"stimulus {i} of {tower}[{layer}] padded {side}")
    finally:
        executor.encoder.collator.padding_side, executor.encoder.collator.chosen = "right", False
        executor.encoder.collator.sides.clear()
        executor._machinery.runner = executor._machinery.sweep = executor._machinery.sinks = None
    if refused:
        bench.notes.append(f"padding on the {' and '.join(dict.fromkeys(refused))} is refused")
    return None


def two_pictures(bench: Bench) -> str | None:
    """Of two pictures each changes what a model makes of them, as in a plain forward pass, or they are refused."""
    if not bench.sees:
        return "no pictures"
    text, dual = TEXTS[0] if bench.reads else None, bench.model._executor.encoder.dual
    pictures = [_noise(seed) for seed in range(4)]
    stimuli = [mn.Stimulus(text, image=[pictures[i], pictures[j]]) for i, j in ((0, 1), (2, 1), (0, 3))]
    # In a dual encoder pictures do not enter the tower that reads texts.
    towers = [tower for tower in bench.towers(stimuli[0]) if not dual or tower.modality == "image"]
    tower = towers[-1]
    try:
        plain(bench, bench.inputs(stimuli[0]))
    except Exception as error:  # pictures side by side, which a chat template keeps apart, are too much for some
        return f"transformers takes no two pictures here ({type(error).__name__})"
    try:
        run = bench.model.run(stimuli, read=[tower.name], tokens="all", batch_size=1)
    except mn.InputError as error:
        if "one image" not in str(error):
            raise
        bench.notes.append("a second picture is refused")
        return None
    one, *others = (values[-1] for values in run.residual[tower.name])
    for place, other in enumerate(others):
        assert one.shape != other.shape or not torch.allclose(one, other, atol=1e-5), f"picture {place} changes nothing"
    _, expected = states(bench, stimuli[0])
    close(one, expected[tower.name][-1], f"two pictures in {tower.name}")
    return None


TOKEN_CHECKS: dict[str, Any] = {
    "vision tokens": vision_tokens,
    "causality": causality,
    "padding": padding,
    "two pictures": two_pictures,
}
