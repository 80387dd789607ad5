"""Networks of published protocols in trained models, as their released code selects them: the same units, one by one.

Texts in Gemma 3 270M: the language localizer of Fedorenko et al., agreement pairs of MultiBLiMP, stories and sums.
Pictures in the bundled model. Everything runs one stimulus at a time, as in most of the released code, so that not a
digit of an activation depends on its neighbours.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

import assets
import modalnet as mn
from modalnet.replication import select
from published_code import (
    READINGS,
    beyond_a_threshold,
    densely_ranked,
    in_every_contrast,
    sides_of,
    smoothed_top,
    text_inputs,
    welch,
)

pytestmark = pytest.mark.real

EACH = 24  # stimuli of a side


@pytest.fixture(scope="module")
def gemma():
    return mn.load(assets.gemma(), dtype="float32")


@pytest.fixture(scope="module")
def tiny():
    return mn.load("tiny")


def localized(model, contrast, protocol):
    return mn.localize(model, contrast, protocol=protocol, batch_size=1, cache=False, progress=False)


def read(name, contrast, model):
    """Both sides in Gemma, by plain transformers."""
    reading = READINGS[name]
    blocks = [f"layers.{layer}" for layer in range(18)]
    return sides_of(
        contrast, model.module.model, blocks, reading, lambda each: text_inputs(model.tokenizer, each.text, reading)
    )


def some(contrast):
    """The first stimuli of each side."""
    groups = [
        [each for each, side in zip(contrast.stimuli, contrast.sides, strict=True) if side == which][:EACH]
        for which in ("positive", "negative")
    ]
    return mn.Contrast([*groups[0], *groups[1]], contrast.positive, contrast.negative)


def sentences():
    return some(mn.stimuli.fedorenko2010(assets.data("fedorenko2010")))


def pairs():
    table = pd.read_csv(assets.data("multiblimp_sv/eng.csv"))[:EACH]
    stimuli = [mn.Stimulus(text, condition=name) for name in ("good", "bad") for text in table[f"sentence_{name}"]]
    return mn.Contrast(stimuli, "good", "bad")


@pytest.mark.parametrize(
    ("name", "make"), [("alkhamissi2025", sentences), ("brainscore2025", sentences), ("syntax2026", pairs)]
)
def test_language_and_syntax(gemma, name, make):
    contrast, protocol = make(), mn.protocols[name].as_released()
    network = protocol.networks[0]
    localization = localized(gemma, contrast, protocol.for_contrast(network))
    t = welch(*read(name, contrast, gemma))
    for fraction in protocol.selection.fractions:
        found = select({network: localization}, protocol.selection, fraction=fraction)
        np.testing.assert_array_equal(found.mask["decoder"], densely_ranked(t, fraction))
        assert found.count == int(fraction * t.size)


@pytest.mark.parametrize("networks", [("theory of mind", "least theory of mind"), ("multiple demand",)])
def test_theory_of_mind(gemma, networks):
    made = mn.stimuli.multiple_demand(EACH) if networks[0] == "multiple demand" else mn.stimuli.theory_of_mind()
    contrast, protocol = some(made), mn.protocols["tom2026"].as_released()
    localization = localized(gemma, contrast, protocol)
    t = welch(*read("tom2026", contrast, gemma))
    for network, fraction in itertools.product(networks, protocol.selection.fractions):
        top, bottom = beyond_a_threshold(t, fraction)
        found = select({network: localization}, protocol.for_contrast(network).selection, fraction=fraction)
        np.testing.assert_array_equal(found.mask["decoder"], bottom if network.startswith("least") else top)


PREFIXES = {
    "neutral": "This is the next question from a list of questions.",
    "reward": "A correct answer to this question earns you a reward.",
    "money": "A correct answer to this question pays you fifty dollars.",
}
LANDS = ("France", "Spain", "Italy", "Poland", "Greece", "Japan", "India", "Kenya", "Peru")


def incentives(positive, domain):
    sums = [f"What is {a} plus {b}?" for a, b in itertools.product((17, 23, 31), (12, 18, 25))]
    questions = sums if domain == "arithmetic" else [f"What is the capital of {land}?" for land in LANDS]
    stimuli = [
        mn.Stimulus(f"{PREFIXES[name]} {each}", condition=name) for name in (positive, "neutral") for each in questions
    ]
    return mn.Contrast(stimuli, positive, "neutral")


def test_incentives(gemma):
    protocol = mn.protocols["anhedonia2026"].as_released()
    contrasts = {each.name: incentives(*each.name.split(", ")) for each in protocol.contrasts}
    localizations = {name: localized(gemma, contrast, protocol) for name, contrast in contrasts.items()}
    found = select(localizations, protocol.selection)
    # Layers 18 to 27 of 28, the last 36% of the depth, are 12 to 17 of 18.
    expected = in_every_contrast([read("anhedonia2026", each, gemma) for each in contrasts.values()], first_layer=12)
    np.testing.assert_array_equal(found.mask["decoder.activation"], expected)
    assert expected.any()


def picture_inputs(model, prompt):
    return lambda each: dict(model.processor(images=[each.images()], text=[f"<image>{prompt}"], return_tensors="pt"))


def test_word_forms(tiny):
    contrast, protocol = mn.stimuli.categories("words", n=16, size=64), mn.protocols["dyslexia2026"].as_released()
    found = select({"words": localized(tiny, contrast, protocol)}, protocol.selection).mask["decoder.gate"]
    blocks = [f"model.language_model.layers.{layer}" for layer in range(8)]
    inputs = picture_inputs(tiny, "Describe the image.")
    sides = sides_of(contrast, tiny.module, blocks, READINGS["dyslexia2026"], inputs)
    np.testing.assert_array_equal(found, densely_ranked(np.nan_to_num(welch(*sides).astype(np.float32)), 0.21))
    # Computed in float32 from the first, t differs in its last digits, and so may the last units that are selected.
    single = np.nan_to_num(welch(*sides, np.float32))
    mask = densely_ranked(single, 0.21)
    differing = single[mask ^ found]
    assert len(differing) <= 4
    assert (np.abs(differing / single[mask].min() - 1) < 1e-4).all()


def test_faces_on_a_sheet(tiny):
    contrast, protocol = mn.stimuli.categories("faces", n=16, size=64), mn.protocols["topoomni2026"].as_released()
    localization = localized(tiny, contrast, protocol)
    blocks = [f"model.vision_tower.encoder.layers.{layer}" for layer in range(6)]
    t = welch(*sides_of(contrast, tiny.module, blocks, READINGS["topoomni2026"], picture_inputs(tiny, "")))
    positions = np.random.default_rng(0).uniform(0, 28, (6, 128, 2))
    for fraction in protocol.selection.fractions:
        found = select({"faces": localization}, protocol.selection, fraction=fraction, sheet={"vision": positions})
        np.testing.assert_array_equal(found.mask["vision"], smoothed_top(t, positions, fraction))
