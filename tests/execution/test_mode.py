"""The mode of a module is its owner's: passes run in evaluation mode, and give back what was set."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as tr

import modalnet as mn
from families import build, finish, make_tokenizer, picture
from modalnet.execution.mode import evaluating


def dropping(seed=0):
    """A language model with dropout everywhere, in training mode."""
    config = tr.GPT2Config(vocab_size=512, n_embd=32, n_layer=3, n_head=2, resid_pdrop=0.5, embd_pdrop=0.5)
    return finish(tr.GPT2LMHeadModel(config), seed).train()


def modes(module):
    return {name: each.training for name, each in module.named_modules()}


def mixed(module):
    module.eval()
    module.transformer.h[1].train()
    module.transformer.h[1].mlp.eval()
    module.transformer.drop.train()
    return modes(module)


def contrast(stimuli):
    named = [replace(one, condition="ab"[2 * i // len(stimuli)]) for i, one in enumerate(stimuli)]
    return mn.Contrast(named, positive="a", negative="b")


CALLS = {
    "run": lambda model: model.run(["the dog ran", "a"], logits="last"),
    "score": lambda model: model.score(["the dog"], [[" ran", " a"]]),
    "generate": lambda model: model.generate("the dog", max_new_tokens=2),
    "means": lambda model: model.means(["the dog ran"]),
    "localize": lambda model: mn.localize(
        model, contrast([mn.Stimulus(text) for text in ("the dog", "a cat", "x y", "z w")]), progress=False, cache=False
    ),
    "patching": lambda model: mn.activation_patching(
        model, "the dog ran", "the tea ran", lambda logits, pairs=None: logits[:, 5], cache=False, progress=False
    ),
    "attribution": lambda model: mn.attribution_patching(
        model, "the dog ran", "the tea ran", lambda logits, pairs=None: logits[:, 5], cache=False, progress=False
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("remote", [None, "local"])
def test_modes_are_as_they_were(call, remote):
    module = dropping()
    before = mixed(module)
    module.config._name_or_path = "somewhere"
    model = mn.load(module, tokenizer=make_tokenizer(), **({"remote": remote} if remote else {}))
    assert modes(module) == before
    CALLS[call](model)
    assert modes(module) == before


def test_numbers_of_a_module_in_training_mode_are_those_in_evaluation_mode():
    module = dropping()
    plain = copy.deepcopy(module).eval()
    model = mn.load(module, tokenizer=make_tokenizer())
    assert module.training
    run = model.run(["the dog ran"], tokens="all", logits="last")
    with torch.no_grad():
        expected = plain(**make_tokenizer()(["the dog ran"], return_tensors="pt"))
    torch.testing.assert_close(run.logits[0], expected.logits[0, -1], atol=1e-4, rtol=0)
    model.module.eval()
    model.module.train()
    again = model.run(["the dog ran"], tokens="all", logits="last")
    torch.testing.assert_close(again.logits, run.logits, atol=0, rtol=0)


def test_batch_statistics_stay_as_they_are():
    module = build("llama").model.__class__(build("llama").model.config)
    module.model.layers[0].add_module("norm", torch.nn.BatchNorm1d(4))
    mn.load(module.train(), tokenizer=make_tokenizer()).run(["the dog"])
    assert int(module.model.layers[0].norm.num_batches_tracked) == 0


def test_modes_are_given_back_after_an_error():
    module = dropping()
    before = mixed(module)
    model = mn.load(module, tokenizer=make_tokenizer())

    def fail(*_):
        assert not module.transformer.h[1].training
        raise ValueError("a hook of the user")

    handle = module.transformer.h[2].register_forward_hook(fail)
    with pytest.raises(ValueError, match="a hook of the user"):
        model.run(["the dog"], logits="last")
    assert modes(module) == before
    handle.remove()
    stream = model._executor.stream(model._executor.prepare([mn.Stimulus("a")]), ["decoder"], {"decoder": "mean"})
    next(stream)
    assert modes(module) == before  # between two batches too


def test_a_class_that_acts_on_its_mode_is_not_asked_to():
    class Merging(torch.nn.Linear):
        def train(self, mode=True):
            assert mode
            return super().train(mode)

    module = torch.nn.Sequential(Merging(2, 2))
    with evaluating(module):
        assert not module[0].training
    assert module[0].training


# ------------------------------------------------------------------------------------------------- random numbers


def test_a_mask_that_is_drawn_is_refused_by_name():
    config = tr.ViTMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    module = finish(tr.ViTMAEModel(config))
    processor = tr.ViTImageProcessor(size={"height": 32, "width": 32})
    model = mn.load(module, processor=processor)
    stimuli = [mn.Stimulus(image=picture(i, 40, 30)) for i in range(4)]
    with pytest.raises(mn.InputError, match=r"ViTMAEModel draws random numbers.*mask_ratio is 0.75"):
        model.run(stimuli)
    with pytest.raises(mn.InputError, match="draws random numbers"):
        mn.localize(model, contrast(stimuli), progress=False)
    module.config.mask_ratio = 0.0
    run = model.run(stimuli, tokens="all")
    for stimulus, found in zip(stimuli, run.residual["vision"], strict=True):
        pixels = processor(stimulus.images(), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            states = module(pixels, noise=torch.arange(16.0)[None], output_hidden_states=True).hidden_states
        torch.testing.assert_close(found, torch.cat(states[1:]), atol=1e-4, rtol=0)


class Noisy(torch.nn.Module):
    """What a block may do besides, whatever the mode."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return x + self.draw(x)


def drawing(draw):
    module = finish(tr.LlamaForCausalLM(build("llama").model.config))
    last = module.model.layers[-1]
    last.mlp = torch.nn.Sequential(last.mlp, Noisy(draw))
    return mn.load(module, tokenizer=make_tokenizer())


DRAWS = {
    "torch": torch.randn_like,
    "dropout": torch.nn.functional.dropout,
    "numpy": lambda x: 3 * torch.from_numpy(np.random.randn(*x.shape)).float(),  # noqa: NPY002
}
ASKED = {
    "run": lambda model: model.run(["the dog ran"]),
    "logits": lambda model: model.run(["the dog ran"], read=[], logits="last"),
    "score": lambda model: model.score(["the dog"], [" ran"]),
    "generate": lambda model: model.generate("the dog", max_new_tokens=3),
    "attribution": CALLS["attribution"],
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("asked", ASKED)
def test_random_numbers_anywhere_are_refused(draw, asked):
    with pytest.raises(mn.InputError, match="draws random numbers in its forward pass"):
        ASKED[asked](drawing(DRAWS[draw]))


def test_a_hook_that_draws_is_named():
    model = mn.load(finish(tr.LlamaForCausalLM(build("llama").model.config)), tokenizer=make_tokenizer())
    model.run(["the dog"])
    where = model.module.model.layers[2].mlp
    handle = where.register_forward_hook(lambda _, __, out: out + torch.randn_like(out))
    with pytest.raises(mn.InputError, match=r"model\.layers\.2\.mlp has a forward hook"):
        model.run(["the dog"])
    handle.remove()
    model.run(["the dog"])


def test_numbers_that_are_drawn_and_not_used_are_no_reason():
    """Some encoders draw for layer dropout in every pass, and use it in training alone."""
    model = drawing(lambda x: 0 * torch.rand([]))
    model.run(["the dog ran"], logits="last")


def test_sampling_is_meant_to_draw():
    model = mn.load(build("llama").model, tokenizer=make_tokenizer())
    model.generate("the dog", max_new_tokens=3, do_sample=True)
