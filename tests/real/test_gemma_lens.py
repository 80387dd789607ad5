"""The logit lens and the tuned lens on a trained language model, Gemma 3 270M, against plain transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as tr

import assets
import modalnet as mn
from reference import watch

pytestmark = pytest.mark.real

TEXT = "The Eiffel Tower is in the city of"
READ = 24
LAYERS = (0, 5, 11, 16, 17)


def test_lenses_of_gemma():
    model = mn.load(assets.gemma(), dtype="float32")
    sentences = [one for one in mn.stimuli.language().stimuli if one.condition == "sentences"]
    options = {"layers": LAYERS, "progress": False, "cache": False}
    result = mn.lens(model, TEXT, tokens="all", words=[" Paris"], **options)
    plain = tr.AutoModelForCausalLM.from_pretrained(assets.gemma(), dtype=torch.float32).eval()
    inputs = tr.AutoTokenizer.from_pretrained(assets.gemma())(TEXT, return_tensors="pt")
    blocks = [f"model.layers.{layer}" for layer in LAYERS]
    with torch.no_grad(), watch(plain, blocks) as seen:
        logits = plain(**inputs).logits[0]
        for place, path in enumerate(blocks):
            expected = plain.lm_head(plain.model.norm(seen[path][0][0])).softmax(-1).topk(10)
            np.testing.assert_allclose(result.probabilities[0, place], expected.values, atol=1e-4)
    np.testing.assert_allclose(result.probabilities[0, -1], logits.softmax(-1).topk(10).values, atol=1e-4)
    assert result.rank(" Paris").query("layer == 17")["rank"].iloc[-1] == 1
    assert result.rank(" Paris").query("layer == 0")["rank"].iloc[-1] > 100
    tuned = mn.lens(model, sentences[:READ], tokens="all", fit=sentences[READ:], **options)
    table = tuned.faithfulness().query("layer < 17").set_index(["lens", "layer"])
    print(table)
    assert (table.loc["tuned"]["gain_low"] > 0).all()
