"""Attribution in blocks that add in place, and in those that have no such units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

import modalnet as mn
from families import build
from modalnet.errors import InputError

OPTIONS = {"cache": False, "progress": False}
TEXTS = ("Is there a face, a house or a car?", "Is there a car, a house or a face?")


def difference(logits, pairs=None):
    return logits[:, 5] - logits[:, 9]


def small(name, **settings):
    """A small random model of a class, with the tokenizer of another."""
    tokenizer = build("llama").tokenizer
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer), **settings)
    torch.manual_seed(0)
    module = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    return mn.load(module, tokenizer=tokenizer)


def falcon():
    return small("Falcon", hidden_size=32, num_hidden_layers=3, num_attention_heads=4)


def test_what_is_added_in_place_is_not_what_was_put_out():
    """Falcon adds the attention's output to the MLP's, in place."""
    model, seen = falcon(), {}
    blocks = model._executor.module.transformer.h

    def keep(layer):
        def hook(module, args, output):
            seen[layer] = output.detach().clone()

        return hook

    handles = [block.mlp.register_forward_hook(keep(layer)) for layer, block in enumerate(blocks)]
    model._executor.module(**model.tokenizer([TEXTS[0]], return_tensors="pt"))
    for handle in handles:
        handle.remove()
    expected = torch.cat([seen[layer] for layer in range(len(blocks))])
    for tokens in ("all", "last", "mean"):
        found = model.run([TEXTS[0]], read="decoder.mlp", tokens=tokens).activations["decoder.mlp"]
        wanted = {"all": expected, "last": expected[:, -1], "mean": expected.mean(1)}[tokens]
        np.testing.assert_allclose(found[0], wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "attention", "heads", "neurons"])
@pytest.mark.parametrize("frozen", [False, True])
def test_units_add_up_where_blocks_add_in_place(kind, frozen):
    model = falcon()
    model._executor.module.requires_grad_(not frozen)
    name = f"decoder.{kind}"
    options = {"sites": kind, "tokens": {name: {"some": (3, 4)}}, **OPTIONS}
    exact = mn.activation_patching(model, *TEXTS, difference, **options).effect[name][:, 0]
    found = mn.attribution_patching(model, *TEXTS, difference, method="integrated", steps=24, **options)
    np.testing.assert_allclose(found.unit_effect[name].sum(1), exact, atol=3e-3 * max(1, np.abs(exact).max()))
    star = mn.attribution_patching(model, *TEXTS, difference, method="atp*", **options)
    assert star.effect[name][:-1].min() > 0


def test_a_space_that_is_not_there_is_refused_at_the_door():
    """Two modules add to the stream behind the attention here: neither is what the MLP adds."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
    experts = {
        "intermediate_size": 32,
        "shared_intermediate_size": 24,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    }
    model = small("GraniteMoeShared", **sizes, **experts)
    for patching in (mn.activation_patching, mn.attribution_patching):
        with pytest.raises(InputError, match=r"decoder\.mlp of .* cannot be patched"):
            patching(model, *TEXTS, difference, sites="mlp", **OPTIONS)
