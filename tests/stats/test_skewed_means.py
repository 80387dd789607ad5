"""Intervals and tests of a mean that hold where values are skewed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from modalnet.stats.skewed_means import skewed_interval, skewed_p


def hall(values: np.ndarray, truth: float) -> float:
    """Hall's statistic of a mean, by scipy's skewness."""
    n, g = len(values), float(stats.skew(values))
    s = (values.mean() - truth) / values.std()
    return math.sqrt(n) * (s + g * s**2 / 3 + g**2 * s**3 / 27 + g / (6 * n))


@pytest.mark.parametrize("seed", range(4))
def test_p_is_halls(seed):
    values = np.random.default_rng(seed).lognormal(size=15) - 1.3
    assert skewed_p(values) == pytest.approx(stats.t.sf(hall(values, 0.0), 14))


@pytest.mark.parametrize("sign", [1, -1])
def test_an_interval_is_the_wider_of_two_at_each_end(sign):
    values = sign * np.array([0.1, 0.2, 0.3, 0.3, 0.5, 0.6, 0.8, 1.0, 1.3, 1.5, 2.5, 4.0])
    low, high = skewed_interval(values)
    ordinary = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert low <= ordinary[0] + 1e-12
    assert high >= ordinary[1] - 1e-12
    # On the side of the tail, the end is Hall's: there his statistic is a quantile of t.
    end, at = (high, -1) if sign == 1 else (low, 1)
    g, s = float(stats.skew(values)), (values.mean() - end) / values.std(ddof=1)
    found = math.sqrt(12) * (s + g * s**2 / 3 + g**2 * s**3 / 27 + g / 72)
    assert found == pytest.approx(at * stats.t.ppf(0.975, 11))


def test_an_interval_turns_round_with_its_values():
    values = np.random.default_rng(2).lognormal(size=9)
    low, high = skewed_interval(values)
    assert skewed_interval(-values) == pytest.approx((-high, -low))
    assert skewed_interval(values + 3) == pytest.approx((low + 3, high + 3))


def test_what_cannot_be_computed_is_nan():
    assert all(map(math.isnan, skewed_interval(np.array([1.0]))))
    assert all(map(math.isnan, skewed_interval(np.array([1.0, np.nan]))))
    assert math.isnan(skewed_p(np.array([1.0])))
    assert skewed_interval(np.ones(4)) == (1.0, 1.0)
    assert skewed_p(np.ones(4)) == 0.0
    assert skewed_p(-np.ones(4)) == 1.0
    assert skewed_interval(np.array([-1.0, 1.0])) == pytest.approx((-12.706, 12.706), abs=1e-2)
