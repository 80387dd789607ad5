"""Networks as published protocols select them, against short code that works on the statistics themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import ndimage, stats

import modalnet as mn
from localized import localized
from modalnet.protocols import RandomUnits, Selection
from modalnet.replication import random_units, select
from modalnet.replication.sheet import smoothed

SIDES = np.arange(24) % 2 == 0
N_UNITS = 3 * 20


def made(seed=0, undefined=0, shape=(3, 20), name="contrast", effect=1.0):
    """A localization of normal activations; some units are constant, and so have no t."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(len(SIDES), *shape))
    values[SIDES] += effect * rng.normal(size=shape)
    flat = values.reshape(len(SIDES), -1)
    flat[:, rng.permutation(flat.shape[1])[:undefined]] = 2.5
    return localized({"decoder": values}, SIDES, name=name)


def chosen(localization, selection, **options):
    units = select({"contrast": localization}, selection, **options)
    return units.mask["decoder"].ravel()


# ------------------------------------------------------------------------------------------------- rules by rank


@given(st.integers(0, 9), st.integers(0, 30), st.integers(1, 27))
@settings(max_examples=25, deadline=None)
def test_every_rule_takes_the_units_that_it_says(seed, undefined, k):
    localization = made(seed, undefined)
    t, fraction = localization.t["decoder"].ravel(), (k + 0.5) / N_UNITS
    known = t[~np.isnan(t)]
    expected = {
        "top": np.sort(known)[::-1][:k],
        "bottom": np.sort(known)[:k],
        "middle": known[np.argsort(np.abs(known - known.mean()), kind="stable")[:k]],
        "two tails": known[np.argsort(-np.abs(known), kind="stable")[:k]],
    }
    for rule, values in expected.items():
        mask = chosen(localization, Selection(rule), fraction=fraction)
        assert mask.sum() == k
        np.testing.assert_array_equal(np.sort(t[mask]), np.sort(values))
        np.testing.assert_array_equal(mask, chosen(localization, Selection(rule), fraction=fraction))
    top, bottom = (chosen(localization, Selection(rule), fraction=fraction) for rule in ("top", "bottom"))
    assert not (top & bottom).any() or 2 * k > len(known)
    assert (top == localization.top(fraction=fraction).mask["decoder"].ravel()).all()


@given(st.integers(0, 9), st.integers(1, 27))
@settings(max_examples=20, deadline=None)
def test_thresholds_take_ties_and_below_the_bottom_one_more_unit(seed, k):
    """As the released code of `tom2026`, on values of which many are equal."""
    localization = coarse(seed)
    t, fraction = localization.t["decoder"].ravel(), (k + 0.5) / N_UNITS
    ordered = np.sort(t)
    selection = Selection(ties="last")
    np.testing.assert_array_equal(chosen(localization, selection, fraction=fraction), t >= ordered[-k])
    below = chosen(localization, replace(selection, rule="bottom"), fraction=fraction)
    np.testing.assert_array_equal(below, t <= ordered[k])
    assert below.sum() > k


def coarse(seed):
    """Units of which many have the same t, as copies of each other."""
    values = np.random.default_rng(seed).normal(size=(len(SIDES), 12))
    return localized({"decoder": np.tile(values, (1, 5)).reshape(len(SIDES), 3, 20)}, SIDES)


@given(st.integers(0, 9), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_a_dense_rank_takes_every_unit_with_one_of_the_k_largest_values(seed, k):
    """As the released code of `dyslexia2026`: float32, 0 where undefined, ranks of distinct values."""
    localization = coarse(seed)
    selection = Selection(ties="dense", precision="float32", undefined_as=0.0)
    t = localization.t["decoder"].ravel().astype(np.float32)
    _, place = np.unique(-np.nan_to_num(t), return_inverse=True)
    expected = place < k
    np.testing.assert_array_equal(chosen(localization, selection, fraction=(k + 0.5) / N_UNITS), expected)
    assert expected.sum() >= 5 * k


def test_units_without_a_statistic():
    localization = made(1, undefined=40)
    undefined = np.isnan(localization.t["decoder"].ravel())
    assert undefined.sum() == 40
    assert chosen(localization, Selection(fractions=(0.2,))).sum() == 12
    assert chosen(localization, Selection(fractions=(0.2,), count_undefined=False)).sum() == 4
    with pytest.raises(mn.InputError, match="30 units were requested, but only 20 of 60 have a defined t"):
        chosen(localization, Selection(fractions=(0.5,)))
    zeros = chosen(localization, Selection(fractions=(0.5,), undefined_as=0.0))
    assert zeros.sum() == 30
    assert (zeros & undefined).any()


def test_layers_are_those_whose_middle_lies_in_a_range_of_the_depth():
    for n_layers, expected in ((28, range(18, 28)), (4, [3]), (2, [1]), (18, range(12, 18))):
        localization = made(shape=(n_layers, 3))
        selection = Selection(layers=(18 / 28, 1.0), fractions=(len(expected) / n_layers,))
        mask = select({"contrast": localization}, selection).mask["decoder"]
        np.testing.assert_array_equal(np.flatnonzero(mask.any(1)), expected)
        assert mask[list(expected)].all()


# ------------------------------------------------------------------------------------------------- several contrasts


@given(st.integers(0, 9), st.floats(0.3, 1.5))
@settings(max_examples=20, deadline=None)
def test_a_threshold_in_every_contrast_counts_layers_and_neglects_signs(seed, threshold):
    """As the released code of `anhedonia2026`."""
    localizations = {str(i): made(seed if i < 2 else seed + 1, undefined=i, name=str(i)) for i in range(4)}
    expected = np.ones((3, 20), dtype=bool)
    for each in localizations.values():
        d = each.means["positive"]["decoder"] - each.means["negative"]["decoder"]
        expected &= np.abs(d) > threshold * d.std()
    expected[:2] = False
    selection = Selection("threshold in every contrast", fractions=(), threshold=threshold, layers=(2 / 3, 1.0))
    found = select(localizations, selection)
    np.testing.assert_array_equal(found.mask["decoder"], expected)
    assert found.selected_on == {f"{i}-{j}" for i in range(4) for j in range(len(SIDES))}
    reverse = {name: made(seed, name=name) for name in "ab"}
    flipped = {**reverse, "b": localized_flipped(seed)}
    np.testing.assert_array_equal(
        select(reverse, selection).mask["decoder"], select(flipped, selection).mask["decoder"]
    )


def localized_flipped(seed):
    """The same contrast with its sides exchanged."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(len(SIDES), 3, 20))
    values[SIDES] += rng.normal(size=(3, 20))
    return localized({"decoder": values}, ~SIDES, name="b")


# ------------------------------------------------------------------------------------------------- over a sheet


def lattice(shape):
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).astype(float)


def test_smoothing_is_a_mean_weighted_by_distance():
    rng = np.random.default_rng(3)
    values, places, fwhm = rng.normal(size=200), rng.uniform(0, 20, (200, 2)), 4.0
    values[[5, 60]] = np.nan
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    weights = np.exp(-4 * np.log(2) * (distance / fwhm) ** 2)
    defined = ~np.isnan(values)
    expected = weights[:, defined] @ values[defined] / weights[:, defined].sum(1)
    found = smoothed(values, places, fwhm)
    np.testing.assert_array_equal(np.isnan(found), ~defined)
    np.testing.assert_allclose(found[defined], expected[defined], atol=1e-4)


def test_smoothing_on_a_lattice_is_the_gaussian_filter_away_from_its_edges():
    values = np.random.default_rng(4).normal(size=(40, 40))
    expected = ndimage.gaussian_filter(values, 4 / 2.354820045, truncate=6)
    found = smoothed(values.ravel(), lattice((40, 40)).reshape(-1, 2), 4.0).reshape(40, 40)
    np.testing.assert_allclose(found[12:28, 12:28], expected[12:28, 12:28], atol=1e-4)


def test_a_smoothed_selection_by_size_and_by_q():
    """As `topoomni2026`: one sheet for all layers, the positive tail, one-sided q."""
    localization = made(5, effect=2.0)
    sheet = {"decoder": np.random.default_rng(1).uniform(0, 12, (3, 20, 2)), "vision": np.zeros((1, 1, 2))}
    t = localization.t["decoder"].ravel()
    even = smoothed(t, sheet["decoder"].reshape(-1, 2), 4.0)
    selection = Selection("smoothed", fractions=(0.1,), fwhm=4.0)
    np.testing.assert_array_equal(
        np.flatnonzero(chosen(localization, selection, sheet=sheet)), np.sort(np.argsort(-even)[:6])
    )
    positive, negative = (localization.moments(side, "decoder") for side in ("positive", "negative"))
    a, b = positive.variance / positive.n, negative.variance / negative.n
    df = ((a + b) ** 2 / (a**2 / (positive.n - 1) + b**2 / (negative.n - 1))).ravel()
    q = stats.false_discovery_control(stats.t.sf(even, df))
    found = chosen(localization, replace(selection, q=0.2), sheet=sheet)
    np.testing.assert_array_equal(found, q < 0.2)
    assert 0 < found.sum() < N_UNITS
    with pytest.warns(UserWarning, match="t is used unsmoothed"):
        plain = chosen(localization, selection)
    np.testing.assert_array_equal(plain, chosen(localization, Selection(fractions=(0.1,))))


# ------------------------------------------------------------------------------------------------- what comes of it


def test_a_selection_can_be_repeated_without_some_stimuli():
    localizations = {name: made(seed, name=name) for seed, name in enumerate("ab")}
    selection = Selection("threshold in every contrast", fractions=(), threshold=0.5)
    units = select(localizations, selection)
    fewer = {name: each.without(0) for name, each in localizations.items()}
    assert units.selection.without(0) == select(fewer, selection) != units
    assert (units.selection.n_folds, units.selection.fold_of("a-1"), units.selection.fold_of("c-0")) == (2, 1, None)


@pytest.mark.parametrize(
    ("localizations", "selection", "options", "message"),
    [
        ({}, Selection(), {}, "got 0 localizations"),
        ("ab", Selection(), {}, "by one contrast, got 2"),
        ("a", Selection(fractions=()), {}, "`fraction` must be a number"),
        ("a", Selection(), {"fraction": 1.5}, "`fraction` must be"),
        ("a", Selection(), {"fraction": 0.001}, "selects none"),
        ("a", Selection(), {"sheet": {}}, "smooths nothing"),
        ("a", Selection("smoothed", fwhm=4.0), {"sheet": {"vision": 0}}, "for decoder, got nothing"),
        ("a", Selection("smoothed", fwhm=4.0), {"sheet": {"decoder": np.zeros((3, 20))}}, r"got shape \(3, 20\)"),
        ("a", Selection("smoothed", fwhm=4.0), {"sheet": {"decoder": np.full((3, 20, 2), np.nan)}}, "finite positions"),
        ("a", Selection("smoothed"), {"sheet": {"decoder": np.zeros((3, 20, 2))}}, "must have an `fwhm`"),
        ("a", Selection("threshold in every contrast", threshold=3.0), {"fraction": 0.1}, "`fraction` must be None"),
        ("a", Selection("threshold in every contrast", fractions=()), {}, "must have a `threshold`"),
        ("wide", Selection("threshold in every contrast", threshold=3.0), {}, "of the same units"),
    ],
)
def test_bad_input(localizations, selection, options, message):
    given = {name: made(name=name) for name in localizations} if isinstance(localizations, str) else localizations
    if localizations == "wide":
        given = {"a": made(), "b": made(shape=(3, 21))}
    with pytest.raises(mn.InputError, match=message):
        select(given, selection, **options)


def test_types_are_checked():
    with pytest.raises(mn.InputError, match="`localizations` must be a mapping"):
        select(made(), Selection())
    with pytest.raises(mn.InputError, match="`selection` must be a modalnet"):
        select({"a": made()}, "top")


# ------------------------------------------------------------------------------------------------- random units


@given(st.integers(0, 9), st.booleans(), st.floats(0.05, 0.3))
@settings(max_examples=20, deadline=None)
def test_random_units_are_as_many_and_outside_where_the_protocol_says_so(seed, excludes, fraction):
    localization = made(seed, undefined=15)
    units, drawn = localization.top(fraction=fraction), RandomUnits(4, excludes_network=excludes)
    found = random_units(units, drawn, localization, seed=seed)
    assert [each.count for each in found] == [units.count] * 4
    assert found[:2] == random_units(units, drawn, localization, n=2, seed=seed)
    if excludes:
        assert not any((each & units).count for each in found)
    else:
        undefined = np.isnan(localization.t["decoder"])
        assert not any((each.mask["decoder"] & undefined).any() for each in found)


def test_random_units_are_uniform_over_the_units_with_a_statistic():
    localization = made(2, undefined=20)
    draws = random_units(localization.top(k=10), RandomUnits(400, excludes_network=False), localization)
    counts = np.sum([each.mask["decoder"] for each in draws], axis=0)[~np.isnan(localization.t["decoder"])]
    assert counts.sum() == 4000
    assert stats.chisquare(counts).pvalue > 0.001


def test_random_units_that_cannot_be_drawn():
    localization = made(3, undefined=15)
    units = localization.top(k=10)
    assert random_units(units, RandomUnits(0)) == []
    with pytest.raises(mn.InputError, match="`localization` must be the Localization of the network"):
        random_units(units, RandomUnits(2, excludes_network=False))
    with pytest.raises(mn.InputError, match="must be of the network's units"):
        random_units(units, RandomUnits(2, excludes_network=False), made(shape=(3, 21)))
    everything = localization.units_of({"decoder": np.ones((3, 20), dtype=bool)})
    with pytest.raises(mn.InputError, match="60 units were requested, but only 45"):
        random_units(everything, RandomUnits(2, excludes_network=False), localization)
