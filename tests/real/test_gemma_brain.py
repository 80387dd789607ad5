"""The language network of a trained language model beside the brain's: what holds of Gemma 3 270M, whatever it shows.

Half of one public set and fewer controls, so that it is fast; docs/brain.md has the whole tables.
"""

from __future__ import annotations

import numpy as np
import pytest

import assets
import modalnet as mn

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def model():
    return mn.load(str(assets.gemma()), dtype="float32")


@pytest.fixture(scope="module")
def localization(model):
    contrast = mn.stimuli.fedorenko2010(assets.data("fedorenko2010"))
    return mn.localize(model, contrast, protocol="alkhamissi2025", progress=False)


@pytest.fixture(scope="module")
def pereira(model, localization):
    """On every second topic."""
    data = mn.brain.pereira2018(assets.data("brain") / "pereira2018_averaged.csv")
    kept = set(sorted(set(data.groups))[::2])
    half = data.select(stimuli=np.array([group in kept for group in data.groups]))
    return mn.brain.align(model, localization, half, n_controls=5, progress=False)


def test_the_language_network_predicts_what_training_gave(pereira):
    table = pereira.table().set_index("features")
    assert table.loc["network", "score"] > 0.3
    assert table.loc["network", "p"] < 0.01
    assert table.loc["untrained, same units", "network_minus_low"] > 0
    assert {"length", "frequency", "bag of words"} <= set(table.index)
    # One average over participants: nothing tells how well a perfect model would do.
    assert np.isnan(table["normalized"]).all()


def test_it_predicts_no_better_than_random_units_and_worse_than_all(pereira):
    table = pereira.table().set_index("features")
    random = table.loc["random units, layer-matched"]
    assert random["network_minus_low"] < 0 < random["network_minus_high"]
    assert "cannot be tested with 5 draws" in pereira.verdict()
    assert table.loc["all its layers", "network_minus_high"] < 0


def test_a_second_set_agrees_and_it_is_more_than_length(model, localization):
    data = mn.brain.tuckute2024(assets.data("brain") / "tuckute2024_averaged.csv", conditions="B")
    assert len(data) == 1001
    found = mn.brain.align(model, localization, data, n_controls=3, untrained=False, whole_layer=False, progress=False)
    table = found.table().set_index("features")
    assert table.loc["network", "score"] > 0.2
    assert table.loc["network", "p"] < 0.01
    assert np.isnan(table.loc["random units, layer-matched", "network_minus_low"])  # three draws are too few
    assert table.loc["all baselines", "network_minus_low"] > 0
    assert found.beyond()["low"] > 0


def test_the_four_conditions_as_in_the_human_language_network(model, localization):
    found = mn.profile.language(model, localization, n=80, progress=False)
    assert found.notes[0] == "none of these stimuli selected the network"
    assert found.paired
    human = found.compare_to_human()
    assert human.n_shown == 5
    assert human.controls_alike < human.n_controls
    table = found.contrasts().set_index("contrast")
    for name in ("lexical", "syntactic"):
        assert table.loc[name, "low"] > 0
        assert table.loc[name, "p_rank"] == pytest.approx(1 / 21)
