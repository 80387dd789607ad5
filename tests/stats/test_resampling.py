"""Resampling against scipy: intervals, ranks, and permutation tests that keep their level."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from modalnet.errors import InputError
from modalnet.stats import permutation, resampling

#: How scipy takes a seed: until 1.14 under another name.
SEEDED = {"rng": 1} if "rng" in inspect.signature(stats.permutation_test).parameters else {"random_state": 1}


def shuffled(a, b, n, rng):
    return permutation.label_permutation(a, b, n, rng, alternative="two-sided")


def test_the_interval_is_of_percentiles():
    values = np.arange(1001) / 1000
    assert resampling.interval(values) == (pytest.approx(0.025), pytest.approx(0.975))
    assert np.isnan(resampling.interval(np.array([1.0, np.nan]))).all()
    assert np.isnan(resampling.interval(np.array([]))).all()


def test_intervals_of_cells_are_those_of_each_cell():
    samples = np.random.default_rng(0).normal(size=(60, 3, 4))
    np.testing.assert_array_equal(
        resampling.intervals(samples, 0.9), np.quantile(samples, [(1 - 0.9) / 2, (1 + 0.9) / 2], axis=0)
    )
    samples[3, 0, 0], samples[5, 1, 1], samples[:, 2, 2] = np.nan, np.inf, np.nan
    for skip_nan in (False, True):
        found = resampling.intervals(samples, skip_nan=skip_nan)
        for cell in np.ndindex(3, 4):
            expected = resampling.interval(samples[:, cell[0], cell[1]], skip_nan=skip_nan)
            np.testing.assert_array_equal(found[:, cell[0], cell[1]], expected)
    whole = np.isfinite(found).all(axis=0)
    assert [tuple(cell) for cell in np.argwhere(~whole)] == [(1, 1), (2, 2)]
    np.testing.assert_array_equal(
        found[:, whole], np.nanquantile(samples[:, whole], [(1 - 0.95) / 2, (1 + 0.95) / 2], axis=0)
    )
    assert resampling.intervals(np.empty((0, 2))).shape == (2, 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 50))
def test_as_many_blocks_are_drawn_as_there_are(n, resamples):
    counts = resampling.bootstrap_counts(n, resamples, np.random.default_rng(0))
    assert counts.shape == (resamples, n)
    assert (counts.sum(axis=1) == n).all()


def test_ranks():
    assert permutation.rank_p(3, np.array([1.0, 2, 3, 4]), alternative="greater") == 3 / 5
    assert permutation.rank_p(9, np.zeros(19), alternative="greater") == 1 / 20
    assert np.isnan(permutation.rank_p(1, np.array([]), alternative="greater"))
    assert np.isnan(permutation.rank_p(np.nan, np.array([1.0]), alternative="greater"))


def test_permutation_tests_agree_with_scipy():
    rng = np.random.default_rng(0)
    d = rng.standard_normal(40) + 0.25
    expected = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=9999, **SEEDED).pvalue
    assert permutation.sign_flip(d, 9999, rng, alternative="two-sided") == pytest.approx(expected, abs=0.02)
    a, b = rng.standard_normal(30) + 0.5, rng.standard_normal(40)

    def welch(x, y, axis):
        # Ours counts |t|; scipy's two-sided p is twice that of one side.
        return np.abs(stats.ttest_ind(x, y, equal_var=False, axis=axis).statistic)

    settings_ = {"vectorized": True, "n_resamples": 9999, "alternative": "greater"}
    expected = stats.permutation_test((a, b), welch, **settings_, **SEEDED).pvalue
    assert permutation.label_permutation(a, b, 9999, rng, alternative="two-sided") == pytest.approx(expected, abs=0.02)


def test_permutation_tests_keep_their_level():
    rng = np.random.default_rng(1)
    flips = [permutation.sign_flip(rng.standard_normal(15), 199, rng, alternative="two-sided") for _ in range(300)]
    # Groups of unequal spread and size, where a plain difference of means would be too sure.
    shuffles = [
        permutation.label_permutation(
            rng.standard_normal(12) * 3, rng.standard_normal(40), 199, rng, alternative="two-sided"
        )
        for _ in range(300)
    ]
    for ps in (flips, shuffles):
        assert np.mean(np.array(ps) <= 0.05) < 0.09


def test_what_cannot_be_tested_is_nan():
    rng = np.random.default_rng(2)
    assert np.isnan(permutation.sign_flip(np.array([]), 99, rng, alternative="two-sided"))
    assert np.isnan(permutation.sign_flip(np.array([1.0, np.nan]), 99, rng, alternative="two-sided"))
    assert np.isnan(shuffled(np.array([1.0]), np.array([1.0, 2.0]), 99, rng))
    assert np.isnan(permutation.label_permutation(np.ones(3), np.ones(4), 99, rng, alternative="two-sided"))


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(-2048, 2048).map(lambda n: n / 1024), min_size=2, max_size=9), st.integers(0, 99))
def test_every_alternative_is_that_of_scipy(alternative, values, seed):
    x = np.array(values)
    expected = stats.permutation_test(
        (x,), np.mean, permutation_type="samples", alternative=alternative, n_resamples=np.inf
    ).pvalue
    if alternative == "two-sided":  # scipy doubles the smaller tail; flips are symmetric
        expected = min(1.0, expected)
    p = permutation.sign_flip(x, 999, np.random.default_rng(seed), alternative=alternative)
    assert p == pytest.approx(expected)


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_label_permutations_of_every_alternative_are_close_to_those_of_scipy(alternative):
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal(25) + 0.4, rng.standard_normal(35)
    expected = stats.permutation_test(
        (a, b),
        lambda x, y, axis: stats.ttest_ind(x, y, equal_var=False, axis=axis).statistic,
        vectorized=True,
        n_resamples=9999,
        alternative=alternative,
        **SEEDED,
    ).pvalue
    assert permutation.label_permutation(a, b, 9999, rng, alternative=alternative) == pytest.approx(expected, abs=0.02)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=30), st.integers(-9, 9))
def test_ranks_of_every_alternative(draws, value):
    draws = np.array(draws, dtype=float)
    greater, less, both = (
        permutation.rank_p(value, draws, alternative=name) for name in ("greater", "less", "two-sided")
    )
    assert greater == (1 + (draws >= value).sum()) / (1 + len(draws))
    assert less == permutation.rank_p(-value, -draws, alternative="greater")
    assert both == min(1, 2 * min(greater, less))


def test_an_unknown_alternative_is_refused():
    with pytest.raises(InputError, match="`alternative` must be one of 'greater', 'less', 'two-sided', got 'larger'"):
        permutation.rank_p(1, np.ones(3), alternative="larger")


def test_the_bootstrap_interval_is_that_of_scipy():
    x = np.random.default_rng(0).exponential(size=60)
    means = resampling.bootstrap_means(x[:, None], 9999, np.random.default_rng(1))[:, 0]
    expected = stats.bootstrap((x,), np.mean, method="percentile", n_resamples=9999, **SEEDED).confidence_interval
    assert resampling.interval(means) == pytest.approx(tuple(expected), abs=0.02)
    assert resampling.interval(np.append(means, np.nan), skip_nan=True) == resampling.interval(means)


def test_the_t_interval_is_that_of_scipy():
    x = np.random.default_rng(0).standard_normal(12)
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert resampling.t_interval(np.append(x, np.nan)) == pytest.approx(tuple(expected))


def test_an_effective_number_is_that_of_equal_weights():
    weights = np.stack([np.ones(8), np.arange(8) < 2, np.zeros(8)], axis=1).astype(float)
    np.testing.assert_allclose(resampling.effective_number(weights), [8, 2, np.nan])


def test_the_symmetric_bootstrap_t_covers_means_of_few_skewed_values():
    """Of means of 16 exponential values 0.93 are covered; by percentiles 0.89, by expanded ones 0.91."""
    rng = np.random.default_rng(3)
    values = rng.exponential(size=(16, 1000))
    low, high = resampling.mean_intervals(values, 1000, rng)
    assert 0.91 < ((low <= 1) & (high >= 1)).mean() < 0.97
    np.testing.assert_allclose((low + high) / 2, values.mean(axis=0))
    constant = np.stack([np.full(6, 3.0), [1, 2, 3, 4, 5, np.nan]], axis=1)
    np.testing.assert_array_equal(resampling.mean_intervals(constant, 50, rng), [[3, np.nan], [3, np.nan]])
    assert np.isnan(resampling.mean_intervals(np.ones((1, 2)), 50, rng)).all()


def test_signs_of_whole_groups_are_flipped():
    rng = np.random.default_rng(4)
    groups = np.arange(40) // 5
    nested = rng.standard_normal((8, 2000)).repeat(5, axis=0) + rng.standard_normal((40, 2000))
    found = permutation.sign_flip(nested, 999, rng, alternative="greater", groups=groups)
    alone = permutation.sign_flip(nested, 999, rng, alternative="greater")
    assert 0.035 < (found <= 0.05).mean() < 0.06
    assert (alone <= 0.05).mean() > 0.1
    sums = nested.reshape(8, 5, 2000).sum(axis=1)
    exact = permutation.sign_flip(sums, 256, rng, alternative="greater")
    np.testing.assert_array_equal(permutation.sign_flip(nested, 256, rng, alternative="greater", groups=groups), exact)
