"""The tuned lens: maps against ridge regression written out, and what it gains on stimuli that it was not fitted on."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import modalnet as mn
from families import build
from modalnet.errors import InputError
from modalnet.stats.affine import fit_affine
from modalnet.stats.folds import assign_folds
from reference import TEXTS, forward, load

QUIET = {"cache": False, "progress": False}


def test_it_is_the_ridge_regression_of_the_last_stream():
    texts = [f"{text} {number}" for number, text in enumerate(TEXTS * 4)][:11]
    read, fit = texts[0], texts[1:]
    result = mn.lens(load("llama"), read, tokens="all", fit=fit, k=3, **QUIET)
    streams = [forward("llama", text)[2]["decoder"].double().numpy() for text in fit]
    folds = assign_folds(["fit"] * len(fit), n_folds=5)
    groups = np.concatenate([np.full(one.shape[1], fold) for one, fold in zip(streams, folds, strict=True)])
    held = np.concatenate(streams, axis=1)
    last, own = held[-1], forward("llama", read)[2]["decoder"]
    weights = 1 / (last**2).mean(1)
    normed = np.sqrt(weights)[:, None] * last
    module = build("llama").model
    for layer in range(3):
        made = fit_affine(held[layer], last - held[layer], groups, weights=weights, scale=normed.std(0))
        assert result.fit.penalties[layer] == made.penalty
        stream = own[layer] + torch.from_numpy(made(own[layer].double().numpy())).float()
        with torch.no_grad():
            expected = module.lm_head(module.model.norm(stream)).softmax(-1)
        np.testing.assert_allclose(result.probabilities[1, layer], expected.topk(3).values, atol=1e-4)
    assert result.fit.n_tokens == held.shape[1]
    # The last layer is the model's own either way.
    np.testing.assert_array_equal(result.ids[1, -1], result.ids[0, -1])
    assert np.abs(result.divergence[:, -1]).max() < 1e-6
    plain = mn.lens(load("llama"), read, tokens="all", k=3, **QUIET)
    np.testing.assert_allclose(plain.probabilities[0], result.probabilities[0], atol=1e-6)


def test_it_is_nearer_to_the_bundled_model_than_the_plain_lens_on_held_out_stimuli():
    model = mn.load("tiny")
    pairs = mn.patching.colour_pairs(40, size=64)
    result = mn.lens(model, pairs.clean[:8], words=["red", "green"], fit=pairs.clean[8:], k=2, **QUIET)
    table = result.faithfulness().query("layer < 7").set_index(["lens", "layer"])
    assert (table.loc["tuned"]["kl"] <= table.loc["plain"]["kl"]).all()
    assert (table.loc["tuned"]["gain_low"] > 0).all()
    kl = result.divergence[1].reshape(8, 8, -1).mean(2).mean(1)
    np.testing.assert_allclose(table.loc["tuned"]["kl"], kl[:7], rtol=1e-5)
    assert result.index() == 1
    assert "nearer to the model than the plain lens at 7 of 7 layers" in result.summary()
    assert result.fit.n_read == 0
    # It is the example of the guide.
    guide = (Path(__file__).parents[2] / "docs" / "howto" / "lens.md").read_text()
    number = re.compile(r"(?<=[: ])\d[\d.]*(?=[ ,\n])")
    (shown,) = re.findall(r"```text\n(.*?)```", guide, re.DOTALL)
    said = f"{result.summary()}\n"
    assert number.sub("", shown) == number.sub("", said)
    written, measured = ([float(one) for one in number.findall(text)] for text in (shown, said))
    np.testing.assert_allclose(written, measured, rtol=0.02)


def test_what_is_not_held_out_is_said():
    model = load("llava_clip")
    with pytest.warns(UserWarning, match="2 of the 2 stimuli are among those that the tuned lens was fitted on"):
        result = mn.lens(model, ["a dog", "a cat"], tokens="last", fit=["a dog", "a cat", "a house"], **QUIET)
    assert result.fit.n_read == 2
    assert "2 of which were read here (not held out)" in result.summary()


def test_tokens_of_each_stimulus_are_not_those_of_a_fit():
    with pytest.raises(InputError, match="one choice for all stimuli where `fit` is given"):
        mn.lens(load("llama"), ["a dog", "a cat"], tokens=[[0], [1]], fit=["one", "two"], **QUIET)


def test_only_the_last_layer_has_nothing_to_tune():
    result = mn.lens(load("llama"), "a dog", tokens="last", layers=-1, fit=["one", "two"], **QUIET)
    np.testing.assert_array_equal(result.ids[0], result.ids[1])
    assert "at 0 of 0 layers (one stimulus)" in result.summary()
    early = mn.lens(load("llama"), "a dog", tokens="last", layers=[0, 2], fit=["one", "two"], **QUIET)
    assert "of 2 layers (one stimulus)" in early.summary()
    assert "1 stimulus, 1 token (last tokens), 2 layers" in early.summary()
