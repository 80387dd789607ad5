"""Patching agrees with TransformerLens, cell by cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

import modalnet as mn
from families import build

TEXTS = ("Is there a face, a house or a car?", "Is there a car, a house or a face?")


def difference(logits):
    return logits[..., 5] - logits[..., 9]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_heatmap_of_the_residual_stream(name, tmp_path):
    patching = pytest.importorskip("transformer_lens.patching")
    from transformer_lens.model_bridge import TransformerBridge

    family = build(name)
    family.model.save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    module, theirs = (transformers.AutoModelForCausalLM.from_pretrained(tmp_path) for _ in range(2))
    model = mn.load(module, tokenizer=family.tokenizer)
    found = mn.activation_patching(model, *TEXTS, difference, tokens="each", cache=False, progress=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    bridge = TransformerBridge.boot_transformers(str(tmp_path), hf_model=theirs, tokenizer=tokenizer)
    clean, corrupt = (torch.tensor([family.tokenizer(text)["input_ids"]]) for text in TEXTS)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(clean)
        grid = patching.generic_activation_patch(
            bridge,
            corrupt,
            cache,
            lambda logits: difference(logits[0, -1]),
            patching.layer_pos_patch_setter,
            "resid_post",
            index_axis_names=("layer", "pos"),
        )
    np.testing.assert_allclose(found.values["decoder"][0], grid.numpy(), atol=1e-4)
    assert np.ptp(grid.numpy()) > 1e-2


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_paths_between_heads(name, tmp_path):
    """A path of one edge by TransformerLens' hooks: what attentions and MLPs add is frozen between two heads."""
    pytest.importorskip("transformer_lens")
    from transformer_lens.model_bridge import TransformerBridge

    family = build(name)
    family.model.save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    module, theirs = (transformers.AutoModelForCausalLM.from_pretrained(tmp_path) for _ in range(2))
    model = mn.load(module, tokenizer=family.tokenizer)
    shape = {"decoder.heads": model.spaces["decoder.heads"].shape}
    sender, receiver = (
        mn.Units.from_indices(shape, [("decoder.heads", layer, head)]) for layer, head in ((0, 1), (3, 2))
    )
    found = mn.activation_patching(
        model, *TEXTS, difference, sender=sender, receiver=receiver, cache=False, progress=False
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    bridge = TransformerBridge.boot_transformers(str(tmp_path), hf_model=theirs, tokenizer=tokenizer)
    clean, corrupt = (torch.tensor([family.tokenizer(text)["input_ids"]]) for text in TEXTS)

    def head_of(values, head):
        def hook(z, hook):
            z = z.clone()
            z[..., head, :] = values[..., head, :]
            return z

        return hook

    with torch.no_grad():
        (_, source), (_, base) = (bridge.run_with_cache(text) for text in (clean, corrupt))
        frozen = [
            (f"blocks.{layer}.{place}", lambda value, hook, held=base[f"blocks.{layer}.{place}"]: held)
            for layer in range(3)
            for place in ("hook_attn_out", "hook_mlp_out")
            if (layer, place) != (0, "hook_attn_out")
        ]
        got = []
        hooks = [("blocks.0.attn.hook_z", head_of(source["blocks.0.attn.hook_z"], 1)), *frozen]
        keep = ("blocks.3.attn.hook_z", lambda z, hook: got.append(z.clone()))
        bridge.run_with_hooks(corrupt, fwd_hooks=[*hooks, keep])
        logits = bridge.run_with_hooks(corrupt, fwd_hooks=[("blocks.3.attn.hook_z", head_of(got[0], 2))])
    expected = float(difference(logits[0, -1]))
    assert found.networks["sender"].joint[0] == pytest.approx(expected, abs=1e-5)
    assert abs(expected - found.corrupt[0]) > 1e-4
