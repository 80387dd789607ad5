"""Score intervals against scipy, and their coverage where items are few, at ceiling, or nested in paradigms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from modalnet.stats.proportions import difference_interval, score_interval
from modalnet.stats.resampling import bootstrap_means, expanded, interval, item_groups


@pytest.mark.parametrize(("right", "n"), [(16, 16), (0, 16), (15, 16), (8, 16), (99, 100), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_independent_items_have_the_wilson_interval_of_scipy(right, n, level):
    scores = np.repeat([1.0, 0.0], [right, n - right])
    expected = stats.binomtest(right, n).proportion_ci(level, method="wilson")
    assert score_interval(scores, level=level) == pytest.approx(tuple(expected), abs=1e-12)


def test_ties_count_as_half_and_missing_scores_as_unknown():
    low, high = score_interval(np.full(10, 0.5))
    assert 0 < low < 0.5 < high < 1
    assert np.isnan(score_interval(np.array([1.0, np.nan]))).all()


def test_groups_whose_items_are_independent_change_little_and_alike_items_count_once():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    scores = (rng.random(400) < 0.8) * 1.0
    assert score_interval(scores, groups) == pytest.approx(score_interval(scores), abs=0.02)
    # All items of a group are equal: an interval of 40 items, with the t of 39 degrees of freedom.
    alike = np.repeat((rng.random(40) < 0.8) * 1.0, 10)
    one_each = score_interval(alike[::10])
    assert score_interval(alike, groups) == pytest.approx(one_each, abs=0.01)
    # Nothing varies, so how alike the items of a group are is unknown.
    assert score_interval(np.ones(400), groups) == pytest.approx(score_interval(np.ones(40)))


def nested(rng, n_groups, n_items, mean, correlation):
    """Items of paradigms whose difficulty varies (beta-binomial)."""
    scale = 1 / correlation - 1
    difficulty = rng.beta(mean * scale, (1 - mean) * scale, n_groups)
    return (rng.random((n_groups, n_items)) < difficulty[:, None]).ravel() * 1.0


@pytest.mark.parametrize("n", [16, 40, 100])
def test_the_interval_of_few_items_covers_their_mean(n):
    """Exactly, over all counts: the coverage of Wilson intervals fluctuates around 0.95, at ceiling too."""
    counts = np.arange(n + 1)
    low, high = np.array([score_interval(np.repeat([1.0, 0.0], [right, n - right])) for right in counts]).T
    means = np.linspace(0.5, 0.99, 491)
    inside = (low <= means[:, None]) & (means[:, None] <= high)
    coverage = (stats.binom.pmf(counts, n, means[:, None]) * inside).sum(1)
    assert coverage.mean() >= 0.945
    assert coverage.min() >= 0.83


@pytest.mark.parametrize(("n_groups", "n_items"), [(5, 20), (10, 10), (67, 10)])
@pytest.mark.parametrize(("mean", "correlation"), [(0.6, 0.2), (0.85, 0.2), (0.97, 0.1)])
def test_the_interval_of_nested_items_covers_their_mean(n_groups, n_items, mean, correlation):
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(n_groups), n_items)
    inside = items_alone = 0
    for _ in range(400):
        scores = nested(rng, n_groups, n_items, mean, correlation)
        low, high = score_interval(scores, groups)
        inside += low <= mean <= high
        low, high = score_interval(scores)
        items_alone += low <= mean <= high
    assert inside / 400 >= 0.93
    assert items_alone < inside


@pytest.mark.parametrize("n_groups", [5, 10, 40])
def test_resampled_groups_cover_a_drop_that_differs_between_them(n_groups):
    rng = np.random.default_rng(2)
    groups, inside = np.repeat(np.arange(n_groups), 10), 0
    for _ in range(400):
        drops = rng.normal(0.3, 0.1, n_groups)[groups] + rng.normal(0, 0.2, len(groups))
        means = bootstrap_means(drops[:, None], 500, rng, groups)[:, 0]
        low, high = interval(means, expanded(0.95, n_groups))
        inside += low <= 0.3 <= high
    assert inside / 400 >= 0.91


def test_groups_are_drawn_whole():
    """Against the bootstrap written out, with groups of different sizes and a column that is not finite."""
    groups = np.array([0, 0, 0, 1, 2, 2, 3, 4, 4, 4])
    scores = np.random.default_rng(0).normal(size=(10, 3))
    scores[4, 2] = np.nan
    found = bootstrap_means(scores, 50, np.random.default_rng(1), groups)
    drawn = np.random.default_rng(1).multinomial(5, np.full(5, 0.2), size=50)
    for row, times in enumerate(drawn):
        rows = np.concatenate([np.tile(np.flatnonzero(groups == one), n) for one, n in enumerate(times)]).astype(int)
        np.testing.assert_allclose(found[row, :2], scores[rows, :2].mean(0))
    assert np.isnan(found[:, 2]).all()


def test_an_expanded_level_is_that_of_t():
    """The percentiles of a normal statistic, whose resamples vary too little, are then the ends of the t interval."""
    for n in (5, 16, 100):
        reach = stats.norm.ppf((1 + expanded(0.95, n)) / 2) * np.sqrt((n - 1) / n)
        assert reach == pytest.approx(stats.t.ppf(0.975, n - 1))
    assert expanded(0.95, 1) == 0.95


def test_few_groups_are_not_resampled():
    assert item_groups(None) is None
    assert item_groups(("one",) * 8) is None
    np.testing.assert_array_equal(item_groups(tuple("abcdeaa")), [0, 1, 2, 3, 4, 0, 0])
    with pytest.warns(UserWarning, match="The pairs come from 4 groups, and at least 5"):
        assert item_groups(tuple("abcd"), "The pairs") is None


def changes(n, better, worse):
    """Differences of n items of which some got better and some worse."""
    return np.repeat([1.0, -1.0, 0.0], [better, worse, n - better - worse])


@pytest.mark.parametrize(("n", "better", "worse"), [(16, 0, 0), (16, 16, 0), (21, 1, 7), (40, 12, 1), (100, 3, 0)])
def test_the_interval_of_a_difference_inverts_tangos_test(n, better, worse):
    z = stats.norm.ppf(0.975)
    low, high = difference_interval(changes(n, better, worse))

    def statistic(delta):
        # With the restricted maximum likelihood estimate of the share that changes in the other direction.
        linear = -better - worse + (2 * n - better + worse) * delta
        constant = -worse * delta * (1 - delta)
        q = (np.sqrt(linear**2 - 8 * n * constant) - linear) / (4 * n)
        return (better - worse - n * delta) / np.sqrt(n * (2 * q + delta * (1 - delta)))

    for end, value in ((low, z), (high, -z)):
        assert abs(end) == 1 or statistic(end) == pytest.approx(value, abs=1e-5)
    assert low < (better - worse) / n <= high
    assert difference_interval(-changes(n, better, worse)) == pytest.approx((-high, -low))


def test_the_published_interval_of_a_difference():
    """Airway hyper-responsiveness: Fagerland, Lydersen & Laake (2014), Statistics in Medicine 33(16):2850-2875."""
    assert difference_interval(changes(21, 1, 7)) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("n", "better", "worse"), [(16, 0.06, 0.02), (40, 0.06, 0.02), (40, 0.2, 0.05)])
def test_the_interval_of_a_difference_covers_it(n, better, worse):
    rng = np.random.default_rng(n)
    drawn = rng.choice([1.0, -1.0, 0.0], size=(1500, n), p=[better, worse, 1 - better - worse])
    ends = np.array([difference_interval(one) for one in drawn])
    covered = (ends[:, 0] <= better - worse) & (better - worse <= ends[:, 1])
    assert covered.mean() > 0.93


def test_the_interval_of_a_difference_is_over_paradigms():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(12), 20)
    alike = rng.choice([0.0, 1.0], 12)[groups]
    low, high = difference_interval(alike, groups)
    one_each = difference_interval(alike[::20])
    assert high - low > 0.9 * (one_each[1] - one_each[0])
    assert np.isnan(difference_interval(np.array([0.0, np.nan]))).all()
