"""Face and object units of a trained vision transformer, DINOv2-S, on the images of the fLoc localizer.

Every number is held against an independent computation: images by PIL, states of plain transformers, t by scipy.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as tr
from PIL import Image
from scipy import stats

import assets
import modalnet as mn
from modalnet.stimuli.published import INTACT
from reference import watch

pytestmark = pytest.mark.real

N_LAYERS, WIDTH = 12, 384
FACES = ("adult", "child")
CONTRASTS = {
    "faces": (FACES, tuple(name for name in INTACT if name not in FACES)),
    "intact": (INTACT, ("scrambled",)),
}


@pytest.fixture(scope="module")
def results():
    model = mn.load(assets.dinov2(), dtype="float32")
    assert {name: tower.shape for name, tower in model.towers.items()} == {"vision": (N_LAYERS, WIDTH)}
    assert model.vision.has_cls
    folder = assets.data("floc")
    made = {}
    for name, (positive, negative) in CONTRASTS.items():
        contrast = mn.stimuli.floc(folder, positive=positive, negative=negative)
        made[name] = mn.localize(model, contrast, cache=False, progress=False)
    return made


@pytest.fixture(scope="module")
def independent():
    """|mean over tokens| ``[image, 12, 384]`` and the category of each image, ten images at a time."""
    plain = tr.AutoModel.from_pretrained(assets.dinov2(), dtype=torch.float32).eval()
    processor = tr.AutoImageProcessor.from_pretrained(assets.dinov2())
    files = sorted(assets.data("floc").glob("*.jpg"))
    assert len(files) == 440
    blocks = [f"encoder.layer.{i}" for i in range(N_LAYERS)]
    rows = []
    for start in range(0, len(files), 10):
        images = [Image.open(path).convert("RGB") for path in files[start : start + 10]]
        with torch.no_grad(), watch(plain, blocks) as seen:
            states = plain(**processor(images, return_tensors="pt"), output_hidden_states=True).hidden_states
        assert all(torch.equal(seen[path][0], state) for path, state in zip(blocks[:-1], states[1:], strict=False))
        rows.append(torch.stack([seen[path][0].mean(1) for path in blocks], dim=1))
    return torch.cat(rows).double().abs().numpy(), np.array([path.stem.split("-")[0] for path in files])


@pytest.mark.parametrize("name", CONTRASTS)
def test_every_t_is_that_of_an_independent_computation(name, results, independent):
    values, categories = independent
    positive, negative = (np.isin(categories, side) for side in CONTRASTS[name])
    assert (positive.sum(), negative.sum()) == {"faces": (80, 320), "intact": (400, 40)}[name]
    expected = stats.ttest_ind(values[positive], values[negative], equal_var=False).statistic
    t = results[name].t["vision"]
    assert np.abs(t - expected).max() < 1e-3
    mask = np.zeros(t.size, dtype=bool)
    mask[np.argsort(-expected.ravel(), kind="stable")[: int(0.01 * t.size)]] = True
    top = results[name].top(0.01)
    assert top.count == 46
    np.testing.assert_array_equal(top.mask["vision"].ravel(), mask)


def test_the_figures_that_were_seen_before(results):
    """Largest t for faces 25.6; units with t > 5 for intact from 1 to 108 (the note that goes with the data)."""
    assert results["faces"].t["vision"].max() == pytest.approx(25.6, abs=0.1)
    counts = (results["intact"].t["vision"] > 5).sum(axis=1)
    assert (counts[0], counts[-1]) == (1, 108)


def test_selectivity_for_intact_images_grows_with_depth(results):
    counts = (results["intact"].t["vision"] > 5).sum(axis=1)
    assert stats.spearmanr(np.arange(N_LAYERS), counts).statistic > 0.8
    assert counts[-3:].mean() > 5 * max(counts[:3].mean(), 1)


def test_the_networks_come_back_on_other_images(results):
    for name in CONTRASTS:
        found = results[name].reliability(fraction=0.01, k=2, n_splits=10)
        assert found.dice.mean() > found.dice_random.max() + 0.2
        assert found.t_held_out.min() > found.t_random.max()
    assert results["faces"].top(0.01).dice(results["intact"].top(0.01)) < 0.5  # two questions, two networks


def test_the_class_token_is_another_reading(results):
    model = mn.load(assets.dinov2(), dtype="float32")
    positive, negative = CONTRASTS["faces"]
    contrast = mn.stimuli.floc(assets.data("floc"), positive=positive, negative=negative)
    some = mn.Contrast([s for i, s in enumerate(contrast.stimuli) if i % 8 == 0], contrast.positive, contrast.negative)
    stimuli = some.stimuli[:3]
    every = model.run(stimuli, tokens="all").residual["vision"]
    cls = model.run(stimuli, tokens="cls").residual["vision"]
    patches = model.run(stimuli, tokens="image").residual["vision"]
    for i, states in enumerate(every):
        assert states.shape == (N_LAYERS, 1 + 16 * 16, WIDTH)
        torch.testing.assert_close(cls[i], states[:, 0], atol=1e-4, rtol=0)
        torch.testing.assert_close(patches[i], states[:, 1:].mean(1), atol=1e-4, rtol=0)
