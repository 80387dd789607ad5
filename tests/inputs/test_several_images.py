"""Stimuli with several images: each is read, or the model refuses them by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import modalnet as mn
from modalnet.execution.engine import Engine
from reference import VISION_ONLY, load

READ = ["llava_clip", "idefics3", "qwen2_vl", "gemma3", "mllama", "clip", *VISION_ONLY]


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (53, 37, 3), dtype=np.uint8))


def pair(name: str, one: int, two: int) -> mn.Stimulus:
    text = None if name in (*VISION_ONLY, "clip") else "What is this?"
    return mn.Stimulus(text, image=[noise(one), noise(two)], id="two")


@pytest.mark.parametrize("name", READ)
def test_each_of_two_images_changes_what_is_read(name):
    model = load(name)
    tower = "decoder" if "decoder" in model.towers else "vision"
    run = model.run([pair(name, 0, 1), pair(name, 2, 1), pair(name, 0, 3)], read=[tower], tokens="all", batch_size=1)
    one, *others = (values[-1] for values in run.residual[tower])
    assert all(not torch.allclose(one, other, atol=1e-4) for other in others)


def test_an_image_that_vanishes_is_refused():
    model = load("blip2")
    message = r"does not read image 2 of the 2 of stimulus two: .* decoder tower\. Give each stimulus one image"
    with pytest.raises(mn.InputError, match=message):
        model.run([pair("blip2", 0, 1)])
    with pytest.raises(mn.InputError, match=message):
        model.score([pair("blip2", 0, 1)], [" a dog"])
    with pytest.raises(mn.InputError, match=message):
        model.generate(pair("blip2", 0, 1), max_new_tokens=2)
    with pytest.raises(mn.InputError, match=message):
        mn.sink_tokens(model, [pair("blip2", 0, 1)])
    assert model.run([mn.Stimulus("What is this?", image=noise(0))]).residual["decoder"].shape[0] == 1


def test_several_images_are_tried_once(monkeypatch):
    passes, real = [], Engine.run
    monkeypatch.setattr(Engine, "run", lambda *args, **kwargs: passes.append(1) or real(*args, **kwargs))
    model = load("llava_clip")
    stimuli = [pair("llava_clip", 2 * n, 2 * n + 1) for n in range(3)]
    model.run(stimuli, read=["decoder"], batch_size=1)
    first = len(passes)
    model.run(stimuli, read=["decoder"], batch_size=1)
    assert len(passes) - first == 3
    assert first == 3 + 3  # as they are, and with each of the two exchanged
