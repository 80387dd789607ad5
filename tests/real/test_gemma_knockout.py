"""Knockouts in trained models, Gemma 3 270M and DINOv2-S, against their own eager attention with one more mask."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import transformers as tr
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

import assets
import modalnet as mn

pytestmark = pytest.mark.real

TEXTS = ["The keys that the old man left near the door of the house", "The dog near the cats"]
#: By the number of a module, which edges are left out ``[head, target, source]``.
GONE: dict[int, torch.Tensor] = {}


def with_one_more_mask(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
    eager = sys.modules[type(module).__module__].eager_attention_forward
    if id(module) in GONE:
        more = torch.zeros_like(GONE[id(module)], dtype=query.dtype).masked_fill(GONE[id(module)], -1e30)
        attention_mask = more if attention_mask is None else attention_mask + more
    return eager(module, query, key, value, attention_mask, **options)


AttentionInterface.register("with_one_more_mask", with_one_more_mask)
AttentionMaskInterface.register("with_one_more_mask", eager_mask)


def test_gemma() -> None:
    folder = assets.gemma()
    model = mn.load(str(folder), dtype="float32")
    plain: Any = tr.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="with_one_more_mask"
    ).eval()
    for layers, heads in [(range(4, 9), None), ([5, 11], [0, 3])]:  # both kinds of layers: sliding, and global
        for text in TEXTS:
            inputs = model.tokenizer(text, return_tensors="pt")
            n = inputs["input_ids"].shape[1]
            gone = torch.zeros(1, 4, n, n, dtype=torch.bool)
            gone[:, slice(None) if heads is None else heads, -1, 1:3] = True
            GONE.update({id(plain.model.layers[layer].self_attn): gone for layer in layers})
            with torch.no_grad():
                expected = plain(**inputs).logits[0, -1]
            GONE.clear()
            found = model.run(
                text, mn.knockout("decoder", layers, source=[1, 2], target="last", heads=heads), logits="last"
            )
            assert (found.logits[0] - expected).abs().max() <= 1e-5 * expected.abs().max()
            assert (found.logits[0] - model.run(text, logits="last").logits[0]).abs().max() > 0.05


def test_dinov2() -> None:
    folder = assets.dinov2()
    model = mn.load(str(folder))
    plain: Any = tr.AutoModel.from_pretrained(folder, attn_implementation="with_one_more_mask").eval()
    stimulus = mn.Stimulus(image=assets.data("floc") / "house-001.jpg")
    inputs = tr.AutoImageProcessor.from_pretrained(folder)(stimulus.images(), return_tensors="pt")
    n = 257
    gone = torch.zeros(1, 1, n, n, dtype=torch.bool)
    gone[..., 0, 1:130] = True
    GONE.update({id(plain.encoder.layer[layer].attention): gone for layer in (3, 4)})
    with torch.no_grad():
        expected = plain(**inputs).last_hidden_state
    GONE.clear()
    found = model.run(stimulus, mn.knockout("vision", [3, 4], source=range(1, 130), target="cls"), tokens="all")
    last = plain.layernorm(found.activations["vision"][0][-1])
    assert (last - expected[0]).abs().max() <= 1e-5 * expected.abs().max()
    intact = model.run(stimulus, tokens="all").activations["vision"][0][-1]
    assert (found.activations["vision"][0][-1] - intact).abs().max() > 0.05
