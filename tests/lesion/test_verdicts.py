"""Verdicts: what survives, what does not, what is not measurable, and what cannot be tested."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lesion_studies import BOTH, LANGUAGE, SIZE, VISION, effect, graded_study, study_of
from modalnet.lesion.design import Activity
from modalnet.lesion.result import LesionStudy
from modalnet.stats import new_draw

LOW = {"blimp": 0.25, "images": 0.25}  # so that the intact model can do what it gets right half of the time
NOTHING = effect(0.0, 0.0, layer=(0.0, 0.0), norm=(0.0, 0.0))


def verdict_on(study, network="language", task="blimp"):
    """Question → (verdict, sentence)."""
    rows = study.verdicts()
    rows = rows[(rows.network == network) & (rows.task == task)]
    return {row["question"]: (row["verdict"], row["sentence"]) for row in rows.to_dict("records")}


@pytest.fixture(scope="module")
def massive():
    """Units of large activations break the model when zeroed, as activation-matched ones do, and cost nothing else."""
    zero = effect(0.28, 0.28, norm=(0.28, 0.28))
    magnitudes = {("language", ""): 69.0, ("language", "activation"): 41.0}
    costs = {("language", "zero"): zero, ("language", "mean"): NOTHING}
    return study_of(costs, sizes=(0.00125, 0.01), magnitudes=magnitudes, level=0.5, chance=LOW)


def test_massive_activations_do_not_survive(massive):
    found = verdict_on(massive)
    assert {question: verdict for question, (verdict, _) in found.items()} == {
        "zero": "does not survive",
        "mean": "no measurable effect",
        "all": "does not survive",
    }
    assert "in excess of activation-matched units" in found["zero"][1]
    assert found["all"][1] == (
        "language on blimp: does not survive (zeroed: does not survive; set to their mean: no measurable effect)."
    )


def test_units_that_no_random_unit_matches_cannot_be_tested_by_zeroing():
    magnitudes = {("language", ""): 69.0, ("language", "activation"): 12.0}
    found = verdict_on(study_of({("language", name): LANGUAGE for name in BOTH}, magnitudes=magnitudes))
    assert found["zero"] == (
        "cannot be tested",
        "language on blimp, zeroed: cannot be tested: no other units are as active; those matched have 0.17 times its "
        "mean |activation|.",
    )
    assert found["mean"][0] == "survives"
    assert found["all"][0] == "survives"  # under what keeps the stream within its usual range


def test_controls_are_matched_where_the_lesion_acts():
    """Alike where the network was localized, and not at the tokens of the task, or at its sinks."""
    study = study_of({("language", name): LANGUAGE for name in BOTH})
    parts = [getattr(study, name) for name in study.__dataclass_fields__ if name not in {"design", "activity"}]
    ordinary = Activity(1.0, math.nan, 1.0, 1.0)
    for network, control, words in (
        (Activity(10.0, math.nan, 1.0, 9.0), ordinary, "as active; those matched have 0.1"),
        (Activity(1.0, 50.0, 1.0, 9.0), Activity(1.0, 1.0, 1.0, 1.0), "at sink tokens; those matched have 0.02"),
    ):
        activity = {key: control if key[0].control else network for key in study.cells}
        verdict, sentence = verdict_on(LesionStudy(*parts, activity=activity))["zero"]
        assert verdict == "cannot be tested"
        assert words in sentence
    measured = LesionStudy(*parts, activity={key: Activity(1.0, math.nan, 1.0, 9.0) for key in study.cells})
    verdict, sentence = verdict_on(measured)["zero"]
    assert verdict == "survives"
    assert sentence.endswith("puts in values 9.0 SD from ordinary ones.")
    assert (measured.table().inserted_max == 9).all()


def test_an_effect_of_the_network_survives():
    costs = {("language", name): LANGUAGE for name in BOTH} | {("vision", name): VISION for name in BOTH}
    study = study_of(costs)
    rows = study.verdicts()
    assert list(rows.question) == ["zero", "mean", "all"] * 4
    surviving = rows[rows.verdict == "survives"]
    assert set(zip(surviving.network, surviving.task, strict=True)) == {("language", "blimp"), ("vision", "images")}
    assert len(surviving) == 6
    row = rows.iloc[0]
    table = study.table().iloc[0]
    assert (row["drop"], row["size"]) == (table["drop"], SIZE)
    kind = row["control"]
    assert (row["effect"], row["low"], row["p"]) == tuple(table[[f"excess_{kind}", f"excess_{kind}_low", f"p_{kind}"]])


def test_sentences_are_short(massive):
    for study in (massive, graded_study((0.6, 0.1)), graded_study((0.0, 0.1)), study_of({}, sizes=())):
        for sentence in study.verdicts()["sentence"]:
            assert len(sentence.split()) <= 40


def test_several_sizes_are_one_question():
    """The mean over sizes beside that of each draw, and not the best of them."""
    study = study_of({("language", name): LANGUAGE for name in BOTH}, sizes=(0.0025, 0.005, 0.01))
    row = study.verdicts().iloc[0]
    table = study.table()
    drops = table[(table.task == "blimp") & (table.operation == "zero")]
    assert math.isnan(row["size"])
    assert row["drop"] == pytest.approx(drops["drop"].mean())
    kind = row["control"]
    assert row["effect"] == pytest.approx(drops[f"excess_{kind}"].mean())
    assert row["low"] > drops[f"excess_{kind}_low"].mean()  # draws are averaged as well
    assert row["verdict"] == "survives"


def test_an_effect_of_zeroing_alone_does_not_survive():
    found = verdict_on(study_of({("language", "zero"): LANGUAGE, ("language", "mean"): NOTHING}))
    assert found["all"][0] == "does not survive"
    assert found["zero"][0] == "survives"


def test_an_effect_of_mean_ablation_is_seen_where_zeroing_has_none():
    """A mean ablation that costs something is an effect, whatever zeroing costs."""
    found = verdict_on(study_of({("language", "zero"): NOTHING, ("language", "mean"): LANGUAGE}, level=0.5, chance=LOW))
    assert (found["zero"][0], found["mean"][0]) == ("no measurable effect", "survives")
    assert found["all"][0] == "does not survive"
    assert "set to their mean: survives" in found["all"][1]


def test_what_was_not_tested_is_said():
    zero = verdict_on(study_of({("language", "zero"): effect(0.3, 0.3, norm=None, least=None)}))
    assert zero["zero"][0] == "cannot be tested"
    assert "activation-matched units were not lesioned" in zero["zero"][1]
    assert zero["all"][0] == "cannot be tested"
    alone = verdict_on(study_of({("language", "zero"): LANGUAGE}))
    assert alone["zero"][0] == "survives"
    assert alone["all"] == (
        "cannot be tested",
        "language on blimp: cannot be tested (zeroed: survives; mean ablation or resampling was not run).",
    )
    few = verdict_on(study_of({("language", name): LANGUAGE for name in BOTH}, draws=4))
    assert few["zero"] == (
        "cannot be tested",
        "language on blimp, zeroed: cannot be tested: 4 draws of layer-matched units, where 19 are the fewest that can "
        "tell.",
    )


def test_no_effect_is_said_with_what_would_have_been_found():
    # 0.0 but for the noise, which makes as many items right as wrong only if half of them are wrong.
    rows = study_of({("language", name): NOTHING for name in BOTH}, level=0.5, chance=LOW).verdicts()
    row = rows.iloc[2]
    assert (row.question, row.verdict) == ("all", "no measurable effect")
    zero = rows.iloc[0]
    assert zero.detectable == pytest.approx((zero.drop_high - zero.drop_low) / 2 * (1.96 + 0.8416) / 1.96, rel=1e-3)
    assert f"a drop of {zero.detectable:.3f} would have been found" in zero.sentence


def test_an_effect_as_large_as_the_smallest_detectable_is_found_in_four_of_five():
    size = (stats.t.ppf(0.975, 19) + stats.t.ppf(0.8, 19)) * math.sqrt(1 + 1 / 20)
    found = []
    for seed in range(60):
        source = np.random.default_rng([seed, 9])
        draws = source.normal(0, 1, 20)
        assert new_draw.beside_draws(0.0, draws).detectable == pytest.approx(size * draws.std(ddof=1))
        found.append(new_draw.beside_draws(source.normal(0, 1) + size, draws).p_normal <= 0.05)
    assert 0.65 < np.mean(found) < 0.95
