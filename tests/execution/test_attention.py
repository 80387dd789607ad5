"""`Model.run(attention=)` against plain transformers: `output_attentions=True` under eager attention."""

from __future__ import annotations

import contextlib
import copy
from functools import cache
from unittest import mock

import numpy as np
import pytest
import torch
import transformers as tr

import modalnet as mn
from families import build, picture
from modalnet.execution import weights as reading
from reference import TEXT_ONLY, close, editing, encode, load, stimuli_for

TEXT = "What is in the house?"


@cache
def eager(name):
    module = copy.deepcopy(build(name).model)
    module.set_attn_implementation("eager")
    return module


def stimulus_of(name, text=TEXT):
    return mn.Stimulus(text, image=None if name in TEXT_ONLY else [picture(0, 64, 48)])


def reference(name, text=TEXT):
    """``[layer, head, token, token]`` of the decoder."""
    inputs = encode(build(name), text, [] if name in TEXT_ONLY else [picture(0, 64, 48)])
    with torch.no_grad():
        return torch.stack(eager(name)(**inputs, output_attentions=True).attentions)[:, 0]


@contextlib.contextmanager
def second_outputs(module, paths):
    """What some modules put out second."""
    seen = []
    hooks = [
        module.get_submodule(path).register_forward_hook(lambda module, args, output: seen.append(output[1]))
        for path in paths
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def implementations(module):
    return {name: each.config._attn_implementation for name, each in module.named_modules() if hasattr(each, "config")}


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "llava_clip", "qwen2_5_vl"])
def test_it_is_what_transformers_gives(name):
    model, stimuli = load(name), [stimulus_of(name), stimulus_of(name, "A dog")]
    before = implementations(model.module)
    run = model.run(stimuli, attention=True, logits="last")
    assert implementations(model.module) == before
    for found, text in zip(run.attention["decoder"], (TEXT, "A dog"), strict=True):
        close(found, reference(name, text), atol=1e-5)
        assert found.dtype == torch.float32
    assert run.attention_layers["decoder"] == tuple(range(model.decoder.n_layers))
    assert list(run.attention) == list(model.towers)
    plain = model.run(stimuli, logits="last")
    assert torch.equal(run.logits, plain.logits)
    assert plain.attention == {}
    mean = model.run(stimuli[0], read={"decoder": [-1, 1]}, attention="mean")
    assert list(mean.attention) == ["decoder"]
    assert mean.attention_layers["decoder"] == (1, model.decoder.n_layers - 1)
    close(mean.attention["decoder"][0], reference(name).mean(1)[[1, -1]], atol=1e-5)
    table = run.to_xarray()["decoder_attention"]
    assert table.dims == ("stimulus", "decoder_attention_layer", "decoder_head", "decoder_target", "decoder_source")
    n_tokens = run.attention["decoder"][1].shape[-1]
    close(table[1, :, :, :n_tokens, :n_tokens].to_numpy(), run.attention["decoder"][1])
    assert np.isnan(table[1, :, :, n_tokens:]).all()


def test_vision_towers_and_interventions():
    model, stimulus = load("llava_clip"), stimulus_of("llava_clip")
    inputs = encode(build("llava_clip"), TEXT, [picture(0, 64, 48)])
    path = "model.vision_tower.encoder.layers"
    paths = [f"{path}.{layer}.self_attn" for layer in range(model.vision.n_layers)]
    with torch.no_grad(), second_outputs(eager("llava_clip"), paths) as seen:
        eager("llava_clip")(**inputs)
    # Of the last block nothing is used by the decoder, yet it runs.
    close(model.run(stimulus, read=[], attention=True).attention["vision"][0], torch.cat(seen), atol=1e-5)
    with editing(eager("llava_clip"), {"model.language_model.layers.0": torch.zeros_like}), torch.no_grad():
        expected = torch.stack(eager("llava_clip")(**inputs, output_attentions=True).attentions)[:, 0]
    zero = mn.zero(mn.site("decoder", 0))
    for run in (
        model.run(stimulus, zero, read="decoder", attention=True),
        model.with_(zero).run(stimulus, read="decoder", attention=True),
    ):
        close(run.attention["decoder"][0], expected, atol=1e-5)
    cut = model.run(stimulus, mn.knockout("decoder", 1, source="image", target="last"), attention=True)
    image = torch.from_numpy(cut.token_rows[0]["decoder"].image)
    assert (cut.attention["decoder"][0][1, :, -1, image] == 0).all()
    assert (cut.attention["decoder"][0][2, :, -1, image] > 0).all()


def test_a_single_token():
    for first in ("gpt2", "llama"):
        model = mn.load(copy.deepcopy(build(first).model), tokenizer=build(first).tokenizer)
        token = next(text for text in ("a", "the", "t") if len(model.tokenizer(text)["input_ids"]) <= 2)
        alone = model.run(token, read=[], attention=True).attention["decoder"][0]
        run = model.run([token, TEXT], read=[], attention=True)
        close(run.attention["decoder"][1], reference(first), atol=1e-5)
        close(alone, run.attention["decoder"][0])


def test_the_implementation_is_what_it_was_after_an_error(monkeypatch):
    model = load("llava_clip")
    before = implementations(model.module)
    assert set(before.values()) == {"sdpa"}

    def fail(*args, **kwargs):
        assert set(implementations(model.module).values()) == {"eager"}
        raise RuntimeError("midway")

    monkeypatch.setattr(reading.Weights, "read", fail)
    with pytest.raises(RuntimeError, match="midway"):
        model.run(stimulus_of("llava_clip"), attention=True)
    assert implementations(model.module) == before


def test_a_block_without_weights_is_named(monkeypatch):
    model = mn.load(copy.deepcopy(build("llama").model), tokenizer=build("llama").tokenizer)
    monkeypatch.setattr(reading, "weight_places", mock.Mock(return_value=[]))
    with pytest.raises(mn.InputError, match=r"block 0 of the decoder tower of .* does not give its weights"):
        model.run(TEXT, attention=True)


def test_cross_attention_is_left_out():
    model, (stimulus,) = load("mllama"), stimuli_for("mllama", n=1)
    weights = model.run(stimulus, read="decoder", attention=True).attention["decoder"][0]
    assert weights.isnan().flatten(1).all(1).tolist() == [False, True, False, False, True, False]
    own = [0, 2, 3, 5]
    close(weights[own].sum(-1), torch.ones(weights[own].shape[:3]), atol=1e-5)
    found = mn.features.attention_maps(model, stimulus, source=[0], cache=False, progress=False)
    assert found.layers == (0, 2, 3, 5)
    close(found.weights[0][:, 0, 0, 0], weights[own].mean(1)[:, -1, 0], atol=1e-5)
    for call in (
        lambda: model.run(stimulus, read={"decoder": [1]}, attention=True),
        lambda: mn.features.attention_maps(model, stimulus, source=[0], layers=1, cache=False, progress=False),
    ):
        with pytest.raises(mn.InputError, match=r"Block 1 of the decoder tower has no decoder\.edges"):
            call()


def test_a_tower_without_attention():
    config = tr.MambaConfig(vocab_size=len(build("llama").tokenizer), hidden_size=16, state_size=4, num_hidden_layers=2)
    model = mn.load(tr.MambaForCausalLM(config).eval(), tokenizer=build("llama").tokenizer)
    with pytest.raises(mn.InputError, match="MambaForCausalLM has none in decoder"):
        model.run(TEXT, attention=True)
    with pytest.raises(mn.InputError, match="The decoder tower of MambaForCausalLM has no attention heads"):
        mn.features.attention_maps(model, TEXT, source=[0], cache=False, progress=False)


@pytest.mark.parametrize("given", ["each", 1, None, [True]])
def test_other_values_are_refused(given):
    with pytest.raises(mn.InputError, match="`attention` must be True, False or 'mean', got"):
        load("llama").run(TEXT, attention=given)
