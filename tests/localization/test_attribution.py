"""Units selected by their effect on a metric: against attribution patching of single pairs, and a planted circuit."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy import stats

import modalnet as mn
from modalnet.errors import InputError
from modalnet.patching import custom, log_probability, logit_difference
from reference import load

OPTIONS = {"cache": False, "progress": False}
NOUNS = ("dog", "cat", "girl", "boy", "bird", "horse", "king", "teacher", "doctor", "queen", "nurse", "farmer")
CLEAN = [f"the {noun} near the house" for noun in NOUNS]
CORRUPT = [f"the {noun}s near the house" for noun in NOUNS]
METRIC = logit_difference(" is", " are")


def contrast(items=True, clean=CLEAN, corrupt=CORRUPT, **options):
    stimuli = [
        mn.Stimulus(text, condition=condition, item=f"item {number}" if items else None)
        for condition, texts in (("one", clean), ("several", corrupt))
        for number, text in enumerate(texts)
    ]
    return mn.Contrast(stimuli, "one", "several", **options)


def localize(given=None, metric=METRIC, **options):
    return mn.localize(mn.load("tiny"), given or contrast(), by="attribution", metric=metric, **options, **OPTIONS)


@lru_cache
def by_pair(**options):
    """The estimated effect of each unit on the metric in each pair alone."""
    found = [
        mn.attribution_patching(mn.load("tiny"), one, other, METRIC, **options, **OPTIONS)
        for one, other in zip(CLEAN, CORRUPT, strict=True)
    ]
    return np.stack([one.unit_effect["decoder"] * (one.clean[0] - one.corrupt[0]) for one in found])


@pytest.mark.parametrize("options", [{}, {"method": "integrated", "steps": 2}])
def test_the_t_is_that_of_the_effects_of_pairs(options):
    found, effects = localize(**options), by_pair(**options)
    expected = stats.ttest_1samp(effects, 0)
    np.testing.assert_allclose(found.t["decoder"], expected.statistic, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(found.p["decoder"], expected.pvalue, rtol=2e-2, atol=1e-6)
    n = len(NOUNS)
    standardized = effects.mean(0) / effects.std(0, ddof=1) * (1 - 3 / (4 * (n - 1) - 1))
    np.testing.assert_allclose(found.effect_size["decoder"], standardized, rtol=5e-3, atol=2e-3)
    assert found.test == "attribution"
    assert f"t of effects on the logit difference over {n} pairs" in found.summary()
    np.testing.assert_allclose(found.mean_effect["decoder"], effects.mean(0), atol=2e-3 * np.abs(effects).max())
    largest = found.mean_effect["decoder"].max()
    assert f"largest mean effect {largest:.3g}" in found.summary()
    assert found.top(k=1, by="mean_effect").mask["decoder"].ravel()[found.mean_effect["decoder"].argmax()]
    assert "mean_effect" in found.top_units(2)
    assert "mean_effect" in found.to_xarray()
    again = mn.Localization._from_content(*found._content())
    np.testing.assert_array_equal(again.mean_effect["decoder"], found.mean_effect["decoder"])


def test_selection_and_held_out_scores_are_as_for_activations():
    found = localize()
    network = found.top(fraction=0.01)
    assert network.count == int(0.01 * found.n_units)
    held_out = found.reliability(n_splits=4, n_controls=4)
    assert held_out.t_held_out.mean() > held_out.t_random.mean()
    plain = mn.localize(mn.load("tiny"), contrast(), **OPTIONS)
    np.testing.assert_array_equal(found.mean_abs["decoder"], plain.mean_abs["decoder"])
    np.testing.assert_array_equal(found.means["one"]["decoder"], plain.means["one"]["decoder"])
    assert not np.allclose(found.t["decoder"], plain.t["decoder"])
    # Held out: the t of the others is that of a contrast without them.
    assert found.without(0, 1, 2).t["decoder"].shape == found.t["decoder"].shape


def test_pairs_are_those_of_items_or_of_the_order():
    in_order = localize(contrast(items=False))
    np.testing.assert_allclose(in_order.t["decoder"], localize().t["decoder"], rtol=1e-4, atol=1e-4)
    stimuli = list(contrast().stimuli)
    order = np.random.default_rng(0).permutation(len(stimuli))
    shuffled = localize(mn.Contrast([stimuli[n] for n in order], "one", "several"))
    np.testing.assert_allclose(shuffled.t["decoder"], localize().t["decoder"], rtol=1e-3, atol=1e-3)


def test_answers_are_in_the_order_of_the_positive_stimuli():
    """Pairs of both directions: what raises the metric is the same in all."""
    flips = [number % 3 == 0 for number in range(len(NOUNS))]
    sides = [(b, a) if flip else (a, b) for a, b, flip in zip(CLEAN, CORRUPT, flips, strict=True)]
    clean, corrupt = zip(*sides, strict=True)
    answers = [" are" if flip else " is" for flip in flips]
    others = [" is" if flip else " are" for flip in flips]
    stimuli = contrast(clean=clean, corrupt=corrupt).stimuli
    backwards = mn.Contrast(list(reversed(stimuli)), "one", "several")
    one = localize(mn.Contrast(stimuli, "one", "several"), logit_difference(answers, others))
    other = localize(backwards, logit_difference(answers[::-1], others[::-1]))
    np.testing.assert_allclose(one.t["decoder"], other.t["decoder"], rtol=1e-3, atol=1e-3)
    assert one.significant().count > 0


def test_a_file_and_the_store_keep_it(tmp_path):
    found = localize()
    found.save(tmp_path / "found.safetensors")
    assert mn.Localization.load(tmp_path / "found.safetensors") == found
    store = {"cache": tmp_path / "store", "progress": False, "by": "attribution"}
    one, again = (mn.localize(mn.load("tiny"), contrast(), metric=METRIC, **store) for _ in range(2))
    assert one == again
    other = mn.localize(mn.load("tiny"), contrast(), metric=log_probability(" is"), **store)
    assert not np.allclose(other.t["decoder"], one.t["decoder"])


def test_covariates_adjust_the_mean_effect():
    numbers = np.random.default_rng(1).normal(size=2 * len(NOUNS))
    found = localize(contrast(covariates={"frequency": numbers}))
    differences = numbers[: len(NOUNS)] - numbers[len(NOUNS) :]
    x = np.column_stack([np.ones(len(NOUNS)), differences])
    y = by_pair()[:, 3, 7]
    solved, residual, *_ = np.linalg.lstsq(x, y, rcond=None)
    t = solved[0] / np.sqrt(residual[0] / (len(y) - 2) * np.linalg.inv(x.T @ x)[0, 0])
    assert found.t["decoder"][3, 7] == pytest.approx(t, rel=2e-3)


def test_answers_that_say_nothing_select_nothing():
    """Answers that are dealt out at random per pair: the t of most units is not significant."""
    shares, selected = [], []
    for seed in range(8):
        flips = np.random.default_rng(seed).random(len(NOUNS)) < 0.5
        answers = [" are" if flip else " is" for flip in flips]
        others = [" is" if flip else " are" for flip in flips]
        found = localize(metric=logit_difference(answers, others))
        shares.append(np.mean(found.p["decoder"] < 0.05))
        selected.append(found.significant().count / found.n_units)
    assert np.mean(shares) <= 0.06
    assert np.mean(selected) <= 0.06


# -- what is refused ---------------------------------------------------------------------------------------------------


def stimulus(condition, item, text="a dog"):
    return mn.Stimulus(f"{text} {condition} {item}", condition=condition, item=item)


ONCE = [stimulus(condition, item) for condition in "ab" for item in "xyz"]


@pytest.mark.parametrize(
    ("stimuli", "message"),
    [
        ([*ONCE, stimulus("a", "x", "two")], "got 4 positive and 3 negative"),
        ([*ONCE, stimulus("a", "x", "two"), stimulus("b", "x", "two")], "item 'x' has 2 positive stimuli"),
        ([*ONCE, stimulus("a", "v"), stimulus("b", "w")], "2 are on one side only, such as 'v'"),
        ([*ONCE, stimulus("a", None), stimulus("b", None)], "2 of 8 have none"),
        (
            [stimulus("a", None), stimulus("a", None, "one"), *[stimulus("b", None, str(n)) for n in range(3)]],
            "got 2 pos",
        ),
    ],
)
def test_stimuli_that_do_not_pair(stimuli, message):
    with pytest.raises(InputError, match=message):
        mn.localize(load("gpt2"), mn.Contrast(stimuli, "a", "b"), by="attribution", metric=METRIC, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "gradient"}, "`by` must be"),
        ({"by": "attribution"}, "needs a `metric`"),
        ({"by": "attribution", "metric": lambda logits: logits[:, 0]}, "needs a `metric` of modalnet.patching"),
        ({"by": "attribution", "metric": METRIC, "method": "ig"}, "`method` must be"),
        ({"by": "attribution", "metric": METRIC, "method": "integrated", "steps": 0}, "`steps` must be"),
        ({"by": "attribution", "metric": METRIC, "steps": 3}, "`steps` is for method='integrated' alone"),
        ({"by": "attribution", "metric": METRIC, "paired": False}, "`paired` must be True or 'auto'"),
        ({"by": "attribution", "metric": METRIC, "protocol": "alkhamissi2025"}, "is by activation"),
        ({"by": "attribution", "metric": METRIC, "blocking": False}, "`blocking` must be True"),
        ({"by": "attribution", "metric": logit_difference([" is"], " are")}, "one entry per pair, got 1 for 12"),
        ({"metric": METRIC}, "`metric` is for by='attribution' alone"),
        ({"steps": 3}, "`steps` is for by='attribution' alone"),
        ({"align": "last"}, "`align` is for by='attribution' alone"),
        ({"method": "integrated"}, "`method` is for by='attribution' alone"),
    ],
)
def test_arguments_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        mn.localize(mn.load("tiny"), contrast(), **options, **OPTIONS)


def test_a_slope_has_no_pairs_and_lengths_must_align():
    with pytest.raises(InputError, match="needs a contrast of two sides"):
        localize(mn.Contrast(contrast().stimuli, regressor="length"))
    with pytest.raises(InputError, match="Give `align`"):
        localize(contrast(corrupt=[f"{text} again" for text in CORRUPT]))
    found = localize(contrast(corrupt=[f"again {text}" for text in CORRUPT]), align="last")
    assert np.isfinite(found.t["decoder"]).all()


def test_a_function_is_a_metric_and_is_not_stored(tmp_path):
    ids = [mn.load("tiny").tokenizer.convert_tokens_to_ids(word) for word in ("is", "are")]
    metric = custom(lambda logits: logits[:, ids[0]] - logits[:, ids[1]])
    found = mn.localize(
        mn.load("tiny"), contrast(), by="attribution", metric=metric, cache=tmp_path / "store", progress=False
    )
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").rglob("*.safetensors"))
    np.testing.assert_allclose(found.t["decoder"], localize().t["decoder"], rtol=1e-3, atol=1e-3)
