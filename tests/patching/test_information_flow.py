"""Information flow: runs without edges, random edges to compare with, the test of one against the other, verdicts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import modalnet as mn
from modalnet.execution import trace
from modalnet.patching.edge_sets import equal_attention, equal_number
from modalnet.patching.information_flow import choose_windows
from modalnet.stats.holm import holm
from modalnet.stats.within_items import within_items
from reference import load, stimuli_for

TEXTS = ["the old dog sleeps", "a cat sees the bird", "the bird"]
METRIC = mn.patching.logit_difference("a", "b")


@pytest.fixture(scope="module")
def flow():
    edges = {"first to last": ([0], "last"), "rest": ([1], [2, 3])}
    return mn.information_flow(
        load("llama"), TEXTS, METRIC, window=2, stride=1, edges=edges, n_controls=2, cache=False, progress=False
    )


def difference(model, texts, knockout=None):
    """By plain runs: what the metric is after each text."""
    wanted = [model.tokenizer(text + each)["input_ids"][-1] for text in ("",) for each in ("a", "b")]
    run = model.run(texts, *([] if knockout is None else [knockout]), logits="last")
    return (run.logits[:, wanted[0]] - run.logits[:, wanted[1]]).numpy()


def test_each_run_is_one_under_a_knockout(flow):
    model = load("llama")
    np.testing.assert_allclose(flow.whole, difference(model, TEXTS), atol=1e-4)
    assert flow.windows == ((0, 2), (1, 3), (2, 4))
    for at, window in enumerate(flow.windows):
        one, two = (
            difference(model, TEXTS, mn.knockout("decoder", range(*window), source=source, target=target))
            for source, target in (([0], "last"), ([1], [2, 3]))
        )
        np.testing.assert_allclose(flow.values[0, at], one, atol=1e-4)
        np.testing.assert_allclose(flow.values[1, at], two, atol=1e-4)
    assert np.abs(flow.values - flow.whole).max() > 0.01
    np.testing.assert_allclose(flow.drop["rest"], flow.whole - flow.values[1])
    assert np.isfinite(flow.controls["number"]).all()
    # As much attention as the set, as near as single edges come.
    assert flow.n_edges.tolist() == [[1, 1, 1], [2, 2, 2]]


def test_pictures_have_edges_of_their_own():
    model, stimuli = load("llava_clip"), [replace(each, text="what") for each in stimuli_for("llava_clip", n=2)]
    found = mn.information_flow(model, stimuli, METRIC, window=1, stride=2, n_controls=1, cache=False, progress=False)
    assert found.names == ("image to question", "image to last", "question to last")
    assert found.windows == ((0, 1), (2, 3), (3, 4))
    for number, (source, target) in enumerate([("image", "question"), ("image", "last"), ("question", "last")]):
        run = model.run(stimuli, mn.knockout("decoder", 2, source=source, target=target), logits="last")
        tokens = [model._executor.next_tokens(stimuli[0], each)[0] for each in ("a", "b")]
        expected = (run.logits[:, tokens[0]] - run.logits[:, tokens[1]]).numpy()
        np.testing.assert_allclose(found.values[number, 1], expected, atol=1e-4)
    # Weights of one row sum to one, so that edges to the last token carry at most that.
    assert (found.mass[1:] <= 1 + 1e-6).all()
    assert (found.mass > 0).all()


def test_a_grid_is_a_set_for_each_part_of_the_picture():
    model, (stimulus,) = load("llava_clip"), stimuli_for("llava_clip", n=1)
    options = {"window": 4, "n_controls": 0, "cache": False, "progress": False}
    found = mn.information_flow(model, [stimulus], METRIC, edges=[(mn.patching.Grid(2, 1), "last")], **options)
    assert found.names == ("cell 0, 0 to last", "cell 1, 0 to last")
    whole = mn.information_flow(model, [stimulus], METRIC, edges=[("image", "last")], **options)
    assert found.n_edges.sum() == whole.n_edges.sum()
    ((width, height),) = stimulus.inspect().sizes
    upper = mn.knockout("decoder", range(4), source=mn.region(0, 0, width, height / 2), target="last")
    run = model.run([stimulus], upper, logits="last")
    one, two = (model._executor.next_tokens(stimulus, each)[0] for each in ("a", "b"))
    np.testing.assert_allclose(found.values[0, 0], run.logits[:, one] - run.logits[:, two], atol=1e-4)
    with pytest.raises(mn.InputError, match="a Grid is one over a picture"):
        mn.information_flow(model, ["a dog"], METRIC, edges=[(mn.patching.Grid(2, 1), "last")], **options)


def test_what_is_stored_is_not_run_again(tmp_path, monkeypatch):
    options = {"window": 4, "edges": [([0], "last")], "n_controls": 1, "cache": tmp_path, "progress": False}
    first = mn.information_flow(load("llama"), TEXTS, METRIC, **options)
    monkeypatch.setattr(trace, "forward", mock.Mock(side_effect=AssertionError("a pass ran")))
    again = mn.information_flow(load("llama"), TEXTS, METRIC, **options)
    assert again.to_arrays()[1] == first.to_arrays()[1]
    for name, array in first.to_arrays()[0].items():
        np.testing.assert_array_equal(again.to_arrays()[0][name], array)
    path = tmp_path / "flow.safetensors"
    first.save(path)
    assert mn.InformationFlow.load(path).summary() == first.summary()
    assert first.to_xarray()["value"].dims == ("edges", "window", "stimulus")
    assert "Dissecting Recall" in first.cite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 9}, "`window` is 9 layers, but the decoder tower has 4"),
        ({"edges": [("image", "last")]}, "has no image tokens"),
        ({"edges": [([-1], [0])]}, "no edge leads from .* since attention is causal"),
        ({"edges": ["last"]}, r"`edges` must be \(source, target\) pairs"),
        ({"edges": [([[0], [1]], "last")]}, "has tokens for 2 stimuli, but there are 3"),
        ({"edges": [("question", "last"), ("question", "last")]}, "must have different names"),
        ({"tower": "vision"}, "`tower` must be one of decoder"),
        ({"stride": 0}, "`stride` must be"),
    ],
)
def test_what_cannot_be_is_refused_before_any_pass(options, message, monkeypatch):
    model = load("llama")
    model.run(["a dog"], mn.knockout("decoder", 1, source=[0], target="last"))  # what is measured once is measured
    monkeypatch.setattr(trace, "forward", mock.Mock(side_effect=AssertionError("a pass ran")))
    with pytest.raises(mn.InputError, match=message):
        mn.information_flow(model, TEXTS, METRIC, cache=False, progress=False, **options)


@given(n_layers=st.integers(1, 60), window=st.integers(1, 60), stride=st.integers(1, 20))
def test_windows_cover_the_tower(n_layers, window, stride):
    if window > n_layers:
        with pytest.raises(mn.InputError, match="`window` is"):
            choose_windows(n_layers, window, stride, "decoder")
        return
    found = choose_windows(n_layers, window, stride, "decoder")
    assert found[0].start == 0
    assert found[-1].stop == n_layers
    assert {len(each) for each in found} == {window}
    assert len(set(found)) == len(found)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(3, 12))
def test_random_edges(seed, n):
    rng = np.random.default_rng(seed)
    weights = np.tril(rng.random((n, n)))
    allowed = weights > 0
    edges = np.array([(target, source) for target in range(n - 1, n) for source in range(n // 2)])
    there = {tuple(edge) for edge in edges.tolist()}
    number = equal_number(allowed, edges, rng)
    attention = equal_attention(allowed, weights, edges, rng)
    for drawn in (number, attention):
        found = [tuple(edge) for edge in drawn.tolist()]
        assert len(set(found)) == len(found)
        assert not there & set(found)
        assert all(allowed[edge] and edge[0] != edge[1] for edge in found)
    others = int(allowed.sum()) - n - len(edges)
    assert len(number) == min(len(edges), others)
    mass, reached = weights[tuple(edges.T)].sum(), weights[tuple(attention.T)].sum()
    left = weights[allowed].sum() - np.trace(weights) - mass
    # The next edge, or the last one, would not come nearer.
    assert abs(reached - mass) <= max(1.0, mass - left) + 1e-9


def test_exchanging_within_items_is_exact():
    rng = np.random.default_rng(3)
    values, draws = rng.normal(0.4, 1, (4, 2)), rng.normal(size=(4, 3, 2)) ** 3
    p = within_items(values, draws, 40_000, np.random.default_rng(0))
    stacked = np.concatenate([values[:, None], draws], axis=1)
    sums = np.array(
        [sum(stacked[item, place] for item, place in enumerate(c)) for c in itertools.product(range(4), repeat=4)]
    )
    np.testing.assert_allclose(p, (sums >= values.sum(0) - 1e-9).mean(0), atol=0.01)


def test_exchanging_within_items_keeps_its_rate_under_skewed_draws():
    """Effects are 0 for most edges and large for a few, and differ between stimuli."""
    rng = np.random.default_rng(0)
    runs = rng.exponential(size=(2000, 8, 4)) ** 3 * rng.exponential(size=(2000, 8, 1))
    p = np.array([within_items(one[:, :1], one[:, 1:, None], 199, rng)[0] for one in runs])
    assert (p < 0.05).mean() <= 0.06
    assert (p < 0.5).mean() == pytest.approx(0.5, abs=0.04)


def test_what_cannot_be_tested_has_no_p():
    assert np.isnan(within_items(np.zeros((3, 1)), np.zeros((3, 0, 1)), 99, np.random.default_rng(0))).all()
    assert np.isnan(within_items(np.full((3, 1), np.nan), np.zeros((3, 2, 1)), 99, np.random.default_rng(0))).all()


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    found = holm(np.array([0.4, np.nan, 0.2]))
    np.testing.assert_allclose(found[[0, 2]], [0.8, 0.6])
    assert np.isnan(found[1])


def made(drop, number, attention, *, ratio=1.0):
    """A flow with given drops ``[window, stimulus]`` and drops of random edges ``[window, draw, stimulus]``."""
    n_windows, n = drop.shape
    shape = (1, n_windows, number.shape[1], n)
    return mn.InformationFlow(
        "a model",
        "decoder",
        "log-probability",
        tuple(map(str, range(n))),
        ("image to last",),
        tuple((at, at + 1) for at in range(n_windows)),
        np.zeros(n),
        -drop[None],
        {"number": -number[None], "attention": -attention[None]},
        np.ones((1, n_windows, n)),
        {"number": np.ones(shape), "attention": np.full(shape, ratio)},
        np.ones((1, n), dtype=np.int64),
    )


@pytest.mark.parametrize(
    ("drop", "ratio", "n", "verdict", "sentence"),
    [
        ([0.0, 2.0, 2.0, 0.0], 1.0, 12, "needed", "image to last: needed in layers 1 to 2; largest drop 2"),
        ([0.0, 0.0, 0.0, 0.0], 1.0, 12, "no measurable effect", "no measurable effect; largest drop"),
        ([0.0, 2.0, 0.0, 0.0], 3.0, 12, "cannot be tested", "no random edges carry as much attention"),
        ([0.0, 2.0, 0.0, 0.0], 1.0, 3, "cannot be tested", "there are 3 stimuli, and 5 are needed"),
        ([0.5, 0.5, 0.5, 0.5], 1.0, 12, "not more than random", "image to last: not more than random; largest drop"),
    ],
)
def test_verdicts(drop, ratio, n, verdict, sentence):
    rng = np.random.default_rng(1)
    noise = 0.05 * rng.normal(size=(4, 1 + 3 + 3, n))
    noise -= noise.mean(axis=2, keepdims=True)
    base = 0.5 if verdict == "not more than random" else 0.0
    whole = np.array(drop)[:, None] + noise[:, 0]
    found = made(whole, base + noise[:, 1:4], base + noise[:, 4:], ratio=ratio)
    (row,) = found.verdicts().to_dict("records")
    assert row["verdict"] == verdict
    assert sentence in row["sentence"]
    assert row["windows"] == ((1, 2) if verdict == "needed" else ())
    assert row["sentence"] in found.summary()


def test_the_rate_of_false_verdicts():
    """Sets that are like random edges are needed in at most 5% of studies, over all windows together."""
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(150):
        scale = rng.exponential(size=(1, 1, 8))
        runs = rng.exponential(size=(4, 7, 8)) ** 2 * scale
        false += made(runs[:, 0], runs[:, 1:4], runs[:, 4:]).verdicts()["verdict"][0] == "needed"
    assert false <= 0.06 * 150


def test_figures(flow):
    for on in ("depth", "flow"):
        assert flow.plot(on=on).get_xlabel().startswith("decoder layer")
    with pytest.raises(mn.InputError, match="`on` must be"):
        flow.plot(on="map")
