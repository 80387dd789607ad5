"""The permutation null of encoding scores: models are refit to permuted responses, and p values keep their level."""

from __future__ import annotations

import numpy as np
import pytest

import modalnet as mn
from modalnet.brain import null, scoring
from modalnet.brain.encoding import Split, fit_predict


def split_of(n: int, cv: str = "grouped", n_folds: int = 4) -> Split:
    groups = tuple(str(i // 3) for i in range(n))
    return Split.make(cv, n, n_folds, groups=groups, inner_folds=3, gap=int(cv == "contiguous"), seed=0)


def mean_scores(bands, responses, split, metric, **options):
    fitted = fit_predict(bands, responses, split, **options)
    return np.nanmean(scoring.fold_scores(fitted.predictions, responses, split.folds, metric), axis=0)


@pytest.mark.parametrize("metric", scoring.METRICS)
@pytest.mark.parametrize(("cv", "n_features"), [("grouped", 7), ("grouped", 90), ("contiguous", 90)])
def test_a_permuted_score_is_that_of_a_model_fit_to_permuted_responses(cv, n_features, metric):
    rng = np.random.default_rng(n_features)
    bands = {"a": rng.standard_normal((60, n_features)) + 3, "b": rng.standard_normal((60, 4))}
    responses = rng.standard_normal((60, 5)) * [0.1, 1, 3, 9, 30] + bands["b"][:, :1] + 7
    split = split_of(60, cv)
    blocks = None if cv == "contiguous" else np.arange(60) // 3
    fitted = fit_predict(bands, responses, split, penalties=[0.5])
    found = null.permuted_scores(bands, responses, split, fitted, blocks, metric=metric, n_permutations=6)
    orders = null.orders(blocks, 60, 6, split.seed)
    for row, order in zip(found, orders, strict=True):
        expected = mean_scores(bands, responses[order], split, metric, penalties=[0.5])
        np.testing.assert_allclose(row, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["ridge", "banded"])
def test_the_first_row_is_the_score_whatever_was_selected_or_missing(kind):
    rng = np.random.default_rng(3)
    bands = {"a": rng.standard_normal((60, 20)), "b": rng.standard_normal((60, 4))}
    responses = bands["a"][:, :4] + bands["b"] + rng.standard_normal((60, 4))
    responses[:7, 1] = np.nan
    responses[:, 3] = 5.0
    split = split_of(60)
    fitted = fit_predict(bands, responses, split, regression=kind)
    found = null.permuted_scores(
        bands, responses, split, fitted, np.arange(60) // 3, metric="pearson", n_permutations=19
    )
    expected = np.nanmean(scoring.fold_scores(fitted.predictions, responses, split.folds, "pearson")[:, :3], axis=0)
    np.testing.assert_allclose(found[0, :3], expected, atol=1e-5)
    assert np.isnan(found[:, 3]).all()  # a constant response has no score
    assert np.isfinite(found[:, :3]).all()


def test_blocks_stay_together_when_they_are_permuted():
    order = null.orders(np.arange(30) // 2, 30, 25, 3)
    assert (order[0] == np.arange(30)).all()
    assert (np.sort(order, axis=1) == np.arange(30)).all()
    assert (order[:, 1::2] - order[:, ::2] == 1).all()
    scattered = null.orders(np.arange(30) % 15, 30, 25, 3)
    assert ((scattered[:, 15:] - scattered[:, :15]) == 15).all()


def test_runs_of_a_ring_begin_anywhere():
    order = null.orders(None, 100, 200, 3)
    assert (np.sort(order, axis=1) == np.arange(100)).all()
    steps = (np.roll(order, -1, axis=1) - order) % 100
    assert ((steps[1:] != 1).sum(axis=1) <= 5).all()  # five runs, whose number of joints is at most five
    assert len(np.unique(order[1:, 0])) > 50


def test_scores_that_differ_by_rounding_count_as_reached():
    scores = np.array([[0.5, 0.5], [0.5 - 1e-7, 0.6], [0.4, np.nan]], dtype=np.float32)
    np.testing.assert_array_equal(null.reaching(scores), [1, 1])


@pytest.mark.parametrize("cv", ["shuffled", "contiguous", "grouped"])
@pytest.mark.filterwarnings("ignore:`cv=")
def test_independent_responses_are_significant_as_often_as_stated(cv):
    """800 targets: the mean of the rates has a standard error of about 0.009."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng([seed, 5])
        features, responses = rng.standard_normal((60, 30)), rng.standard_normal((60, 20))
        data = mn.brain.from_arrays([f"s{i}" for i in range(60)], responses, groups=np.arange(60) // 3, ordered=True)
        options = {"n_permutations": 99, "n_resamples": 2, "cache": False, "progress": False, "seed": seed}
        found.append((mn.brain.encode(features, data, cv=cv, **options).targets()["p"] <= 0.05).mean())
    assert 0.02 < np.mean(found) < 0.07
