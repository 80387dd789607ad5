"""Attention of the class token of a trained vision transformer, DINOv2-S, against plain transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as tr
from PIL import Image

import assets
import modalnet as mn

pytestmark = pytest.mark.real


def test_the_class_token_of_dinov2_to_patches():
    files = sorted(assets.data("floc").glob("*.jpg"))[:200:100]
    model = mn.load(assets.dinov2(), dtype="float32")
    stimuli = [mn.Stimulus(image=str(file)) for file in files]
    options = {"tower": "vision", "target": "cls", "heads": "each", "cache": False, "progress": False}
    found = mn.features.attention_maps(model, stimuli, **options)
    plain = tr.AutoModel.from_pretrained(assets.dinov2(), dtype=torch.float32, attn_implementation="eager").eval()
    processor = tr.AutoImageProcessor.from_pretrained(assets.dinov2())
    for index, file in enumerate(files):
        with torch.no_grad():
            pixels = processor(images=Image.open(file).convert("RGB"), return_tensors="pt")
            expected = torch.stack(plain(**pixels, output_attentions=True).attentions)[:, 0, :, :1, 1:]
        np.testing.assert_allclose(found.weights[index], expected, atol=1e-5)
        np.testing.assert_allclose(found.share[index], expected[:, :, 0].double().sum(-1), atol=1e-5)
        # Patches tile the picture (its middle, where the processor crops), in raster order.
        boxes = found.boxes[index]
        side = int(len(boxes) ** 0.5)
        assert side**2 == len(boxes)
        middles = (boxes[:, :2] + boxes[:, 2:]).reshape(side, side, 2) / 2
        assert (np.diff(middles[..., 0], axis=1) > 0).all()
        assert (np.diff(middles[..., 1], axis=0) > 0).all()
    print(found.summary())
