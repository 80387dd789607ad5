"""Every result with random controls says how well they match the network in activation, and keeps it in its file."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import modalnet as mn
from helpers.reference import load

WORDS = ("dog", "boy", "cat", "tea", "car", "sun", "hat", "cup")
TEXTS = [mn.Stimulus(f"the {word} ran across", condition="ab"[i % 2], id=f"{i}") for i, word in enumerate(WORDS)]
OPTIONS: dict[str, Any] = {"match": "activation", "n_controls": 3, "cache": False, "progress": False}
RATIOS = ["match_ratio", "match_ratio_low", "match_ratio_high"]


def network(model: mn.Model, *, massive: bool) -> mn.Units:
    """Two units of a layer whose other units are alike: as active as these, or a thousandth of it."""
    masks = {name: np.zeros(tower.shape, dtype=bool) for name, tower in model.towers.items()}
    masks["decoder"][1, :2] = True
    mean_abs = {name: np.where(mask & massive, 1000.0, 1.0) for name, mask in masks.items()}
    return mn.Units(masks, mean_abs=mean_abs)


def dataset() -> mn.brain.BrainDataset:
    rng = np.random.default_rng(5)
    return mn.brain.BrainDataset("random", tuple(TEXTS * 3)[:20], rng.normal(size=(20, 2)), ordered=True)


def patches(model: mn.Model, units: mn.Units) -> tuple[Any, Any]:
    metric = mn.patching.kl_divergence()
    found = mn.activation_patching(model, *TEXTS[:2], metric, align="last", units={"network": units}, **OPTIONS)
    return found, found.network_table()[RATIOS]


def profile(model: mn.Model, units: mn.Units) -> tuple[Any, Any]:
    found = mn.profile(model, units, TEXTS, **OPTIONS)
    return found, None


def align(model: mn.Model, units: mn.Units) -> tuple[Any, Any]:
    pytest.importorskip("himalaya")
    options = {"untrained": False, "baselines": False, "n_resamples": 2, "n_permutations": 0, **OPTIONS}
    found = mn.brain.align(model, units, dataset(), cv="contiguous", n_folds=2, inner_folds=2, **options)
    return found, found.table().query("kind == 'control'")[RATIOS]


def cka(model: mn.Model, units: mn.Units) -> tuple[Any, Any]:
    options = {"untrained": False, "baselines": False, "n_permutations": 0, "whole_layer": False, **OPTIONS}
    found = mn.brain.cka(model, units, dataset(), **options)
    return found, found.table().query("kind == 'control'")[RATIOS]


def optimized(model: mn.Model, units: mn.Units) -> tuple[Any, Any]:
    found = mn.features.optimize(model, units, text="What is this?", steps=1, **OPTIONS)
    return found, found.table()[["match_ratio"]].iloc[1:]


RUNS: dict[str, Callable[[mn.Model, mn.Units], tuple[Any, Any]]] = {
    one.__name__: one for one in (patches, profile, align, cka, optimized)
}


@pytest.mark.parametrize("name", RUNS)
def test_controls_that_cannot_match_are_said(name: str, tmp_path: Any) -> None:
    model = load("llava_clip" if name == "optimized" else "llama")
    units = network(model, massive=True)
    with pytest.warns(UserWarning, match=r"activation-matched controls of network 'network' have 0\.001 times"):
        found, table = RUNS[name](model, units)
    assert "activation-matched controls: mean |activation| 0.001 of the network's [0.001, 0.001]" in found.summary()
    if table is not None:
        np.testing.assert_allclose(table.to_numpy(dtype=float), 1e-3)
    found.save(tmp_path / "result.safetensors")
    assert type(found).load(tmp_path / "result.safetensors").summary() == found.summary()


@pytest.mark.parametrize("name", RUNS)
def test_controls_that_match_are_said_without_a_warning(name: str) -> None:
    model = load("llava_clip" if name == "optimized" else "llama")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*matched controls")
        found, table = RUNS[name](model, network(model, massive=False))
    assert "activation-matched controls: mean |activation| 1.00 of the network's [1.00, 1.00]" in found.summary()
    if table is not None:
        np.testing.assert_allclose(table.to_numpy(dtype=float), 1)


def test_lesions_are_matched_where_they_act(tmp_path: Any) -> None:
    """At the tokens of the task, whatever activations the units had where they were localized."""
    model = copy.deepcopy(load("llama"))
    units = network(model, massive=False)
    task = mn.tasks.perplexity([stimulus.text for stimulus in TEXTS[:3]])
    with torch.no_grad():
        model.module.model.layers[1].mlp.down_proj.weight[:2] *= 1000
    with pytest.warns(UserWarning, match=r"activation-matched controls of network 'network' have 0\.\d+ times"):
        found = mn.lesion_study(model, {"network": units}, task, operations=["zero"], **OPTIONS)
    row = found.table().iloc[0]
    assert row.match_activation < 0.1
    assert f"activation-matched controls: mean |activation| {row.match_activation:.1g} of" in found.summary()
    found.save(tmp_path / "result.safetensors")
    assert mn.LesionStudy.load(tmp_path / "result.safetensors").summary() == found.summary()


def test_specialization_says_how_random_units_match(tmp_path: Any) -> None:
    """Its controls are matched by layer, so that those of massive units are far less active, and no warning is due."""
    model = load("llama")
    one = network(model, massive=True)
    other = mn.Units({name: np.roll(mask, 4, axis=-1) for name, mask in one.mask.items()}, mean_abs=one.mean_abs)
    contrasts = {name: mn.Contrast(TEXTS, *sides) for name, sides in (("one", ("a", "b")), ("other", ("b", "a")))}
    options = {"n_controls": 3, "cache": False, "progress": False}
    found = mn.specialization(model, {"one": one, "other": other}, contrasts, **options)
    ratios = found.table("transfer").set_index("network")["match_ratio"]
    assert ratios["one"] < 0.01
    assert ratios["other"] >= 1
    assert "(mean |activation| 0.001 of the network's)" in found.summary()
    found.save(tmp_path / "result.safetensors")
    assert mn.Specialization.load(tmp_path / "result.safetensors").summary() == found.summary()
    localized = mn.localize(model, mn.stimuli.language(20), cache=False, progress=False)
    selectivity = mn.specialization(model, {"one": localized, "other": localized}, **options).table("selectivity")
    assert np.isfinite(selectivity[RATIOS].to_numpy()).all()
