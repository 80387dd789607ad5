"""Resampling against scipy: intervals, ranks, and permutation tests that keep their level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from modalnet.stats import resampling


def test_the_interval_is_of_percentiles():
    values = np.arange(1001) / 1000
    assert resampling.interval(values) == (pytest.approx(0.025), pytest.approx(0.975))
    assert np.isnan(resampling.interval(np.array([1.0, np.nan]))).all()
    assert np.isnan(resampling.interval(np.array([]))).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 50))
def test_as_many_blocks_are_drawn_as_there_are(n, resamples):
    counts = resampling.bootstrap_counts(n, resamples, np.random.default_rng(0))
    assert counts.shape == (resamples, n)
    assert (counts.sum(axis=1) == n).all()


def test_ranks():
    assert resampling.rank_p(3, [1, 2, 3, 4]) == 3 / 5
    assert resampling.rank_p(9, np.zeros(19)) == 1 / 20
    assert np.isnan(resampling.rank_p(1, []))
    assert np.isnan(resampling.rank_p(np.nan, [1]))


def test_permutation_tests_agree_with_scipy():
    rng = np.random.default_rng(0)
    d = rng.standard_normal(40) + 0.25
    expected = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=9999, rng=1).pvalue
    assert resampling.sign_flip(d, 9999, rng) == pytest.approx(expected, abs=0.02)
    a, b = rng.standard_normal(30) + 0.5, rng.standard_normal(40)

    def welch(x, y, axis):
        return stats.ttest_ind(x, y, equal_var=False, axis=axis).statistic

    expected = stats.permutation_test((a, b), welch, vectorized=True, n_resamples=9999, rng=1).pvalue
    assert resampling.label_shuffle(a, b, 9999, rng) == pytest.approx(expected, abs=0.02)


def test_permutation_tests_keep_their_level():
    rng = np.random.default_rng(1)
    flips = [resampling.sign_flip(rng.standard_normal(15), 199, rng) for _ in range(300)]
    # Groups of unequal spread and size, where a plain difference of means would be too sure.
    shuffles = [
        resampling.label_shuffle(rng.standard_normal(12) * 3, rng.standard_normal(40), 199, rng) for _ in range(300)
    ]
    for ps in (flips, shuffles):
        assert np.mean(np.array(ps) <= 0.05) < 0.09


def test_what_cannot_be_tested_is_nan():
    rng = np.random.default_rng(2)
    assert np.isnan(resampling.sign_flip(np.array([]), 99, rng))
    assert np.isnan(resampling.sign_flip(np.array([1.0, np.nan]), 99, rng))
    assert np.isnan(resampling.label_shuffle(np.array([1.0]), np.array([1.0, 2.0]), 99, rng))
    assert np.isnan(resampling.label_shuffle(np.ones(3), np.ones(4), 99, rng))
