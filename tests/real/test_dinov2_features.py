"""What the face units of a trained vision transformer like: DINOv2-S on the images of the fLoc localizer.

Half of the images select the units, others that did not are counted. Beside the units stand random ones of the same
layers and activation size.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as tr

import assets
import modalnet as mn
from modalnet.stimuli.published import INTACT
from reference import watch

pytestmark = pytest.mark.real

FACES = ("adult", "child")


@pytest.fixture(scope="module")
def material():
    """The model, the face network by a quarter of the pictures, matched random units, and another quarter."""
    model = mn.load(assets.dinov2(), dtype="float32")
    every = mn.stimuli.floc(
        assets.data("floc"), positive=FACES, negative=tuple(name for name in INTACT if name not in FACES)
    )
    some, others = every.stimuli[::4], every.stimuli[1::4]
    network = mn.localize(model, mn.Contrast(some, every.positive, every.negative), cache=False, progress=False).top(
        k=20
    )
    return model, network, network.random(1, match="activation")[0], others


def test_top_stimuli_of_face_units_are_faces(material):
    model, network, control, others = material
    both = mn.features.top_stimuli(model, network | control, others, 5, per_token=False, progress=False)
    own = np.array([network.mask[tower][layer, dim] for tower, layer, dim in both.units])
    faces = both.share(FACES)
    chance = np.mean([stimulus.condition in FACES for stimulus in others])
    assert chance == pytest.approx(0.2, abs=0.01)
    assert faces[own].mean() > 0.6
    assert faces[~own].mean() < 0.35
    assert (faces[own] > 0.5).mean() > 2 * (faces[~own] > 0.5).mean()

    # The same by plain transformers, for the best picture of each unit.
    plain = tr.AutoModel.from_pretrained(assets.dinov2(), dtype=torch.float32).eval()
    processor = tr.AutoImageProcessor.from_pretrained(assets.dinov2())
    blocks = [f"encoder.layer.{i}" for i in range(12)]
    rows = sorted(set(both.index[:, 0].tolist()))[:8]
    for index in rows:
        with torch.no_grad(), watch(plain, blocks) as seen:
            plain(**processor(images=both.stimuli[index].images(), return_tensors="pt"))
        for unit in np.flatnonzero(both.index[:, 0] == index):
            _, layer, dim = both.units[unit]
            expected = float(seen[blocks[layer]][0].mean(1)[0, dim].abs())
            assert both.activation[unit, 0] == pytest.approx(expected, abs=1e-3)


def test_an_optimized_picture_drives_the_face_network(material):
    model, network, _, others = material
    result = mn.features.optimize(model, network, natural=others[::2], steps=24, learning_rate=0.1, progress=False)
    table = result.table()
    assert table["best"][0].split("-")[0] in FACES
    assert result.frame == ((224, 224), (0, 0, 224, 224))  # the size that its processor leaves alone
    # The network answers to its own picture more than to the best natural one, and more than to that of random units.
    assert table["reached"][0] > table["natural_best"][0]
    assert table["reached"][0] > 1.5 * table["others"][0]
    assert table["reached"][1] > table["natural_best"][1]  # some picture drives any units
