"""Statistics from running moments against scipy on the raw values."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from modalnet.errors import InputError
from modalnet.stats.moments import Moments, fdr, hedges_g, welch


def moments(values, chunks=()):
    """Moments of the values, taken in by chunks."""
    total = Moments.zeros(np.shape(values)[1:])
    for part in np.split(np.asarray(values), sorted(chunks)):
        total.update(part)
    return total


def raw(seed, n, scale, offset, shape=(3, 2)):
    return np.random.default_rng(seed).normal(size=(n, *shape)) * scale + offset


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    scale=st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)),
    shift=st.floats(-3, 3),
    offset=st.sampled_from([0.0, 1.0, -100.0, 1e4]),
    chunks=st.lists(st.integers(0, 40), max_size=5),
)
def test_welch_equals_scipy_however_chunked(*, seed, n, scale, shift, offset, chunks):
    # The offset is in units of the smaller spread; both ways of computing lose digits to it.
    offset *= min(scale)
    a = raw(seed, n[0], scale[0], offset + shift * scale[0])
    b = raw(seed + 1, n[1], scale[1], offset)
    expected = stats.ttest_ind(a, b, equal_var=False)
    result = welch(moments(a, chunks), moments(b, chunks))
    np.testing.assert_allclose(result.t, expected.statistic, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(result.df, expected.df, rtol=1e-9)
    np.testing.assert_allclose(result.p, expected.pvalue, rtol=1e-7)  # p amplifies the last digits of a large t


def test_welch_at_the_size_of_a_real_localizer():
    a, b = raw(1, 240, 2.0, 30.5, (640,)).astype(np.float32), raw(2, 240, 1.0, 30.0, (640,)).astype(np.float32)
    expected = stats.ttest_ind(a.astype(np.float64), b.astype(np.float64), equal_var=False)
    result = welch(moments(a, range(7, 240, 7)), moments(b, range(32, 240, 32)))
    np.testing.assert_allclose(result.t, expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(result.p, expected.pvalue, rtol=1e-9)


@pytest.mark.parametrize("chunks", [range(3, 5000, 100), ()])
def test_large_offset_against_exact_arithmetic(chunks):
    values = raw(3, 5000, 1.0, 1e7 / 3, (1,))[:, 0].tolist()
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    m2 = sum((value - mean) ** 2 for value in exact)
    result = moments(np.tile(np.array(values)[:, None], 8), chunks)
    assert np.abs(result.mean - float(mean)).max() <= 2 * np.spacing(
        float(mean)
    )  # numpy's own mean of one batch is 6 spacings off
    np.testing.assert_allclose(result.m2, float(m2), rtol=1e-10)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_adding_is_pure_and_equals_taking_in_both(seed, n):
    a, b = raw(seed, n[0], 1, 5), raw(seed + 1, n[1], 1, 5)
    left, right = moments(a), moments(b)
    before = left.mean.copy(), left.m2.copy(), right.mean.copy()
    merged, whole = left + right, moments(np.concatenate([a, b]))
    assert merged.n == whole.n == sum(n)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-12, atol=1e-14)
    merged.update(np.ones((1, 3, 2)))
    np.testing.assert_array_equal((left.mean, left.m2, right.mean), before)
    assert (left.n, right.n) == n


def test_variance_is_unbiased_and_needs_two_values():
    values = raw(0, 12, 3, 1)
    np.testing.assert_allclose(moments(values).variance, values.var(axis=0, ddof=1), rtol=1e-10)
    assert np.isnan(moments(values[:1]).variance).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
def test_a_non_finite_value_marks_its_unit_for_good(bad):
    values = raw(0, 30, 1, 0)
    values[4, 1, 1] = bad
    a, b = moments(values, [4, 5, 6, 20]), moments(raw(1, 30, 1, 0))
    where = np.zeros((3, 2), dtype=bool)
    where[1, 1] = True
    assert not np.isfinite(a.mean[1, 1] + a.m2[1, 1])
    for merged in (a + b, b + a):
        np.testing.assert_array_equal(~np.isfinite(merged.m2), where)
    for result in (welch(a, b), welch(b, a)):
        np.testing.assert_array_equal(np.isnan(result.t), where)
        np.testing.assert_array_equal(np.isnan(result.p), where)
    np.testing.assert_array_equal(np.isnan(hedges_g(a, b)), where)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, -7e6])
def test_constant_units_are_undefined_though_merging_rounds(constant):
    a, b = np.full((101, 1), constant), np.full((57, 1), constant + 1)
    left, right = moments(a, range(1, 101, 3)), moments(b, range(1, 57, 4))
    left = left + moments(a, [2, 50]) + moments(a, [99])
    assert np.isnan(welch(left, right).t).all()
    assert np.isnan(hedges_g(left, right)).all()
    varied = raw(5, 20, 1.0, constant, (1,))
    expected = (varied.mean() - constant) / (varied.std(ddof=1) / np.sqrt(20))
    np.testing.assert_allclose(welch(moments(varied), moments(a, [7, 30])).t, expected, rtol=1e-8)


def test_a_small_but_real_spread_is_not_constant():
    a = np.array([[1.0], [1.0], [np.nextafter(np.float32(1), np.float32(2))]])
    assert np.isfinite(welch(moments(a), moments(a + 1)).t).all()


@pytest.mark.filterwarnings("error")
def test_one_value_on_a_side_is_undefined():
    result = welch(moments(raw(0, 1, 1, 0)), moments(raw(1, 9, 1, 0)))
    assert np.isnan(result.t).all()
    assert np.isnan(result.df).all()
    assert np.isnan(result.p).all()
    assert np.isnan(hedges_g(Moments.zeros((3, 2)), moments(raw(1, 9, 1, 0)))).all()


def test_hedges_g_against_the_formula_and_unbiased():
    a, b = raw(0, 7, 2, 1), raw(1, 5, 1, 0)
    pooled = np.sqrt((6 * a.var(axis=0, ddof=1) + 4 * b.var(axis=0, ddof=1)) / 10)
    correction = math.gamma(5) / (math.sqrt(5) * math.gamma(4.5))
    np.testing.assert_allclose(
        hedges_g(moments(a), moments(b)), correction * (a.mean(axis=0) - b.mean(axis=0)) / pooled, rtol=1e-12
    )
    many = hedges_g(moments(raw(2, 4, 1, 0.8, (200_000,))), moments(raw(3, 4, 1, 0, (200_000,))))
    assert abs(many.mean() - 0.8) < 0.01  # without the correction 0.92


def benjamini_hochberg(p):
    """The definition: q of the i-th smallest is the smallest p_j n / j over j >= i."""
    order = np.argsort(p)
    q = np.empty(len(p))
    for place, index in enumerate(order):
        q[index] = min(1.0, *(p[order[j]] * len(p) / (j + 1) for j in range(place, len(p))))
    return q


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=30))
def test_fdr_is_over_the_finite_entries(p):
    p = np.array(p)
    q, finite = fdr(p), np.isfinite(p)
    np.testing.assert_array_equal(np.isnan(q), ~finite)
    np.testing.assert_allclose(q[finite], benjamini_hochberg(p[finite]), rtol=1e-10)


def test_shapes_are_checked():
    with pytest.raises(InputError, match=r"\(3, 2\).*\(4, 3\)"):
        Moments.zeros((3, 2)).update(np.ones((4, 3)))
    with pytest.raises(InputError, match="merged"):
        Moments.zeros(3) + Moments.zeros(4)
    with pytest.raises(InputError, match="same shape"):
        welch(Moments.zeros(3), Moments.zeros(4))
    with pytest.raises(InputError, match="one-dimensional"):
        fdr(np.ones((2, 2)))
