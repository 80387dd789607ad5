"""AtP* against plain torch: gradients that pass by blocks, and attention that is run again."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

import modalnet as mn
from families import build, picture
from modalnet.errors import InputError
from modalnet.execution import cell_activations
from modalnet.patching import agreement, kl_divergence
from reference import encode, load, paths

OPTIONS = {"cache": False, "progress": False}
TEXTS = ("Is there a face, a house or a car?", "Is there a car, a house or a face?")
ATTENTION = {"gpt2": "attn", "llama": "self_attn"}
LAST = {"gpt2": "attn.c_proj", "llama": "self_attn.o_proj"}


def difference(logits, pairs=None):
    return logits[:, 5] - logits[:, 9]


class Reference:
    """One family, whose blocks can be passed by and patched, with hooks."""

    def __init__(self, name):
        self.name, self.family = name, build(name)
        self.blocks = [self.family.model.get_submodule(path) for path in paths(name, "decoder")]
        self.attentions = [block.get_submodule(ATTENTION[name]) for block in self.blocks]
        self.projections = [block.get_submodule(LAST[name]) for block in self.blocks]

    def run(self, text, dropped=None, patch=None):
        """The measure, and per block what it, its attention and its heads give; ``patch`` is layer, rows and values."""
        seen = {"out": {}, "attention": {}, "heads": {}, "in": {}}

        def block_hook(layer):
            def hook(module, args, output):
                hidden = output[0] if isinstance(output, tuple) else output
                if layer == dropped:
                    hidden = hidden.detach() + (seen["in"][layer] - seen["in"][layer].detach())
                if patch is not None and layer == patch[0]:
                    hidden = hidden.detach().clone()
                    hidden[0, patch[1]] = patch[2]
                if not hidden.requires_grad:
                    hidden = hidden.detach().requires_grad_()
                seen["out"][layer] = hidden
                return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

            return hook

        def keep(kind, layer):
            def hook(module, args, output):
                seen[kind][layer] = output[0] if isinstance(output, tuple) else output

            return hook

        def enters(kind, layer):
            def hook(module, args, kwargs=None):
                seen[kind][layer] = args[0] if args else kwargs["hidden_states"]

            return hook

        with contextlib.ExitStack() as stack:
            for layer, (block, attention, last) in enumerate(
                zip(self.blocks, self.attentions, self.projections, strict=True)
            ):
                handles = [
                    block.register_forward_pre_hook(enters("in", layer), with_kwargs=True),
                    block.register_forward_hook(block_hook(layer)),
                    attention.register_forward_hook(keep("attention", layer)),
                    last.register_forward_pre_hook(enters("heads", layer)),
                ]
                for handle in handles:
                    stack.callback(handle.remove)
            output = self.family.model(**encode(self.family, text))
        return difference(output.logits[0][-1:])[0], seen

    def effects(self, base, source):
        """[block, layer, token]: the effect of each token of each layer without the paths through one block."""
        with torch.no_grad():
            _, clean = self.run(base)
            _, other = self.run(source)
        n, tokens = len(self.blocks), clean["out"][0].shape[1]
        change = [other["out"][layer][0] - clean["out"][layer][0] for layer in range(n)]
        reruns = {}
        for layer in range(n - 1):
            for token in range(tokens):
                with torch.no_grad():
                    _, patched = self.run(base, patch=(layer, [token], other["out"][layer][0, [token]]))
                reruns[layer, token] = patched["attention"][layer + 1][0] - clean["attention"][layer + 1][0]
        found = np.zeros((n, n, tokens))
        for dropped in range(n):
            value, seen = self.run(base, dropped)
            outs = [seen["out"][layer] for layer in range(n)]
            attentions = [seen["attention"][layer] for layer in range(n)]
            slopes = torch.autograd.grad(value, [*outs, *attentions], retain_graph=True, allow_unused=True)
            for layer in range(n):
                slope = slopes[layer][0]
                exact = np.zeros(tokens)
                through = torch.zeros_like(slope)
                behind = slopes[n + layer + 1] if layer + 1 < n else None
                if behind is not None:
                    (through,) = torch.autograd.grad(
                        attentions[layer + 1], outs[layer], behind, retain_graph=True, allow_unused=True
                    )
                    through = through[0]
                    exact = np.array([float((behind[0] * reruns[layer, token]).sum()) for token in range(tokens)])
                found[dropped, layer] = (change[layer] * (slope - through)).sum(1).detach().numpy() + exact
        return found

    def heads(self, base, source, size):
        """[block, layer, head]: the same of heads at all tokens, by the gradient alone."""
        with torch.no_grad():
            _, clean = self.run(base)
            _, other = self.run(source)
        n = len(self.blocks)
        found = []
        for dropped in range(n):
            value, seen = self.run(base, dropped)
            inner = [seen["heads"][layer] for layer in range(n)]
            asked = [one for one in inner if one.requires_grad]
            slopes = dict(zip(map(id, asked), torch.autograd.grad(value, asked, allow_unused=True), strict=True))
            rows = []
            for layer in range(n):
                slope = slopes.get(id(inner[layer]))
                slope = torch.zeros_like(inner[layer]) if slope is None else slope
                each = (other["heads"][layer] - clean["heads"][layer]) * slope
                rows.append(each[0].unflatten(-1, (-1, size)).sum((0, 2)).detach().numpy())
            found.append(rows)
        return np.array(found)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("frozen", [False, True])
def test_effects_are_those_of_hooks(name, direction, frozen):
    clean, corrupt = TEXTS
    module = build(name).model
    before = [parameter.requires_grad for parameter in module.parameters()]
    try:
        module.requires_grad_(not frozen)
        found = mn.attribution_patching(
            load(name), clean, corrupt, difference, tokens="each", direction=direction, method="atp*", **OPTIONS
        )
        module.requires_grad_(True)
        base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
        effects = Reference(name).effects(base, source)
    finally:
        for parameter, wanted in zip(module.parameters(), before, strict=True):
            parameter.requires_grad_(wanted)
    expected = np.abs(effects).mean(0) / abs(found.clean[0] - found.corrupt[0])
    assert expected.max() > 1e-3
    np.testing.assert_allclose(found.effect["decoder"], expected, atol=1e-3 * expected.max())


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_heads_count_the_other_blocks(name):
    clean, corrupt = TEXTS
    model = load(name)
    found = mn.attribution_patching(model, clean, corrupt, difference, sites="heads", method="atp*", **OPTIONS)
    size = model.spaces["decoder.heads"].size
    effects = Reference(name).heads(corrupt, clean, size)
    n = len(effects)
    for layer in range(n):
        np.testing.assert_allclose(effects[layer, layer], 0)
    expected = np.abs(effects).sum(0) / (n - 1) / abs(found.clean[0] - found.corrupt[0])
    np.testing.assert_allclose(found.unit_effect["decoder.heads"], expected, atol=2e-3 * expected.max())


def test_what_enters_a_block_is_what_the_one_before_gave():
    clean, corrupt = TEXTS
    pre, post = (
        mn.attribution_patching(
            load("llama"), clean, corrupt, difference, sites=kind, tokens="each", method="atp*", **OPTIONS
        )
        for kind in ("pre", "residual")
    )
    np.testing.assert_allclose(pre.effect["decoder.pre"][1:], post.effect["decoder"][:-1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "llava_clip"])
def test_pairs_together_are_as_alone_and_blocks_are_skipped(name, monkeypatch):
    texts = (
        ["The dog ran across the field", "She poured the tea"],
        ["The fox ran across the field", "She poured the dog"],
    )
    image = picture(1, 64, 48) if name == "llava_clip" else None
    clean, corrupt = ([mn.Stimulus(text, image=image) for text in side] for side in texts)
    options = {"towers": "decoder", "align": "role" if image else "last", "method": "atp*", **OPTIONS}
    model = load(name)
    together = mn.attribution_patching(model, clean, corrupt, difference, **options)
    known = dict(model._executor.sweep.skipping.known_at)
    assert known
    assert all(known.values())
    again = mn.attribution_patching(model, clean, corrupt, difference, **options)
    assert model._executor.sweep.skipping.known_at == known
    np.testing.assert_allclose(again.values["decoder"], together.values["decoder"], atol=1e-5)
    monkeypatch.setattr(cell_activations._Reader, "_starts", lambda self: [])
    for place, pair in enumerate(zip(clean, corrupt, strict=True)):
        alone = mn.attribution_patching(load(name), *pair, difference, **options)
        own = np.abs(together.values["decoder"][place] - together.corrupt[place])
        own = own[:, np.isfinite(own).all(0)]
        one = np.abs(alone.values["decoder"][0] - alone.corrupt[0])
        np.testing.assert_allclose(own, one[:, np.isfinite(one).all(0)], atol=2e-3 * one.max())


def test_cancellation_and_saturation_are_why():
    """Where effects cancel or softmaxes saturate, the gradient misses sites that AtP* does not."""
    model = mn.load("tiny")
    nouns = ("dog", "cat", "girl", "boy", "bird", "horse", "king", "teacher")
    clean, corrupt = ([f"the {noun}{ending} near the house" for noun in nouns] for ending in ("", "s"))
    pairs = (model, clean, corrupt, mn.patching.logit_difference(" is", " are"))
    exact = mn.activation_patching(*pairs, **OPTIONS)
    estimates = [mn.attribution_patching(*pairs, method=method, **OPTIONS) for method in ("gradient", "atp*")]
    table = agreement(exact, *estimates)
    assert list(table["method"]) == ["gradient", "atp*"]
    assert (estimates[1].effect["decoder"] >= 0).all()
    # Of an estimate of magnitudes, exact magnitudes are what it is compared with.
    whole = np.abs((exact.clean - exact.corrupt).sum())
    sizes = np.abs(exact.values["decoder"] - exact.corrupt[:, None, None]).sum(0) / whole
    own = estimates[1].effect["decoder"]
    assert table["largest_error"][1] == pytest.approx(np.abs(sizes - own).max())
    assert table["spearman"][1] > 0.8
    assert "AtP*" in estimates[1].summary()


def one_block():
    from transformers import LlamaConfig, LlamaForCausalLM

    family = build("llama")
    vocabulary = len(family.tokenizer)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    return mn.load(LlamaForCausalLM(config).eval(), tokenizer=family.tokenizer)


def test_what_has_nothing_to_correct_is_refused():
    with pytest.raises(InputError, match=r"no other block .* decoder.heads"):
        mn.attribution_patching(one_block(), *TEXTS, difference, sites="heads", method="atp*", **OPTIONS)
    with pytest.raises(InputError, match="gradient is zero"):
        mn.attribution_patching(load("llama"), *TEXTS, kl_divergence(), direction="noise", method="atp*", **OPTIONS)
    with pytest.raises(InputError, match="`steps` is for method='integrated' alone"):
        mn.attribution_patching(load("llama"), *TEXTS, difference, method="atp*", steps=4, **OPTIONS)


def test_blocks_without_attention_have_nothing_to_rerun():
    from transformers import MambaConfig, MambaForCausalLM

    family = build("llama")
    config = MambaConfig(vocab_size=len(family.tokenizer), hidden_size=16, state_size=4, num_hidden_layers=3)
    torch.manual_seed(0)
    model = mn.load(MambaForCausalLM(config).eval(), tokenizer=family.tokenizer)
    with pytest.raises(InputError, match="reruns the attention that decoder enters"):
        mn.attribution_patching(model, *TEXTS, difference, method="atp*", **OPTIONS)
