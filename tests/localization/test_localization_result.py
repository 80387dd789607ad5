"""Results of a localization: statistics, networks, tables, files, folds, reliability."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

import modalnet as mn
from modalnet._files import read_file, write_file
from modalnet.errors import InputError, StoreError
from modalnet.localization.reliability import reliability
from modalnet.localization.result import Localization
from modalnet.stats.folds import assign_folds
from modalnet.stats.moments import Moments

SHAPES = {"vision": (2, 6), "decoder": (3, 10)}
META = {
    "model": "fingerprint",
    "source": "toy",
    "contrast": {"name": "language", "positive": ["S"], "negative": ["N", "W"]},
    "tokens": {"vision": "mean", "decoder": "last"},
}


def localization_of(values, conditions, n_folds=10, seed=0, meta=META):
    """Build a result from raw activations: tower -> [stimulus, layer, dim]."""
    folds = assign_folds(conditions, n_folds, seed)
    conditions = np.array(conditions)
    positive = np.isin(conditions, meta["contrast"]["positive"])

    def moments(tower, where):
        total = Moments.zeros(values[tower].shape[1:])
        total.update(values[tower][where])
        return total

    return Localization(
        sides={
            name: {tower: [moments(tower, side & (folds == fold)) for fold in range(n_folds)] for tower in values}
            for name, side in {"positive": positive, "negative": ~positive}.items()
        },
        conditions={
            str(name): {tower: moments(tower, conditions == name) for tower in values}
            for name in dict.fromkeys(conditions.tolist())
        },
        mean_abs={tower: np.abs(array).mean(axis=0) for tower, array in values.items()},
        meta=meta,
    )


CONDITIONS = ["S", "N", "S", "W"] * 15


def raw(seed=0, shapes=SHAPES, conditions=CONDITIONS, effect=1.0):
    rng = np.random.default_rng(seed)
    positive = np.array([condition == "S" for condition in conditions])
    values = {}
    for tower, shape in shapes.items():
        array = rng.normal(size=(len(conditions), *shape))
        array[positive] += effect * rng.normal(size=shape)
        values[tower] = array
    return values


@pytest.fixture(scope="module")
def values():
    return raw()


@pytest.fixture(scope="module")
def result(values):
    return localization_of(values, CONDITIONS)


@pytest.fixture(scope="module")
def partial_result():
    """A result in which some units have no defined t."""
    values = raw(1)
    values["vision"][:, 0, 2] = 4.0
    values["decoder"][5, 1, 7] = np.nan
    values["decoder"][6, 2, :] = np.inf
    return localization_of(values, CONDITIONS)


# -- statistics --------------------------------------------------------------------------------------------------


def test_statistics_equal_scipy_on_the_raw_values(result, values):
    positive = np.array(CONDITIONS) == "S"
    p = []
    for tower, array in values.items():
        expected = stats.ttest_ind(array[positive], array[~positive], equal_var=False)
        np.testing.assert_allclose(result.t[tower], expected.statistic, rtol=1e-9)
        np.testing.assert_allclose(result.p[tower], expected.pvalue, rtol=1e-9)
        np.testing.assert_allclose(result.means["W"][tower], array[np.array(CONDITIONS) == "W"].mean(0), rtol=1e-12)
        p.append(expected.pvalue.ravel())
    q = np.concatenate([result.q[tower].ravel() for tower in result.towers])
    np.testing.assert_allclose(q, stats.false_discovery_control(np.concatenate(p)), rtol=1e-9)
    assert result.n == {"S": 30, "N": 15, "W": 15}
    assert result.towers == ("vision", "decoder")
    assert result.n_units == 42
    assert result.effect_size["decoder"].shape == (3, 10)
    assert np.array_equal(np.sign(result.effect_size["decoder"]), np.sign(result.t["decoder"]))


def test_folds_do_not_change_the_statistics(values, result):
    other = localization_of(values, CONDITIONS, n_folds=3, seed=5)
    np.testing.assert_allclose(other.t["decoder"], result.t["decoder"], rtol=1e-9)
    assert other.n_folds == 3
    merged = result.moments("positive", "decoder", [0, 4])
    assert merged.n == sum(result.moments("positive", "decoder", [fold]).n for fold in (0, 4))


def test_results_are_read_only(result):
    for arrays in (result.t, result.p, result.q, result.effect_size, result.mean_abs, result.means["S"]):
        with pytest.raises(ValueError, match="read-only"):
            arrays["decoder"][0, 0] = 1


def test_undefined_units_are_counted_and_never_selected(partial_result):
    assert partial_result.undefined == {"vision": 1, "decoder": 11}
    assert partial_result.n_units == 42
    defined = 30
    everything = partial_result.top(k=defined)
    for tower, mask in everything.mask.items():
        np.testing.assert_array_equal(mask, ~np.isnan(partial_result.t[tower]))
        np.testing.assert_array_equal(np.isnan(partial_result.q[tower]), ~mask)
    finite = np.concatenate([t[~np.isnan(t)] for t in partial_result.p.values()])
    q = np.concatenate([q[~np.isnan(q)] for q in partial_result.q.values()])
    np.testing.assert_allclose(q, stats.false_discovery_control(finite), rtol=1e-12)
    with pytest.raises(InputError, match=r"only 30 of 42 .*\(12 are constant"):
        partial_result.top(k=defined + 1)
    with pytest.raises(InputError, match="30 of 42"):
        partial_result.bottom(fraction=1.0)
    assert len(partial_result.top_units(100)) == defined
    assert partial_result.percentile(0, 100).count == defined


# -- networks ----------------------------------------------------------------------------------------------------


def by_hand(result, towers, sign):
    """All defined units of the towers, in the order of a naive sort."""
    places = [
        (-sign * result.t[tower][layer, dim], number, layer, dim, tower)
        for number, tower in enumerate(result.towers)
        if tower in towers
        for layer, dim in np.ndindex(result.t[tower].shape)
    ]
    return [(tower, layer, dim) for t, _, layer, dim, tower in sorted(p for p in places if not np.isnan(p[0]))]


@settings(max_examples=30, deadline=None)
@given(
    k=st.integers(1, 19), towers=st.sampled_from([("vision", "decoder"), ("decoder",)]), sign=st.sampled_from([1, -1])
)
def test_top_and_bottom_are_a_plain_sort(partial_result, k, towers, sign):
    select = partial_result.top if sign == 1 else partial_result.bottom
    units = select(k=k, towers=towers)
    assert set(units.indices()) == set(by_hand(partial_result, towers, sign)[:k])
    assert units.count == k
    assert list(units.mask) == ["vision", "decoder"]
    assert units.model == "fingerprint"
    np.testing.assert_array_equal(units.mean_abs["decoder"], partial_result.mean_abs["decoder"])


def test_ties_go_by_tower_layer_dim():
    values = {tower: np.zeros((8, 2, 3)) + np.arange(8)[:, None, None] for tower in ("b", "a")}
    values["a"] *= -1
    result = localization_of(values, ["S", "N"] * 4, n_folds=2)
    assert len(set(result.t["b"].ravel())) == 1
    assert result.bottom(k=4).indices() == [("b", 0, 0), ("b", 0, 1), ("b", 0, 2), ("b", 1, 0)]
    assert result.top(k=2).indices() == [("a", 0, 0), ("a", 0, 1)]


@pytest.mark.parametrize(("fraction", "count"), [(1, 42), (0.5, 21), (1 / 42, 1), (0.1, 4), (7 / 42, 7), (0.999, 41)])
def test_fraction_counts(result, fraction, count):
    assert result.top(fraction=fraction).count == count
    assert result.top(fraction=np.float32(0.5)).count == 21


def test_fraction_is_of_the_towers_searched(result):
    assert result.top(fraction=0.1, towers="decoder").count == 3
    assert result.top(fraction=0.1, towers="decoder").per_layer()["vision"].sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either"),
        ({"fraction": 0.1, "k": 3}, "either"),
        ({"fraction": 0}, "got 0"),
        ({"fraction": -0.1}, "above 0"),
        ({"fraction": 1.01}, "at most 1"),
        ({"fraction": True}, "True"),
        ({"fraction": float("nan")}, "nan"),
        ({"fraction": "1%"}, "1%"),
        ({"fraction": 0.001}, "of 42 units selects none"),
        ({"k": 0}, "`k` must be a positive integer, got 0"),
        ({"k": True}, "True"),
        ({"k": 2.0}, "2.0"),
        ({"k": 43}, "only 42 of 42"),
        ({"k": 13, "towers": "vision"}, "only 12 of 12"),
        ({"k": 1, "towers": "audio"}, r"\['vision', 'decoder'\]"),
        ({"k": 1, "towers": []}, r"\['vision', 'decoder'\]"),
    ],
)
def test_bad_selections(result, options, message):
    for select in (result.top, result.bottom):
        with pytest.raises(InputError, match=message):
            select(**options)


@settings(max_examples=50, deadline=None)
@given(cuts=st.sets(st.floats(0.01, 99.99), max_size=6))
def test_percentiles_partition_the_defined_units(partial_result, cuts):
    bounds = [0, *sorted(cuts), 100]
    parts = [partial_result.percentile(lo, hi) for lo, hi in pairwise(bounds)]
    assert sum(part.count for part in parts) == 30
    everything = parts[0]
    for part in parts[1:]:
        everything = everything | part
    assert everything.count == 30
    ranks = {place: rank for rank, place in enumerate(reversed(by_hand(partial_result, ("vision", "decoder"), 1)), 1)}
    for (lo, hi), part in zip(pairwise(bounds), parts, strict=True):
        for place in part.indices():  # a boundary may fall within one unit
            assert lo - 1e-6 < ranks[place] / 30 * 100 <= hi + 100 / 30 + 1e-6


def test_percentile_is_top_where_every_t_is_defined():
    result = localization_of(raw(3, {"decoder": (18, 64)}), CONDITIONS)
    for percent in (1, 0.5, 0.1, 10, 33, 100):
        assert result.percentile(100 - percent, 100) == result.top(fraction=percent / 100)
    assert not result.percentile(99, 100) & result.percentile(98, 99)
    for lo, hi in ((-1, 5), (5, 5), (7, 3), (5, 101), (float("nan"), 5), (True, 5)):
        with pytest.raises(InputError, match="percentile"):
            result.percentile(lo, hi)


def test_significant(result):
    units = result.significant(0.01)
    assert 0 < units.count < 42
    for tower, mask in units.mask.items():
        np.testing.assert_array_equal(mask, (result.q[tower] < 0.01) & (result.t[tower] > 0))
    only = result.significant(0.01, towers="decoder")
    assert not only.mask["vision"].any()
    np.testing.assert_array_equal(only.mask["decoder"], units.mask["decoder"])
    for alpha in (0, 1.5, float("nan"), True):
        with pytest.raises(InputError, match="alpha"):
            result.significant(alpha)


# -- tables ------------------------------------------------------------------------------------------------------


def test_top_units_table(result, values):
    table = result.top_units(5)
    assert list(table) == ["tower", "layer", "dim", "t", "p", "q", "effect_size", "mean_positive", "mean_negative"]
    assert (
        list(table[["tower", "layer", "dim"]].itertuples(index=False, name=None))
        == by_hand(result, result.towers, 1)[:5]
    )
    row = table.iloc[3]
    activations = values[row.tower][:, row.layer, row.dim]
    np.testing.assert_allclose(row.mean_positive, activations[np.array(CONDITIONS) == "S"].mean())
    np.testing.assert_allclose(row.mean_negative, activations[np.array(CONDITIONS) != "S"].mean())
    assert row.q == result.q[row.tower][row.layer, row.dim]
    assert set(result.top_units(50, towers="decoder").tower) == {"decoder"}
    with pytest.raises(InputError, match="`n` must be a positive integer"):
        result.top_units(0)


@pytest.mark.filterwarnings("error")
def test_summary_table(partial_result):
    network = partial_result.top(k=5)
    table = partial_result.table(network)
    assert list(table[["tower", "layer"]].itertuples(index=False, name=None)) == [
        ("vision", 0),
        ("vision", 1),
        ("decoder", 0),
        ("decoder", 1),
        ("decoder", 2),
    ]
    assert table.units.tolist() == [6, 6, 10, 10, 10]
    assert table.undefined.tolist() == [1, 0, 0, 1, 10]
    assert table.selected.sum() == 5
    assert table.significant.sum() == partial_result.significant().count
    assert table.max_t[1] == partial_result.t["vision"][1].max()
    assert table.max_effect_size[3] == np.nanmax(partial_result.effect_size["decoder"][1])
    assert table.loc[4, ["max_t", "mean_t", "max_effect_size"]].isna().all()
    assert "selected" not in partial_result.table()
    with pytest.raises(InputError, match=r"belong to another model.*shape \(3, 11\)"):
        partial_result.table(localization_of(raw(0, {"decoder": (3, 11)}), CONDITIONS).top(k=1))
    one = localization_of(raw(0, {"decoder": (3, 10)}), CONDITIONS).top(k=1)
    assert partial_result.table(one).selected.tolist() == [0, 0, *one.per_layer()["decoder"].tolist()]


def test_repr(result):
    assert repr(result) == "Localization(language in toy: vision 2x6, decoder 3x10; 30 S, 15 N, 15 W; Welch's t)"


# -- files -------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_is_equal(partial_result, tmp_path):
    path = tmp_path / "r.safetensors"
    partial_result.save(path)
    back = Localization.load(path)
    assert back == partial_result
    for tower in back.towers:
        np.testing.assert_array_equal(back.t[tower], partial_result.t[tower])
    assert back.towers == partial_result.towers
    assert back.meta == META
    assert back.n == partial_result.n
    assert back.n_folds == 10
    assert back.top(k=3) == partial_result.top(k=3)


def test_equality_looks_at_everything(values, result):
    assert result == localization_of(values, CONDITIONS)
    assert result != localization_of(values, CONDITIONS, meta={**META, "tokens": "other"})
    assert result != localization_of(values, CONDITIONS, seed=1)
    changed = {tower: array.copy() for tower, array in values.items()}
    changed["decoder"][0, 0, 0] = np.nextafter(changed["decoder"][0, 0, 0], 9)
    changed["decoder"][1, 0, 0] += 1e-9
    assert result != localization_of(changed, CONDITIONS)
    assert result != 3


def test_meta_with_tuples_survives_the_file(values, tmp_path):
    result = localization_of(values, CONDITIONS, meta={**META, "paths": {"decoder": ("a", "b")}})
    result.save(tmp_path / "r.safetensors")
    assert Localization.load(tmp_path / "r.safetensors") == result


def test_files_that_hold_no_localization(result, tmp_path):
    with pytest.raises(InputError, match=r"\.npz"):
        result.save(tmp_path / "r.npz")
    result.top(k=2).save(tmp_path / "u.safetensors")
    with pytest.raises(InputError, match=r"u\.safetensors.*modalnet\.units"):
        Localization.load(tmp_path / "u.safetensors")
    with pytest.raises(StoreError, match="gone"):
        Localization.load(tmp_path / "gone.safetensors")
    path = tmp_path / "r.safetensors"
    result.save(path)
    arrays, document = read_file(path)
    del arrays["mean_abs/decoder"]
    write_file(path, arrays, document)
    with pytest.raises(InputError, match=r"r\.safetensors.*mean_abs/decoder"):
        Localization.load(path)


def test_files_of_the_first_release_load(result, tmp_path):
    path = tmp_path / "r.safetensors"
    result.save(path)
    arrays, document = read_file(path)
    write_file(path, {name.replace("mean_abs/", "norms/"): array for name, array in arrays.items()}, document)
    back = Localization.load(path)
    assert back == result
    with pytest.warns(DeprecationWarning, match=r"`Localization.norms` is deprecated .* use `Localization.mean_abs`"):
        np.testing.assert_array_equal(back.norms["decoder"], result.mean_abs["decoder"])


def test_parts_that_do_not_fit(result):
    zeros = Moments.zeros((2, 3))
    good = {
        "sides": {"positive": {"decoder": [zeros]}, "negative": {"decoder": [zeros]}},
        "conditions": {"S": {"decoder": zeros}},
        "mean_abs": {"decoder": np.zeros((2, 3))},
        "meta": {},
    }
    assert Localization(**good).n_units == 6
    for change, message in [
        ({"sides": {"positive": {"decoder": [zeros]}}}, "sides"),
        ({"sides": {"positive": {"decoder": [zeros]}, "negative": {"decoder": [zeros] * 2}}}, "folds"),
        ({"sides": {"positive": {"decoder": [zeros]}, "negative": {"vision": [zeros]}}}, "negative side"),
        ({"conditions": {"S": {"vision": zeros}}}, "'S'"),
        ({"mean_abs": {}}, "mean_abs"),
        ({"mean_abs": {"decoder": np.zeros((3, 2))}}, "shape"),
        ({"meta": {"x": object()}}, "JSON"),
    ]:
        with pytest.raises(InputError, match=message):
            Localization(**{**good, **change})


# -- folds -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("ABC"), max_size=70), st.integers(1, 12), st.integers(0, 5))
def test_folds_are_balanced_within_and_over_conditions(conditions, n_folds, seed):
    folds = assign_folds(conditions, n_folds, seed)
    assert folds.dtype == np.int64
    assert folds.shape == (len(conditions),)

    def spread(chosen):
        sizes = Counter(chosen)
        counts = [sizes[fold] for fold in range(n_folds)]
        assert sum(counts) == len(chosen)
        return max(counts) - min(counts)

    assert spread(folds.tolist()) <= 1
    for condition in "ABC":
        assert spread([int(fold) for fold, label in zip(folds, conditions, strict=True) if label == condition]) <= 1
    np.testing.assert_array_equal(folds, assign_folds(np.array(conditions, dtype=str), n_folds, seed))


def test_folds_are_shuffled_by_the_seed():
    conditions = ["S", "N"] * 50
    folds = assign_folds(conditions)
    assert not np.array_equal(folds, assign_folds(conditions, seed=1))
    assert not np.array_equal(folds[:20], folds[20:40])  # dealt in the order given, they would be
    # Uniform doubles of PCG64 decide, and nothing else: the same on every machine.
    assert assign_folds(["S", "N", "S", "N", "S"], 2).tolist() == [0, 1, 1, 0, 0]
    with pytest.raises(InputError, match="`n_folds` must be at least 1"):
        assign_folds(conditions, 0)


# -- reliability -------------------------------------------------------------------------------------------------

LARGE = {"vision": (4, 100), "decoder": (12, 200)}
BALANCED = ["S", "N"] * 100


@pytest.fixture(scope="module")
def noise():
    return localization_of(raw(7, LARGE, BALANCED, effect=0.0), BALANCED)


@pytest.fixture(scope="module")
def signal():
    return localization_of(raw(8, LARGE, BALANCED, effect=0.5), BALANCED)


def test_on_noise_held_out_t_is_near_zero_and_overlap_at_chance(noise):
    report = noise.reliability()
    assert report.n_selected == 28
    assert report.t_selecting.mean() > 2.3
    assert abs(report.t_held_out.mean()) < 0.25
    assert abs(report.g_held_out.mean()) < 0.1
    assert abs(report.t_random.mean()) < 0.1
    assert report.dice.mean() < 0.05
    assert report.dice_random.mean() < 0.05


def test_a_real_network_comes_back(signal):
    report = reliability(signal, n_splits=10)
    assert report.dice.mean() > 0.4
    assert report.dice_random.mean() < 0.05
    assert report.t_held_out.mean() > 2.5
    assert report.t_held_out.mean() < report.t_selecting.mean()
    assert report.g_held_out.mean() > 0.8
    assert abs(report.t_random.mean()) < 0.6
    assert report.dice.shape == (10,)
    assert report.dice_random.shape == (10, 20)
    assert report.t_held_out.shape == (5,)
    assert report.t_random.shape == (5, 20)


def test_held_out_t_is_that_of_the_raw_values():
    values, conditions = raw(9, {"decoder": (2, 50)}, BALANCED, 0.5), np.array(BALANCED)
    result = localization_of(values, BALANCED)
    report = result.reliability(fraction=0.1, k=5, n_splits=1)
    groups = assign_folds(BALANCED) % 5
    flat = values["decoder"].reshape(len(conditions), -1)
    for group in range(5):

        def t(where):
            return stats.ttest_ind(
                flat[where & (conditions == "S")], flat[where & (conditions == "N")], equal_var=False
            )

        chosen = np.argsort(-t(groups != group).statistic)[:10]
        np.testing.assert_allclose(report.t_selecting[group], t(groups != group).statistic[chosen].mean(), rtol=1e-9)
        np.testing.assert_allclose(report.t_held_out[group], t(groups == group).statistic[chosen].mean(), rtol=1e-9)


def test_reliability_is_reproducible_and_of_the_towers_asked_for(signal):
    one, two = (reliability(signal, seed=3, n_splits=4, n_controls=3, towers="decoder") for _ in range(2))
    assert one.table().equals(two.table())
    assert not one.table().equals(reliability(signal, seed=4, n_splits=4, n_controls=3, towers="decoder").table())
    assert one.towers == ("decoder",)
    assert one.n_selected == 24


def test_reliability_with_undefined_units_and_crowded_layers(partial_result):
    report = partial_result.reliability(fraction=0.5, n_splits=3, k=2)
    assert report.n_selected == 21
    assert np.isfinite(report.table()[["mean", "low", "high"]]).all(axis=None)
    assert report.dice_random.mean() > 0.5  # 21 of 30 defined units overlap by chance


def test_reliability_reads_well(signal):
    report = signal.reliability(n_splits=3)
    table = report.table()
    assert list(table) == ["measure", "units", "mean", "low", "high"]
    assert table["mean"].iloc[0] == report.dice.mean()
    assert (table.low <= table["mean"]).all()
    assert "top 1.000% (28 units) of vision, decoder" in str(report)
    assert "split-half Dice" in str(report)


def test_reliability_that_cannot_be_measured(signal, values):
    for options, message in [
        ({"k": 1}, "from 2 to 10"),
        ({"k": 11}, "from 2 to 10"),
        ({"k": 2.5}, "from 2 to 10"),
        ({"n_splits": 0}, "n_splits"),
        ({"n_controls": 0}, "`n_controls` must be a positive integer"),
        ({"fraction": 0}, "fraction"),
        ({"fraction": 1e-9}, "selects none"),
        ({"towers": "audio"}, "vision"),
    ]:
        with pytest.raises(InputError, match=message):
            signal.reliability(**options)
    with pytest.raises(InputError, match="single fold"):
        localization_of(values, CONDITIONS, n_folds=1).reliability(fraction=0.1)
    few = ["S"] * 6 + ["N"] * 30
    small = localization_of(raw(0, SHAPES, few), few)
    with pytest.raises(InputError, match=r"has 1 positive and \d+ negative stimuli"):
        small.reliability(fraction=0.1, k=5)


def test_a_localization_without_folds_is_that_of_the_others():
    """Its moments, and so its t, are those of the folds that are left; what it selects says which stimuli it saw."""
    model = mn.load("tiny")
    contrast = mn.stimuli.language(20)
    whole = mn.localize(model, contrast, towers="decoder", cache=False, progress=False)
    assert set(whole.stimuli) == {stimulus.inspect().digest for stimulus in contrast.stimuli}
    part = whole.without(2, 7)
    kept = [s for s in contrast.stimuli if whole.stimuli[s.inspect().digest] not in (2, 7)]
    again = mn.localize(model, mn.Contrast(kept, "sentences"), towers="decoder", cache=False, progress=False)
    np.testing.assert_allclose(part.t["decoder"], again.t["decoder"], rtol=1e-5)
    assert part.n_folds == 8
    assert set(part.stimuli) == set(again.stimuli)
    for units in (
        part.top(k=9),
        part.bottom(k=9),
        part.significant(0.5),
        part.percentile(90, 95),
        part.least_selective(k=3),
    ):
        assert units.selected_on == set(part.stimuli)
    choice = whole.top(k=9, by="effect_size").selection
    assert choice.without(2, 7) == part.top(k=9, by="effect_size")
    assert choice.fold_of("no such stimulus") is None
    assert (whole.top(k=9) | part.top(k=9)).selected_on == set(whole.stimuli)
    assert whole.top(k=9).random()[0].selected_on == frozenset()
    for bad in ((), (10,), (-1,), tuple(range(10))):
        with pytest.raises(InputError, match="some of the 10 folds"):
            whole.without(*bad)


def test_only_is_what_localizing_one_tower_gives(values):
    both = localization_of(values, CONDITIONS)
    alone = localization_of({"decoder": values["decoder"]}, CONDITIONS, meta=META | {"tokens": {"decoder": "last"}})
    assert both.only("decoder") == alone
    assert both.only("decoder").top(fraction=0.1).count == 3
    np.testing.assert_array_equal(both.only("decoder").q["decoder"], alone.q["decoder"])
    assert both.only("decoder", "vision") == both
    assert str(both.only("vision").reliability(fraction=0.2)) == str(both.reliability(fraction=0.2, towers="vision"))


@pytest.mark.parametrize("towers", [(), ("audio",)])
def test_only_takes_towers_that_were_localized(values, towers):
    with pytest.raises(InputError, match="decoder"):
        localization_of(values, CONDITIONS).only(*towers)
