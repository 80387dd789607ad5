"""Untrained copies: the same architecture, other weights, the same each time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import modalnet as mn
from families import build
from reference import load


@pytest.mark.parametrize("name", ["gpt2", "llama", "llava_clip", "vit", "qwen2_vl"])
def test_an_untrained_copy_is_of_the_same_architecture(name):
    model = load(name)
    before = model.fingerprint()
    state = torch.get_rng_state()
    copy = mn.load(model, untrained=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.fingerprint() == before != copy.fingerprint()
    assert {n: t.shape for n, t in copy.towers.items()} == {n: t.shape for n, t in model.towers.items()}
    assert {n: t.paths for n, t in copy.towers.items()} == {n: t.paths for n, t in model.towers.items()}
    own = dict(model.module.named_parameters())
    for parameter, value in copy.module.named_parameters():
        assert value.shape == own[parameter].shape
        assert value.dtype == own[parameter].dtype
        assert not value.is_meta
        assert torch.isfinite(value).all()
    assert not copy.module.training
    assert copy.tokenizer is model.tokenizer
    assert copy.name.endswith("(untrained, seed 0)")


def test_the_seed_decides():
    model = mn.load("tiny")
    again = mn.load("tiny", untrained=True)
    assert (
        again.fingerprint()
        == mn.load(model, untrained=True).fingerprint()
        == mn.load("tiny", untrained=0).fingerprint()
    )
    assert (
        again.fingerprint() != mn.load("tiny", untrained=7).fingerprint() == mn.load(model, untrained=7).fingerprint()
    )
    assert mn.load(model) is model


def test_precision_is_kept_and_it_runs():
    copy = mn.load("tiny", dtype="bfloat16", untrained=True)
    assert next(copy.module.parameters()).dtype == torch.bfloat16
    read = copy.run(["the dog runs."]).residual["decoder"]
    assert np.isfinite(read.numpy()).all()


def test_units_of_the_model_are_not_units_of_the_copy():
    model = mn.load("tiny")
    units = mn.localize(model, mn.stimuli.language(10), towers="decoder", progress=False).top(k=5)
    with pytest.raises(mn.InputError, match="belong to another model"):
        mn.load(model, untrained=True).run(["the dog"], mn.zero(units))


def test_no_server_is_asked_for_a_copy():
    copy = mn.load("tiny", untrained=True)
    with pytest.raises(mn.InputError, match="cannot identify this"):
        mn.load(copy, remote="http://127.0.0.1:9")
    with pytest.raises(mn.InputError, match="cannot identify this"):
        mn.load(mn.load(mn.load("tiny", remote="local"), untrained=True), remote="http://127.0.0.1:9")
    with pytest.raises(mn.InputError, match="cannot run on a server"):
        mn.load("tiny", remote="local", untrained=True)


@pytest.mark.parametrize("seed", [-1, 1.5, "0"])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(mn.InputError, match="must be a non-negative integer, got"):
        mn.load("tiny", untrained=seed)


def test_a_module_without_config_has_no_copy():
    from modalnet.models.loading import Loaded
    from modalnet.models.untrained import untrained_copy

    with pytest.raises(mn.InputError, match="no config"):
        untrained_copy(Loaded(torch.nn.Linear(2, 2)))


def test_a_class_that_cannot_be_built_says_so():
    from modalnet.models.loading import Loaded
    from modalnet.models.untrained import untrained_copy

    class Odd(torch.nn.Module):
        def __init__(self, config, more):
            super().__init__()

    odd = Odd(None, None)
    odd.config = build("gpt2").model.config
    with pytest.raises(mn.InputError, match="Odd cannot be built from its config"):
        untrained_copy(Loaded(odd))
