"""Encoding models: equal to scikit-learn's, scored as scipy scores, sure of what is there and not of what is not."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

import modalnet as mn
from modalnet.brain import encoding, scoring
from modalnet.brain.encoding import PENALTIES, Split, fit_predict
from modalnet.brain.result import FeatureScores

QUICK = {"cache": False, "progress": False, "n_resamples": 100, "n_permutations": 99}


def split_of(n: int, cv: str = "grouped", n_folds: int = 4, size: int = 3, **options) -> Split:
    groups = tuple(str(i // size) for i in range(n))
    given = {"inner_folds": 3, "gap": 0, "seed": 0} | options
    return Split.make(cv, n, n_folds, groups=groups, **given)


def dataset(responses, size: int = 3, **options):
    n = np.shape(responses)[-2]
    texts = [f"stimulus {i}" for i in range(n)]
    return mn.brain.from_arrays(texts, responses, groups=np.arange(n) // size, ordered=True, **options)


def by_sklearn(features: np.ndarray, responses: np.ndarray, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Nested ridge, fold by fold and target by target: standardized by the outer training set, as documented."""
    predictions = np.empty_like(responses)
    chosen = np.empty((split.n_folds, responses.shape[1]))
    for fold, train, test in split.outer():
        scaler = StandardScaler().fit(features[train])
        own, held = (scaler.transform(features[part]) / np.sqrt(features.shape[1]) for part in (train, test))
        y = (responses[train] - responses[train].mean(0)) / responses[train].std(0)
        losses = []
        for penalty in PENALTIES:
            parts = []
            for fit, check in split.inner(train, fold):
                model = Ridge(alpha=penalty).fit(own[fit], y[fit])
                parts.append(((model.predict(own[check]).reshape(len(check), -1) - y[check]) ** 2).mean(0))
            losses.append(np.mean(parts, axis=0))
        best = PENALTIES[np.argmin(losses, axis=0)]
        for target, penalty in enumerate(best):
            model = Ridge(alpha=penalty).fit(own, y[:, target])
            predictions[test, target] = (
                model.predict(held) * responses[train, target].std() + responses[train, target].mean()
            )
        chosen[fold] = best
    return predictions, chosen


@pytest.mark.parametrize("n_features", [7, 200])  # fewer than stimuli (feature space), and more (kernel space)
@pytest.mark.parametrize("cv", ["grouped", "contiguous"])
def test_predictions_equal_those_of_scikit_learn(n_features, cv):
    rng = np.random.default_rng(n_features)
    features = rng.standard_normal((60, n_features)) * rng.uniform(0.1, 50, n_features) + 100
    weights = rng.standard_normal((n_features, 5))
    responses = StandardScaler().fit_transform(features) @ weights / 5 + rng.standard_normal((60, 5)) * [
        0.1,
        1,
        3,
        9,
        30,
    ]
    split = split_of(60, cv)
    predicted = fit_predict({"all": features}, responses, split)
    expected, penalties = by_sklearn(features, responses, split)
    np.testing.assert_allclose(predicted.penalties, penalties, rtol=1e-9)
    np.testing.assert_allclose(predicted.predictions, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_feature_space_and_kernel_space_agree(factor):
    rng = np.random.default_rng(3)
    features, responses = rng.standard_normal((80, 60)), rng.standard_normal((80, 4))
    bands = {"a": features[:, :20], "b": features[:, 20:]}
    split = split_of(80)
    with mock.patch.object(encoding, "FEW", factor):
        one = fit_predict(bands, responses, split)
    with mock.patch.object(encoding, "FEW", 0.0):
        other = fit_predict(bands, responses, split)
    np.testing.assert_allclose(one.predictions, other.predictions, atol=1e-7)
    np.testing.assert_allclose(one.parts["a"], other.parts["a"], atol=1e-7)


def test_large_problems_in_single_precision_agree_with_double():
    rng = np.random.default_rng(4)
    features, responses = rng.standard_normal((90, 300)).astype(np.float32), rng.standard_normal((90, 6))
    split = split_of(90)
    double = fit_predict({"all": features}, responses, split)
    with mock.patch.object(encoding, "EXACT", 0):
        single = fit_predict({"all": features}, responses, split)
    same = double.penalties == single.penalties  # both are of the grid
    assert same.mean() > 0.9
    for fold, _, test in split.outer():
        columns = np.flatnonzero(same[fold])
        np.testing.assert_allclose(
            single.predictions[np.ix_(test, columns)], double.predictions[np.ix_(test, columns)], atol=2e-3
        )


def test_nothing_of_the_held_out_stimuli_enters():
    """Predictions of a fold stay the same whatever its responses are, and whatever else is held out beside it."""
    rng = np.random.default_rng(5)
    features, responses = rng.standard_normal((60, 100)), rng.standard_normal((60, 3))
    split = split_of(60)
    before = fit_predict({"all": features}, responses, split).predictions
    held = split.folds == 2
    other = responses.copy()
    other[held] = rng.standard_normal((held.sum(), 3)) * 100
    np.testing.assert_array_equal(fit_predict({"all": features}, other, split).predictions[held], before[held])
    moved = features.copy()
    first, second = np.flatnonzero(held)[:2]
    moved[second] += 1000  # another held-out stimulus: it must not move the mean or the scale
    found = fit_predict({"all": moved}, responses, split).predictions
    np.testing.assert_allclose(found[first], before[first], rtol=1e-12)


def test_targets_that_were_not_measured_everywhere():
    rng = np.random.default_rng(6)
    features = rng.standard_normal((60, 30))
    responses = features[:, :3] + 0.1 * rng.standard_normal((60, 3))
    full = fit_predict({"all": features}, responses, split_of(60))
    missing = responses.copy()
    missing[:24, 1] = np.nan
    found = fit_predict({"all": features}, missing, split_of(60))
    assert np.isnan(found.predictions[:24, 1]).all()
    assert np.isfinite(found.predictions[24:]).all()
    np.testing.assert_allclose(found.predictions[:, 0], full.predictions[:, 0])
    scores = scoring.fold_scores(found.predictions, missing, split_of(60).folds, "pearson")
    assert np.nanmean(scores[:, 1]) > 0.5
    result = mn.brain.encode(features, dataset(missing), **QUICK)
    assert result.targets()["score"].between(0.5, 1).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_scores_do_not_depend_on_the_scale_of_features_or_responses(seed, scale, shift):
    rng = np.random.default_rng(seed)
    features, responses = rng.standard_normal((40, 10)), rng.standard_normal((40, 2))
    split = split_of(40, n_folds=3)
    one = fit_predict({"all": features}, responses, split)
    other = fit_predict({"all": features * scale + shift}, responses * scale + shift, split)
    for metric in scoring.METRICS:
        scores = [
            scoring.fold_scores(f.predictions, y, split.folds, metric)
            for f, y in ((one, responses), (other, responses * scale + shift))
        ]
        np.testing.assert_allclose(*scores, atol=1e-5)


def test_constant_features_add_nothing():
    rng = np.random.default_rng(7)
    features, responses = rng.standard_normal((60, 20)), rng.standard_normal((60, 2))
    constant = np.hstack([features, np.full((60, 5), 0.1)])
    split = split_of(60)
    one, other = (fit_predict({"all": f}, responses, split).predictions for f in (features, constant))
    np.testing.assert_allclose(one, other, atol=1e-9)
    flat = fit_predict({"all": np.ones((60, 3))}, responses, split)
    assert (scoring.fold_scores(flat.predictions, responses, split.folds, "pearson") == 0).all()


# -- banded ------------------------------------------------------------------------------------------------------------


def test_banded_ridge_weighs_the_bands():
    rng = np.random.default_rng(8)
    signal, noise = rng.standard_normal((120, 6)), rng.standard_normal((120, 400))
    responses = signal @ rng.standard_normal((6, 4)) + rng.standard_normal((120, 4))
    split = split_of(120)
    ridge, banded = (
        fit_predict({"signal": signal, "noise": noise}, responses, split, regression=kind)
        for kind in ("ridge", "banded")
    )
    scores = [scoring.fold_scores(one.predictions, responses, split.folds, "pearson").mean() for one in (ridge, banded)]
    assert scores[1] > scores[0]
    alone = fit_predict({"signal": signal}, responses, split)
    np.testing.assert_allclose(
        scores[1], scoring.fold_scores(alone.predictions, responses, split.folds, "pearson").mean(), atol=0.03
    )
    whole = sum(banded.parts.values())
    assert np.std(banded.predictions - whole, axis=0).max() < np.std(whole)  # the rest is the intercept of each fold


def test_the_shares_of_bands_add_up_to_the_score():
    rng = np.random.default_rng(9)
    a, b = rng.standard_normal((90, 10)), rng.standard_normal((90, 15))
    responses = a[:, :3] + b[:, :3] + rng.standard_normal((90, 3))
    for regression in ("ridge", "banded"):
        result = mn.brain.encode({"both": {"a": a, "b": b}}, dataset(responses), regression=regression, **QUICK)
        total = sum(result.network.shares.values())
        np.testing.assert_allclose(total, result.network.scores.mean(0), atol=1e-8)


# -- scores ------------------------------------------------------------------------------------------------------------


def test_scores_equal_those_of_scipy_and_scikit_learn():
    rng = np.random.default_rng(10)
    predictions, responses = rng.standard_normal((50, 3)), rng.standard_normal((50, 3)) + 1e6
    folds = np.arange(50) % 4
    pearson, r2 = (scoring.fold_scores(predictions, responses, folds, metric) for metric in scoring.METRICS)
    for fold in range(4):
        here = folds == fold
        for target in range(3):
            x, y = predictions[here, target], responses[here, target]
            assert pearson[fold, target] == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
            assert r2[fold, target] == pytest.approx(r2_score(y, x), rel=1e-9)


def test_scores_at_the_edges():
    folds = np.zeros(6, dtype=int)
    responses = np.array(
        [[1, 5, np.nan], [2, 5, np.nan], [3, 5, np.nan], [4, 5, 1], [5, 5, 2], [6, 5, np.nan]], dtype=float
    )
    predictions = np.zeros((6, 3))
    scores = scoring.fold_scores(predictions, responses, folds, "pearson")[0]
    assert scores[0] == 0
    assert np.isnan(scores[1])
    assert np.isnan(scores[2])
    assert scoring.fold_scores(responses, responses, folds, "r2")[0, 0] == pytest.approx(1)


def test_the_bootstrap_is_what_scoring_drawn_stimuli_gives():
    rng = np.random.default_rng(11)
    predictions, responses = rng.standard_normal((40, 3)), rng.standard_normal((40, 3))
    folds, blocks = np.arange(40) // 10, np.arange(40) // 2
    drawn = scoring.Resampling.draw(folds, blocks, n_resamples=20, seed=0)
    for metric in scoring.METRICS:
        found = scoring.bootstrap(predictions, responses, drawn, metric)
        for resample in range(20):
            rows = np.repeat(np.arange(40), drawn.counts[resample][blocks])
            expected = scoring.fold_scores(predictions[rows], responses[rows], folds[rows], metric).mean(0)
            np.testing.assert_allclose(found[resample], expected, atol=1e-5)
    assert (drawn.counts.reshape(20, 4, 5).sum(2) == 5).all()  # as many blocks in each fold as there are


def test_subjects_weigh_alike_whatever_their_number_of_targets():
    scores = np.array([[0.1, 0.2, 0.3, 0.9]])
    assert scoring.summarize(scores, None)[0] == pytest.approx(0.25)
    assert scoring.summarize(scores, ["a", "a", "a", "b"])[0] == pytest.approx((0.2 + 0.9) / 2)
    resampled = scoring.summarize_resampled(np.repeat(scores, 500, 0), ["a", "a", "a", "b"], 0)
    assert set(np.round(resampled, 6)) == {0.2, 0.55, 0.9}


# -- a brain that is known ---------------------------------------------------------------------------------------------


def test_the_right_features_win():
    rng = np.random.default_rng(20)
    right = rng.standard_normal((200, 40))
    controls = [rng.standard_normal((200, 40)) for _ in range(19)]
    responses = right @ rng.standard_normal((40, 30)) / 6 + rng.standard_normal((200, 30))
    result = mn.brain.encode(
        {"right": right, "wrong": controls[0]}, dataset(responses), control_features=controls, **QUICK
    )
    table = result.table().set_index("features")
    assert table.loc["right", "score"] > 0.4
    assert table.loc["right", "p"] == 0.01
    assert abs(table.loc["random controls", "score"]) < 0.1
    row = table.loc["random controls"]
    assert row["network_minus_low"] > 0.3
    assert row["p_rank"] == 0.05
    assert row["finding"] == "better"
    assert row["p_new_draw"] < 0.001
    assert "better than 19 draws of random controls" in result.verdict()
    targets = result.targets()
    assert (targets["q"] < 0.05).mean() > 0.9
    assert result.targets("wrong")["score"].abs().median() < 0.15


def test_noise_gives_nothing():
    """Over many brains of noise the scores lie around 0, and p is as often below a level as it may be."""
    scores, ps = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        features, controls = rng.standard_normal((60, 15)), [rng.standard_normal((60, 15)) for _ in range(3)]
        result = mn.brain.encode(
            features, dataset(rng.standard_normal((60, 2))), control_features=controls, **(QUICK | {"n_resamples": 50})
        )
        scores.append(result.score("features"))
        ps.append(result.table()["p"][0])
        assert np.isnan(result.table()["network_minus_low"][1])  # three draws say too little about other draws
        assert "cannot be tested with 3 draws of random controls" in result.verdict()
    assert abs(np.mean(scores)) < 3 * np.std(scores) / np.sqrt(40)
    assert np.mean(np.array(ps) <= 0.05) <= 0.2
    assert 0.3 < np.mean(ps) < 0.7


@pytest.mark.parametrize("draws", [1, 10, 19, 20])
def test_one_more_random_set_is_rarely_better_or_worse(draws):
    """600 networks that are one more draw: the rate of findings has a standard error of 0.009. Few draws find none."""
    found = []
    for seed in range(600 if draws >= 19 else 60):
        rng = np.random.default_rng([seed, draws])
        shared = 0.03 * rng.standard_normal(51)
        sets = []
        for number in range(1 + draws):
            score = 0.2 + 0.03 * rng.standard_normal() + shared + 0.015 * rng.standard_normal(51)
            kind = "control" if number else "network"
            empty = np.zeros(0)
            sets.append(
                FeatureScores(kind, kind, 1, np.full((5, 1), score[0]), score[1:], empty, empty, np.ones(5), {})
            )
        settings = {"metric": "pearson", "seed": 0}
        made = mn.brain.Alignment("model", "brain", tuple(sets), np.full(1, np.nan), None, None, (), settings)
        assert ("cannot be tested" in made.verdict()) == (draws < 19)
        found.append(made.table()["finding"][1] != "")
    assert (np.mean(found) == 0) if draws < 19 else (0.01 < np.mean(found) < 0.07)


def drifting(rng: np.random.Generator, n: int, k: int, smooth: int = 15, run: int = 30) -> np.ndarray:
    """Slow drifts, as of a scanner: noise that is alike in neighbours, in runs that begin anew."""
    kernel = np.ones(smooth) / np.sqrt(smooth)
    noise = rng.standard_normal((n // run, run + smooth, k))
    drifts = np.array([[np.convolve(part[:, i], kernel, "valid")[:run] for i in range(k)] for part in noise])
    return drifts.transpose(0, 2, 1).reshape(n, k)


def test_shuffled_folds_inflate_an_autocorrelated_target():
    """Features and responses drift independently: nothing is to be predicted, and shuffled folds find much."""
    rng = np.random.default_rng(21)
    data = dataset(drifting(rng, 600, 10), size=30)
    features = drifting(rng, 600, 40)
    contiguous = mn.brain.encode(features, data, cv="contiguous", gap=25, **QUICK)
    grouped = mn.brain.encode(features, data, cv="grouped", **QUICK)
    with pytest.warns(UserWarning, match='`cv="shuffled"` puts neighbours'):
        shuffled = mn.brain.encode(features, data, cv="shuffled", **QUICK)
    assert shuffled.score("features") > 0.4
    assert abs(contiguous.score("features")) < 0.12
    assert abs(grouped.score("features")) < 0.12
    assert any("inflated" in note for note in shuffled.notes)


def test_position_explains_what_only_drifts():
    """A trend over the session: any features that know the time predict it, and the baseline says so."""
    rng = np.random.default_rng(22)
    time = np.linspace(0, 1, 120)[:, None]
    responses = time * 3 + 0.3 * rng.standard_normal((120, 3))
    features = time + 0.05 * rng.standard_normal((120, 20))
    result = mn.brain.encode(features, dataset(responses), baselines=True, **QUICK)
    table = result.table().set_index("features")
    assert table.loc["features", "score"] > 0.5
    assert table.loc["position", "score"] > table.loc["features", "score"] - 0.05
    assert result.beyond()["gain"] < 0.03


def test_the_noise_ceiling_normalizes():
    rng = np.random.default_rng(23)
    features = rng.standard_normal((200, 10))
    signal = features @ rng.standard_normal((10, 20)) / np.sqrt(10)
    repeats = signal + 1.5 * rng.standard_normal((4, 200, 20))
    result = mn.brain.encode(features, dataset(repeats), **QUICK)
    raw = result.score("features")
    assert raw < 0.85 < result.normalized("features") < 1.15
    by_hand = mn.brain.encode(features, dataset(repeats.mean(0)), ceiling=0.8, **QUICK)
    assert by_hand.normalized("features") == pytest.approx(by_hand.score("features") / 0.8)
    none = mn.brain.encode(features, dataset(repeats.mean(0)), **QUICK)
    assert np.isnan(none.normalized("features"))
    assert any("not normalized" in note for note in none.notes)
    r2 = mn.brain.encode(features, dataset(repeats), metric="r2", **QUICK)
    assert 0.7 < r2.normalized("features") < 1.2


# -- results -----------------------------------------------------------------------------------------------------------


def small_result(**options):
    rng = np.random.default_rng(30)
    features = rng.standard_normal((60, 8))
    data = dataset(
        features[:, :4] + rng.standard_normal((60, 4)), subjects=["a", "a", "b", "b"], ceiling=[0.8, 0.05, 0.9, 0.7]
    )
    controls = [rng.standard_normal((60, 8)) for _ in range(2)]
    return mn.brain.encode({"mine": features}, data, control_features=controls, baselines=True, **(QUICK | options))


def test_a_result_goes_through_a_file(tmp_path):
    result = small_result(regression="banded")
    result.save(tmp_path / "r.safetensors")
    back = mn.brain.Alignment.load(tmp_path / "r.safetensors")
    assert back.table().equals(result.table())
    assert back.summary() == result.summary()
    assert back.targets().equals(result.targets())
    with pytest.raises(mn.InputError, match=r"must end in \.safetensors"):
        result.save(tmp_path / "r.json")
    mn.Units({"decoder": np.ones((1, 2), dtype=bool)}).save(tmp_path / "u.safetensors")
    with pytest.raises(mn.InputError, match="Expected an alignment in the format"):
        mn.brain.Alignment.load(tmp_path / "u.safetensors")


def test_what_a_result_says():
    result = small_result()
    assert repr(result).startswith("Alignment(features on dataset: mine 0.")
    assert "mine predicts dataset with pearson" in result.summary()
    assert "Note: intervals resample groups within folds" in result.summary()
    assert np.isnan(result.targets()["normalized"][1])  # its ceiling is too low to divide by
    assert result["mine"] is result.network
    with pytest.raises(mn.InputError, match="No feature set 'other' was scored"):
        result["other"]
    assert list(result.table()["kind"]) == ["features", "control", "baseline", "baseline", "baseline", "beyond"]


def test_the_same_seed_gives_the_same_result_and_draws_are_shared():
    one, other = small_result(), small_result()
    assert one.table().equals(other.table())
    assert not one.table().equals(small_result(seed=1).table())


def test_finished_sets_are_not_fit_again(tmp_path):
    first = small_result(cache=tmp_path)
    with mock.patch("modalnet.brain.alignment.fit_predict", side_effect=AssertionError("fit again")):
        assert small_result(cache=tmp_path).table().equals(first.table())
    with (
        mock.patch("modalnet.brain.alignment.fit_predict", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        small_result(cache=tmp_path, seed=5)
    with mock.patch("modalnet.brain.alignment.fit_predict", wraps=fit_predict) as counted:
        small_result(cache=tmp_path, n_permutations=20)
    assert counted.call_count == 7  # every set again: another question


def test_a_study_that_stops_goes_on(tmp_path):
    calls = {"n": 0}

    def stops(*args, **kwargs):
        calls["n"] += 1
        if calls["n"] == 4:
            raise KeyboardInterrupt
        return fit_predict(*args, **kwargs)

    with mock.patch("modalnet.brain.alignment.fit_predict", side_effect=stops), pytest.raises(KeyboardInterrupt):
        small_result(cache=tmp_path)
    with mock.patch("modalnet.brain.alignment.fit_predict", wraps=fit_predict) as counted:
        result = small_result(cache=tmp_path)
    assert counted.call_count == 7 - 3
    assert result.table().equals(small_result().table())


def test_himalaya_keeps_the_backend_that_was_set():
    from himalaya.backend import get_backend, set_backend

    set_backend("numpy")
    small_result()
    assert get_backend().__name__.endswith("numpy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regression": "lasso"}, "`regression` must be one of .*, got 'lasso'"),
        ({"metric": "cosine"}, "`metric` must be one of .*, got 'cosine'"),
        ({"penalties": [0, 1]}, "finite numbers above 0"),
        ({"penalties": []}, "finite numbers above 0"),
        ({"n_permutations": -1}, "`n_permutations` must be a non-negative integer"),
        ({"n_resamples": 1}, "`n_resamples` must be an integer of at least 2"),
        ({"device": "nowhere"}, "`device` must be an available device, got 'nowhere'"),
        ({"cv": "leave-one-out"}, "`cv` must be one of .*, got 'leave-one-out'"),
        ({"n_folds": 25}, "at most the number of groups, 20, got 25"),
        ({"baselines": ["tone"]}, "`baselines` must be one of .*, got 'tone'"),
        ({"features": {}}, "`features` must be .* got an empty mapping"),
        ({"features": np.zeros((3, 2))}, "for 60 stimuli, got shape \\(3, 2\\)"),
        ({"features": np.full((60, 2), np.nan)}, "2 of 2 features of 'features' are NaN"),
        ({"features": np.full((60, 2), "a")}, "must be numeric"),
    ],
)
def test_bad_questions_are_refused(options, message):
    data = dataset(np.random.default_rng(0).standard_normal((60, 2)))
    given = {"features": np.random.default_rng(1).standard_normal((60, 3))} | QUICK | options
    with pytest.raises(mn.InputError, match=message):
        mn.brain.encode(given.pop("features"), data, **given)


def test_contiguous_folds_want_an_order():
    data = mn.brain.from_arrays([str(i) for i in range(30)], np.random.default_rng(0).standard_normal(30))
    with pytest.raises(mn.InputError, match="not known to be in presentation order"):
        mn.brain.encode(np.zeros((30, 2)), data, cv="contiguous", **QUICK)
    with pytest.raises(mn.InputError, match="the dataset has none"):
        mn.brain.encode(np.zeros((30, 2)), data, **QUICK)


def test_without_himalaya_the_error_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "himalaya.backend", None)
    with pytest.raises(mn.InputError, match=r"pip install 'modalnet\[brain\]'"):
        small_result()
