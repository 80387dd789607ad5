"""Affine maps by ridge regression, against scikit-learn and least squares written out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from modalnet.errors import InputError
from modalnet.stats.affine import NO_FIT, PENALTIES, fit_affine


def data(n, n_in=6, n_out=4, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n_in)) * np.linspace(0.1, 30, n_in) + 3
    y = x @ rng.normal(size=(n_in, n_out)) + 1 + noise * rng.normal(size=(n, n_out))
    return x, y, np.arange(n) % 5, rng.uniform(0.2, 3, size=n)


def by_sklearn(x, y, w, penalty):
    """The same minimum, by scikit-learn on standardized predictors."""
    w = w / w.mean()
    mean = w @ x / w.sum()
    sd = np.sqrt(w @ (x - mean) ** 2 / w.sum())
    model = Ridge(alpha=penalty * w.sum()).fit((x - mean) / sd, y, sample_weight=w)
    return lambda some: model.predict((some - mean) / sd)


@pytest.mark.parametrize("n", [200, 4])  # more observations than predictors, and fewer
def test_it_is_the_ridge_regression_of_scikit_learn_with_the_best_held_out_penalty(n):
    x, y, groups, w = data(n, noise=3.0)
    scale = y.std(0)
    errors = []
    for penalty in PENALTIES[:-1]:
        error = 0.0
        for group in np.unique(groups):
            out = groups == group
            # Weights have a mean of 1 over all that is fitted.
            predicted = by_sklearn(x[~out], y[~out], w[~out], penalty)(x[out])
            error += (w[out, None] * ((y[out] - predicted) / scale) ** 2).sum()
        errors.append(error)
    found = fit_affine(x, y, groups, weights=w, scale=scale)
    best = PENALTIES[int(np.argmin(errors))]
    if n > 10:
        assert found.penalty == best
    if found.penalty in PENALTIES[:-1]:
        np.testing.assert_allclose(found(x), by_sklearn(x, y, w, found.penalty)(x), rtol=1e-7, atol=1e-7)


def test_an_exact_map_is_found():
    x, y, groups, w = data(300, noise=0.0)
    found = fit_affine(x, y, groups, weights=w)
    assert found.penalty == min(PENALTIES)
    assert np.abs(found(x) - y).max() < 0.02 * y.std()


def test_noise_has_no_map():
    """What no predictor tells of is predicted by its mean; where that is nothing, by nothing."""
    rng = np.random.default_rng(1)
    x, y, groups = rng.normal(size=(60, 30)), rng.normal(size=(60, 3)), np.arange(60) % 4
    assert fit_affine(x, y, groups).penalty in (NO_FIT, float("inf"), 10.0)
    shifted = fit_affine(x, y + 5, groups)
    np.testing.assert_allclose(shifted(x).mean(0), 5, atol=0.5)
    centred = fit_affine(x, np.tile([[1.0], [-1.0]], (30, 3)), np.arange(60) // 2 % 4)
    assert centred.penalty in (NO_FIT, float("inf"), 10.0)


def test_constant_predictors_and_bad_input():
    x, y, groups, _ = data(50)
    x[:, 2] = 7.0
    assert np.isfinite(fit_affine(x, y, groups)(x)).all()
    with pytest.raises(InputError, match="at least 2, got 1"):
        fit_affine(x, y, np.zeros(50))
    with pytest.raises(InputError, match="same observations"):
        fit_affine(x, y[:40], groups)
