"""Units inside of blocks on a real NDIF server are those of the run here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import modalnet as mn

pytestmark = [pytest.mark.ndif, pytest.mark.timeout(900)]

TEXTS = ["The cat sat on the mat.", "A dog", "Rain fell all night over the old town near the river."]
CLOSE = 1e-5
KINDS = ["pre", "mid", "attention", "mlp", "neurons", "gate", "activation", "heads"]

Pair = tuple[mn.Model, mn.Model]


def near(one: torch.Tensor, other: torch.Tensor) -> None:
    scale = max(1.0, float(one.abs().max()))
    assert float((one - other).abs().max()) <= CLOSE * scale


def some(model: mn.Model, name: str, step: int) -> mn.Units:
    mask = np.zeros(model.spaces[name].shape, dtype=bool)
    mask.flat[::step] = True
    return mn.Units({name: mask})


def test_spaces_are_found_without_weights(pair: Pair) -> None:
    here, there = pair
    assert {name: (space.shape, space.paths) for name, space in here.spaces.items()} == {
        name: (space.shape, space.paths) for name, space in there.spaces.items()
    }


def test_reads(pair: Pair) -> None:
    names = ["decoder", *(f"decoder.{kind}" for kind in KINDS)]
    for tokens in ("last", "mean"):
        one, other = (model.run(TEXTS, read=names, tokens=tokens, vectors=True) for model in pair)
        for name in names:
            near(one.activations[name], other.activations[name])
        near(one.vectors["decoder.heads"], other.vectors["decoder.heads"])
    one, other = (model.run(TEXTS[:2], read=names, tokens="all", vectors=True) for model in pair)
    for values, others in [(one.activations, other.activations), (one.vectors, other.vectors)]:
        for name in values:
            for first, second in zip(values[name], others[name], strict=True):
                near(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_zeroing(pair: Pair, kind: str) -> None:
    units = some(pair[0], f"decoder.{kind}", 3)
    one, other = (model.run(TEXTS, mn.zero(units), logits="last") for model in pair)
    near(one.activations["decoder"], other.activations["decoder"])
    near(one.logits, other.logits)


OPERATIONS = ["mean", "resample", "patch", "apply", "scale", "known mean", "run"]


@pytest.mark.parametrize("kind", OPERATIONS)
def test_heads_are_vectors(pair: Pair, kind: str) -> None:
    here, there = pair
    name = "decoder.heads"
    units = some(here, name, 5)
    made = {
        "mean": mn.mean(units, over=TEXTS),
        "resample": mn.resample(units, over=TEXTS),
        "patch": mn.patch(units, TEXTS[2]).at("last"),
        "apply": mn.apply(units, lambda x: x.flip(1)),
        "scale": mn.scale(units, 2.0).at("last"),
        "known mean": mn.mean(units, over=there.means(TEXTS, spaces=name)),
        "run": mn.patch(units, there.run(TEXTS[2], read=name, tokens="all", vectors=True)).at("last"),
    }[kind]
    one, other = (model.run(TEXTS, made, logits="last") for model in pair)
    near(one.activations["decoder"], other.activations["decoder"])
    near(one.logits, other.logits)


@pytest.mark.parametrize("units", ["neurons", "heads"])
def test_localize(pair: Pair, units: str) -> None:
    language = mn.stimuli.language()
    chosen = mn.Contrast(language.stimuli[::6], positive=language.positive, negative=language.negative)
    name = f"decoder.{units}"
    remote = pair[1].remote
    assert remote is not None
    before = len(remote.jobs)
    one, other = (
        mn.localize(model, chosen, units=units, towers=["decoder"], cache=False, progress=False) for model in pair
    )
    # Moments come back, whose size does not depend on the number of stimuli: of two sides and of pairs, in five folds.
    down = [job.down for job in remote.jobs[before:]]
    assert max(down) < 8 * 36 * pair[0].spaces[name].n_units + 200_000
    assert np.nanmax(np.abs(one.t[name] - other.t[name])) <= CLOSE
    assert np.allclose(one.mean_abs[name], other.mean_abs[name], rtol=CLOSE)
    top = [each.top(k=7).mask[name] for each in (one, other)]
    assert np.array_equal(*top)


def test_generate_under_a_lesion_of_heads(pair: Pair) -> None:
    lesion = mn.zero(some(pair[0], "decoder.heads", 3))
    one, other = (model.generate(TEXTS[0], lesion, max_new_tokens=5, details=True) for model in pair)
    assert one.text == other.text
    near(one.logits, other.logits)


def test_pictures(tiny: Pair) -> None:
    stimuli = mn.stimuli.vision().stimuli[:4]
    names = [name for name in tiny[0].spaces if name.startswith("vision")]
    one, other = (model.run(stimuli, read=names, tokens="mean", vectors=True) for model in tiny)
    for name in names:
        near(one.activations[name], other.activations[name])
    for name in names:
        if name != "vision":
            lesion = mn.zero(some(tiny[0], name, 7))
            one, other = (model.run(stimuli, lesion, read="decoder", tokens="mean") for model in tiny)
            near(one.activations["decoder"], other.activations["decoder"])


PATCHED = (["Is there a face, a house or a car?"], ["Is there a car, a house or a face?"])


def difference(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 5] - logits[:, 9]


def test_patching_heads(tiny: Pair) -> None:
    clean, corrupt = ([mn.Stimulus(text) for text in texts] for texts in PATCHED)
    found = [
        mn.activation_patching(model, clean, corrupt, difference, sites="decoder.heads", cache=False, progress=False)
        for model in tiny
    ]
    for name, values in found[0].values.items():
        assert np.allclose(values, found[1].values[name], atol=CLOSE, equal_nan=True)


def test_attribution_of_heads(tiny: Pair) -> None:
    clean, corrupt = ([mn.Stimulus(text) for text in texts] for texts in PATCHED)
    found = [
        mn.attribution_patching(
            model, clean, corrupt, difference, sites=["decoder.heads", "decoder.neurons"], cache=False, progress=False
        )
        for model in tiny
    ]
    for name, effect in found[0].unit_effect.items():
        assert np.allclose(effect, found[1].unit_effect[name], rtol=1e-3, atol=CLOSE)
