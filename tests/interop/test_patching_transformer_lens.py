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
