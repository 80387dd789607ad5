"""t under permuted labels, against the tests themselves on permuted values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from modalnet.stats.label_permutation import PermutedLabels, PermutedNetworks
from modalnet.stats.regression import CrossMoments, intercept, slope

RNG = np.random.default_rng(0)
VALUES = RNG.standard_normal((30, 8)) + 1000 * RNG.standard_normal(8)


def cross(x, y):
    made = CrossMoments.zeros(x.shape[1], y.shape[1:])
    made.update(x, y)
    return made


def test_welch():
    side = np.repeat([1.0, 0.0], [12, 18])
    labels = PermutedLabels.draw("welch", side[:, None], 5, (1,))
    t = labels.t(VALUES)
    for row, order in zip(t, labels.orders, strict=True):
        positive = side[order] == 1
        expected = stats.ttest_ind(VALUES[positive], VALUES[~positive], equal_var=False).statistic
        np.testing.assert_allclose(row, expected, rtol=1e-8)
    assert (labels.orders[0] == np.arange(30)).all()


def test_paired():
    labels = PermutedLabels.draw("paired", np.zeros((30, 0)), 5, (1,))
    differences = VALUES - VALUES.mean(0) + 0.3
    for row, signs in zip(labels.t(differences), labels.signs, strict=True):
        np.testing.assert_allclose(row, stats.ttest_1samp(signs[:, None] * differences, 0).statistic, rtol=1e-8)


@pytest.mark.parametrize("k", [1, 3])
def test_a_slope_beside_covariates(k):
    """The residuals are permuted, and the whole model is fitted to them (Freedman and Lane)."""
    x = RNG.standard_normal((30, k))
    labels = PermutedLabels.draw("regression", x, 4, (1,))
    t = labels.t(VALUES)
    np.testing.assert_allclose(t[0], slope(cross(x, VALUES)).t, rtol=1e-7)
    beside = np.column_stack([np.ones(30), x[:, 1:]])
    residual = VALUES - beside @ np.linalg.lstsq(beside, VALUES, rcond=None)[0]
    for row, order in zip(t, labels.orders, strict=True):
        permuted = np.empty_like(residual)
        permuted[order] = residual  # the labels of observation order[i] go to i
        moved = residual[np.argsort(order)]
        np.testing.assert_allclose(row, slope(cross(x, moved)).t, rtol=1e-7, atol=1e-9)


def test_pairs_beside_covariates():
    x = RNG.standard_normal((30, 2))
    differences = VALUES - VALUES.mean(0) + 0.3
    t = PermutedLabels.draw("paired", x, 3, (1,)).t(differences)
    np.testing.assert_allclose(t[0], intercept(cross(x, differences)).t, rtol=1e-8)


def test_networks_do_not_depend_on_the_parts():
    values = RNG.standard_normal((20, 100))
    values[:, 7] = 2.0
    values[3, 8] = np.nan
    labels = PermutedLabels.draw("welch", np.repeat([1.0, 0.0], 10)[:, None], 6, (2,))
    t = labels.t(values)
    assert np.isnan(t[:, [7, 8]]).all()
    found = []
    for size in (100, 33, 3):
        made = PermutedNetworks(labels, 5)
        for start in range(0, 100, size):
            units = np.arange(start, min(start + size, 100))
            made.add(units, values[:, units])
        found.append(made.networks)
    expected = np.sort(np.argsort(-np.nan_to_num(t, nan=-np.inf), axis=1)[:, :5], axis=1)
    for one in found:
        np.testing.assert_array_equal(one, expected)
