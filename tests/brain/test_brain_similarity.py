"""RSA and CKA: equal to rsatoolbox and to the plain formulas, the jackknife and permutations what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

import modalnet as mn
from modalnet.brain import measures
from modalnet.brain.similarity import _jackknife


def rdms(x, y):
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm

    return [calc_rdm(Dataset(part), method="correlation") for part in (x, y)]


@pytest.mark.parametrize(("ours", "theirs"), [("spearman", "spearman"), ("pearson", "corr"), ("cosine", "cosine")])
def test_rsa_equals_rsatoolbox(ours, theirs):
    from rsatoolbox.rdm import compare

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 6)), rng.standard_normal((20, 5))
    y[:, :3] += x[:, :3]
    measure = measures.Rsa(y, np.arange(20), groups=None, own="correlation", brain="correlation", compare=ours)
    found = measure.bind(x).values(np.ones((1, 20)))[0]
    assert found == pytest.approx(float(np.ravel(compare(*rdms(x, y), method=theirs))[0]), abs=1e-10)
    assert measure.bind(x).permuted(np.arange(20)) == pytest.approx(found, abs=1e-10)


def test_pairs_of_one_group_do_not_count():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((12, 6)), rng.standard_normal((12, 5))
    groups = [str(i // 3) for i in range(12)]
    measure = measures.Rsa(y, np.arange(12), groups=groups, own="correlation", brain="euclidean", compare="pearson")
    own, brain = measures.dissimilarities(x, "correlation"), measures.dissimilarities(y, "euclidean")
    i, j = np.triu_indices(12, 1)
    apart = i // 3 != j // 3
    expected = stats.pearsonr(own[i, j][apart], brain[i, j][apart]).statistic
    assert measure.bind(x).values(np.ones((1, 12)))[0] == pytest.approx(expected, abs=1e-10)
    y_moved = y.copy()
    y_moved[:3] = y[:3] + 100 * rng.standard_normal((1, 5))  # all of one group alike: their own pairs stay as they are
    assert np.isfinite(measure.bind(x).permuted(rng.permutation(12)))


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_equals_the_plain_formula(debiased):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((15, 8)), rng.standard_normal((15, 4))
    n = 15

    def hsic(a, b):
        k, l = a @ a.T, b @ b.T  # noqa: E741
        if not debiased:
            h = np.eye(n) - 1 / n
            return np.trace(k @ h @ l @ h)
        k, l = (m - np.diag(np.diag(m)) for m in (k, l))  # noqa: E741
        one = np.ones(n)
        return (
            np.trace(k @ l)
            + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
            - 2 * (one @ k @ l @ one) / (n - 2)
        ) / (n * (n - 3))

    xc, yc = x - x.mean(0), y - y.mean(0)
    expected = hsic(xc, yc) / np.sqrt(hsic(xc, xc) * hsic(yc, yc))
    assert mn.brain.linear_cka(x, y, debiased=debiased) == pytest.approx(expected, abs=1e-10)
    if not debiased:  # Kornblith et al. 2019, in feature space
        linear = np.linalg.norm(yc.T @ xc) ** 2 / (np.linalg.norm(xc.T @ xc) * np.linalg.norm(yc.T @ yc))
        assert mn.brain.linear_cka(x, y, debiased=False) == pytest.approx(linear, abs=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.booleans())
def test_cka_does_not_see_rotations_and_scale(seed, scale, debiased):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((20, 6)), rng.standard_normal((20, 3))
    turned = x @ np.linalg.qr(rng.standard_normal((6, 6)))[0] * scale + 7
    one, other = (mn.brain.linear_cka(part, y, debiased=debiased) for part in (x, turned))
    assert one == pytest.approx(other, abs=1e-8)
    assert mn.brain.linear_cka(x, turned, debiased=debiased) == pytest.approx(1, abs=1e-8)
    assert one == pytest.approx(mn.brain.linear_cka(y, x, debiased=debiased), abs=1e-9)


def test_the_debiased_cka_of_noise_lies_around_zero():
    rng = np.random.default_rng(3)
    pairs = [(rng.standard_normal((40, 60)), rng.standard_normal((40, 80))) for _ in range(60)]
    plain, debiased = ([mn.brain.linear_cka(x, y, debiased=d) for x, y in pairs] for d in (False, True))
    assert np.mean(plain) > 0.6
    assert abs(np.mean(debiased)) < 3 * np.std(debiased) / np.sqrt(60)


@pytest.mark.parametrize("kind", ["rsa", "cka", "plain cka"])
def test_leaving_out_is_measuring_the_others(kind):
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((16, 6)), rng.standard_normal((16, 5))
    blocks = np.arange(16) // 2

    def measure(y, blocks):
        if kind == "rsa":
            return measures.Rsa(y, blocks, groups=None, own="euclidean", brain="euclidean", compare="cosine")
        return measures.Cka(y, blocks, debiased=kind == "cka")

    weights = 1.0 - np.eye(8)[:, blocks]
    found = measure(y, blocks).bind(x).values(weights)
    for block in range(8):
        kept = blocks != block
        expected = measure(y[kept], blocks[kept]).bind(x[kept]).values(np.ones((1, 14)))[0]
        assert found[block] == pytest.approx(expected, abs=1e-9)


def test_a_permutation_is_measuring_the_stimuli_in_that_order():
    rng = np.random.default_rng(5)
    x, y, order = rng.standard_normal((16, 6)), rng.standard_normal((16, 5)), rng.permutation(16)
    for measure in (
        measures.Rsa(y, np.arange(16), groups=None, own="correlation", brain="correlation", compare="spearman"),
        measures.Cka(y, np.arange(16), debiased=True),
    ):
        expected = measure.bind(x[order]).values(np.ones((1, 16)))[0]
        assert measure.bind(x).permuted(order) == pytest.approx(expected, abs=1e-9)


def test_the_jackknife_of_a_mean_is_its_t_interval():
    values = np.random.default_rng(6).standard_normal(30)
    left_out = (values.sum() - values) / 29
    low, high = _jackknife(values.mean(), left_out)
    expected = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    np.testing.assert_allclose((low, high), expected)
    assert np.isnan(_jackknife(0.1, np.array([0.1]))).all()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 2)), "at least four stimuli"),
        (np.zeros((5, 2)), np.zeros((6, 2)), "the same stimuli"),
        (np.full((5, 2), np.nan), np.zeros((5, 2)), "NaN or infinite"),
    ],
)
def test_bad_matrices_are_refused(x, y, message):
    with pytest.raises(mn.InputError, match=message):
        mn.brain.linear_cka(x, y)


def test_what_does_not_vary_has_no_similarity():
    rng = np.random.default_rng(7)
    assert np.isnan(mn.brain.linear_cka(np.ones((6, 3)), rng.standard_normal((6, 3))))
