"""Least squares from cross moments, against numpy and scipy on the values themselves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from modalnet.errors import InputError
from modalnet.stats.regression import CrossMoments, intercept, slope


def accumulated(x, y, size=7):
    made = CrossMoments.zeros(x.shape[1], y.shape[1:])
    for start in range(0, len(y), size):
        made.update(x[start : start + size], y[start : start + size])
    return made


def least_squares(x, y):
    """t of every coefficient of y on [1, x], by the textbook."""
    design = np.column_stack([np.ones(len(x)), x])
    solved, *_ = np.linalg.lstsq(design, y, rcond=None)
    df = len(x) - design.shape[1]
    variance = np.square(y - design @ solved).sum(0) / df
    return solved / np.sqrt(np.outer(np.diag(np.linalg.inv(design.T @ design)), variance)), df


def observations(n=41, k=3, units=6, seed=0, mean=0.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, k)) @ rng.standard_normal((k, k)) + 50 * np.arange(k)
    return x, x @ rng.standard_normal((k, units)) + rng.standard_normal((n, units)) + mean


@pytest.mark.parametrize("mean", [0.0, 1e6])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_slope_is_that_of_least_squares(k, mean):
    x, y = observations(k=k, mean=mean)
    t, df = least_squares(x, y)
    for place in range(k):
        found = slope(accumulated(x, y), place)
        np.testing.assert_allclose(found.t, t[place + 1], rtol=1e-9, atol=1e-8 if mean else 0)
        assert found.df == df
        np.testing.assert_allclose(found.p, 2 * stats.t.sf(np.abs(found.t), df), rtol=1e-9)


def test_the_slope_of_two_groups_is_students_t():
    x, y = np.repeat([1.0, 0.0], [15, 25])[:, None], observations(40)[1]
    expected = stats.ttest_ind(y[:15], y[15:])
    np.testing.assert_allclose(slope(accumulated(x, y)).t, expected.statistic, rtol=1e-9)


def test_the_intercept_of_differences_is_the_paired_t():
    _, a = observations(30)
    _, b = observations(30, seed=1)
    expected = stats.ttest_rel(a, b)
    found = intercept(accumulated(np.zeros((30, 0)), a - b))
    np.testing.assert_allclose(found.t, expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-9)


def test_an_adjusted_intercept_is_that_of_least_squares():
    x, y = observations(k=2)
    found = intercept(accumulated(x, y))
    np.testing.assert_allclose(found.t, least_squares(x, y)[0][0], rtol=1e-8)


def test_parts_add_up_to_the_whole_whatever_their_size():
    x, y = observations()
    whole = accumulated(x, y, 100)
    for size in (1, 2, 13):
        np.testing.assert_allclose(slope(accumulated(x, y, size)).t, slope(whole).t, rtol=1e-11)
    both = accumulated(x[:9], y[:9]) + accumulated(x[9:], y[9:])
    np.testing.assert_allclose(slope(both, 2).t, slope(whole, 2).t, rtol=1e-11)
    assert both.n == whole.n


def test_what_has_no_t():
    x, y = observations(units=5)
    y[:, 0] = 3.1  # constant
    y[4, 1] = np.nan
    y[5, 2] = np.inf
    y[:, 3] = 2 * x[:, 0] - x[:, 1]  # determined by the regressors
    for found in (slope(accumulated(x, y)), intercept(accumulated(x, y))):
        assert np.isnan(found.t).tolist() == [True, True, True, True, False]
    collinear = np.column_stack([x, x[:, 0] + x[:, 1]])
    assert np.isnan(slope(accumulated(collinear, y)).t).all()
    assert np.isnan(slope(accumulated(x[:4], y[:4])).t).all()  # no degree of freedom


def test_shapes_that_do_not_agree():
    made = CrossMoments.zeros(2, 3)
    with pytest.raises(InputError, match="must be"):
        made.update(np.zeros((4, 1)), np.zeros((4, 3)))
    with pytest.raises(InputError, match="same shape"):
        made + CrossMoments.zeros(1, 3)
    with pytest.raises(InputError, match="require"):
        CrossMoments(-1, *(np.zeros(0), np.zeros(2), np.zeros((0, 0)), np.zeros((0, 2)), np.zeros(2)))
