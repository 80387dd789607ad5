"""Alignment of a model with a brain that is known: responses that were made of units of the bundled model."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

import modalnet as mn
from modalnet.activations import read_activations

QUICK = {"progress": False, "n_permutations": 99}


@pytest.fixture(scope="module")
def tiny():
    return mn.load("tiny")


@pytest.fixture(scope="module")
def stimuli():
    contrast = mn.stimuli.language_conditions(40)
    return [mn.Stimulus(s.text, id=s.id) for s in contrast.stimuli]


@pytest.fixture(scope="module")
def network(tiny):
    """Twelve units of the decoder, six of each of two blocks."""
    places = [("decoder", layer, dim) for layer in (3, 6) for dim in (5, 40, 77, 101, 150, 180)]
    shapes = {name: tower.shape for name, tower in tiny.towers.items()}
    return mn.Units.from_indices(shapes, places, model=tiny.fingerprint())


@pytest.fixture(scope="module")
def brain(tiny, stimuli, network):
    """Voxels of two subjects that weigh exactly these units, with noise; what is made of one sentence is a group."""
    read = read_activations(tiny, stimuli, {"decoder": [3, 6]}, progress=False)
    values = read.of(network).astype(float)
    z = (values - values.mean(0)) / values.std(0)
    rng = np.random.default_rng(0)
    voxels = z @ rng.standard_normal((12, 10)) / np.sqrt(12) + 0.7 * rng.standard_normal((len(stimuli), 10))
    groups = [s.id.rsplit("-", 1)[1] for s in stimuli]
    return mn.brain.from_arrays(stimuli, voxels, groups=groups, subjects=["a"] * 5 + ["b"] * 5, name="known brain")


@pytest.fixture(scope="module")
def result(tiny, network, brain):
    return mn.brain.align(tiny, network, brain, **QUICK)


def test_the_right_units_win(result):
    table = result.table().set_index("features")
    assert table.loc["network", "score"] > 0.6
    assert table.loc["network", "p"] == 0.01
    random = table.loc["random units, layer-matched"]
    assert (random["draws"], random["n_features"]) == (20, 12)
    assert random["network_minus_low"] > 0
    assert random["p_rank"] == pytest.approx(1 / 21)
    for name in ("untrained, same units", "all baselines", "untrained, all its layers"):
        assert table.loc[name, "network_minus_low"] > 0, name
    assert "better than 20 draws" in result.verdict()
    assert result.beyond()["low"] > 0


def test_every_comparison_is_there(result, tiny):
    table = result.table()
    assert list(table["kind"]) == [
        "network",
        "control",
        "whole layer",
        "whole layer",
        "untrained",
        "untrained",
        *["baseline"] * 4,
        "beyond",
    ]
    sizes = dict(zip(table["features"], table["n_features"], strict=True))
    assert sizes["whole layer (decoder 3)"] == 192
    assert sizes["all its layers"] == 384
    assert any("'position' left out" in note for note in result.notes)
    assert result.model == tiny.name


def test_noise_is_not_predicted(tiny, network, stimuli, brain):
    noise = np.random.default_rng(9).standard_normal((len(stimuli), 20))
    data = mn.brain.from_arrays(stimuli, noise, groups=brain.groups)
    found = mn.brain.align(tiny, network, data, n_controls=3, untrained=False, baselines=False, **QUICK)
    assert (found.table()["score"].abs() < 0.1).all()
    assert "cannot be tested with 3 draws" in found.verdict()


def test_the_second_call_runs_nothing(tiny, network, brain, result):
    with mock.patch.object(type(tiny._executor), "stream", side_effect=AssertionError("a forward pass")):
        again = mn.brain.align(tiny, network, brain, **QUICK)
    assert again.table().equals(result.table())
    assert again.notes == result.notes


def test_other_questions_share_the_activations(tiny, network, brain):
    with mock.patch.object(type(tiny._executor), "stream", side_effect=AssertionError("a forward pass")):
        other = mn.brain.align(tiny, network, brain, metric="r2", n_controls=2, untrained=False, **QUICK)
    assert other.metric == "r2"
    assert 0.2 < other.score("network") < 1


def test_banded_ridge_gives_the_network_and_each_baseline_a_penalty(tiny, network, brain):
    found = mn.brain.align(
        tiny, network, brain, regression="banded", n_iter=5, n_controls=1, untrained=False, whole_layer=False, **QUICK
    )
    both = found["network + baselines"]
    assert list(both.shares) == ["decoder", "length", "frequency", "bag of words"]
    assert both.shares["decoder"].mean() > both.shares["length"].mean()


def test_a_localization_will_do(tiny, brain):
    language = mn.localize(tiny, mn.stimuli.language(20), towers="decoder", progress=False)
    options = {"n_controls": 1, "untrained": False, "baselines": False, "whole_layer": False}
    found = mn.brain.align(tiny, language, brain, fraction=0.02, **options, **QUICK)
    assert found.network.n_features == int(0.02 * 1536)


def test_an_untrained_model_of_ones_own(tiny, network, brain):
    options = {"n_controls": 0, "baselines": False, "whole_layer": False}
    found = mn.brain.align(tiny, network, brain, untrained=mn.load(tiny, untrained=3), **options, **QUICK)
    assert list(found.table()["features"]) == ["network", "untrained, same units"]


def test_large_or_absent_models_get_no_copy_unless_asked(tiny, network, brain):
    options = {"n_controls": 0, "baselines": False, "whole_layer": False}
    with mock.patch("modalnet.brain.alignment.LARGEST_COPY", 1000):
        found = mn.brain.align(tiny, network, brain, **options, **QUICK)
    assert len(found.sets) == 1
    assert "billion parameters" in found.notes[0]


def test_pictures_and_vision_networks(tiny):
    """Responses made of units of the vision tower, to pictures; categories are held out whole."""
    contrast = mn.stimuli.categories(n=12, size=64)
    units = mn.Units.from_indices(
        {name: tower.shape for name, tower in tiny.towers.items()},
        [("vision", 4, dim) for dim in range(0, 128, 16)],
        model=tiny.fingerprint(),
    )
    read = read_activations(tiny, contrast.stimuli, {"vision": [4]}, progress=False)
    values = read.of(units).astype(float)
    responses = (values - values.mean(0)) / values.std(0) + 0.2 * np.random.default_rng(0).standard_normal(values.shape)
    folds = [f"{i % 6}" for i in range(len(contrast))]
    data = mn.brain.from_arrays(contrast.stimuli, responses, groups=folds)
    found = mn.brain.align(tiny, units, data, n_controls=5, n_folds=3, **QUICK)
    table = found.table().set_index("features")
    assert table.loc["network", "score"] > 0.6
    assert {"image statistics", "pixels"} <= set(table.index)


@pytest.mark.parametrize("measure", ["rsa", "cka"])
def test_similarity_finds_the_right_units(tiny, network, brain, measure, tmp_path):
    found = getattr(mn.brain, measure)(tiny, network, brain, n_controls=5, progress=False, n_permutations=99)
    table = found.table().set_index("features")
    assert table.loc["network", "p"] == 0.01
    assert table.loc["random units, layer-matched", "network_minus_low"] > 0
    assert table.loc["untrained, same units", "network_minus_low"] > 0
    assert 0 < table.loc["network", "low"] < table.loc["network", "score"] < table.loc["network", "high"]
    found.save(tmp_path / "s.safetensors")
    back = mn.brain.Similarity.load(tmp_path / "s.safetensors")
    assert back.table().equals(found.table())
    assert back.summary() == found.summary()
    if measure == "rsa":
        assert 0 < found.ceiling[0] <= found.ceiling[1] <= 1
        assert "noise ceiling" in found.summary()
        assert any("pairs of stimuli of one group" in note for note in found.notes)
    with mock.patch.object(type(tiny._executor), "stream", side_effect=AssertionError("a forward pass")):
        again = getattr(mn.brain, measure)(tiny, network, brain, n_controls=5, progress=False, n_permutations=99)
    assert again.table().equals(found.table())


def test_rsa_of_a_single_target_takes_distances(tiny, network, brain):
    one = brain.select(targets=[0])
    found = mn.brain.rsa(
        tiny, network, one, n_controls=0, untrained=False, baselines=False, progress=False, n_permutations=0
    )
    assert found.settings["brain_dissimilarity"] == "euclidean"
    with pytest.raises(mn.InputError, match="requires at least 3 targets, got 1"):
        mn.brain.rsa(tiny, network, one, brain_dissimilarity="correlation", progress=False)


def test_rsa_leaves_out_targets_that_were_not_measured_everywhere(tiny, network, brain):
    values = np.array(brain.responses)
    values[:5, 0] = np.nan
    data = mn.brain.from_arrays(brain.stimuli, values)
    found = mn.brain.rsa(
        tiny, network, data, n_controls=0, untrained=False, baselines=False, progress=False, n_permutations=0
    )
    assert "1 targets with missing responses are left out." in found.notes
    with pytest.raises(mn.InputError, match="no target was measured for every stimulus"):
        mn.brain.cka(tiny, network, mn.brain.from_arrays(brain.stimuli, values[:, :1]), progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "all"}, "`units` must be Units"),
        ({"units": mn.Units({"decoder": np.zeros((8, 192), dtype=bool)})}, "must not be an empty set"),
        ({"units": mn.Units({"decoder": np.ones((8, 192), dtype=bool)}, model="other")}, "belong to another model"),
        (
            {"units": mn.Units({"decoder": np.ones((3, 4), dtype=bool)})},
            "belong to another model .* decoder has shape \\(3, 4\\)",
        ),
        ({"dataset": "pereira"}, "as a reader of modalnet.brain returns"),
        ({"n_controls": 1.5}, "`n_controls` must be a non-negative integer"),
        ({"match": "size"}, "match"),
        ({"untrained": "yes"}, "`untrained` must be .*, got 'yes'"),
        ({"regression": "ols"}, "`regression` must be one of .*, got 'ols'"),
        ({"cv": "contiguous"}, "not known to be in presentation order"),
        ({"tokens": "first"}, "`tokens` must be .* got 'first'"),
    ],
)
def test_bad_questions_are_refused_before_anything_runs(tiny, network, brain, options, message):
    given = {"units": network, "dataset": brain} | options
    with (
        mock.patch.object(type(tiny._executor), "stream", side_effect=AssertionError("a forward pass")),
        pytest.raises(mn.InputError, match=message),
    ):
        mn.brain.align(tiny, given.pop("units"), given.pop("dataset"), progress=False, **given)


def test_units_of_a_tower_that_stimuli_do_not_reach_are_refused(tiny, brain):
    vision = mn.Units({"vision": np.ones((6, 128), dtype=bool), "decoder": np.zeros((8, 192), dtype=bool)})
    with pytest.raises(mn.InputError, match="reach the vision tower"):
        mn.brain.align(tiny, vision, brain, n_controls=0, progress=False)


def test_the_plots_show_every_set(result, tiny, network, brain):
    import matplotlib

    matplotlib.use("Agg")
    ax = result.plot()
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert len(labels) == len(result.table())
    assert labels[0] == "network (12)"
    assert "random units, layer-matched x20 (12)" in labels
    assert "pearson" not in ax.get_xlabel()
    cka = mn.brain.cka(tiny, network, brain, n_controls=5, progress=False, n_permutations=99)
    assert cka.plot().get_xlabel() == "debiased linear CKA"
