"""Path patching in a trained model with norms behind its sublayers, against hooks."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

import assets
import modalnet as mn
from modalnet.patching import agreement_pairs

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def model():
    return mn.load(str(assets.gemma()), dtype="float32")


@pytest.fixture(scope="module")
def question():
    every = agreement_pairs(60)
    chosen = [i for i, stimulus in enumerate(every.clean) if "near" in stimulus.text][:4]
    some = [every[i : i + 1] for i in chosen]
    clean, corrupt = ([getattr(one, side)[0] for one in some] for side in ("clean", "corrupt"))
    metric = mn.patching.logit_difference([one.answers[0] for one in some], [one.distractors[0] for one in some])
    return {"clean": clean, "corrupt": corrupt, "metric": metric, "align": "last", "tokens": "last"}


@pytest.fixture(scope="module")
def found(model, question):
    return mn.activation_patching(
        model, **question, sender=["heads", "mlp"], receiver="logits", cache=False, progress=False
    )


def ids(model, text):
    return model.tokenizer(text, return_tensors="pt")


def by_hooks(model, pair, answers, layer, head):
    """The measure with one head's direct effect at the last token: every sublayer after it frozen."""
    space = model.spaces["decoder.heads"]
    blocks = [model.module.get_submodule(path) for path in model.spaces["decoder"].paths]
    part = slice(head * space.size, (head + 1) * space.size)
    kept: dict[object, torch.Tensor] = {}
    names = ("post_attention_layernorm", "post_feedforward_layernorm")
    tokens = [ids(model, model._executor.prepare([one])[0].prompt) for one in pair]

    def run(inputs, before, after):
        with contextlib.ExitStack() as stack, torch.no_grad():
            handle = blocks[layer].self_attn.o_proj.register_forward_pre_hook(before)
            stack.callback(handle.remove)
            for number, block in enumerate(blocks):
                for name in names:
                    hook = block.get_submodule(name).register_forward_hook(
                        lambda module, args, output, key=(number, name): after(key, output)
                    )
                    stack.callback(hook.remove)
            return model.module(**inputs).logits[0, -1]

    run(tokens[0], lambda module, args: kept.update(source=args[0].clone()), lambda key, output: None)
    run(tokens[1], lambda module, args: None, lambda key, output: kept.update({key: output.clone()}))

    def patch(module, args):
        new = args[0].clone()
        new[:, -1, part] = kept["source"][:, -1, part]
        return (new,)

    def freeze(key, output):
        return kept[key] if key > (layer, names[0]) else None

    logits = run(tokens[1], patch, freeze)
    right, wrong = (model.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in answers)
    return float(logits[right] - logits[wrong])


def test_heads_send_to_the_logits_what_hooks_say(model, question, found):
    space = "decoder.heads"
    assert found.unit_exact[space].sum() == 20
    effect = np.where(found.unit_exact[space], found.unit_effect[space], -np.inf)
    layer, head = np.unravel_index(effect.argmax(), effect.shape)
    metric = question["metric"]
    for pair in range(2):
        answers = metric.answers[pair], metric.distractors[pair]
        stimuli = question["clean"][pair], question["corrupt"][pair]
        expected = by_hooks(model, stimuli, answers, int(layer), int(head))
        assert found.unit_values[space][pair, layer, head] == pytest.approx(expected, abs=2e-3)


def test_estimates_find_the_heads(model, question, found):
    (row,) = found.unit_agreement().to_dict("records")
    total = mn.activation_patching(model, **question, sites="heads", per_unit=True, cache=False, progress=False)
    effects = [one.unit_effect["decoder.heads"].ravel() for one in (found, total)]
    assert np.corrcoef(*effects)[0, 1] > 0.9
    first = int(np.argmax(effects[0]))
    assert first == int(np.argmax(effects[1]))
    assert effects[0][first] < effects[1][first]  # the other half of its effect is through later blocks
    assert row["pearson"] > 0.9
    assert row["left"] <= np.abs(found.unit_effect["decoder.heads"][found.unit_exact["decoder.heads"]]).max()
