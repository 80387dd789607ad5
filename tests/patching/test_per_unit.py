"""Patching unit by unit: every head by itself, against hooks and against patches by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import modalnet as mn
from modalnet.patching import logit_difference

PAIR = ("The dogs near the house", "The dog near the house")
ANSWERS = (" are", " is")


@pytest.fixture(scope="module")
def model():
    return mn.load("tiny")


def patched(model, sites="heads", pair=PAIR, **options):
    given = {"per_unit": True, "cache": False, "progress": False, **options}
    return mn.activation_patching(model, *pair, logit_difference(*ANSWERS), sites=sites, **given)


def difference(model, text, *edits):
    ids = [model.tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in ANSWERS]
    logits = model.run([text], *edits, read=[], logits="last").logits[0]
    return float(logits[ids[0]] - logits[ids[1]])


def by_hooks(model, site, base, source, *, tokens=slice(None)):
    """The measure of one text with the part of one head from the run of another, by plain hooks."""
    space, (layer, head) = model.spaces["decoder.heads"], site
    module, part = model.module.get_submodule(space.paths[layer]), slice(head * space.size, (head + 1) * space.size)
    inputs = [
        model.tokenizer(model._executor.prepare([mn.Stimulus(text)])[0].prompt, return_tensors="pt").input_ids
        for text in (source, base)
    ]
    kept = []
    handle = module.register_forward_pre_hook(lambda _, args: kept.append(args[0].detach().clone()))
    with torch.no_grad():
        model.module(input_ids=inputs[0])
    handle.remove()

    def edit(_, args):
        new = args[0].clone()
        new[:, tokens, part] = kept[0][:, tokens, part]
        return (new,)

    handle = module.register_forward_pre_hook(edit)
    with torch.no_grad():
        logits = model.module(input_ids=inputs[1]).logits[0, -1]
    handle.remove()
    ids = [model.tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in ANSWERS]
    return float(logits[ids[0]] - logits[ids[1]])


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_every_head_is_what_hooks_and_a_patch_by_hand_do(model, direction):
    found = patched(model, direction=direction)
    values = found.unit_values["decoder.heads"]
    assert values.shape == (1, 8, 6)
    base, source = (PAIR[1], PAIR[0]) if direction == "denoise" else PAIR
    for layer, head in [(0, 0), (2, 5), (4, 3), (7, 1)]:
        assert values[0, layer, head] == pytest.approx(by_hooks(model, (layer, head), base, source), abs=1e-4)
    one = mn.Units.from_indices({"decoder.heads": (8, 6)}, [("decoder.heads", 4, 3)])
    assert values[0, 4, 3] == pytest.approx(difference(model, base, mn.patch(one, source)), abs=1e-4)
    clean, corrupt = found.clean[0], found.corrupt[0]
    moved = values[0] - corrupt if direction == "denoise" else clean - values[0]
    np.testing.assert_allclose(found.unit_effect["decoder.heads"], moved / (clean - corrupt))


def test_at_some_tokens_alone(model):
    found = patched(model, tokens="last")
    expected = by_hooks(model, (3, 2), PAIR[1], PAIR[0], tokens=[-1])
    assert found.unit_values["decoder.heads"][0, 3, 2] == pytest.approx(expected, abs=1e-4)


def test_one_unit_of_each_layer_is_the_patch_of_the_network_of_that_unit(model):
    one = mn.Units.from_indices({"decoder.heads": (8, 6)}, [("decoder.heads", 3, 2)])
    found = patched(model, sites=[mn.site("decoder.heads", [3, 5])], units={"one": one}, n_controls=0)
    assert found.unit_values["decoder.heads"].shape == (1, 2, 6)
    assert found.unit_values["decoder.heads"][0, 0, 2] == pytest.approx(found.networks["one"].joint[0], abs=1e-5)
    assert sorted(set(found.unit_table()["layer"])) == [3, 5]


def test_several_pairs_have_intervals_and_come_back_from_files_and_the_store(model, tmp_path):
    pair = ([PAIR[0], "The cats near the door"], [PAIR[1], "The cat near the door"])
    found = patched(model, pair=pair, cache=tmp_path / "store")
    table = found.unit_table()
    assert len(table) == 48
    assert ((table["low"] <= table["effect"]) & (table["effect"] <= table["high"])).all()
    singles = [patched(model, pair=(clean, corrupt)) for clean, corrupt in zip(*pair, strict=True)]
    together = np.stack([one.unit_values["decoder.heads"][0] for one in singles])
    np.testing.assert_allclose(found.unit_values["decoder.heads"], together, atol=1e-4)
    found.save(tmp_path / "one.safetensors")
    again = mn.Patching.load(tmp_path / "one.safetensors")
    for name in ("unit_values", "unit_effect"):
        np.testing.assert_array_equal(getattr(again, name)["decoder.heads"], getattr(found, name)["decoder.heads"])
    stored = patched(model, pair=pair, cache=tmp_path / "store")
    np.testing.assert_array_equal(stored.unit_values["decoder.heads"], found.unit_values["decoder.heads"])
    plain = patched(model, pair=pair, cache=tmp_path / "store", per_unit=False)
    assert not plain.unit_values
    np.testing.assert_allclose(plain.values["decoder.heads"], found.values["decoder.heads"], atol=1e-5)


def test_too_many_units_and_missing_effects_are_refused(model, monkeypatch):
    monkeypatch.setattr("modalnet.patching.activation.MOST_UNITS", 40)
    with pytest.raises(mn.InputError, match=r"one run for each of 48 units.*at most 40.*attribution_patching"):
        patched(model)
    with pytest.raises(mn.InputError, match="per_unit"):
        patched(model, per_unit="yes")
    plain = patched(model, per_unit=False)
    for bad in (plain.unit_table, lambda: plain.plot(on="units")):
        with pytest.raises(mn.InputError, match="no effects of units: patch with per_unit=True"):
            bad()


def test_the_heatmap_of_heads(model):
    found = patched(model)
    (ax,) = found.plot(on="units")
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), found.unit_effect["decoder.heads"])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("head", "layer")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list("012345")
    with pytest.raises(mn.InputError, match=r"must be one of decoder\.heads"):
        found.plot(on="units", tower="vision")
    localization = mn.localize(model, mn.stimuli.language(8), units=["heads", "neurons"], cache=False, progress=False)
    axes = localization.plot("units")
    assert [one.get_xlabel() for one in axes] == ["neuron", "head"]
    chosen = localization.only("decoder.heads").top(k=5)
    (ax,) = localization.only("decoder.heads").plot("units", chosen)
    assert len(ax.patches) == 5
    assert {(int(p.get_y() + 0.5), int(p.get_x() + 0.5)) for p in ax.patches} == {
        (layer, unit) for _, layer, unit in chosen.indices()
    }
