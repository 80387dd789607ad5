"""A network beside random sets: one more draw, whatever the distribution of draws is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from modalnet.stats.new_draw import LEAST_DRAWS, beside_draws, smallest_detectable

finite = st.floats(-5, 5).map(lambda x: round(x, 3))


def test_normal_draws_give_the_prediction_interval_of_one_more():
    draws = np.random.default_rng(0).normal(2, 0.5, 20)
    beside = beside_draws(4.0, draws)
    mean, sd = draws.mean(), draws.std(ddof=1)
    reach = stats.t.ppf(0.975, 19) * sd * math.sqrt(1 + 1 / 20)
    assert (beside.low, beside.high) == pytest.approx((4 - mean - reach, 4 - mean + reach))
    expected = stats.ttest_1samp(draws, mean).confidence_interval()
    assert (beside.control_low, beside.control_high) == pytest.approx(tuple(expected))
    t = (4 - mean) / (sd * math.sqrt(1 + 1 / 20))
    assert beside.p_normal == pytest.approx(2 * stats.t.sf(t, 19))
    assert beside.p == beside.p_rank == beside.p_away == pytest.approx(1 / 21)
    assert beside.exceeds is True


def test_draws_that_destroy_a_model_now_and_then_are_no_finding():
    """Nineteen draws that cost nothing and a network that costs everything, as one draw in seven would."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(2000):
        values = rng.normal(0, 0.1, 20) + (rng.random(20) < 0.15)
        found.append(beside_draws(values[0], values[1:]).exceeds)
    assert np.mean(found) < 0.065


def test_draws_that_share_units_vary_too_little():
    rng = np.random.default_rng(2)
    found = {True: [], False: []}
    for _ in range(2000):
        values = rng.normal(0, 1, 21)
        draws = math.sqrt(0.6) * values[1:] + math.sqrt(0.4) * rng.normal()
        for known in (True, False):
            found[known].append(beside_draws(values[0], draws, overlap=0.4 * known).p_normal <= 0.05)
    assert np.mean(found[False]) > 0.1
    assert np.mean(found[True]) < 0.065


@settings(deadline=None, max_examples=50)
@given(st.lists(finite, min_size=2, max_size=30), finite, st.floats(0, 0.9), st.floats(0, 2))
def test_more_uncertainty_never_makes_a_finding(draws, value, overlap, items):
    plain = beside_draws(value, np.array(draws))
    wider = beside_draws(value, np.array(draws), overlap=overlap, items=items)
    assert wider.p >= plain.p - 1e-12
    assert wider.low <= plain.low + 1e-9
    assert wider.detectable >= plain.detectable - 1e-9
    if len(draws) < LEAST_DRAWS:
        assert plain.exceeds is None
    for one in (plain, wider):
        assert 0 <= one.p <= 1
        assert one.low <= one.excess <= one.high
        if one.exceeds:
            assert one.low > 0


def test_what_cannot_be_computed_is_nan():
    for draws in (np.array([]), np.array([0.1]), np.array([0.1, np.nan])):
        beside = beside_draws(0.3, draws)
        assert math.isnan(beside.low)
        assert beside.exceeds is None
    assert math.isnan(beside_draws(math.nan, np.ones(20)).p)
    assert beside_draws(1.0, np.ones(20)).p == 1
    assert beside_draws(1.0, np.ones(20)).exceeds is False
    assert beside_draws(1.5, np.ones(20)).exceeds is True  # draws that do not vary, and a network beyond all


def test_the_smallest_detectable_effect_of_an_interval():
    error = 0.1
    reach = stats.norm.ppf(0.975) * error
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * error
    assert smallest_detectable(-reach, reach) == pytest.approx(expected)
