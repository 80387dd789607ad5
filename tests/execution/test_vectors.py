"""Runs that keep the vectors of units with several numbers."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import modalnet as mn
from families import build

TEXTS = ["the cat sat on a mat", "two dogs ran"]
HEADS = "decoder.heads"


@pytest.fixture(scope="module")
def model():
    return mn.load("tiny")


def entering(model, layer):
    """What enters the output projection of an attention, per text ``[token, number]``, by a plain torch hook."""
    found = []
    module = model.module.get_submodule(model.spaces[HEADS].paths[layer])
    handle = module.register_forward_pre_hook(lambda _, args: found.append(args[0][0].clone()))
    for text in TEXTS:
        ids = model.tokenizer(model._executor.prepare([mn.Stimulus(text)])[0].prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            model.module(input_ids=ids)
    handle.remove()
    return found


@pytest.mark.parametrize("tokens", ["all", "last", "mean", [0, 2]])
def test_vectors_are_what_enters_the_output_projection(model, tokens):
    run = model.run(TEXTS, read={HEADS: [5, 2], "decoder": [1]}, tokens=tokens, vectors=True, batch_size=2)
    assert list(run.vectors) == [HEADS]
    without = model.run(TEXTS, read={HEADS: [5, 2], "decoder": [1]}, tokens=tokens)
    assert without.vectors == {}
    for row, layer in enumerate((5, 2)):
        for index, entered in enumerate(entering(model, layer)):
            whole = entered.unflatten(-1, (6, 32))
            chosen = {"all": whole, "last": whole[-1], "mean": whole.mean(0)}
            expected = chosen[tokens] if isinstance(tokens, str) else whole[tokens].mean(0)
            torch.testing.assert_close(run.vectors[HEADS][index][row], expected, atol=1e-5, rtol=1e-5)
    for name in run.activations:
        for one, other in zip(run.activations[name], without.activations[name], strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_shapes_copies_and_labels(model):
    run = model.run(TEXTS, read=HEADS, tokens="last", vectors=True)
    assert run.vectors[HEADS].shape == (2, 8, 6, 32)
    for same in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        assert torch.equal(same.vectors[HEADS], run.vectors[HEADS])
    labelled = run.to_xarray()[f"{HEADS}_vectors"]
    assert labelled.dims == ("stimulus", f"{HEADS}_layer", f"{HEADS}_unit", f"{HEADS}_number")
    apart = model.run(TEXTS, read={HEADS: [3]}, tokens="all", vectors=True)
    assert [tuple(each.shape[:1] + each.shape[2:]) for each in apart.vectors[HEADS]] == [(1, 6, 32)] * 2
    labelled = apart.to_xarray()[f"{HEADS}_vectors"]
    assert labelled.dims[2] == f"{HEADS}_token"
    assert int(labelled.isnull().all(axis=(3, 4)).sum()) == abs(np.diff([len(v[0]) for v in apart.vectors[HEADS]])[0])


def test_a_patch_from_a_run_with_vectors(model):
    units = mn.Units.from_indices({HEADS: model.spaces[HEADS].shape}, [(HEADS, 3, 1), (HEADS, 4, 5)])
    expected = model.run(TEXTS[0], mn.patch(units, TEXTS[1]).at("last"), logits="last").logits
    for tokens in ("all", "last"):
        source = model.run(TEXTS[1], read=HEADS, tokens=tokens, vectors=True)
        found = model.run(TEXTS[0], mn.patch(units, source).at("last"), logits="last").logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, model.run(TEXTS[0], logits="last").logits)


def test_vectors_are_asked_for_by_true_or_false(model):
    with pytest.raises(mn.InputError, match="vectors"):
        model.run(TEXTS, read=HEADS, vectors="yes")


def test_a_space_of_single_numbers_has_no_vectors(model):
    assert model.run(TEXTS, read=["decoder", "decoder.neurons"], vectors=True).vectors == {}


def test_under_an_intervention(model):
    heads = mn.Units.from_indices({HEADS: model.spaces[HEADS].shape}, [(HEADS, 3, 1)])
    run = model.run(TEXTS, mn.zero(heads), read={HEADS: [3]}, tokens="all", vectors=True)
    for values in run.vectors[HEADS]:
        assert (values[0, :, 1] == 0).all()
        assert (values[0, :, 0] != 0).any()


def test_a_bridge_has_the_spaces_of_its_model(tmp_path, no_installs):
    from bridges import bridge_of

    family = build("llama")
    plain = mn.load(family.model, tokenizer=family.tokenizer, chat_template=False)
    bridge = mn.load(
        bridge_of(copy.deepcopy(family.model), family.tokenizer, tmp_path),
        tokenizer=family.tokenizer,
        chat_template=False,
    )
    one, other = (
        each.run(TEXTS, read=list(each.spaces), tokens="all", vectors=True).vectors["decoder.heads"]
        for each in (plain, bridge)
    )
    for first, second in zip(one, other, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_a_function_is_given_heads_as_vectors(model):
    units = mn.Units.from_indices({HEADS: model.spaces[HEADS].shape}, [(HEADS, 3, 1), (HEADS, 3, 4)])
    shapes = []

    def turned(x):
        shapes.append(tuple(x.shape))
        return -x

    found = model.run(TEXTS[1], mn.apply(units, turned), logits="last").logits
    assert shapes
    assert all(shape[1:] == (2, 32) for shape in shapes)
    torch.testing.assert_close(found, model.run(TEXTS[1], mn.scale(units, -1.0), logits="last").logits)
    direction = mn.direction(HEADS, 3, np.arange(1, 193))
    model.run(TEXTS[1], mn.apply(direction, lambda x: shapes.append(tuple(x.shape)) or x))
    assert len(shapes[-1]) == 2
