"""Edits that a user's own nnsight model carries hold in every pass, as hooks of the same kind do."""

from __future__ import annotations

import copy
import warnings

import nnsight
import numpy as np
import pytest
import torch

import modalnet as mn
from families import build, make_tokenizer, picture
from modalnet.execution.likelihood import Request
from reference import editing

TEXT = "the dog ran across"


def double(path):
    return {path: lambda flat: 2 * flat}


@pytest.fixture
def module():
    return copy.deepcopy(build("llama").model)


def edited(module, path="model.layers.2", when=None):
    """A user's wrapper whose edit doubles the output of a module."""
    envoy = nnsight.NNsight(module)
    part = envoy.get(path)
    with envoy.edit(inplace=True):
        part.output = 2 * part.output
    return envoy


def loaded(source):
    return mn.load(source, tokenizer=make_tokenizer())


def inputs(text):
    return dict(make_tokenizer()([text], return_tensors="pt"))


def plainly(module, path, text=TEXT):
    with torch.no_grad(), editing(module, double(path)):
        return module(**inputs(text), output_hidden_states=True)


PATHS = ["model.layers.0", "model.layers.2", "model.layers.3.mlp", "model.norm", "lm_head"]


@pytest.mark.parametrize("path", PATHS)
def test_every_read_is_under_the_edit_wherever_it_stops(path, module):
    expected = plainly(copy.deepcopy(module), path)
    model = loaded(edited(module, path))
    for layer in range(3):
        found = model.run([TEXT], read={"decoder": [layer]}, tokens="all").residual["decoder"][0][0]
        torch.testing.assert_close(found, expected.hidden_states[layer + 1][0], atol=1e-4, rtol=1e-4)
    logits = model.run([TEXT, "a"], read=[], logits="last").logits[0]
    torch.testing.assert_close(logits, expected.logits[0, -1], atol=1e-4, rtol=1e-4)
    every = model.run([TEXT, "a"], read=[], logits="all").logits[0]
    torch.testing.assert_close(every, expected.logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("path", PATHS)
def test_generation_is_under_the_edit_at_every_step(path, module):
    plain = copy.deepcopy(module)
    with torch.no_grad(), editing(plain, double(path)):
        ids = plain.generate(**inputs(TEXT), max_new_tokens=6, do_sample=False)[0]
    expected = make_tokenizer().decode(ids[len(inputs(TEXT)["input_ids"][0]) :], skip_special_tokens=True)
    model = loaded(edited(module, path))
    assert model.generate(TEXT, max_new_tokens=6) == expected
    # An intervention beside it holds too, and the edits are as they were.
    zero = mn.zero(mn.Units.from_indices({"decoder": (4, 48)}, [("decoder", 1, 3)]))
    assert isinstance(model.generate(TEXT, zero, max_new_tokens=6), str)
    assert len(model._executor.engine.envoy._edits) == 1


def test_generation_under_an_edit_differs_from_one_that_holds_for_the_prompt_alone(module):
    """Otherwise the test above would say nothing."""
    texts = [TEXT, "She poured the tea", "What is in the", "Two children are"]
    path = "model.layers.2"
    whole, prompt = [], []
    for text in texts:
        plain, seen = copy.deepcopy(module), []

        def hook(_, __, output, seen=seen):
            seen.append(1)
            return 2 * output if len(seen) == 1 else output

        with torch.no_grad(), editing(plain, double(path)):
            whole.append(plain.generate(**inputs(text), max_new_tokens=8, do_sample=False)[0].tolist())
        plain.get_submodule(path).register_forward_hook(hook)
        with torch.no_grad():
            prompt.append(plain.generate(**inputs(text), max_new_tokens=8, do_sample=False)[0].tolist())
    assert whole != prompt
    model = loaded(edited(module, path))
    found = [model.generate(text, max_new_tokens=8) for text in texts]
    tokenizer = make_tokenizer()
    expected = [
        tokenizer.decode(ids[len(inputs(text)["input_ids"][0]) :], skip_special_tokens=True)
        for text, ids in zip(texts, whole, strict=True)
    ]
    assert found == expected


def test_an_edit_with_a_loop_of_its_own_holds_too(module):
    plain = copy.deepcopy(module)
    envoy = nnsight.NNsight(module)
    with envoy.edit(inplace=True) as tracer:
        for _ in tracer.iter[:]:
            envoy.model.layers[2].output = 2 * envoy.model.layers[2].output
    with torch.no_grad(), editing(plain, double("model.layers.2")):
        ids = plain.generate(**inputs(TEXT), max_new_tokens=6, do_sample=False)[0]
    expected = make_tokenizer().decode(ids[len(inputs(TEXT)["input_ids"][0]) :], skip_special_tokens=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert loaded(envoy).generate(TEXT, max_new_tokens=6) == expected


def test_an_edit_of_places_in_the_prompt_says_so_at_a_generated_token(module):
    envoy = nnsight.NNsight(module)
    with envoy.edit(inplace=True):
        envoy.model.layers[1].output[:, 2] = 0
    with pytest.raises(mn.InputError, match="cannot be made at a generated token"):
        loaded(envoy).generate(TEXT, max_new_tokens=3)


def test_scores_sweeps_and_gradients_are_under_the_edit(module):
    plain = copy.deepcopy(module)
    model = loaded(edited(module))
    ids = inputs(TEXT + " a dog")["input_ids"][0]
    logp = plainly(plain, "model.layers.2", TEXT + " a dog").logits[0].log_softmax(-1)
    start = len(inputs(TEXT)["input_ids"][0])
    expected = sum(float(logp[k - 1, ids[k]]) for k in range(start, len(ids)))
    assert model.score([TEXT], [" a dog"]).logprob[0][0] == pytest.approx(expected, abs=1e-3)
    mask = np.zeros((4, 48), dtype=bool)
    mask[3, :9] = True
    lesions = [[mn.scale(mn.Units({"decoder": mask}), 0.1 * k)] for k in range(4)]
    request = [Request(mn.Stimulus(TEXT), " a dog")]
    together = model._executor.likelihoods_under(request, lesions)
    alone = [model._executor.likelihoods(request, *edit) for edit in lesions]
    for one, other in zip(together, alone, strict=True):
        assert one[0].logprob == pytest.approx(other[0].logprob, abs=1e-4)

    def metric(logits, pairs=None):
        return logits[:, 5] - logits[:, 9]

    pair = ("the dog ran", "the tea ran")
    found = mn.activation_patching(model, *pair, metric, tokens="each", cache=False, progress=False)
    for text, value in zip(pair, (found.clean[0], found.corrupt[0]), strict=True):
        logits = plainly(plain, "model.layers.2", text).logits[:, -1]
        assert value == pytest.approx(float(metric(logits)[0]), abs=1e-3)
    # The last block at the last token carries everything.
    assert found.effect["decoder"][-1, -1] == pytest.approx(1, abs=1e-3)
    mn.attribution_patching(model, *pair, metric, cache=False, progress=False)


def test_edits_made_after_the_first_run_hold_and_cleared_ones_do_not(module):
    plain = copy.deepcopy(module)
    envoy = nnsight.NNsight(module)
    model = loaded(envoy)
    clean = model.run([TEXT], logits="last").logits
    with envoy.edit(inplace=True):
        envoy.model.layers[2].output = 2 * envoy.model.layers[2].output
    expected = plainly(plain, "model.layers.2").logits[0, -1]
    torch.testing.assert_close(model.run([TEXT], logits="last").logits[0], expected, atol=1e-4, rtol=1e-4)
    envoy.clear_edits()
    torch.testing.assert_close(model.run([TEXT], logits="last").logits, clean, atol=1e-5, rtol=0)


def test_an_edit_of_what_does_not_run_is_named():
    family = build("llava_clip")
    envoy = edited(copy.deepcopy(family.model), "model.vision_tower.encoder.layers.1")
    model = mn.load(envoy, tokenizer=family.tokenizer, processor=family.processor)
    model.run([mn.Stimulus("what is it?", image=picture(1, 40, 40))], read=["decoder"])
    with pytest.raises(mn.InputError, match=r"carries an edit of .*vision_tower.*does not run on these inputs"):
        model.run(["the dog"], read=["decoder"])


def test_an_edit_of_the_vision_tower_is_made_once_in_a_generation():
    family = build("llava_clip")
    path = "model.vision_tower.encoder.layers.1"
    stimulus = mn.Stimulus("what is it?", image=picture(1, 40, 40))
    plain = mn.load(copy.deepcopy(family.model), tokenizer=family.tokenizer, processor=family.processor)
    with editing(plain.module, double(path)):
        expected = plain.generate(stimulus, max_new_tokens=4)
    envoy = edited(copy.deepcopy(family.model), path)
    model = mn.load(envoy, tokenizer=family.tokenizer, processor=family.processor)
    assert model.generate(stimulus, max_new_tokens=4) == expected
    envoy.clear_edits()
    with envoy.edit(inplace=True):
        envoy.get(path).output = 2 * envoy.get(path).output
        envoy.model.language_model.layers[1].output = 2 * envoy.model.language_model.layers[1].output
    with pytest.raises(mn.InputError, match="Make one edit of each"):
        model.generate(stimulus, max_new_tokens=4)


def test_edits_hold_in_one_tower_of_a_dual_encoder():
    family = build("clip")
    path = "text_model.encoder.layers.1"
    plain = mn.load(copy.deepcopy(family.model), tokenizer=family.tokenizer, processor=family.processor)
    with editing(plain.module, double(path)):
        expected = plain.run(["the dog"], tokens="mean").residual["encoder"][:, 3]
    model = mn.load(edited(copy.deepcopy(family.model), path), tokenizer=family.tokenizer, processor=family.processor)
    torch.testing.assert_close(model.run(["the dog"], tokens="mean").residual["encoder"][:, 3], expected)


def test_edits_are_refused_where_they_would_not_hold(module):
    module.config._name_or_path = "somewhere"
    with pytest.raises(mn.InputError, match="carries edits"):
        mn.load(edited(module), tokenizer=make_tokenizer(), remote="local").run([TEXT])


# ------------------------------------------------------------------------------------------------- hooks on the head


def test_a_hook_on_the_head_sees_every_position(module):
    """The head runs at the wanted positions alone, unless someone looks at what it gives."""
    plain = copy.deepcopy(module)

    def hook(_, __, logits):
        logits = logits.clone()
        logits[:, 0] += 3  # the first token of each text
        logits[:, -1, 5] = 7
        return logits

    model = loaded(module)
    pair = ("the dog ran", "the tea ran")

    def metric(logits, pairs=None):
        return logits[:, 5] - logits[:, 9]

    for where in (lambda each: each.lm_head, lambda each: each.model.layers[0]):
        mn.activation_patching(model, *pair, metric, cache=False, progress=False)  # what is learnt without a hook
        handles = [where(each).register_forward_hook(hook) for each in (module, plain)]
        with torch.no_grad():
            expected = plain(**inputs(pair[0])).logits[0]
        run = model.run([pair[0]], read=[], logits="all").logits[0]
        torch.testing.assert_close(run, expected, atol=1e-4, rtol=1e-4)
        found = mn.activation_patching(model, *pair, metric, cache=False, progress=False)
        assert found.clean[0] == pytest.approx(float(metric(expected[-1:])[0]), abs=1e-3)
        for handle in handles:
            handle.remove()
