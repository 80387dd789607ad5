"""Methods of attribution patching against plain torch: integrated gradients."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch

import modalnet as mn
from families import build, picture
from modalnet.errors import InputError
from modalnet.patching import agreement, kl_divergence, log_probability
from reference import TEXT_ONLY, encode, forward, load, paths

OPTIONS = {"cache": False, "progress": False}


def pair_of(name):
    """Two stimuli of one length that differ in the text and, if the family sees, in the picture."""
    texts = ("Is there a face, a house or a car?", "Is there a car, a house or a face?")
    if name in TEXT_ONLY:
        return tuple(mn.Stimulus(text) for text in texts)
    return tuple(mn.Stimulus(text, image=picture(i, 64, 48)) for i, text in enumerate(texts))


def difference(logits, pairs=None):
    return logits[:, 5] - logits[:, 9]


def swapped(name, stimulus, path, values, rows):
    """The measure of a stimulus with some rows of a module's output replaced, and its gradient at that output."""
    family, seen = build(name), []

    def hook(module, args, output):
        hidden = output[0] if isinstance(output, tuple | list) else output
        flat = hidden.detach().reshape(-1, hidden.shape[-1]).clone()
        flat[rows] = values
        edited = flat.reshape(hidden.shape).requires_grad_()
        seen.append(edited)
        return (edited, *output[1:]) if isinstance(output, tuple | list) else edited

    handle = family.model.get_submodule(path).register_forward_hook(hook)
    try:
        output = family.model(**encode(family, stimulus.text, stimulus.images()))
    finally:
        handle.remove()
    value = difference(output.logits[0][-1:])[0]
    (gradient,) = torch.autograd.grad(value, seen[0])
    return float(value.detach()), gradient.reshape(-1, gradient.shape[-1])


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "llava_clip", "qwen2_5_vl"])
def test_integrated_gradients_are_those_of_a_path_by_hooks(name, direction):
    clean, corrupt = pair_of(name)
    base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    found = mn.attribution_patching(
        load(name),
        clean,
        corrupt,
        difference,
        tokens="each",
        direction=direction,
        method="integrated",
        steps=3,
        **OPTIONS,
    )
    starts, ends = (forward(name, one.text, one.images())[2] for one in (base, source))
    unpatched = (found.corrupt if direction == "denoise" else found.clean)[0]
    whole = (found.clean[0] - found.corrupt[0]) * (1 if direction == "denoise" else -1)
    for tower, values in found.values.items():
        for layer, path in list(enumerate(paths(name, tower)))[1:3]:
            start, end = starts[tower][layer], ends[tower][layer]
            rows = np.arange(len(start))
            steps = [(step + 0.5) / 3 for step in range(3)]
            slope = sum(swapped(name, base, path, start + step * (end - start), rows)[1] for step in steps) / 3
            each = ((end - start) * slope).numpy()
            scale = 1e-3 * max(1, np.abs(each.sum(1)).max())
            np.testing.assert_allclose(values[0, layer] - unpatched, each.sum(1), atol=scale)
            np.testing.assert_allclose(found.unit_effect[tower][layer] * whole, each.sum(0), atol=scale)


NOUNS = ("dog", "cat", "girl", "boy", "bird", "horse", "king", "teacher")


@lru_cache
def agreeing():
    """The bundled model on pairs that it tells apart: the verb after a singular or plural noun and an attractor."""
    clean, corrupt = ([f"the {noun}{ending} near the house" for noun in NOUNS] for ending in ("", "s"))
    return mn.load("tiny"), clean, corrupt, mn.patching.logit_difference(" is", " are")


def completeness(steps):
    """How far the units of each layer are from adding up to the exact effect of patching the noun there."""
    tokens = {"decoder": {"noun": (2,)}}
    exact = mn.activation_patching(*agreeing(), tokens=tokens, **OPTIONS).effect["decoder"][:, 0]
    assert np.ptp(exact) > 0.5
    method = {"method": "integrated", "steps": steps} if steps else {}
    found = mn.attribution_patching(*agreeing(), tokens=tokens, **method, **OPTIONS)
    return np.abs(found.unit_effect["decoder"].sum(1) - exact).max()


def test_units_add_up_to_the_effect_of_their_layer_as_steps_grow():
    errors = [completeness(steps) for steps in (1, 4, 16)]
    assert completeness(0) > 2 * errors[1]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_columns_add_up_as_units_do():
    found = mn.attribution_patching(*agreeing(), method="integrated", steps=16, **OPTIONS)
    np.testing.assert_allclose(np.nansum(found.effect["decoder"], 1), found.unit_effect["decoder"].sum(1), atol=1e-6)


def test_a_longer_answer_and_a_divergence_have_paths():
    model, (clean, corrupt) = load("llama"), pair_of("llama")
    for metric, direction in (
        (log_probability(" barked at"), "noise"),
        (kl_divergence(), "noise"),
        (kl_divergence(), "denoise"),
    ):
        found, exact = (
            patched(model, clean, corrupt, metric, direction=direction, **options, **OPTIONS)
            for patched, options in (
                (mn.attribution_patching, {"method": "integrated", "steps": 24}),
                (mn.activation_patching, {"tokens": {"decoder": "all"}}),
            )
        )
        np.testing.assert_allclose(found.unit_effect["decoder"].sum(1), exact.effect["decoder"][:, 0], atol=0.02)


def test_some_layers_of_pairs_of_different_length():
    model = load("gpt2")
    clean, corrupt = ["The dog ran off", "She poured the tea slowly"], ["The old fox ran off", "She poured tea slowly"]
    options = {"align": "last", "sites": [mn.site("decoder", 2)]}
    found = mn.attribution_patching(
        model, clean, corrupt, difference, method="integrated", steps=20, **options, **OPTIONS
    )
    assert found.layers == {"decoder": (2,)}
    alone = [
        mn.attribution_patching(model, *pair, difference, method="integrated", steps=20, **options, **OPTIONS)
        for pair in zip(clean, corrupt, strict=True)
    ]
    for place, one in enumerate(alone):
        own = found.values["decoder"][place]
        np.testing.assert_allclose(own[np.isfinite(own)], one.values["decoder"].ravel(), atol=1e-4)


def test_methods_stand_side_by_side():
    exact = mn.activation_patching(*agreeing(), **OPTIONS)
    methods = ["gradient", "integrated"]
    estimates = [mn.attribution_patching(*agreeing(), method=method, **OPTIONS) for method in methods]
    table = agreement(exact, *estimates)
    assert list(table["method"]) == methods
    assert table["pearson"][1] > max(0.98, table["pearson"][0])
    effect = exact.effect["decoder"].ravel()
    for row, estimate in zip(table.to_dict("records"), estimates, strict=True):
        other = estimate.effect["decoder"].ravel()
        there = np.isfinite(effect)
        assert row["slope"] == pytest.approx(np.polyfit(effect[there], other[there], 1)[0])
        assert row["largest_error"] == pytest.approx(np.nanmax(np.abs(effect - other)))


def test_a_result_says_how_it_was_estimated(tmp_path):
    found = mn.attribution_patching(*agreeing(), method="integrated", steps=2, progress=False, cache=tmp_path)
    again = mn.attribution_patching(*agreeing(), method="integrated", steps=2, progress=False, cache=tmp_path)
    other = mn.attribution_patching(*agreeing(), method="integrated", steps=3, progress=False, cache=tmp_path)
    assert (again.method, again.steps) == (found.method, found.steps) == ("integrated", 2)
    np.testing.assert_array_equal(again.values["decoder"], found.values["decoder"])
    assert not np.array_equal(other.values["decoder"], found.values["decoder"])
    assert "integrated gradients, 2 steps" in found.summary()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "integrated", "steps": 0}, "`steps` must be"),
        ({"method": "integrated", "steps": 1.5}, "`steps` must be"),
        ({"method": "integrated", "steps": True}, "`steps` must be"),
        ({"steps": 5}, "`steps` is for method='integrated' alone"),
        ({"method": "ig"}, "`method` must be"),
        ({"method": None}, "`method` must be"),
    ],
)
def test_methods_and_steps_that_there_are_not(options, message):
    with pytest.raises(InputError, match=message):
        mn.attribution_patching(load("llama"), *pair_of("llama"), difference, **options, **OPTIONS)


KINDS = ("pre", "mid", "attention", "mlp", "neurons", "gate", "activation", "heads")


@pytest.mark.parametrize("kind", KINDS)
def test_units_of_every_space_add_up(kind):
    """A head counts with all of its numbers."""
    name, options = (
        f"decoder.{kind}",
        {"sites": kind, "towers": "decoder", "tokens": {f"decoder.{kind}": {"noun": (2,)}}},
    )
    exact = mn.activation_patching(*agreeing(), **options, **OPTIONS).effect[name][:, 0]
    found = mn.attribution_patching(*agreeing(), method="integrated", steps=8, **options, **OPTIONS)
    assert found.unit_effect[name].shape == mn.load("tiny").spaces[name].shape
    np.testing.assert_allclose(found.unit_effect[name].sum(1), exact, atol=0.005)
