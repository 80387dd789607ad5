"""Blocks that are skipped, where a block is handed more than the residual stream: numbers are those of hooks."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
import transformers as tr

import modalnet as mn
from architectures.checks import Bench
from architectures.pass_checks import skipping
from architectures.small import build
from families import finish, make_tokenizer
from modalnet.execution.likelihood import Request

PAIR = ("Is there a face, a house or a car?", "Is there a car, a house or a face?")
SIZES = {
    "vocab_size": 512,
    "vocab_size_per_layer_input": 512,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "hidden_size_per_layer_input": 8,
    "sliding_window": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
#: Kinds of the layers; the last three read keys and values of earlier ones.
LAYERS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"] * 2


@cache
def module_of(name):
    torch.manual_seed(0)
    if name == "gemma4":
        config = tr.Gemma4TextConfig(
            **SIZES, num_hidden_layers=8, layer_types=LAYERS, num_kv_shared_layers=3, global_head_dim=16
        )
        return finish(tr.Gemma4ForCausalLM(config))
    if name == "gemma3n":
        config = tr.Gemma3nTextConfig(
            **SIZES, num_hidden_layers=8, layer_types=LAYERS, num_kv_shared_layers=3, laurel_rank=4
        )
        return finish(tr.Gemma3nForCausalLM(config))
    assert name == "llama"
    config = tr.LlamaConfig(
        vocab_size=512, hidden_size=48, intermediate_size=96, num_hidden_layers=8, num_attention_heads=2
    )
    return finish(tr.LlamaForCausalLM(config))


NAMES = ["gemma4", "gemma3n", "llama"]


def load(name):
    return mn.load(module_of(name), tokenizer=make_tokenizer())


def inputs_of(text):
    return dict(make_tokenizer()([text], return_tensors="pt"))


def logits_of(module, text, edits=None, seen=None):
    """Plain logits of a text; ``edits`` are functions of a block's output by path, ``seen`` takes outputs."""

    def hook(path):
        def change(_, __, output):
            hidden = output[0] if isinstance(output, tuple) else output
            if seen is not None:
                seen[path] = hidden.clone()
            if edits and path in edits:
                hidden = edits[path](hidden.clone())
                return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
            return None

        return change

    paths = {*(edits or ()), *(f"model.layers.{i}" for i in range(8) if seen is not None)}
    handles = [module.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
    try:
        with torch.no_grad():
            return module(**inputs_of(text)).logits[0]
    finally:
        for handle in handles:
            handle.remove()


def difference(logits, pairs=None):
    return logits[:, 5] - logits[:, 9]


@pytest.mark.parametrize("name", NAMES)
def test_patching_every_block_is_what_hooks_do(name):
    module = module_of(name)
    found = mn.activation_patching(load(name), *PAIR, difference, tokens="each", cache=False, progress=False)
    states = {}
    logits_of(module, PAIR[0], seen=states)
    values = found.values["decoder"][0]
    changed = 0
    for layer in range(8):
        for token in range(0, values.shape[1], 3):

            def edit(hidden, layer=layer, token=token):
                hidden[..., token, :] = states[f"model.layers.{layer}"][..., token, :]
                return hidden

            expected = float(difference(logits_of(module, PAIR[1], {f"model.layers.{layer}": edit})[-1:])[0])
            assert values[layer, token] == pytest.approx(expected, abs=2e-3)
            changed += abs(expected - found.corrupt[0]) > 1e-3
    assert changed > 4


def zeroed(units):
    mask = units.mask["decoder"]

    def edit(dims):
        def change(hidden):
            if hidden.dim() == 4:  # streams
                width = hidden.shape[-1]
                for dim in dims:
                    hidden[dim // width, ..., dim % width] = 0
            else:
                hidden[..., dims] = 0
            return hidden

        return change

    return {f"model.layers.{i}": edit(np.flatnonzero(mask[i])) for i in range(8) if mask[i].any()}


def units_at(model, layer, seed=0):
    mask = np.zeros(model.decoder.shape, dtype=bool)
    mask[layer] = np.random.default_rng(seed).random(mask.shape[1]) < 0.3
    return mn.Units({"decoder": mask})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layers", [(1, 7), (7, 1), (4, 6, 2, 5)])
def test_lesions_at_any_depth_after_any_other_are_what_hooks_do(name, layers):
    model, module = load(name), module_of(name)
    text, more = PAIR[0], " a dog"
    start = len(inputs_of(text)["input_ids"][0])
    ids = inputs_of(text + more)["input_ids"][0]
    for layer in layers:
        lesions = [units_at(model, layer, seed) for seed in range(4)]
        found = model._executor.likelihoods_under(
            [Request(mn.Stimulus(text), more)], [[mn.zero(one)] for one in lesions]
        )
        for one, (likelihood,) in zip(lesions, found, strict=True):
            logp = logits_of(module, text + more, zeroed(one)).log_softmax(-1)
            expected = sum(float(logp[k - 1, ids[k]]) for k in range(start, len(ids)))
            assert likelihood.logprob == pytest.approx(expected, abs=2e-3)


def blocks_run(model, module, run):
    """How often each block ran: a block that is skipped does not call its parts."""
    counts = np.zeros(8, dtype=int)

    def count(layer):
        def hook(*_):
            counts[layer] += 1

        return hook

    handles = [module.get_submodule(f"model.layers.{i}.mlp").register_forward_hook(count(i)) for i in range(8)]
    try:
        run()
        counts[:] = 0
        run()
    finally:
        for handle in handles:
            handle.remove()
    return counts


@pytest.mark.parametrize("name", NAMES)
def test_what_can_be_skipped_still_is(name):
    """Where the deepest start does not hold, a shallower one does; without shared keys, all of it."""
    model, module = load(name), module_of(name)
    lesions = [[mn.zero(units_at(model, 6, seed))] for seed in range(4)]
    request = [Request(mn.Stimulus(PAIR[0]), " a dog")]
    counts = blocks_run(model, module, lambda: model._executor.likelihoods_under(request, lesions))
    assert counts[7] == 4
    # One pass reads them for all four lesions; the first block that runs in each is the 6th, or the 3rd.
    assert counts.tolist() == ([1] * 6 + [4] * 2 if name == "llama" else [1] * 3 + [4] * 5)


def test_a_sweep_runs_one_whole_pass_to_know_every_depth():
    model, module = load("llama"), module_of("llama")
    passes = []
    handle = module.model.layers[0].mlp.register_forward_hook(lambda *_: passes.append(1))
    try:
        mn.activation_patching(model, *PAIR, difference, tokens="each", cache=False, progress=False)
        first = len(passes)
        passes.clear()
        mn.activation_patching(model, *PAIR, difference, tokens="each", cache=False, progress=False)
        again = len(passes)
    finally:
        handle.remove()
    assert model._executor.sweep.skipping.known == {(("decoder", layer + 1),): True for layer in range(8)}
    assert first - again <= 3


def test_a_hook_that_is_added_is_not_applied_twice_to_a_skipped_block():
    """What is known of skipping is known of the model as it was hooked then."""
    model, module = load("llama"), module_of("llama")
    lesions = [[mn.zero(units_at(model, 6, seed))] for seed in range(4)]
    request = [Request(mn.Stimulus(PAIR[0]), " a dog")]
    clean = model._executor.likelihoods_under(request, lesions)
    handle = module.model.layers[2].register_forward_hook(
        lambda _, __, out: (out[0] * 1.5, *out[1:]) if isinstance(out, tuple) else out * 1.5
    )
    try:
        together = model._executor.likelihoods_under(request, lesions)
        alone = [model._executor.likelihoods(request, *edit) for edit in lesions]
    finally:
        handle.remove()
    for one, other, was in zip(together, alone, clean, strict=True):
        assert one[0].logprob == pytest.approx(other[0].logprob, abs=1e-4)
        assert one[0].logprob != pytest.approx(was[0].logprob, abs=1e-3)
    after = model._executor.likelihoods_under(request, lesions)
    assert [one[0].logprob for one in after] == pytest.approx([one[0].logprob for one in clean], abs=1e-4)


@pytest.mark.parametrize("name", ["Gemma4", "Bart", "MistralLarge4"])
def test_classes_whose_blocks_are_handed_more_than_the_stream(name):
    """Gemma 4 with towers for pictures and sounds; an encoder and a decoder; an index of tokens that blocks share."""
    kinds = [f"{name}ForConditionalGeneration", f"{name}ForCausalLM"]
    kind = getattr(tr, next(each for each in kinds if hasattr(tr, each)))
    bench = Bench(build(kind.config_class, kind))
    assert skipping(bench) is None
