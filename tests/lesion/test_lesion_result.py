"""Results of lesion studies: intervals, tests, dissociations, verdicts, files and pictures, without any model."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from matplotlib.figure import Figure
from scipy import stats

from lesion_studies import BOTH, CHANCE, LANGUAGE, SIZE, VISION, N, effect, graded_study, rng, study_of
from modalnet.errors import InputError, StoreError
from modalnet.lesion.design import Design
from modalnet.lesion.result import Lesion, LesionStudy
from modalnet.plotting.lesion import dose_curves, save_dose_curves
from modalnet.stats import effect_sizes, permutation, resampling
from modalnet.stats.moments import fdr
from modalnet.tasks.base import TaskScores

finite = st.floats(-5, 5, allow_nan=False).map(lambda x: round(x, 3))
dyadic = st.integers(-5120, 5120).map(lambda n: n / 1024)  # sums are exact, so that scipy sees equal sums as equal


def flips(differences, n, source):
    return permutation.sign_flip(differences, n, source, alternative="greater")


@pytest.fixture(scope="module")
def double():
    """Language is needed for BLiMP and vision for images, whatever is done to the units."""
    costs = {("language", name): LANGUAGE for name in BOTH} | {("vision", name): VISION for name in BOTH}
    return study_of(costs, magnitudes={("language", ""): 2.0, ("vision", ""): 1.5})


@pytest.fixture(scope="module")
def massive():
    """As on Gemma 3 270M: units of large norm break the model when zeroed, and cost nothing of their own."""
    zero = effect(0.28, 0.28, norm=(0.28, 0.28))
    mean = effect(0.0, 0.0, layer=(0.0, 0.0), norm=(0.0, 0.0))
    magnitudes = {("language", ""): 69.0, ("language", "activation"): 41.0}
    return study_of(
        {("language", "zero"): zero, ("language", "mean"): mean}, sizes=(0.00125, 0.01), magnitudes=magnitudes
    )


# -- inference -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.lists(dyadic, min_size=3, max_size=9))
def test_sign_flips_of_few_items_are_exactly_those_of_scipy(values):
    x = np.array(values)
    expected = stats.permutation_test(
        (x,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf
    )
    (p,) = flips(x[:, None], 9_999, rng(0))
    assert math.isclose(p, expected.pvalue, rel_tol=1e-9)


def test_sign_flips_of_many_items_are_close_to_those_of_scipy():
    x = rng(1).normal(0.12, 1, size=(150, 3))
    for i, p in enumerate(flips(x, 9_999, rng(0))):
        expected = stats.permutation_test(
            (x[:, i],),
            np.mean,
            permutation_type="samples",
            alternative="greater",
            n_resamples=9_999,
            random_state=rng(2),
        )
        assert abs(p - expected.pvalue) < 4 * math.sqrt(0.25 / 9_999) + 1e-4


@settings(deadline=None, max_examples=25)
@given(st.lists(finite, min_size=2, max_size=40), st.floats(0.1, 100))
def test_sign_flips_do_not_depend_on_the_unit_or_the_order(values, scale):
    x = np.array(values)[:, None]
    p = flips(np.concatenate([x, x * scale], axis=1), 499, rng(0))
    assert p[0] == p[1]
    assert 1 / 500 <= p[0] <= 1 or 2.0 ** -len(x) <= p[0] <= 1
    few = x[:8]
    assert flips(few, 499, rng(0)) == flips(few[::-1], 499, rng(1))


def test_sign_flips_in_parts_are_the_same_as_at_once(monkeypatch):
    few, many = rng(3).normal(size=(9, 2)), rng(3).normal(size=(64, 2))
    at_once = (
        flips(few, 999, rng(0)),
        flips(many, 999, rng(0)),
    )
    means = resampling.bootstrap_means(many, 50, rng(0))
    monkeypatch.setattr(resampling, "CHUNK", 640)
    np.testing.assert_array_equal(flips(few, 999, rng(0)), at_once[0])
    np.testing.assert_array_equal(flips(many, 999, rng(0)), at_once[1])
    np.testing.assert_allclose(resampling.bootstrap_means(many, 50, rng(0)), means)


def test_sign_flips_are_nan_where_a_difference_is():
    x = rng(0).normal(size=(20, 3))
    x[3, 1], x[4, 2] = np.nan, -np.inf
    p = flips(x, 99, rng(0))
    assert np.isfinite(p).tolist() == [True, False, False]
    assert flips(np.zeros((30, 1)), 99, rng(0))[0] == 1


def test_intervals_are_those_of_scipy():
    x = rng(5).exponential(size=80)
    expected = stats.bootstrap((x,), np.mean, n_resamples=9_999, method="percentile", random_state=rng(6))
    low, high = resampling.interval(resampling.bootstrap_means(x[:, None], 9_999, rng(7))[:, 0])
    error = 0.05 * (high - low)
    assert abs(low - expected.confidence_interval.low) < error
    assert abs(high - expected.confidence_interval.high) < error


def test_cells_share_their_resamples():
    x = rng(0).random((50, 2))
    means = resampling.bootstrap_means(np.stack([x[:, 0], x[:, 0] + 0.25, x[:, 1]], axis=1), 200, rng(0))
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 0.25)
    assert np.ptp(means[:, 2] - means[:, 0]) > 0.01
    assert resampling.interval(means[:, 1] - means[:, 0])[0] == pytest.approx(0.25)


def test_ranks_count_ties_against_the_network():
    assert permutation.rank_p(0.5, np.array([0.1, 0.2, 0.3]), alternative="greater") == 1 / 4
    assert permutation.rank_p(0.5, np.array([0.1, 0.5, 0.6]), alternative="greater") == 3 / 4
    assert permutation.rank_p(0.3, np.array([0.1 + 0.2]), alternative="greater") == 1
    assert math.isnan(permutation.rank_p(0.3, np.array([]), alternative="greater"))
    assert math.isnan(permutation.rank_p(0.3, np.array([np.nan, 0.1]), alternative="greater"))


def test_effect_sizes():
    controls = np.array([0.1, 0.2, 0.3])
    assert effect_sizes.standardized(0.5, controls) == pytest.approx(3.0)
    assert math.isnan(effect_sizes.standardized(0.5, controls[:1]))
    assert math.isnan(effect_sizes.standardized(0.5, np.array([0.2, 0.2])))


def test_noise_gives_five_percent_false_positives():
    """Networks that are no different from their controls, on items of different difficulty."""
    source = rng(11)
    n_tests, n_draws, n_items = 1_000, 10, 200
    difficulty = source.uniform(0.5, 0.95, size=(n_items, 1))
    differences = np.stack(
        [
            (draws[:, 1:].mean(axis=1) - draws[:, 0])
            for draws in ((source.random((n_items, n_draws + 1)) < difficulty) for _ in range(n_tests))
        ],
        axis=1,
    )
    p = flips(differences, 1_999, rng(0))
    assert 0.03 < (p < 0.05).mean() < 0.07
    assert (fdr(p) < 0.05).sum() <= 1


# -- the table -----------------------------------------------------------------------------------------------------


def test_a_row_follows_from_the_item_scores(double):
    table = double.table()
    assert len(table) == 2 * 2 * 2
    row = table[(table.network == "language") & (table.task == "blimp") & (table.operation == "zero")].iloc[0]
    own = Lesion("language", SIZE, "zero")
    base, scores = double.base["blimp"].scores, double.cells[own, "blimp"]
    assert row.score == scores.mean()
    assert row["drop"] == pytest.approx((base - scores).mean())
    reference = stats.bootstrap((base - scores,), np.mean, method="percentile", n_resamples=5_000, random_state=rng(0))
    assert [row.drop_low, row.drop_high] == pytest.approx(list(reference.confidence_interval), abs=0.01)
    reference = stats.bootstrap((base,), np.mean, method="percentile", n_resamples=5_000, random_state=rng(0))
    assert [row.base_low, row.base_high] == pytest.approx(list(reference.confidence_interval), abs=0.01)
    for kind in ("layer", "activation"):
        controls = np.stack([double.cells[Lesion("language", SIZE, "zero", kind, i), "blimp"] for i in range(20)])
        drops = base.mean() - controls.mean(axis=1)
        assert row[f"n_{kind}"] == 20
        assert row[f"drop_{kind}"] == pytest.approx(drops.mean())
        assert row[f"drop_{kind}_low"] < row[f"drop_{kind}"] < row[f"drop_{kind}_high"]
        # Items and draws both vary.
        error = math.hypot(drops.std(ddof=1) / math.sqrt(20), (base - controls.mean(axis=0)).std() / math.sqrt(N))
        reach = stats.t.ppf(0.975, 19) * error
        found = [row[f"drop_{kind}_low"], row[f"drop_{kind}_high"]]
        assert found == pytest.approx([drops.mean() - reach, drops.mean() + reach], abs=0.006)
        assert row[f"excess_{kind}"] == pytest.approx(row["drop"] - drops.mean())
        assert row[f"excess_{kind}_low"] < row[f"excess_{kind}"] < row[f"excess_{kind}_high"]
        assert row[f"p_draws_{kind}"] == pytest.approx(1 / 21)
        assert row[f"z_{kind}"] == pytest.approx((row["drop"] - drops.mean()) / drops.std(ddof=1))
        # The rank is what limits a p value where a network lies far beyond its draws.
        assert row[f"p_{kind}"] == pytest.approx(1 / 21)
        assert row[f"excess_{kind}_low"] < row[f"excess_{kind}"] - 2 * drops.std(ddof=1)
        assert row[f"exceeds_{kind}"]
        np.testing.assert_allclose(table[f"q_{kind}"], fdr(table[f"p_{kind}"].to_numpy()))
    assert (row.units, row.magnitude, row.chance, row.measure) == (100, 2.0, 0.5, "accuracy")
    assert row.n_least == 1
    assert row.p_draws_least == 0.5
    assert math.isnan(row.p_least)


def test_the_table_is_the_same_every_time_and_its_own(double):
    table = double.table()
    again = LesionStudy(**{name: getattr(double, name) for name in double.__dataclass_fields__})
    assert again.table().equals(table)
    table["drop"] = 0
    assert (double.table()["drop"] != 0).any()


def test_another_task_changes_no_interval(double):
    cells = {key: scores for key, scores in double.cells.items() if key[1] == "images"}
    alone = LesionStudy("toy", {"images": double.base["images"]}, cells, {}, {}, {}, 0, double.seed, {})
    columns = ["drop_low", "excess_activation_high", "p_activation"]
    table = double.table()
    expected = table[table.task == "images"][columns].to_numpy()
    np.testing.assert_array_equal(alone.table()[columns].to_numpy(), expected)
    assert alone.table()["units"].isna().all()


def test_a_random_set_exceeds_others_as_often_as_stated():
    """A network that is one more random set, of sets that differ: once in twenty at most, and never with few draws."""
    source = rng(21)
    n = 150
    luck, cells = source.random(n), {}
    for number in range(150):
        for control, draws in (("", 1), ("activation", 20), ("layer", 10)):
            for draw in range(draws):
                level = 0.85 - source.uniform(0, 0.3)
                cells[Lesion(f"set {number}", SIZE, "zero", control, draw), "blimp"] = (luck < level) * 1.0
    base = TaskScores("blimp", tuple(map(str, range(n))), (luck < 0.85) * 1.0, "accuracy", 0.5)
    table = LesionStudy("toy", {"blimp": base}, cells, {}, {}, {}, 0, 0, {}).table()
    assert table.exceeds_activation.mean() < 0.08
    assert table.exceeds_layer.isna().all()
    assert table.p_layer.notna().all()


def nested_study(scores, lesioned, groups):
    """One lesion of one task, whose items may have groups."""
    base = TaskScores("blimp", tuple(map(str, range(len(scores)))), scores, "accuracy", 0.5, groups)
    cells = {(Lesion("language", SIZE, "zero"), "blimp"): lesioned}
    return LesionStudy("toy", {"blimp": base}, cells, {}, {}, {}, 0, 0, {})


def test_scores_at_ceiling_have_score_intervals():
    study = nested_study(np.ones(16), np.ones(16), None)
    row = study.table().iloc[0]
    expected = stats.binomtest(16, 16).proportion_ci(method="wilson")
    for name in ("base", "score"):
        assert [row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx(list(expected))
    # No item changed of 16, which says that few would, not that none would.
    assert [row.drop_low, row.drop_high] == pytest.approx([-0.1936, 0.1936], abs=1e-4)
    assert nested_study(np.ones(16), np.zeros(16), None).table().drop_low[0] == pytest.approx(0.6128, abs=1e-4)


def test_intervals_are_over_paradigms():
    source = rng(5)
    groups = np.repeat(np.arange(12), 20)
    names = tuple(f"paradigm {one}" for one in groups)
    base = (source.random(240) < 0.9) * 1.0
    lesioned = base * (source.random(240) < source.beta(1, 1, 12)[groups])  # the lesion impairs some paradigms
    row, alone = (nested_study(base, lesioned, own).table().iloc[0] for own in (names, None))
    assert row["drop"] == alone["drop"]
    assert row.drop_high - row.drop_low > 2 * (alone.drop_high - alone.drop_low)
    assert row.score_high - row.score_low > 2 * (alone.score_high - alone.score_low)
    by_paradigm = (base - lesioned).reshape(12, 20).mean(1)
    low, high = stats.ttest_1samp(by_paradigm, 0).confidence_interval()
    assert [row.drop_low, row.drop_high] == pytest.approx([low, high], abs=0.03)


def test_paradigms_come_back_from_a_file(tmp_path):
    study = nested_study(np.tile([1.0, 0, 1, 1], 6), np.zeros(24), tuple("abcdef" * 4))
    study.save(tmp_path / "study.safetensors")
    again = LesionStudy.load(tmp_path / "study.safetensors")
    assert again.base["blimp"].groups == study.base["blimp"].groups
    assert again.table().equals(study.table())


def test_few_paradigms_get_a_warning():
    study = nested_study(np.ones(12), np.zeros(12), tuple("abc" * 4))
    with pytest.warns(UserWarning, match="The items of 'blimp' come from 3 groups"):
        study.table()


def test_what_was_not_run_is_missing():
    study = study_of({("language", "zero"): effect(0.3, 0.3, norm=None, least=None)})
    table = study.table()
    assert (table.n_activation == 0).all()
    for column in ("drop_activation", "excess_activation", "p_activation", "q_activation", "exceeds_activation"):
        assert table[column].isna().all()
    assert table.exceeds_least.isna().all()
    assert table.exceeds_layer.all()


def test_a_slope_is_the_drop_per_unit_of_dose():
    study = graded_study((0.6, 0.1))
    table = study.table().set_index("operation")
    assert list(table.index) == ["zero", "scale 0.25", "scale 0.5", "scale 0.75", "slope"]
    doses = np.array([1.0, 0.75, 0.5, 0.25])
    drops = table["drop"].to_numpy()[:4]
    row = table.loc["slope"]
    reference = np.linalg.lstsq(doses[:, None], drops, rcond=None)[0][0]
    assert row["drop"] == pytest.approx(reference)
    assert row["drop_low"] < row["drop"] < row["drop_high"]
    assert row["drop_activation"] == pytest.approx(0.1, abs=0.05)
    assert row["exceeds_activation"]
    verdicts = study.verdicts().set_index("question").verdict
    assert verdicts["slope"] == "survives"
    assert verdicts["all"] == "cannot be tested"  # without mean ablation or resampling
    assert graded_study((0.1, 0.1)).verdicts().set_index("question").verdict["slope"] == "does not survive"


def test_no_change_under_any_dose_or_draw_is_not_no_change():
    """Sixteen items that no lesion changes: neither the slope nor the excess over random units is 0 for certain."""
    base = TaskScores("blimp", tuple(map(str, range(16))), np.ones(16), "accuracy", 0.5)
    cells = {
        (Lesion("language", SIZE, operation, control, draw), "blimp"): np.ones(16)
        for operation in ("zero", "scale 0.5")
        for control, count in (("", 1), ("activation", 20))
        for draw in range(count)
    }
    study = LesionStudy("toy", {"blimp": base}, cells, {}, {}, {}, 0, 0, {})
    table = study.table().set_index("operation")
    assert [table.drop_low["zero"], table.drop_high["zero"]] == pytest.approx([-0.1936, 0.1936], abs=1e-4)
    # A drop of all items at both doses is a slope of (1 + 0.5) / (1 + 0.25).
    reach = 0.1936 * 1.5 / 1.25
    assert [table.drop_low["slope"], table.drop_high["slope"]] == pytest.approx([-reach, reach], abs=1e-4)
    for operation, end in (("zero", 0.1936), ("slope", reach)):
        found = table.loc[operation, ["excess_activation_low", "excess_activation_high"]].to_numpy(float)
        assert found == pytest.approx([-end, end], abs=1e-4)
        assert table.p_activation[operation] == 1
        assert table.detectable_activation[operation] > end
    assert not table.exceeds_activation.any()
    assert study.verdicts().detectable.min() > 0.2


def test_draws_that_share_units_are_taken_for_less():
    """Draws that overlap vary too little for what one more set would cost."""
    study = study_of({("language", "zero"): LANGUAGE})
    apart, shared = (
        LesionStudy(
            *(getattr(study, name) for name in study.__dataclass_fields__ if name not in {"design", "activity"}),
            design={("language", SIZE): Design(4, (), {"activation": overlap})},
        ).table()
        for overlap in (0.0, 0.4)
    )
    assert (shared.overlap_activation == 0.4).all()
    assert (shared.excess_activation_low < apart.excess_activation_low).all()
    assert (shared.dimensions == 4).all()


def test_what_is_left_without_a_dimension():
    cells = {("", 0): 0.3, ("without", 0): 0.01, ("without", 1): 0.3}
    source = rng(3)
    luck = source.random(N)
    base = TaskScores("blimp", tuple(map(str, range(N))), (luck < 0.85) * 1.0, "accuracy", 0.5)
    scores = {
        (Lesion("language", SIZE, "zero", control, draw), "blimp"): (luck < 0.85 - cost) * 1.0
        for (control, draw), cost in cells.items()
    }
    design = {("language", SIZE): Design(2, ("decoder[163]", "decoder[7]"), {})}
    study = LesionStudy("toy", {"blimp": base}, scores, {}, {}, {}, 0, 0, {}, design)
    first, second = study.dimensions().to_dict("records")
    assert (first["dimension"], second["dimension"]) == ("decoder[163]", "decoder[7]")
    assert first["share"] > 0.9
    assert second["share"] == 0
    assert first["drop"] == second["drop"] == study.table()["drop"][0]
    assert "without decoder[163]" in study.summary()


def test_failures_stay_visible(double):
    lost = (Lesion("vision", SIZE, "mean"), "images")
    cells = {key: scores for key, scores in double.cells.items() if key != lost}
    failures = {lost: "out of memory", (Lesion("vision", SIZE, "zero", "activation", 2), "captions"): "no images"}
    study = LesionStudy("toy", double.base, cells, double.counts, double.magnitudes, failures, 0, 0, {})
    table = study.table()
    (row,) = table[table.failure != ""].to_dict("records")
    assert (row["network"], row["operation"], row["failure"]) == ("vision", "mean", "out of memory")
    assert math.isnan(row["score"])
    assert row["base"] == double.base["images"].mean
    verdict = study.verdicts().query("network == 'vision' and task == 'images'").set_index("question")
    assert verdict.verdict["mean"] == "cannot be tested"
    assert "the lesion failed (out of memory)" in verdict.sentence["mean"]
    assert "2 cells failed" in study.summary()
    assert "activation control 2 on captions: no images" in study.summary()
    (row,) = study.dissociation(operation="mean").to_dict("records")
    assert row["verdict"] == "cannot be tested"
    assert row["sentence"] == "cannot be tested: no finite scores of vision on images."


def test_scores_that_are_not_finite_are_no_result(double):
    cells = dict(double.cells)
    own = Lesion("language", SIZE, "zero")
    cells[own, "blimp"] = np.full(N, np.nan)
    cells[own, "images"] = np.where(np.arange(N) == 3, -np.inf, 1.0)
    study = LesionStudy("toy", double.base, cells, double.counts, double.magnitudes, {}, 0, double.seed, {})
    table, before = study.table(), double.table()
    spoiled = (table.network == "language") & (table.operation == "zero")
    assert (
        table[spoiled][
            ["drop_low", "excess_activation_low", "p_activation", "p_draws_activation", "exceeds_activation"]
        ]
        .isna()
        .all(axis=None)
    )
    columns = ["drop_low", "excess_activation_low", "p_activation"]
    assert table[~spoiled][columns].equals(before[~spoiled][columns])
    assert study.verdicts().sentence[0].endswith("zeroed: cannot be tested: the scores are not finite.")


# -- dissociations -------------------------------------------------------------------------------------------------


def test_a_planted_double_dissociation_is_found(double):
    rows = double.dissociation()
    assert rows.operation.tolist() == ["zero", "mean"]
    for row in rows.to_dict("records"):
        assert row["verdict"] == "double dissociation"
        assert row["sentence"].startswith(
            "double dissociation: language costs blimp more than vision does, which costs images more (p "
        )
        assert row["p_interaction"] == pytest.approx(1 / 21)
        assert row["selectivity_A"] > 0
        table = double.table()
        table = table[table.operation == row["operation"]].set_index(["network", "task"])
        drop = table["drop"]
        Aa, Ab = drop["language", "blimp"], drop["language", "images"]
        Ba, Bb = drop["vision", "blimp"], drop["vision", "images"]
        assert [row[f"drop_{cell}"] for cell in ("Aa", "Ab", "Ba", "Bb")] == [Aa, Ab, Ba, Bb]
        assert row["interaction_raw"] == pytest.approx((Aa - Ab) - (Ba - Bb))
        a, b = (double.base[task].mean - CHANCE[task] for task in ("blimp", "images"))
        assert row["interaction"] == pytest.approx((Aa / a - Ab / b) - (Ba / a - Bb / b))
        assert 0 < row["interaction_low"] < row["interaction"] < row["interaction_high"]
        assert row["difference_a"] == pytest.approx(Aa - Ba)
        assert row["difference_b_low"] > 0
        assert row["excess_Bb_low"] == table["excess_activation_low"]["vision", "images"]


def test_a_double_dissociation_is_found_with_the_tasks_exchanged():
    study = study_of({("language", "zero"): VISION, ("vision", "zero"): LANGUAGE})
    (row,) = study.dissociation(control="layer").to_dict("records")
    assert row["verdict"] == "double dissociation"
    assert row["sentence"].startswith("double dissociation: language costs images more than vision does")
    assert row["interaction_high"] < 0


def test_a_single_dissociation_is_no_double_one():
    study = study_of({("language", "zero"): LANGUAGE, ("vision", "zero"): effect(0.02, 0.02)})
    (row,) = study.dissociation().to_dict("records")
    assert row["verdict"] == "single dissociation"
    assert row["sentence"].startswith("single dissociation: lesioning language costs blimp more than images (p ")


def test_damage_to_everything_is_no_dissociation():
    study = study_of({("language", "zero"): effect(0.3, 0.3), ("vision", "zero"): effect(0.3, 0.3)})
    (row,) = study.dissociation().to_dict("records")
    assert row["verdict"] == "no dissociation"
    assert "would have been found" in row["sentence"]


def test_what_controls_break_as_well_is_no_part_of_it():
    """Each network impairs a task, and massive activations make the other drop on controls as well."""
    costs = {
        ("language", "zero"): effect(0.4, 0.2, norm=(0.05, 0.2)),
        ("vision", "zero"): effect(0.2, 0.4, norm=(0.2, 0.05)),
    }
    (row,) = study_of(costs).dissociation().to_dict("records")
    assert row["verdict"] == "double dissociation"
    assert row["excess_Ab_low"] < 0 < row["excess_Aa_low"]


def test_no_change_in_few_items_is_not_no_change():
    """Two lesions that change no item of sixteen: resamples would say that there is no interaction for certain."""
    items = tuple(map(str, range(16)))
    base = {task: TaskScores(task, items, np.ones(16), "accuracy", 0.5) for task in ("blimp", "images")}
    cells = {(Lesion(name, SIZE, "zero"), task): np.ones(16) for name in "AB" for task in base}
    (row,) = LesionStudy("toy", base, cells, {}, {}, {}, 0, 0, {}).dissociation(control="layer").to_dict("records")
    assert row["interaction"] == 0
    assert [row["difference_a_low"], row["difference_a_high"]] == pytest.approx([-0.1936, 0.1936], abs=1e-4)
    # Two independent terms, each over an ability of one half.
    reach = 0.1936 * math.sqrt(2) / 0.5
    for name in ("interaction", "selectivity_A"):
        assert [row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx([-reach, reach], abs=1e-3)
    assert row["interaction_raw_high"] == pytest.approx(reach / 2, abs=1e-3)


def test_two_lesions_of_one_set_do_not_dissociate():
    rows = [
        study_of({(name, "zero"): effect(0.25, 0.25) for name in "AB"}, seed=seed).dissociation() for seed in range(8)
    ]
    assert sum(row.verdict[0] == "no dissociation" for row in rows) >= 7
    assert sum(row.interaction_low[0] <= 0 <= row.interaction_high[0] for row in rows) >= 6


def test_significant_beside_not_significant_is_no_dissociation():
    """Both lesions cost both tasks alike, just enough that one of the four costs is significant and another is not."""
    studies = [
        study_of({(name, "zero"): effect(0.09, 0.09, norm=(0.03, 0.03)) for name in "AB"}, n=60, seed=seed)
        for seed in range(40)
    ]
    rows = [study.dissociation().iloc[0] for study in studies]
    exceeds = [study.table().exceeds_activation.to_numpy(dtype=bool) for study in studies]
    assert sum(0 < each.sum() < 4 for each in exceeds) > 15
    assert sum(row.verdict != "no dissociation" for row in rows) <= 4


def test_few_draws_cannot_tell():
    study = study_of({("language", "zero"): LANGUAGE, ("vision", "zero"): VISION}, draws=18)
    (row,) = study.dissociation().to_dict("records")
    assert row["verdict"] == "cannot be tested"
    assert row["sentence"] == "cannot be tested: fewer than 19 draws of activation-matched units on both tasks."
    assert row["p_interaction"] == pytest.approx(1 / 19)


def test_a_task_at_chance_cannot_be_broken():
    study = study_of({("language", "zero"): effect(0.3, 0.3), ("vision", "zero"): effect(0.0, 0.0)}, level=0.5)
    (row,) = study.dissociation().to_dict("records")
    assert row["verdict"] == "cannot be tested"
    assert row["sentence"] == "cannot be tested: the intact model is at chance on blimp."
    assert math.isnan(row["interaction"])
    assert math.isfinite(row["interaction_raw"])


def test_tasks_without_a_common_unit_are_compared_within_each(double):
    texts = TaskScores("blimp", double.base["blimp"].items, double.base["blimp"].scores - 4, "nats per token", math.nan)
    cells = {(one, task): scores - 4 * (task == "blimp") for (one, task), scores in double.cells.items()}
    base = {"blimp": texts, "images": double.base["images"]}
    study = LesionStudy("toy", base, cells, double.counts, double.magnitudes, {}, 0, double.seed, {})
    row = study.dissociation(operation="zero").iloc[0]
    assert np.isnan(row[["interaction", "interaction_raw", "interaction_low"]].astype(float)).all()
    before = double.dissociation(operation="zero").iloc[0]
    assert row.difference_a_low == pytest.approx(before.difference_a_low)
    assert row.verdict == "double dissociation"


def test_which_sizes_stand_against_each_other(double):
    fixed = study_of({("faces", "zero"): VISION}, sizes=(0.0034,))
    chosen = study_of({("language", "zero"): LANGUAGE}, sizes=(0.005, 0.01))
    cells, counts = {**chosen.cells, **fixed.cells}, {**chosen.counts, **fixed.counts}
    study = LesionStudy("toy", chosen.base, cells, counts, {}, {}, 0, 0, {})
    assert study.fractions("language") == (0.005, 0.01)
    rows = study.dissociation()
    assert list(zip(rows.fraction_A, rows.fraction_B, strict=True)) == [(0.005, 0.0034), (0.01, 0.0034)]
    assert len(study.dissociation(fraction=0.01)) == 1
    with pytest.raises(
        InputError,
        match=r"`fraction` must be a size that was run, got 0.02. This study has language at 0.500%, 1.000%; faces",
    ):
        study.dissociation(fraction=0.02)


def test_dissociations_that_cannot_be_asked_for(double, massive):
    with pytest.raises(InputError, match="two networks and two tasks; this study has 1 and 2"):
        massive.dissociation()
    with pytest.raises(InputError, match="`control` must be one of 'layer', 'activation', got 'random'"):
        double.dissociation(control="random")
    with pytest.raises(InputError, match="zero and mean ablation, not 'scale'"):
        double.dissociation(operation="scale")
    none = study_of({(name, "zero"): effect(0.3, 0.1, norm=None) for name in "AB"})
    assert none.dissociation().sentence[0].startswith("cannot be tested: fewer than 19 draws of activation-matched")


# -- reports and pictures --------------------------------------------------------------------------------------------


def test_the_summary_says_it_all(massive):
    text = massive.summary()
    assert text.startswith("Lesions of toy\n")
    assert "language on blimp, zeroed: does not survive" in text
    assert "language 0.125%, layer-matched controls: mean |activation| 0.01 of the network's" in text


def test_a_study_without_cells_is_empty(double):
    study = LesionStudy("toy", double.base, {}, {}, {}, {}, 0, 0, {})
    assert study.table().empty
    assert "excess_activation_low" in study.table()
    assert study.verdicts().empty
    assert "no lesion was run" in study.summary()


# -- files ---------------------------------------------------------------------------------------------------------


def test_a_study_comes_back_from_a_file(double, tmp_path):
    first = next(iter(double.magnitudes))
    study = LesionStudy(
        "toy",
        double.base | {"texts": TaskScores("WikiText", ("a", "b"), np.array([-3.1, -2.7]), "nats per token", math.nan)},
        double.cells | {(Lesion("extra", 0.1 + 0.2, "mean"), "texts"): np.array([np.nan, -np.inf])},
        double.counts,
        double.magnitudes | {first: math.nan},
        {(Lesion("gone", 0.5, "zero", "least"), "blimp"): "kaputt ☠"},
        1,
        7,
        {"tokens": ("all", 3), "level": math.nan},
    )
    study.save(tmp_path / "study.safetensors")
    back = LesionStudy.load(tmp_path / "study.safetensors")
    for name in ("model", "counts", "failures", "spare_first", "seed"):
        assert getattr(back, name) == getattr(study, name)
    assert list(back.cells) == list(study.cells)
    for key, scores in study.cells.items():
        np.testing.assert_array_equal(back.cells[key], scores)
    assert list(back.base) == list(study.base)
    for task, one in study.base.items():
        other = back.base[task]
        assert (one.task, one.items, one.measure) == (other.task, other.items, other.measure)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.chance, other.chance)
    assert list(back.magnitudes) == list(study.magnitudes)
    np.testing.assert_array_equal(list(back.magnitudes.values()), list(study.magnitudes.values()))
    assert back.settings["tokens"] == study.settings["tokens"] == ["all", 3]
    assert math.isnan(back.settings["level"])
    assert back.table().equals(study.table())


def test_files_that_are_no_study(double, tmp_path):
    from modalnet._files import write_file

    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        double.save(tmp_path / "study.csv")
    with pytest.raises(StoreError, match="cannot be read"):
        LesionStudy.load(tmp_path / "absent.safetensors")
    path = tmp_path / "other.safetensors"
    write_file(path, {}, {"format": "modalnet.units", "version": 1})
    with pytest.raises(InputError, match=r"other\.safetensors: Expected a lesion study"):
        LesionStudy.load(path)
    arrays, document = double.to_arrays()
    del arrays["cells/3"]
    with pytest.raises(InputError, match="do not form a lesion study"):
        LesionStudy.from_arrays(arrays, document)


def test_parts_that_do_not_fit(double):
    own = Lesion("language", SIZE, "zero")

    def study(cells, settings=None):
        return LesionStudy("toy", double.base, cells, {}, {}, {}, 0, 0, settings or {})

    with pytest.raises(InputError, match=r"has scores \(3,\) on 'blimp'; without a lesion they are \(240,\)"):
        study({(own, "blimp"): np.zeros(3)})
    with pytest.raises(InputError, match="scores on 'texts', which has none without a lesion"):
        study({(own, "texts"): np.zeros(N)})
    with pytest.raises(InputError, match="size of a lesion must be a number"):
        study({(Lesion("language", math.nan, "zero"), "blimp"): np.zeros(N)})
    with pytest.raises(InputError, match="must be JSON"):
        study({}, {"model": object()})


# -- pictures ------------------------------------------------------------------------------------------------------


def axes_for(rows, columns):
    return Figure().subplots(rows, columns, squeeze=False)


def test_curves_and_bands_are_the_scores(massive):
    panels = dose_curves(massive, ax=axes_for(2, 2))
    assert panels.shape == (2, 2)
    table = massive.table()
    for row, operation in enumerate(BOTH):
        for column, task in enumerate(("blimp", "images")):
            ax = panels[row, column]
            assert f"language, {operation} ablation" in ax.get_title("left")
            own = table[(table.task == task) & (table.operation == operation)]
            (curve,) = [line for line in ax.lines if line.get_marker() == "o"]
            np.testing.assert_allclose(curve.get_xdata(), [0.00125, 0.01])
            np.testing.assert_allclose(curve.get_ydata(), own.score)
            bars = next(one for one in ax.collections if hasattr(one, "get_segments")).get_segments()
            np.testing.assert_allclose([bar[:, 1].min() for bar in bars], own.score_low)
            np.testing.assert_allclose([bar[:, 1].max() for bar in bars], own.score_high)
            bands = [one for one in ax.collections if not hasattr(one, "get_segments")]
            for band, kind in zip(bands, ("layer", "activation"), strict=True):
                means = [massive.cells[Lesion("language", 0.01, operation, kind, i), task].mean() for i in range(20)]
                corners = band.get_paths()[0].vertices
                at = corners[np.isclose(corners[:, 0], 0.01), 1]
                assert at.min() == pytest.approx(min(means))
                assert at.max() == pytest.approx(max(means))
            levels = {
                line.get_label(): line.get_ydata()[0]
                for line in ax.lines
                if line.get_label() in {"no lesion", "chance"}
            }
            assert levels == {"no lesion": massive.base[task].mean, "chance": CHANCE[task]}


def test_panels_for_what_is_asked_for(double):
    axes = axes_for(4, 2)
    assert dose_curves(double, ax=axes).shape == (4, 2)
    (panel,) = dose_curves(
        double, networks="vision", tasks=["images"], operations="mean", ax=axes_for(1, 1)[0, 0]
    ).ravel()
    assert panel.get_title("left") == "images\nvision, mean ablation"
    assert panel.get_ylabel() == "accuracy"
    assert "layer-matched random units, range" in [text.get_text() for text in panel.get_legend().get_texts()]
    with pytest.raises(InputError, match="must be 4 x 2 axes, got 3"):
        dose_curves(double, ax=axes_for(1, 3))
    with pytest.raises(InputError, match=r"`tasks` must be among blimp, images, got \['faces'\]"):
        dose_curves(double, tasks="faces")


def test_every_kind_of_control_has_a_band():
    """A study whose controls are of other kinds than layer and activation shows them, each in a look of its own."""
    costs = {("language", "zero"): {kind: {"blimp": 0.1, "images": 0.1} for kind in ("", "variance", "tower")}}
    source = study_of(costs)
    cells = {  # five draws of each
        (Lesion("language", SIZE, "zero", kind, draw), task): np.roll(scores, draw)
        for ((one, task), scores) in source.cells.items()
        for kind in [one.control]
        for draw in range(1 if not kind else 5)
    }
    study = LesionStudy("toy", source.base, cells, {}, {}, {}, 0, 0, {})
    (panel, _) = dose_curves(study).ravel()
    bands = {band.get_label(): band.get_hatch() for band in panel.collections if band.get_hatch()}
    assert set(bands) == {"tower-matched random units, range", "variance-matched random units, range"}
    assert len(set(bands.values())) == 2


def test_titles_keep_to_their_panels():
    from matplotlib import pyplot

    panels = dose_curves(study_of({("pictures in the vision tower", name): effect(0.1, 0.1) for name in BOTH}))
    figure = panels[0, 0].figure
    figure.draw_without_rendering()
    pyplot.close(figure)
    for operation, (left, right) in zip(BOTH, panels, strict=True):
        assert f"pictures in the vision tower, {operation} ablation" in left.get_title("left").replace("\n", " ")
        first, second = (panel.get_tightbbox() for panel in (left, right))
        assert first.x1 < second.x0
        assert second.x1 < figure.bbox.x1


def test_curves_are_written(massive, tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    save_dose_curves(massive, tmp_path / "curves.png")
    save_dose_curves(massive, tmp_path / "curves.svg", tasks="blimp")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves.svg").read_bytes().startswith(b"<?xml")
    assert dict(mpl.rcParams) == before
    with pytest.raises(InputError, match=r"curves\.docx"):
        save_dose_curves(massive, tmp_path / "curves.docx")
