"""Paired, adjusted and parametric contrasts: against scipy and least squares on the activations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import modalnet as mn
from families import CORPUS
from modalnet.localization import design
from modalnet.localization.design import design_of
from modalnet.stats.folds import assign_folds
from reference import load

WORDS = sorted({word for line in CORPUS for word in line.lower().split()})


def text(seed, n=None):
    rng = np.random.default_rng(seed)
    return " ".join(rng.choice(WORDS, size=n or int(rng.integers(3, 20))))


def pairs(n=14, **options):
    """Long texts and short ones of the same item, so that the halves of an item run in other batches."""
    stimuli = [
        mn.Stimulus(text(i + 100 * side, (12 if side else 3) + i % 5), condition="ab"[side], item=f"pair {i}")
        for side in (0, 1)
        for i in range(n)
    ]
    return mn.Contrast(stimuli, "a", **options)


def localized(contrast, name="gpt2", **options):
    return mn.localize(load(name), contrast, cache=False, progress=False, **options)


def activations(contrast, name="gpt2"):
    return np.abs(load(name).run(contrast).residual["decoder"].double().numpy())


def least_squares(x, y):
    design_matrix = np.column_stack([np.ones(len(x)), *x.T])
    flat = y.reshape(len(y), -1)
    solved, *_ = np.linalg.lstsq(design_matrix, flat, rcond=None)
    variance = np.square(flat - design_matrix @ solved).sum(0) / (len(x) - design_matrix.shape[1])
    t = solved / np.sqrt(np.outer(np.diag(np.linalg.inv(design_matrix.T @ design_matrix)), variance))
    return t.reshape(-1, *y.shape[1:])


# -- pairs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", ["auto", 3])
def test_complete_items_are_tested_as_pairs(batch_size, monkeypatch):
    monkeypatch.setattr(design, "FEWEST", 4)
    monkeypatch.setattr(design, "OPEN", 0)
    contrast = pairs()
    result, values = localized(contrast, batch_size=batch_size), activations(contrast)
    expected = stats.ttest_rel(values[:14], values[14:])
    np.testing.assert_allclose(result.t["decoder"], expected.statistic, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(result.p["decoder"], expected.pvalue, rtol=1e-3, atol=1e-6)
    assert result.test == "paired"
    assert "paired t over 14 items" in repr(result)
    assert "test: paired t over 14 items" in result.summary()
    unpaired = localized(contrast, paired=False)
    assert unpaired.test == "welch"
    assert "Welch's t" in unpaired.summary()
    # The same effect size but for its correction for few items.
    ratio = result.effect_size["decoder"] / unpaired.effect_size["decoder"]
    assert np.all((ratio > 0.96) & (ratio < 1.0001))
    assert unpaired.meta["model"] == result.meta["model"]


def test_the_paired_t_is_that_of_scipy_to_the_last_digits():
    """On the same activations, which are the same where batches are."""
    contrast = pairs()
    model = load("gpt2")
    result = mn.localize(model, contrast, batch_size=1, cache=False, progress=False)
    values = np.abs(model.run(contrast, batch_size=1).residual["decoder"].double().numpy())
    expected = stats.ttest_rel(values[:14], values[14:])
    np.testing.assert_allclose(result.t["decoder"], expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(result.p["decoder"], expected.pvalue, rtol=1e-8)


def test_an_item_with_several_stimuli_counts_once():
    four = mn.stimuli.language_conditions(12, items=True)
    contrast = mn.Contrast(four.stimuli, ["sentences", "word-lists"], ["jabberwocky", "nonwords"])
    tiny = mn.load("tiny")
    result = mn.localize(tiny, contrast, batch_size=1, cache=False, progress=False)
    values = np.abs(tiny.run(contrast, batch_size=1).residual["decoder"].double().numpy())
    a, b, c, d = (values[12 * place : 12 * place + 12] for place in range(4))
    expected = stats.ttest_rel((a + b) / 2, (c + d) / 2).statistic
    np.testing.assert_allclose(result.t["decoder"], expected, rtol=1e-9)


# At revision 8f6c477, before there were items: t and how many units have q < 0.05 and t > 0.
BEFORE = {
    "language": {"decoder": ((6, 143), 22.12618712804236, 512)},
    "vision": {"vision": ((4, 16), 39.49313495278337, None), "decoder": ((0, 115), 57.16630567889752, None)},
}


@pytest.mark.parametrize("name", list(BEFORE))
def test_localizers_of_the_literature_are_welchs_as_before(name):
    contrast, tiny = getattr(mn.stimuli, name)(), mn.load("tiny")
    result = mn.localize(tiny, contrast, cache=False, progress=False)
    assert result.test == "welch"
    values = tiny.run(contrast, tokens={tower: choice for tower, choice in result.meta["tokens"].items()})
    positive = np.array([side == "positive" for side in contrast.sides])
    for tower, (unit, largest, significant) in BEFORE[name].items():
        read = np.abs(values.residual[tower].double().numpy())
        expected = stats.ttest_ind(read[positive], read[~positive], equal_var=False).statistic
        np.testing.assert_allclose(result.t[tower], expected, rtol=1e-4, atol=1e-4)
        assert np.unravel_index(np.nanargmax(result.t[tower]), result.t[tower].shape) == unit
        assert result.t[tower][unit] == pytest.approx(largest, rel=1e-5)
        if significant is not None:
            assert int(((result.q[tower] < 0.05) & (result.t[tower] > 0)).sum()) == significant
    folds = assign_folds(contrast.labels, 10)
    assert result.stimuli == {s.inspect().digest: int(f) for s, f in zip(contrast.stimuli, folds, strict=True)}


def test_a_bundled_set_is_tested_as_pairs_in_one_word():
    tiny = mn.load("tiny")
    for contrast in (mn.stimuli.language(6, items=True), mn.stimuli.theory_of_mind(6), mn.stimuli.refusal(6)):
        assert mn.localize(tiny, contrast, cache=False, progress=False).test == "paired"


def test_folds_keep_items_together_and_are_otherwise_those_without_items():
    labels = ["a", "b", "c"] * 20 + ["a"] * 7
    items = [str(place // 3) for place in range(60)] + [None] * 7
    folds = assign_folds(labels, 10, 3, items)
    assert all(len({folds[p] for p in range(67) if items[p] == item}) == 1 for item in set(items) - {None})
    assert np.bincount(folds[:60], minlength=10).tolist() == [6] * 10
    np.testing.assert_array_equal(assign_folds(labels, 10, 3), assign_folds(labels, 10, 3, [None] * 67))
    result = localized(pairs())
    digests = {s.inspect().digest: s.item for s in pairs().stimuli}
    of_item = {}
    for digest, fold in result.stimuli.items():
        of_item.setdefault(digests[digest], set()).add(fold)
    assert all(len(folds) == 1 for folds in of_item.values())


def test_held_out_statistics_are_paired_too():
    contrast = pairs(20)
    result = localized(contrast, batch_size=1)
    values = np.abs(load("gpt2").run(contrast, batch_size=1).residual["decoder"].double().numpy())
    folds = assign_folds(contrast.labels, 10, items=contrast.items)[:20]
    kept = folds != 3
    expected = stats.ttest_rel(values[:20][kept], values[20:][kept]).statistic
    np.testing.assert_allclose(result.without(3).t["decoder"], expected, rtol=1e-9)
    found = result.reliability(fraction=0.1, n_splits=2, n_controls=2)
    assert np.isfinite(found.t_held_out).all()


def test_a_file_and_the_store_keep_the_test(tmp_path):
    contrast, model = pairs(), load("gpt2")
    results = [
        mn.localize(model, contrast, paired=paired, cache=tmp_path, progress=False) for paired in ("auto", False, True)
    ]
    assert results[0] == results[2]
    assert results[0] != results[1]
    assert len(mn.Store(tmp_path).entries()) == 2
    results[0].save(tmp_path / "result.safetensors")
    assert mn.Localization.load(tmp_path / "result.safetensors") == results[0]
    assert results[0].only("decoder").test == "paired"
    plain = mn.Contrast([mn.Stimulus(s.text, condition=s.condition) for s in contrast.stimuli], "a")
    assert mn.localize(model, plain, cache=tmp_path, progress=False).t["decoder"] == pytest.approx(
        results[1].t["decoder"], rel=1e-9
    )


def stimuli(*named):
    return [mn.Stimulus(text(i), condition=condition, item=item) for i, (condition, item) in enumerate(named)]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ([("a", "1"), ("b", "1"), ("a", "2"), ("b", "3")], "2 of 3 items are on one side only, such as '2' on the pos"),
        ([("a", "1"), ("b", "1"), ("a", None), ("b", "2")], "1 of 4 stimuli have no item"),
        ([("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")], "there are 1 items, and a t needs 2"),
    ],
)
def test_what_cannot_be_paired(named, message):
    contrast = mn.Contrast(stimuli(*named), [one for one in ("a", "c") if one in dict(named)])
    assert design_of(contrast, "auto").test == "welch"
    with pytest.raises(mn.InputError, match=message):
        localized(contrast, paired=True)


def test_duplicate_halves_are_refused():
    contrast = mn.Contrast(stimuli(("a", "1"), ("b", "1"), ("b", "1"), ("a", "2"), ("b", "2")), "a")
    for paired in ("auto", True):
        with pytest.raises(mn.InputError, match="Item '1' has 2 stimuli of the condition 'b'"):
            localized(contrast, paired=paired)
    assert localized(contrast, paired=False).test == "welch"


def test_a_slope_over_items_is_warned_of():
    with pytest.warns(UserWarning, match="14 items have several stimuli"):
        design_of(mn.Contrast(pairs().stimuli, regressor="length"), "auto")


def test_a_published_protocol_is_not_paired():
    assert localized(pairs(), protocol="alkhamissi2025").test == "welch"
    with pytest.raises(mn.InputError, match="fixes the test to Welch's"):
        localized(pairs(), protocol="alkhamissi2025", paired=True)
    with pytest.raises(mn.InputError, match="`paired` must be True, False or 'auto', got 'yes'"):
        localized(pairs(), paired="yes")


# -- covariates and regressors -----------------------------------------------------------------------------------------


def plain(n=24):
    return [mn.Stimulus(text(i), condition="ab"[i % 3 == 0], id=f"s{i}") for i in range(n)]


def test_covariates_adjust_as_least_squares_does():
    rng = np.random.default_rng(0)
    rating = rng.standard_normal(24)
    contrast = mn.Contrast(plain(), "a", covariates={"length": "length", "rating": rating})
    result, values = localized(contrast), activations(contrast)
    side = np.array([one == "positive" for one in contrast.sides], dtype=float)
    length = np.array([len(one.text) for one in contrast.stimuli], dtype=float)
    expected = least_squares(np.column_stack([side, length, rating]), values)[1]
    np.testing.assert_allclose(result.t["decoder"], expected, rtol=1e-9)
    assert result.test == "regression"
    assert "t of the difference adjusted for length, rating" in repr(result)
    assert np.array_equal(np.sign(result.effect_size["decoder"]), np.sign(result.t["decoder"]))
    ids = {one.id: value for one, value in zip(contrast.stimuli, rating, strict=True)}
    by_id = mn.Contrast(plain()[::-1], "a", covariates={"length": "length", "rating": ids})
    np.testing.assert_allclose(localized(by_id).t["decoder"], result.t["decoder"], rtol=1e-3, atol=1e-4)
    opposite = localized(~contrast)
    np.testing.assert_allclose(opposite.t["decoder"], -result.t["decoder"], rtol=1e-9)


def test_covariates_of_a_pair_enter_as_differences():
    contrast = pairs()
    values = np.abs(load("gpt2").run(contrast, batch_size=1).residual["decoder"].double().numpy())
    rng = np.random.default_rng(0)
    contrast = pairs(covariates={"rating": rng.standard_normal(28)})
    result, rating = localized(contrast, batch_size=1), contrast.covariates["rating"]
    expected = least_squares((rating[:14] - rating[14:])[:, None], values[:14] - values[14:])[0]
    np.testing.assert_allclose(result.t["decoder"], expected, rtol=1e-9)
    assert "paired t over 14 items adjusted for rating" in result.summary()


def test_a_parametric_contrast_is_a_slope():
    contrast = mn.Contrast([mn.Stimulus(text(i)) for i in range(20)], regressor="length")
    result, values = localized(contrast), activations(contrast)
    length = np.array([len(one.text) for one in contrast.stimuli], dtype=float)
    np.testing.assert_allclose(result.t["decoder"], least_squares(length[:, None], values)[1], rtol=1e-9)
    r = stats.pearsonr(length, values[:, 1, 3]).statistic
    assert result.effect_size["decoder"][1, 3] == pytest.approx(r, rel=1e-6)
    assert result.parametric
    assert "t of the slope" in repr(result)
    assert result.n == {"stimuli": 20}
    assert contrast.sides.count("positive") in range(5, 11)
    assert np.isfinite(result.reliability(fraction=0.1, n_splits=2, n_controls=2).g_held_out).all()
    other = localized(mn.Contrast([mn.Stimulus(text(i)) for i in range(20)], regressor=(-length).tolist()))
    np.testing.assert_allclose(localized(~contrast).t["decoder"], other.t["decoder"], rtol=1e-9)
    assert result.top(k=5).count == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariates": {"x": [1.0] * 24}}, "The covariate 'x' is always the same"),
        (
            {"covariates": {"x": [2.0 * (i % 3 != 0) for i in range(24)]}},
            "'x' is collinear with the sides of the contr",
        ),
        ({"covariates": {"x": list(range(24)), "y": [3 * i + 1 for i in range(24)]}}, "'y' is collinear with .*'x'"),
        ({"covariates": {"x": [1.0] * 23}}, "'x' must be one number for each of 24 stimuli, got shape"),
        ({"covariates": {"x": [1.0] * 23 + [float("nan")]}}, "must be finite; it is nan for stimulus s23"),
        ({"covariates": {"x": ["a"] * 24}}, "must be one number per stimulus"),
        ({"covariates": {"x": {"s0": 1.0}}}, "no number for the id of 23 stimuli, such as s1"),
        ({"covariates": ["luminance"]}, "must be numbers or one of length, words, got 'luminance'"),
        ({"covariates": 3}, "`covariates` must map names"),
        ({"regressor": "length"}, "`regressor` must not be given together with"),
    ],
)
def test_covariates_that_are_refused(options, message):
    with pytest.raises(mn.InputError, match=message):
        mn.Contrast(plain(), "a", **options)


def test_regressors_that_are_refused():
    with pytest.raises(mn.InputError, match="regressor is always the same; a slope needs"):
        mn.Contrast(plain(), regressor=[1.0] * 24)
    with pytest.raises(mn.InputError, match=r"measure of texts, and stimulus .* has no text"):
        mn.Contrast([mn.Stimulus(image=np.zeros((4, 4, 3), np.uint8))] * 2, regressor="length")
    parametric = mn.Contrast(plain(), regressor="length")
    with pytest.raises(mn.InputError, match="parametric contrast, which has no sides"):
        localized(parametric, paired=True)
    # 12 + i % 5 and 3 + i % 5 words: nine more in every pair.
    with pytest.raises(
        mn.InputError, match="difference of covariate 'words' within items is always the same, and so coll"
    ):
        localized(pairs(covariates=["words"]))
    with pytest.raises(mn.InputError, match="'x' does not differ within items"):
        localized(pairs(covariates={"x": np.tile(np.arange(14), 2)}))


def test_a_table_has_items_and_numbers(tmp_path):
    path = tmp_path / "pairs.csv"
    rows = [f'"{text(i)}",{"ab"[i % 2]},{i // 2},{(i * 7) % 5}' for i in range(12)]
    path.write_text("\n".join(["text,condition,pair,rating", *rows]))
    contrast = mn.stimuli.from_csv(path, item="pair", positive="a", covariates=["rating", "length"])
    assert contrast.items[:3] == ("0", "0", "1")
    assert contrast.covariates["rating"].tolist() == [float((i * 7) % 5) for i in range(12)]
    assert design_of(contrast, "auto").test == "paired"
    slope = mn.stimuli.from_csv(path, regressor="rating")
    assert slope.regressor.tolist() == contrast.covariates["rating"].tolist()
    with pytest.raises(mn.InputError, match=r"row 2: column text must hold numbers"):
        mn.stimuli.from_csv(path, regressor="text")
