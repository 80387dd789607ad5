"""Verdicts on published accuracies: the rules one by one, and what they say of the published tables."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

import assets
import modalnet as mn
from modalnet.replication.reported import ReportedLesion, reported_verdict, reported_verdicts
from modalnet.replication.reported_tables import read_reported, read_shared_units, shared_units

N = 540


def lesion(lesioned, draws=(), *, intact=0.66, **options):
    given = {"n_items": N, "matched": True} | options
    return ReportedLesion("units", np.array([intact]), np.array([lesioned]), np.array([draws], dtype=float), **given)


def paradigms(lesioned_by, random_by, n=40, **options):
    """Every paradigm loses about so much under its selected and its random units, as the mean of four draws."""
    rng = np.random.default_rng(0)
    intact = rng.uniform(0.7, 0.95, n)
    lesioned, random = (intact - rng.normal(cost, 0.02, n) for cost in (lesioned_by, random_by))
    given = {"mean_of": 4, "apart": True, "matched": True} | options
    return ReportedLesion("units", intact, lesioned, random[:, None], **given)


SPREAD = np.linspace(0.55, 0.65, 19)  # 19 draws


@pytest.mark.parametrize(
    ("given", "verdict", "said"),
    [
        (lesion(0.64), "no measurable effect", "would have been found"),
        (lesion(0.30, SPREAD), "survives", "0.300 in excess of random units"),
        (lesion(0.30, SPREAD, matched=False), "cannot be tested", "do not match them in activation"),
        (lesion(0.30, SPREAD[:18]), "cannot be tested", "18 draws, none of which cost as much, cannot give p <= 0.05"),
        (lesion(0.55, [0.54, *SPREAD[:10]]), "cannot be tested", "2 of which cost as much"),
        (lesion(0.57, SPREAD), "does not survive", "4 of 19 random draws cost as much"),
        (lesion(0.57, SPREAD[:15]), "does not survive", "4 of 15 random draws cost as much"),
        (lesion(0.55, [0.3, 0.4, 0.64]), "does not survive", "random units cost 0.103 more; 2 of 3 draws cost as much"),
        (lesion(0.30), "cannot be tested", "no random units of this size were lesioned"),
        (lesion(0.55, [0.63], mean_of=4), "cannot be tested", "the mean of 4 draws alone is reported"),
        (lesion(0.55, [0.50], mean_of=4), "does not survive", "random units cost 0.050 more"),
        (lesion(0.30, SPREAD, n_items=0), "cannot be tested", "number of items is not reported"),
        (lesion(0.30, SPREAD, nested=True), "cannot be tested", "number of paradigms is not reported"),
        (lesion(0.30, SPREAD, nested=True, n_paradigms=10), "no measurable effect", "would have been found"),
        (lesion(0.33, SPREAD, invalid=0.5), "cannot be tested", "50% of answers have no valid form, and among the"),
        (lesion(0.004, SPREAD, invalid=0.99), "cannot be tested", "the others are too few to tell"),
        (lesion(0.0, SPREAD, invalid=1.0), "cannot be tested", "so nothing else can be told"),
        (lesion(0.10, SPREAD, invalid=0.6), "survives", "60% of answers have no valid form."),
        (paradigms(0.10, 0.02), "survives", "in excess of random units, p < 0.001"),
        (paradigms(0.10, 0.02, apart=False), "cannot be tested", "the mean of 4 draws alone is reported"),
        (paradigms(0.10, 0.02, matched=False), "cannot be tested", "do not match them in activation"),
        (paradigms(0.05, 0.09), "does not survive", "(p < 0.001); the spread of 4 draws is not reported"),
        (paradigms(0.00, 0.02), "no measurable effect", "would have been found"),
    ],
)
def test_every_rule(given, verdict, said):
    found = reported_verdict(given)
    assert found.verdict == verdict
    assert said in found.sentence
    assert found.sentence.startswith(f"units: {verdict}: drop ")
    assert len(found.sentence.split()) <= 40


def test_an_interval_of_separate_proportions_is_newcombes():
    found = reported_verdict(lesion(0.30, SPREAD))
    x, y = (round(share * N) for share in (0.66, 0.30))
    ends = [stats.binomtest(count, N).proportion_ci(method="wilson") for count in (x, y)]
    low = 0.36 - math.hypot(0.66 - ends[0].low, ends[1].high - 0.30)
    high = 0.36 + math.hypot(ends[0].high - 0.66, 0.30 - ends[1].low)
    assert (found.drop_low, found.drop_high) == pytest.approx((low, high), abs=1e-3)


def test_paradigms_are_the_replicates():
    given = paradigms(0.06, 0.05, n=10)
    found = reported_verdict(given)
    drops = given.intact - given.lesioned
    low, high = stats.t.interval(0.95, 9, drops.mean(), stats.sem(drops))
    assert found.drop_low <= low + 1e-12
    assert found.drop_high >= high - 1e-12
    assert found.drop_high - found.drop_low < 1.2 * (high - low)
    differences = given.draws[:, 0] - given.lesioned
    exact = stats.permutation_test((differences,), np.mean, permutation_type="samples", alternative="greater")
    assert found.p == pytest.approx(exact.pvalue)
    assert found.excess == pytest.approx(differences.mean())


def test_draws_that_destroy_the_output_are_counted_and_not_normal():
    draws = [0.0, 0.002, 0.159, 0.226, 0.409, 0.461, 0.493, 0.5, 0.539, 0.557, 0.563, 0.570, 0.630, 0.633, 0.661]
    shares = (1.0, 0.99, 0.59, 0.53, *[0.1] * 11)
    found = reported_verdict(lesion(0.552, draws, invalid_draws=shares))
    assert found.verdict == "does not survive"
    assert (found.n_draws, found.reaching, found.destroyed) == (15, 9, 4)
    assert found.p == pytest.approx(10 / 16)
    assert found.p_other == pytest.approx(2 * 7 / 16)
    assert found.p_normal_draws == pytest.approx(stats.shapiro(draws).pvalue)
    assert "9 of 15 draws cost as much; 4 of 15 draws destroy the output; draws are not normal" in found.sentence


@settings(deadline=None, max_examples=40)
@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.lists(st.floats(0, 1), max_size=25),
    st.floats(0, 1),
    st.integers(1, 2000),
)
def test_any_accuracies_give_a_verdict(intact, lesioned, draws, invalid, n_items):
    given = lesion(lesioned, draws, intact=intact, invalid=invalid, n_items=n_items)
    found = reported_verdict(given)
    assert found.drop == pytest.approx(intact - lesioned)
    assert len(found.sentence.split()) <= 40
    if found.verdict == "survives":
        assert len(draws) >= 19
        assert sum(draw <= lesioned for draw in draws) <= 0.05 * (len(draws) + 1) - 1
        assert found.drop_low > 0
    # More harm by the same units never turns a survival into its opposite.
    if lesioned > 0 and found.verdict == "survives" and not invalid:
        assert reported_verdict(lesion(0.0, draws, intact=intact, n_items=n_items)).verdict == "survives"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intact": np.array([66.0])}, "accuracies from 0 to 1"),
        ({"lesioned": np.array([0.5, 0.4])}, "one entry per paradigm"),
        ({"draws": np.array([0.5])}, "2 dimensions"),
        ({"draws": np.array([[0.5, 0.4]]), "mean_of": 4}, "one column, the mean of 4 draws"),
        ({"lesioned": np.array([np.nan])}, "accuracies from 0 to 1"),
        ({"invalid": 40.0}, "must be from 0 to 1"),
        ({"invalid_draws": (0.1, 0.2)}, "one share per draw, got 2 for 1"),
        ({"n_items": -1}, "`n_items` must be"),
    ],
)
def test_accuracies_are_checked(change, message):
    given = {"intact": np.array([0.6]), "lesioned": np.array([0.5]), "draws": np.array([[0.5]])}
    with pytest.raises(mn.InputError, match=message):
        ReportedLesion("units", **given | change)


def test_a_table_has_a_row_per_lesion():
    table = reported_verdicts([lesion(0.64), lesion(0.30, SPREAD)])
    assert list(table["verdict"]) == ["no measurable effect", "survives"]
    assert list(table["n_draws"]) == [0, 19]
    with pytest.raises(mn.InputError, match="ReportedLesion"):
        reported_verdicts([0.5])


def test_tables_that_are_missing_or_incomplete(tmp_path):
    for read in (read_reported, read_shared_units):
        with pytest.raises(mn.InputError, match="`folder` must have"):
            read(tmp_path)
    pd.DataFrame({"model": ["a"]}).to_csv(tmp_path / "syntax2026_blimp_ablation.csv")
    with pytest.raises(mn.InputError, match="no column 'ablation'"):
        read_reported(tmp_path)


def test_units_shared_over_folds_are_compared_paradigm_by_paradigm():
    control = np.array([0.02, 0.01, 0.03, 0.02, 0.01, 0.04])
    more = shared_units("a model", control + np.array([0.5, 0.4, 0.6, 0.5, 0.3, 0.7]), control)
    assert more.verdict == "survives"
    assert more.p == pytest.approx(1 / 64)
    assert more.excess == pytest.approx(0.5)
    same = shared_units("a model", control[::-1], control)
    assert same.verdict == "does not survive"


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    table = reported_verdicts(read_reported(assets.data("reported_numbers")))
    return table.set_index("name")


@pytest.mark.real
def test_vision_language_models_lose_no_more_by_selected_units_than_by_random_ones(published):
    row = published.loc["MD top 1.00% of Qwen2.5-VL-72B-Instruct on MathVista"]
    assert row["verdict"] == "does not survive"
    assert (row["intact"], row["lesioned"]) == (0.6648, 0.5519)
    assert row["random"] == pytest.approx(0.427, abs=5e-4)
    assert (row["n_draws"], row["reaching"], row["destroyed"]) == (15, 9, 4)
    assert row["p_normal_draws"] < 0.05
    bottom = published.loc["MD bottom 0.30% of Qwen2.5-VL-72B-Instruct on MathVista"]
    assert bottom["verdict"] == "cannot be tested"
    assert "100% of answers have no valid form" in bottom["sentence"]
    # Fifteen draws cannot show an effect, whatever it is.
    llama = published.loc["MD top 1.00% of Llama-3.2-11B-Vision-Instruct on MMStar"]
    assert (llama["verdict"], llama["reaching"]) == ("cannot be tested", 0)
    assert not (published["verdict"] == "survives").any()


@pytest.mark.real
def test_on_blimp_random_units_cost_more_in_three_of_seven_models(published):
    five = published[published.index.str.match(r"5% .* on BLiMP, zero")]
    more = five[five["excess"] < 0]
    assert len(five) == 7
    assert sorted(name.split()[2] for name in more.index) == ["Phi-4-mini-instruct", "deepseek-llm-7b-base", "gpt2-xl"]
    assert set(more["verdict"]) == {"does not survive"}
    assert more["p_other"].idxmin() == "5% of deepseek-llm-7b-base on BLiMP, zero"
    assert sorted(more["p_other"] <= 0.05) == [False, False, True]
    scalar = published.loc["1% of gpt2-xl on BLiMP, scalar-mean"]
    assert (scalar["lesioned"], scalar["random"]) == pytest.approx((0.768, 0.615), abs=5e-4)
    assert (scalar["verdict"], scalar["p_other"] < 0.001) == ("does not survive", True)
    gemma = published.loc["1% of gemma-3-4b-pt on BLiMP, zero"]
    assert (gemma["verdict"], gemma["p"] < 0.001) == ("cannot be tested", True)


@pytest.mark.real
def test_units_are_shared_over_folds_far_beyond_shuffled_labels():
    found = read_shared_units(assets.data("reported_numbers"))
    two = [one for one in found if one.name.endswith("1%, 2 folds")]
    assert len(two) == 7
    assert np.mean([one.share for one in two]) == pytest.approx(0.816, abs=2e-3)
    assert np.mean([one.control for one in two]) == pytest.approx(0.010, abs=2e-3)
    assert {one.verdict for one in found} == {"survives"}
